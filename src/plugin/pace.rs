//! How far an analysis is, and when it goes on. Pure.

use super::screen::span;
use crate::api::status::{CanaryStatus, Run, Stage};
use crate::rollout::model::weights::Steps;
use jiff::{SignedDuration, Timestamp};

/// Steps that are listed; of more the number is told.
const LISTED: usize = 10;

/// Says which step of how many an analysis has taken, and when the next one is due; nothing where none goes on.
#[must_use]
pub fn pace(
    status: &CanaryStatus,
    steps: &Steps,
    interval: SignedDuration,
    now: Timestamp,
) -> Option<String> {
    let run = status.run.as_ref().filter(|run| run.stage == Stage::Analysing)?;
    // Weights that do not rise are warned of and stored all the same: they lead round and round.
    let rises = |weight: &i32| steps.next(*weight).filter(|next| next > weight);
    let all: Vec<i32> = std::iter::successors(steps.next(0), rises).collect();
    let taken = all.iter().filter(|weight| **weight <= run.weight).count();
    let weights: Vec<String> = all.iter().map(ToString::to_string).collect();
    let list = if all.len() > LISTED { String::new() } else { format!(" ({} %)", weights.join(", ")) };
    let next = if taken == all.len() { "the promotion" } else { "the next step" };
    let due = due(run, interval, now).map_or_else(String::new, |due| format!("; {next} {due}"));
    Some(format!("Step {taken} of {}{list}{due}", all.len()))
}

fn due(run: &Run, interval: SignedDuration, now: Timestamp) -> Option<String> {
    if run.paused || run.awaits.is_some() {
        return None; // it says itself what it waits for
    }
    let at = run.last_step?.saturating_add(interval).ok()?;
    Some(if at > now {
        format!("in {} at the earliest", span(at.duration_since(now)))
    } else {
        "is due".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn said(run: Value) -> Option<String> {
        let mut whole = json!({"revision": "b", "stage": "Analysing", "since": "2026-01-01T00:00:00Z", "weight": 20,
            "lastStep": "2026-01-01T00:00:00Z"});
        json_patch::merge(&mut whole, &run);
        let status = serde_json::from_value(json!({"phase": "Progressing", "run": whole})).unwrap();
        let steps = Steps { step: 10, list: Vec::new(), max: 50, promotion: 0 };
        pace(&status, &steps, SignedDuration::from_secs(60), "2026-01-01T00:00:15Z".parse().unwrap())
    }

    #[test]
    fn the_next_step_is_counted_down() {
        let text = |run| said(run).unwrap();
        assert_eq!(
            text(json!({})),
            "Step 2 of 5 (10, 20, 30, 40, 50 %); the next step in 45s at the earliest"
        );
        assert_eq!(
            text(json!({"lastStep": "2025-12-31T23:00:00Z"})),
            "Step 2 of 5 (10, 20, 30, 40, 50 %); the next step is due"
        );
        assert!(text(json!({"weight": 50})).ends_with("; the promotion in 45s at the earliest"));
        assert_eq!(text(json!({"weight": 0})).get(..10), Some("Step 0 of "));
        assert_eq!(text(json!({"paused": true})), "Step 2 of 5 (10, 20, 30, 40, 50 %)");
        assert_eq!(said(json!({"stage": "Promoting"})), None);
    }

    #[test]
    fn weights_that_lead_round_have_an_end() {
        let run =
            json!({"revision": "b", "stage": "Analysing", "since": "2026-01-01T00:00:00Z", "weight": 50});
        let status = serde_json::from_value(json!({"phase": "Progressing", "run": run})).unwrap();
        let steps = Steps { step: 0, list: vec![50, 10, 50], max: 100, promotion: 0 };
        let said =
            pace(&status, &steps, SignedDuration::from_secs(60), "2026-01-01T00:00:15Z".parse().unwrap());
        assert_eq!(said.as_deref(), Some("Step 1 of 1 (50 %)"));
    }
}
