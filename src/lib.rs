//! Sidetrack: progressive delivery for Kubernetes.
pub mod admission;
pub mod api;
pub mod cli;
pub mod controller;
pub mod hooks;
pub mod kubernetes;
pub mod metrics;
pub mod object;
pub mod outbound;
pub mod rollout;
pub mod router;
pub mod telemetry;
pub mod tls;
