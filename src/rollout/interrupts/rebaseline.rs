//! Hashes that change although nobody writes: an upgraded API server defaults or prunes a stored template otherwise.
//!
//! A revision is the hash of a template as the API server shows it. When a hash is not the expected one, the expected
//! revision's stored template is shown to the same API server (a dry run). If that comes out with another hash, every
//! record of the old one is moved, and nothing is held, released or reported for it; what still differs, somebody wrote
//! (interlock §3).

use crate::api::revision::Revision;
use crate::rollout::case::Case;
use crate::rollout::model::observed::Observed;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::status::{Draft, if_new};

/// A revision that was expected where another one is live.
struct Doubt {
    expected: Revision,
    live: Revision,
}

/// Settles what is not as expected, as far as the API server's defaults explain it.
pub(in crate::rollout) fn advance(case: &mut Case<'_>) -> Option<Plan> {
    let o = case.o;
    let target = o.target.as_ref().filter(|t| t.canary.is_some() && !t.terminating)?;
    let doubts = doubts(o, target);
    if doubts.is_empty() {
        case.m.today.clear();
    }
    for Doubt { expected, live } in doubts {
        match case.m.today.get(&(expected.clone(), live.clone())) {
            None => return Some(Step::Redefault { revision: expected, live }.into()),
            Some(today) if *today != expected => {
                let today = today.clone();
                // It is to be written: where it is not at hand any more, since a write had to wait, it is asked for again.
                if !case.m.loaded.contains(&today) && target.revision != today {
                    let stored = o.snapshots.contains(&o.names.snapshot(&today));
                    return Some(if stored {
                        Step::LoadSnapshot(today).into()
                    } else {
                        Step::Redefault { revision: expected, live }.into()
                    });
                }
                return Some(moved(case, &expected, &today));
            }
            Some(_) => {}
        }
    }
    None
}

fn doubts(o: &Observed, target: &Workload) -> Vec<Doubt> {
    let keys = &target.keys;
    let live = &target.revision;
    let expected: Vec<Revision> = match keys.hold.as_ref().filter(|_| target.held()) {
        Some(hold) => vec![hold.clone()],
        None => {
            let run = o.status.run.as_ref().map(|run| Revision::from_key(&run.revision));
            run.into_iter().chain(keys.promoted.clone()).chain(keys.glassed.clone()).collect()
        }
    };
    let mut doubts = Vec::new();
    if !expected.contains(live) {
        doubts.extend(expected.into_iter().map(|expected| Doubt { expected, live: live.clone() }));
    }
    if let (true, Some(primary), Some(expected)) = (o.primary_drifted, &o.primary, &o.primary_revision) {
        doubts.push(Doubt { expected: expected.clone(), live: primary.revision.clone() });
    }
    // What was never stored has never run: its hold is corrected, which releases nothing.
    doubts.retain(|doubt| o.snapshots.contains(&o.names.snapshot(&doubt.expected)));
    doubts
}

/// The template is stored under its new name first, and what raised the question is written last: a process that dies
/// in between asks again.
fn moved(case: &Case<'_>, from: &Revision, to: &Revision) -> Plan {
    let o = case.o;
    let mut plan = Plan::default().say(Message::normal(format!(
        "The API server reads revision {from} of {} as {to} since its defaults changed: nobody wrote it, nothing is released",
        case.target()
    )));
    if !o.snapshots.contains(&o.names.snapshot(to)) {
        plan = plan.then(Step::StoreSnapshot(to.clone()));
    }
    plan.steps.extend(if_new(o, Draft::from(o).rebased(from, to)).steps);
    plan.then(Step::Rebaseline { from: from.clone(), to: to.clone() })
}
