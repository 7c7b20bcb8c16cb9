//! The API server: how it is written to.
pub mod writer;
