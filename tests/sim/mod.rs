//! A cluster, its Deployment controller, the writers in it and one Sidetrack process, in virtual time.
//!
//! Objects are plain JSON. What the API server does with a write, and what the Deployment controller makes of a
//! Deployment, is written down in [`cluster`] and [`workloads`] as observed on real ones; everything that Sidetrack
//! itself decides is the shipped code. [`laws`] looks at every change from outside and panics when an invariant breaks.
pub(crate) mod answers;
pub(crate) mod cluster;
pub(crate) mod faults;
pub(crate) mod fingerprint;
pub(crate) mod laws;
mod laws_in_place;
mod laws_of_life;
pub(crate) mod laws_of_others;
pub(crate) mod manifests;
mod moments;
mod neighbours;
pub(crate) mod process;
mod stored;
pub(crate) mod traffic;
pub(crate) mod workloads;
pub(crate) mod world;
pub(crate) mod writers;

pub(crate) use world::World;
