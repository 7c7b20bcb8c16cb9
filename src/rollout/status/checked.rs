//! What checks and hooks said last, in the status writes that are made anyway.

use crate::api::status::Checked;
use crate::rollout::model::observed::{Memory, Observed};
use crate::rollout::model::plan::{Check, Plan, Step};
use crate::rollout::status::whole_seconds;
use jiff::Timestamp;

/// The type of a [`Checked`] that is a metric.
pub const METRIC: &str = "metric";

/// Notes the answers of the tick that this plan ends, if it ends one. A new run begins without any.
pub(in crate::rollout) fn note(plan: &mut Plan, o: &Observed, m: &Memory, ticks: bool, now: Timestamp) {
    let answers = if ticks { answers(o, m, now) } else { Vec::new() };
    let run = o.status.run.as_ref().map(|run| &run.revision);
    for step in &mut plan.steps {
        let Step::Status(status) = step else { continue };
        if status.run.as_ref().is_some_and(|next| Some(&next.revision) != run) {
            status.checks.clear();
        }
        for new in &answers {
            let same = |old: &&mut Checked| (&old.type_, &old.name) == (&new.type_, &new.name);
            match status.checks.iter_mut().find(same) {
                Some(old) => old.clone_from(new),
                None => status.checks.push(new.clone()),
            }
        }
    }
}

fn answers(o: &Observed, m: &Memory, now: Timestamp) -> Vec<Checked> {
    let named = |check: &Check| match check {
        Check::Hook { index, .. } => {
            o.policy.hooks.get(*index).map(|hook| (hook.name.clone(), hook.kind.as_str()))
        }
        Check::Metric { index } => o.policy.metrics.get(*index).map(|name| (name.clone(), METRIC)),
        Check::Providers => None,
    };
    m.answers
        .iter()
        .filter_map(|(check, answer)| {
            let (name, type_) = named(check)?;
            Some(Checked {
                name,
                type_: type_.to_owned(),
                passed: answer.passed,
                value: answer.value.clone(),
                at: whole_seconds(now),
            })
        })
        .collect()
}
