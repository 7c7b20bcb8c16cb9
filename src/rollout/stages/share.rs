//! The share of the traffic where nothing routes: pods come and go by themselves, and status follows them.

use crate::api::status::Run;
use crate::rollout::case::Case;
use crate::rollout::model::plan::Plan;
use crate::rollout::model::workload::Workload;
use crate::rollout::status::Draft;
use jiff::Timestamp;

/// States the share that the pods make now, at most once an interval.
pub(in crate::rollout) fn restated(case: &mut Case<'_>, target: &Workload, run: &Run) -> Option<Plan> {
    if run.awaits.is_some() && case.canary_ready(target, run).is_ok() {
        return None; // the end of the wait says so
    }
    let step = Draft::from(case.o).recounted(case.o).filter(|_| due(case).is_none())?;
    case.m.counted_at = Some(case.now);
    Some(step.into())
}

/// When a share that has changed is to be stated, if not now.
pub(in crate::rollout) fn due(case: &Case<'_>) -> Option<Timestamp> {
    case.o.status.run.as_ref()?;
    Draft::from(case.o).recounted(case.o)?;
    case.after_interval(case.m.counted_at?)
}
