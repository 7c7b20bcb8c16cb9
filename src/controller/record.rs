//! What the metrics are told of a Canary.

use super::cache::CanaryKey;
use crate::api::status::{CanaryStatus, Phase};
use crate::rollout::Observed;
use crate::rollout::subject::Subject;
use crate::router::replicas::percent;
use crate::telemetry::metrics::{Analysis, CanaryState, Metrics, Strategy};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Notes phase and weights.
pub(super) fn observed(metrics: &Metrics, observed: &Observed) {
    let (name, namespace) = (&observed.names.target, &observed.names.namespace);
    let state = match observed.status.phase {
        Phase::Progressing => CanaryState::Running,
        Phase::Failed => CanaryState::Failed,
        _ => CanaryState::Successful,
    };
    metrics.set_status(name, namespace, state);
    let conditions = observed.status.conditions.iter();
    metrics.set_conditions(
        name,
        namespace,
        conditions.map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())),
    );
    let counted = observed.pods.map(|pods| percent(pods.canary, pods.primary));
    if let Some(weight) = counted.or(observed.routes.weight) {
        metrics.set_weight(name, namespace, 100 - weight, weight);
    }
}

/// Notes how many Canaries there are.
pub(super) fn totals<'k>(metrics: &Metrics, canaries: impl Iterator<Item = &'k CanaryKey>) {
    let mut totals: BTreeMap<String, usize> = BTreeMap::new();
    for (namespace, _) in canaries {
        match totals.get_mut(namespace) {
            Some(total) => *total += 1,
            None => drop(totals.insert(namespace.clone(), 1)),
        }
    }
    metrics.set_totals(&totals);
}

/// Notes how long a tick of an analysis took, its writes included.
pub(super) fn tick(metrics: &Metrics, subject: &Subject<'_>, began: Timestamp, now: Timestamp) {
    let took = Duration::try_from(now.duration_since(began)).unwrap_or_default();
    metrics.observe_step(&subject.names.target, &subject.names.namespace, took);
}

/// Counts the end of a run, when a status that was written is one.
pub(super) fn outcome(metrics: &Metrics, subject: &Subject<'_>, written: &CanaryStatus) {
    let before = subject.canary.status.as_ref();
    let phase = before.map_or(Phase::None, |s| s.phase);
    // A cancelled run ends Succeeded too, but promotes nothing.
    let promoted = before.is_some_and(|s| s.revisions.primary != written.revisions.primary);
    let skipped = before.and_then(|s| s.run.as_ref()).is_some_and(|run| run.skip);
    let analysis = if skipped { Analysis::Skipped } else { Analysis::Completed };
    let (name, namespace) = (&subject.names.target, &subject.names.namespace);
    if written.phase == Phase::Succeeded && phase != Phase::Succeeded && promoted {
        metrics.count_success(name, namespace, Strategy::Canary, analysis);
    } else if written.phase == Phase::Failed && phase != Phase::Failed {
        metrics.count_failure(name, namespace, Strategy::Canary, analysis);
    }
}
