//! A cluster, its Deployment controller, the writers in it and one Sidetrack process, in virtual time.
//!
//! Objects are plain JSON. What the API server does with a write, and what the Deployment controller makes of a
//! Deployment, is written down in [`cluster`] and [`workloads`] as observed on real ones; everything that Sidetrack
//! itself decides is the shipped code. [`laws`] looks at every change from outside and panics when an invariant breaks.
#![expect(missing_docs, reason = "what a name does not tell the tests beside it has a comment")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a law that is broken, and a world that a test has set up wrongly, end the test"
)]

pub mod answers;
pub mod cluster;
pub mod faults;
pub mod fingerprint;
pub mod laws;
mod laws_in_place;
mod laws_of_life;
pub mod laws_of_others;
pub mod manifests;
mod moments;
mod neighbours;
pub mod process;
mod stored;
pub mod traffic;
pub mod workloads;
pub mod world;
pub mod writers;

pub use world::World;
