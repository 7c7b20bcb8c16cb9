//! Types of the API.
pub mod keys;
pub mod status;
