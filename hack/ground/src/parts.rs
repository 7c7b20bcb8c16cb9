//! The parts of a control plane: which Go tools they are, what they are built from and where the binaries are kept.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Version of the Kubernetes parts; the pinned module has the same one.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// A pinned Go module file and its checksums, compiled in so that the library works from any directory.
#[derive(Debug)]
pub struct Module {
    /// What its folder in the cache is called.
    pub name: &'static str,
    /// The text of its go.mod.
    pub go_mod: &'static str,
    /// The text of its go.sum.
    pub go_sum: &'static str,
    /// The text of its own main.go, for what the module that it pins is no program.
    pub main_go: Option<&'static str>,
}

/// A program that is built from a pinned Go module and kept in the cache.
#[derive(Clone, Debug)]
pub struct Program {
    /// The name of the binary.
    pub binary: &'static str,
    /// The Go package that it is built from.
    pub package: &'static str,
    /// The module that pins the package.
    pub module: &'static Module,
    /// Flags of the linker.
    pub ldflags: String,
}

impl Program {
    /// Returns the folder of this program: its name and a hash of all that the binary depends on, so that
    /// changing one program rebuilds that one only.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        let mut texts = vec![self.module.go_mod, self.module.go_sum, self.package, &self.ldflags];
        texts.extend(self.module.main_go);
        let hash = hash(&texts);
        Ok(cache_dir()?.join(format!("{}-{hash}", self.binary)))
    }

    /// Returns where the binary is, or will be once built.
    ///
    /// # Errors
    /// As [`cache_dir`].
    pub fn path(&self) -> Result<PathBuf> {
        Ok(self.folder()?.join("bin").join(self.binary))
    }
}

/// A module of `hack/modules` by its name; for crates that lie beside this one.
#[macro_export]
macro_rules! module {
    ($name:literal) => {
        $crate::Module {
            name: $name,
            go_mod: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../modules/", $name, "/go.mod")),
            go_sum: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../modules/", $name, "/go.sum")),
            main_go: None,
        }
    };
    ($name:literal, $main:literal) => {
        $crate::Module {
            main_go: Some(include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../modules/",
                $name,
                "/",
                $main
            ))),
            ..$crate::module!($name)
        }
    };
}

static ETCD: Module = module!("etcd");
static CONTROL_PLANE: Module = module!("controlplane");
static KWOK: Module = module!("kwok");
static KSTATUS: Module = module!("kstatus", "main.go");
pub(crate) static ISTIO_API: Module = module!("istio-api");
pub(crate) static GATEWAY_API: Module = module!("gateway-api");
pub(crate) static TRAEFIK: Module = module!("traefik");

/// One program of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store behind the API server.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kubectl, of the same version as the API server.
    Kubectl,
    /// KWOK, which plays the kubelet of a node that does not exist.
    Kwok,
}

impl Part {
    /// Every part, in the order in which they are built.
    pub const ALL: [Self; 5] =
        [Self::Etcd, Self::ApiServer, Self::ControllerManager, Self::Kubectl, Self::Kwok];

    /// Returns the name of the binary.
    #[must_use]
    pub const fn binary(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Kubectl => "kubectl",
            Self::Kwok => "kwok",
        }
    }

    /// Returns what the part is built from. The Kubernetes parts are told their version, which `go build` of a module
    /// does not.
    #[must_use]
    pub fn program(self) -> Program {
        let (package, module) = match self {
            Self::Etcd => ("go.etcd.io/etcd/server/v3", &ETCD),
            Self::ApiServer => ("k8s.io/kubernetes/cmd/kube-apiserver", &CONTROL_PLANE),
            Self::ControllerManager => ("k8s.io/kubernetes/cmd/kube-controller-manager", &CONTROL_PLANE),
            Self::Kubectl => ("k8s.io/kubernetes/cmd/kubectl", &CONTROL_PLANE),
            Self::Kwok => ("sigs.k8s.io/kwok/cmd/kwok", &KWOK),
        };
        let ldflags = match self {
            Self::Etcd => "-s -w".to_owned(),
            Self::Kwok => "-s -w -X sigs.k8s.io/kwok/pkg/consts.Version=v0.8.0".to_owned(),
            Self::ApiServer | Self::ControllerManager | Self::Kubectl => {
                let mut numbers = KUBERNETES_VERSION.trim_start_matches('v').split('.');
                let major = numbers.next().unwrap_or_default();
                let minor = numbers.next().unwrap_or_default();
                let stamp = "-X k8s.io/component-base/version.git";
                format!("-s -w {stamp}Version={KUBERNETES_VERSION} {stamp}Major={major} {stamp}Minor={minor}")
            }
        };
        Program { binary: self.binary(), package, module, ldflags }
    }

    /// Returns where the binary is, or will be once built.
    ///
    /// # Errors
    /// As [`cache_dir`].
    pub fn path(self) -> Result<PathBuf> {
        self.program().path()
    }
}

/// Returns the program that reads objects as JSON, one a line, and prints what kstatus makes of each: its status, a tab and its
/// message. Flux and Helm 4 wait by that library.
#[must_use]
pub fn kstatus() -> Program {
    Program { binary: "kstatus", package: ".", module: &KSTATUS, ldflags: "-s -w".to_owned() }
}

/// Returns where everything that is built, downloaded or running is kept.
///
/// # Errors
/// When no cache directory can be named (neither `SIDETRACK_GROUND_DIR`, `XDG_CACHE_HOME` nor `HOME` is set).
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("SIDETRACK_GROUND_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context(
            "set SIDETRACK_GROUND_DIR, XDG_CACHE_HOME or HOME: the control plane's binaries are kept there",
        )?;
    Ok(cache.join("sidetrack").join("ground"))
}

/// Returns a short hash of the texts, each ended by a zero so that moving a border changes it.
#[must_use]
pub fn hash(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_stamp_is_the_pinned_module_version() {
        assert!(CONTROL_PLANE.go_mod.contains(&format!("k8s.io/kubernetes {KUBERNETES_VERSION}")));
        assert!(KWOK.go_mod.contains("sigs.k8s.io/kwok v0.8.0"));
    }

    #[test]
    fn each_part_is_a_tool_of_its_module() {
        for part in Part::ALL {
            let program = part.program();
            assert!(program.module.go_mod.contains(program.package), "{part:?}");
        }
    }

    #[test]
    fn parts_of_one_module_have_folders_of_their_own() {
        let folder = |part: Part| part.program().folder().unwrap();
        assert_ne!(folder(Part::ApiServer), folder(Part::Kubectl));
    }
}
