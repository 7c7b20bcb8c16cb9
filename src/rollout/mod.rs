//! The pure core.
pub mod naming;
pub mod revision;
