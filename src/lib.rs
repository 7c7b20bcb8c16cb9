//! Sidetrack: progressive delivery for Kubernetes.
pub mod api;
pub mod object;
pub mod outbound;
pub mod rollout;
