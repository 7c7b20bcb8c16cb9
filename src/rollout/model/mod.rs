//! Plain data between the stages and the objects: what is observed, what a spec asks for, and what is to be done.

pub mod gates;
pub mod neighbours;
pub mod observed;
pub mod plan;
pub mod refused;
pub mod settings;
pub mod turns;
pub mod weights;
pub mod workload;
mod writer;
