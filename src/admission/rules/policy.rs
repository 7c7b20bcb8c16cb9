//! A CanaryPolicy that makes no sense is refused when it is applied, with the field and the reason.

use crate::admission::outcome::{Outcome, Reason, Rule};
use crate::admission::review::Request;
use crate::admission::view::View;
use crate::api::CanaryPolicySpec;
use crate::policy::review::review;

/// Decides about the write of a policy.
pub(in crate::admission) fn write(request: &Request, new: View<'_>, mesh_provider: &str) -> Outcome {
    let spec = new.whole().get("spec").cloned().unwrap_or_default();
    // What is deleted may be as wrong as it is: its finalizer has to come off.
    if new.whole().pointer("/metadata/deletionTimestamp").is_some() {
        return Outcome::pass();
    }
    let problems = match serde_json::from_value::<CanaryPolicySpec>(spec) {
        Ok(spec) => review(&request.name, &spec, mesh_provider),
        // The schema says it better.
        Err(_) => return Outcome::pass(),
    };
    if problems.is_empty() {
        return Outcome::pass();
    }
    let message = format!("CanaryPolicy {} is refused: {}", request.name, problems.join("; "));
    Outcome::deny(Rule::Policy, Reason::BadRequest, message)
}
