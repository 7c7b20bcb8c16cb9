//! What another version of Sidetrack has written into a status, and this one does not know: it stays.
//!
//! Replicas of two versions lead in turn while one is upgraded, or taken back. Each writes the status as a whole, and neither may
//! lose what the other one needs.

use serde_json::Value;

/// Returns the status to write: `new`, and of what is stored (`raw`) what this version has not read. `old` is what it has read of
/// that, as it would write it.
///
/// An object keeps its unknown fields; an element of a list that has not changed stays as it was stored.
pub(super) fn keep_unknown(raw: &Value, old: &Value, new: Value) -> Value {
    match (raw, old, new) {
        (raw, old, new) if *old == new => raw.clone(),
        (Value::Object(raw), Value::Object(old), Value::Object(mut new)) => {
            for (key, stored) in raw {
                match (old.get(key), new.remove(key)) {
                    (Some(old), Some(value)) => {
                        new.insert(key.clone(), keep_unknown(stored, old, value));
                    }
                    (None, Some(value)) => {
                        new.insert(key.clone(), value);
                    }
                    (None, None) => {
                        new.insert(key.clone(), stored.clone());
                    }
                    (Some(_), None) => {}
                }
            }
            Value::Object(new)
        }
        (Value::Array(raw), Value::Array(old), Value::Array(new)) if raw.len() == old.len() => {
            let as_stored = |value: Value| {
                let before = old.iter().position(|old| *old == value).and_then(|index| raw.get(index));
                before.cloned().unwrap_or(value)
            };
            Value::Array(new.into_iter().map(as_stored).collect())
        }
        (_, _, new) => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::CanaryStatus;
    use serde_json::json;

    fn read(raw: &Value) -> CanaryStatus {
        serde_json::from_value(raw.clone()).unwrap()
    }

    fn newer() -> Value {
        json!({
            "phase": "Comparing", "failedChecks": 1, "canaryWeight": 20, "iterations": 0, "score": {"p": 0.04},
            "run": {"revision": "a", "stage": "Comparing", "since": "2026-01-01T00:00:00Z", "weight": 20, "arm": "b"},
            "history": [{"revision": "z", "outcome": "Drained", "samples": 7}, {"revision": "y", "outcome": "Promoted"}],
        })
    }

    #[test]
    fn a_newer_version_loses_nothing_by_a_write_of_this_one() {
        let raw = newer();
        let old = read(&raw);
        let write = |status: &CanaryStatus| keep_unknown(&raw, &json!(old), json!(status));
        assert_eq!(write(&old), raw);
        let mut next = old.clone();
        next.failed_checks = 2;
        next.run.as_mut().unwrap().weight = 40;
        next.history.remove(1);
        let mut expected = raw.clone();
        expected["failedChecks"] = 2.into();
        expected["run"]["weight"] = 40.into();
        expected["history"].as_array_mut().unwrap().remove(1);
        assert_eq!(write(&next), expected);
        next.run = None;
        expected.as_object_mut().unwrap().remove("run");
        assert_eq!(write(&next), expected, "what is over is over");
    }

    #[test]
    fn what_this_version_wrote_is_written_as_it_is() {
        let mut raw = newer();
        raw.as_object_mut().unwrap().remove("score");
        raw["run"].as_object_mut().unwrap().remove("arm");
        raw["run"]["stage"] = "Analysing".into();
        raw["history"] = json!([]);
        let old = read(&raw);
        let mut next = old.clone();
        next.canary_weight = 0;
        next.run = None;
        next.warnings = vec!["one".into()];
        assert_eq!(read(&keep_unknown(&raw, &json!(old), json!(next))), next);
    }
}
