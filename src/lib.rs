//! Sidetrack: progressive delivery for Kubernetes.
//!
//! A mutating admission webhook *holds* every new pod template of an enrolled Deployment on its way in; a controller
//! releases it as a canary, moves traffic to it step by step, judges it, and either copies the analysed template to the
//! primary or takes all traffic back. The two talk through labels and annotations on the Deployment and nothing else
//! ([`api::keys`]).
//!
//! ```text
//!  API server ── watch ──▶ cache ──▶ Subject ──▶ Observed ──▶ advance ──▶ Plan ──▶ writes ──▶ API server
//!      │                               ▲                      (pure)       │
//!      │                          hooks, metrics ◀─────────────────────────┘ questions as data
//!      └── AdmissionReview ──▶ decide ──▶ JSON Patch          (pure, stateless, every replica)
//! ```
//!
//! The middle is pure: plain data and the time in, data out. It is what the tests run by the thousand.
//!
//! From the ground up; each room names only rooms that stand before it, which `tests/architecture.rs` checks:
//!
//! - [`clock`], [`go`], [`foreign`], [`object`], [`outbound`]: the time, Go's notations, text from outside, and a Kubernetes
//!   object, a write to it and an HTTP request as values.
//! - [`api`]: the custom resources, the keys on objects, names and revisions; [`review`]: what a spec asks for that is not
//!   served.
//! - [`router`], [`metrics`], [`hooks`]: traffic providers, queries and webhooks, as pure functions over JSON and
//!   HTTP messages.
//! - [`rollout`]: `advance`, from what is observed of a Canary to the next steps, one file a stage; [`rollout::subject`]
//!   knows which object plays which role and turns steps into writes.
//! - [`policy`]: which Deployments are protected without a Canary of their own, and when a release may begin: freeze
//!   windows, turns, and waves across clusters.
//! - [`admission`]: `decide`, from an AdmissionReview to an answer; its HTTP server; the webhook configurations and the
//!   admission policies that stand in when the webhook does not answer.
//! - [`kubernetes`], [`tls`], [`telemetry`]: the API client and leader election, certificates, logs and metrics.
//! - [`controller`]: watches, cache, queue and the loop that executes what the core decided.
//! - [`install`]: the objects of an installation, and the rights that it needs; [`check`]: what is wrong in a cluster.
//! - [`cli`], [`plugin`]: what people type, `sidetrack` and `kubectl sidetrack`.
pub mod admission;
pub mod api;
pub mod check;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod foreign;
pub mod go;
pub mod hooks;
pub mod install;
pub mod kubernetes;
pub mod metrics;
pub mod object;
pub mod outbound;
pub mod plugin;
pub mod policy;
pub mod review;
pub mod rollout;
pub mod router;
pub mod telemetry;
pub mod tls;
