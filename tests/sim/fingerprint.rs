//! Two worlds in which everything that is to come can be the same have the same fingerprint.

use super::laws::Laws;
use super::world::World;
use jiff::Timestamp;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};

/// Seconds beyond which it makes no difference how long ago something was: longer than every deadline of the fixtures.
const LONG: i64 = 75;
/// Times that nothing is decided by.
const TOLD: [&str; 5] =
    ["time\":\"", "lastTransitionTime\":\"", "lastUpdateTime\":\"", "creationTimestamp\":\"", "at\":\""];
const VERSION: &str = "\"resourceVersion\":\"";

impl World {
    /// Names the state: versions and dates do not matter, how long ago something was does.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut text = String::with_capacity(64 * 1024);
        for (at, object) in &self.cluster.objects {
            let _ = write!(text, "{at}{object}");
        }
        for (at, object) in self.lag.iter().flat_map(|lag| &lag.seen) {
            let _ = write!(text, "{at}{object}");
        }
        self.workloads.sketch(&mut text);
        let (process, laws) = (&self.process, Laws { applied: Default::default(), ..self.laws.clone() });
        if let Some(process) = process {
            let seen = process.seen == Some(self.cluster.version());
            let _ = write!(text, "{:?}{:?}{seen}{}", process.memory, process.wake, process.sketch());
        }
        let writes = |at: usize| at.saturating_sub(self.writes);
        let fuse = self.fuse.map(|fuse| (writes(fuse.write), fuse.after));
        let _ = write!(
            text,
            "{laws:?}{fuse:?}{:?}{:?}{:?}{:?}",
            self.restart,
            self.faults.ahead(self.writes),
            self.lag.as_ref().map(|lag| lag.until),
            self.answers.sketch(),
        );
        let mut hasher = DefaultHasher::new();
        canonical(&text, self.cluster.now).hash(&mut hasher);
        hasher.finish()
    }
}

/// Replaces times by how long ago they were, and leaves out versions.
fn canonical(text: &str, now: Timestamp) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'T' || *byte == b'V') {
        let here = at + found;
        at = here + 1;
        if bytes[here] == b'V' {
            let start = here + 1 - "\"resourceV".len().min(here + 1);
            if text.get(start..).is_some_and(|rest| rest.starts_with(VERSION)) && start >= copied {
                out.push_str(&text[copied..start]);
                let end = start + VERSION.len();
                copied = end + bytes[end..].iter().position(|byte| *byte == b'"').unwrap_or(0);
                at = copied;
            }
            continue;
        }
        let is_date = here >= 10
            && bytes[here - 10..here]
                .iter()
                .enumerate()
                .all(|(i, byte)| if i == 4 || i == 7 { *byte == b'-' } else { byte.is_ascii_digit() });
        if !is_date || here - 10 < copied {
            continue;
        }
        let end = here + bytes[here..].iter().position(|byte| *byte == b'Z').map_or(1, |z| z + 1);
        let Ok(time) = text[here - 10..end].parse::<Timestamp>() else { continue };
        out.push_str(&text[copied..here - 10]);
        (copied, at) = (end, end);
        if TOLD.iter().any(|field| out.ends_with(field)) {
            continue;
        }
        let ago =
            now.duration_since(time).as_millis().clamp(-1000 * i128::from(LONG), 1000 * i128::from(LONG));
        let _ = write!(out, "~{ago}");
    }
    out.push_str(&text[copied..]);
    out
}

#[test]
fn a_fingerprint_knows_ages_and_no_dates() {
    let of = |text: &str, now: &str| canonical(text, now.parse().unwrap());
    let text = r#"{"resourceVersion":"12","since":"2026-01-01T00:00:01.5Z","time":"2026-01-01T00:00:00Z","x":"Table"}"#;
    let canonical = r#"{"resourceVersion":"","since":"~500","time":"","x":"Table"}"#;
    assert_eq!(of(text, "2026-01-01T00:00:02Z"), canonical.replace("\"resourceVersion\":\"\"", "\""));
}
