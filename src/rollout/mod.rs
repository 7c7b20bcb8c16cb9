//! The pure core: what is seen of a Canary in, what to do about it out.
//!
//! Nothing in here does IO, reads a clock or fails: an impossible state becomes a sentence in status.
mod advance;
mod analysis;
mod asking;
mod bypass;
pub mod checked;
mod contest;
pub mod guard;
mod in_place;
mod initialise;
mod leave;
pub mod naming;
pub mod objects;
pub mod observed;
pub mod patch;
pub mod plan;
pub mod policy;
mod promotion;
mod rebaseline;
mod release;
mod repair;
mod rest;
mod restart;
pub mod revision;
mod rollback;
mod share;
pub mod status;
pub mod subject;
mod taken;
mod verbs;
pub mod weights;
pub mod workload;
pub use advance::advance;
pub use observed::{Memory, Observed};
pub use plan::Plan;
