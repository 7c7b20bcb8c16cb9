//! Talking to the API server, and being talked to.
pub mod client;
mod crowd;
pub mod election;
pub mod lease;
#[cfg(test)]
mod lease_simulation;
pub mod path;
pub mod pauses;
pub mod serve;
pub mod survey;
pub mod writer;
