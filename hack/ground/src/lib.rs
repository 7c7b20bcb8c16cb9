//! A real Kubernetes control plane on loopback, for tests, the demo and benchmarks.
//!
//! [`ControlPlane::start`] starts etcd, kube-apiserver, kube-controller-manager and, in place of nodes, KWOK, each built from
//! its pinned Go module on first use and kept in a cache ([`build`]). Any number of them run side by side. Each child ends when
//! the process that started it ends, however that ends (`server`). [`shared`] is one control plane for a whole test binary.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let cp = ground::shared(ground::Options::default()).await;
//! let namespace = cp.namespace("demo").await?;
//! let audit = cp.audit();
//! let mark = audit.mark().await?;
//! // … what is tested, with `cp.client_as("flux")`, `cp.apply(yaml)`, `cp.run_kubectl(&["get", "pods"])` …
//! let requests = audit.requests_since(mark, "flux").await?;
//! # Ok(()) }
//! ```
//!
//! Pods are bound to the node [`NODE`] and run at once. The label `ready` of a pod says when it is ready: absent at once,
//! `never`, `slow` (15 s, or the seconds in `ready-after`), `flapping`, `canaryonly` (unless its label `app` ends in
//! `-primary`), `crashloop`.

mod access;
mod audit;
mod binder;
mod certificates;
mod control_plane;
mod crds;
mod data;
mod go;
mod options;
mod parts;
mod server;
mod users;
mod wait;

use tokio::sync::OnceCell;

pub use crate::access::{Manifests, build_all};
pub use crate::audit::{Audit, AuditRequest, Mark};
pub use crate::binder::NODE;
pub use crate::control_plane::ControlPlane;
pub use crate::crds::{RouterCrds, istio_crds, module_crds, parse_yaml, traefik_crds};
pub use crate::data::DataDir;
pub use crate::go::{build, build_program, lock, say};
pub use crate::options::Options;
pub use crate::parts::{KUBERNETES_VERSION, Module, Part, Program, cache_dir, hash, kstatus};
pub use crate::server::{Launch, Server};
pub use crate::users::{SIDETRACK, User};
pub use crate::wait::eventually;

/// Our field manager and User-Agent.
const FIELD_MANAGER: &str = "ground";

/// Returns the control plane that all tests of a binary share, started by the first call with its options; those of later
/// calls are not looked at. It ends with the process.
///
/// # Panics
/// When it cannot be started: no test of the binary can go on.
#[expect(clippy::panic, reason = "for tests, none of which can go on")]
pub async fn shared(options: Options) -> &'static ControlPlane {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    match SHARED.get_or_try_init(|| ControlPlane::start(options)).await {
        Ok(control_plane) => control_plane,
        Err(error) => panic!("{error:#}"),
    }
}
