//! Sidetrack: progressive delivery for Kubernetes.
pub mod admission;
pub mod api;
pub mod object;
pub mod outbound;
pub mod rollout;
