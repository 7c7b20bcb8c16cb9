//! Talking to the API server, and being talked to.
pub mod client;
pub mod election;
pub mod lease;
pub mod serve;
pub mod writer;
