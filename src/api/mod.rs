//! The custom resources: Flagger's three kinds (`flagger.app/v1beta1`), read as leniently as possible.
//!
//! The types are shape and documentation; what the API server refuses beyond the shape (enumerations,
//! patterns, `oneOf`) stands in one table in [`crd`], and what this version does not serve, or finds doubtful,
//! is said by [`crate::review::review`]. Reading never judges: an unknown field, a missing one or a fraction where
//! an integer is meant leaves the object readable, because one unreadable object must not stop a watch.
//!
//! Fields hold what was written; methods of the same name answer with Flagger's defaults.
pub mod alert_provider;
pub mod analysis;
pub mod canary;
pub mod canary_policy;
pub(crate) mod carried;
pub mod crd;
pub mod keys;
pub(crate) mod lenient;
pub mod metric_template;
pub mod names;
mod passthrough;
pub mod request;
pub mod revision;
pub mod service;
pub mod status;

pub use alert_provider::{AlertProvider, AlertProviderSpec};
pub use analysis::{Alert, Analysis, HookType, Metric, SessionAffinity, Strategy, Webhook};
pub use canary::{Canary, CanarySpec, TargetRef};
pub use canary_policy::{CanaryPolicy, CanaryPolicySpec};
pub use crd::crds;
pub use metric_template::{MetricProvider, MetricTemplate, MetricTemplateSpec};
pub use request::{Request, Verb};
pub use service::CanaryService;
pub use status::CanaryStatus;

#[cfg(test)]
mod tests;
