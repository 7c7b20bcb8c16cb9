//! Sidetrack: progressive delivery for Kubernetes.
pub mod api;
pub mod hooks;
pub mod metrics;
pub mod object;
pub mod outbound;
pub mod rollout;
pub mod router;
