//! Sidetrack: progressive delivery for Kubernetes.
pub mod api;
pub mod controller;
pub mod kubernetes;
pub mod object;
pub mod outbound;
pub mod rollout;
pub mod telemetry;
pub mod tls;
