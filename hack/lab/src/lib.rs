//! The lab: where Sidetrack meets real writers, real gateways and real requests.
//!
//! Inside a network namespace that it makes itself ([`namespace`]) runs a control plane (crate `ground`), a stand-in for scheduler and
//! kubelet whose pods are processes ([`kubelet`]), Sidetrack installed from manifests/ ([`sidetrack`]), and what a scenario asks for: istiod
//! with upstream Envoy ([`istio`]), Traefik with the Gateway API ([`gateway`]), [`prometheus`], and [`flux`]'s kustomize-controller. The
//! [`sample`] application ([`app`]) answers with its version; [`load`] remembers who answered what.
//!
//! Addresses: gateways and servers have 10.244.0.2 to .9, pods 10.244.0.10 and up.

pub mod app;
pub mod bench;
mod clock;
pub mod demo;
pub mod flux;
pub mod gateway;
pub mod istio;
pub mod kubelet;
pub mod load;
pub mod namespace;
pub mod parts;
pub mod prometheus;
pub mod sample;
pub mod sidetrack;
pub mod weights;
mod world;

pub use crate::world::{Lab, Wanted};
