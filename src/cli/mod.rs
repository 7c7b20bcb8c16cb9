//! What people type.
pub mod manifests;
