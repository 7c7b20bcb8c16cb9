//! Two worlds in which everything that is to come can be the same have the same fingerprint.

use crate::laws::Laws;
use crate::world::World;
use jiff::Timestamp;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher};

/// Seconds beyond which it makes no difference how long ago something was: longer than every deadline of the fixtures.
const LONG: i64 = 75;
/// Times that nothing is decided by.
const TOLD: [&str; 5] =
    ["time\":\"", "lastTransitionTime\":\"", "lastUpdateTime\":\"", "creationTimestamp\":\"", "at\":\""];
const VERSION: &str = "\"resourceVersion\":\"";

/// A text without its dates and versions, as a hash, and the dates by which something is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Print {
    text: u64,
    times: Vec<Timestamp>,
}

impl Print {
    pub(super) fn of(text: &str) -> Self {
        let (mut hasher, mut times) = (DefaultHasher::new(), Vec::new());
        canonical(text, |piece| hasher.write(piece.as_bytes()), |time| times.push(time));
        Self { text: hasher.finish(), times }
    }

    /// The same for all that is as long ago.
    fn hash(&self, now: Timestamp, into: &mut impl Hasher) {
        into.write_u64(self.text);
        for time in &self.times {
            let ago = now.duration_since(*time).as_millis();
            into.write_i128(ago.clamp(-1000 * i128::from(LONG), 1000 * i128::from(LONG)));
        }
    }
}

impl World {
    /// Names the state: versions and dates do not matter, how long ago something was does.
    pub fn fingerprint(&self) -> u64 {
        let (mut hasher, now) = (DefaultHasher::new(), self.cluster.now);
        for (at, object) in self.cluster.objects.iter().chain(self.lag.iter().flat_map(|lag| &lag.seen)) {
            at.hash(&mut hasher);
            object.print().hash(now, &mut hasher);
        }
        let mut text = String::with_capacity(8 * 1024);
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
        Print::of(&text).hash(now, &mut hasher);
        hasher.finish()
    }
}

/// Takes a text apart: what is no date and no version, and the dates that something may be decided by.
fn canonical(text: &str, mut piece: impl FnMut(&str), mut time: impl FnMut(Timestamp)) {
    let bytes = text.as_bytes();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'T' || *byte == b'V') {
        let here = at + found;
        at = here + 1;
        if bytes[here] == b'V' {
            let start = here + 1 - "\"resourceV".len().min(here + 1);
            if text.get(start..).is_some_and(|rest| rest.starts_with(VERSION)) && start >= copied {
                piece(&text[copied..start]);
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
        let Ok(date) = text[here - 10..end].parse::<Timestamp>() else { continue };
        piece(&text[copied..here - 10]);
        let told = TOLD.iter().any(|field| text[..here - 10].ends_with(field));
        (copied, at) = (end, end);
        if !told {
            piece("~");
            time(date);
        }
    }
    piece(&text[copied..]);
}

#[test]
fn a_fingerprint_knows_ages_and_no_dates() {
    let of = |text: &str| {
        let (mut pieces, mut times) = (String::new(), Vec::new());
        canonical(text, |piece| pieces.push_str(piece), |time| times.push(time.to_string()));
        (pieces, times)
    };
    let text = r#"{"resourceVersion":"12","since":"2026-01-01T00:00:01.5Z","time":"2026-01-01T00:00:00Z","x":"Table"}"#;
    let (pieces, times) = of(text);
    assert_eq!(pieces, r#"{","since":"~","time":"","x":"Table"}"#);
    assert_eq!(times, ["2026-01-01T00:00:01.5Z"]);
    let hash = |print: &Print, now: &str| {
        let mut hasher = DefaultHasher::new();
        print.hash(now.parse().unwrap(), &mut hasher);
        hasher.finish()
    };
    let later = Print::of(&text.replace("01.5Z", "11.5Z").replace("12", "13"));
    assert_eq!(hash(&Print::of(text), "2026-01-01T00:00:02Z"), hash(&later, "2026-01-01T00:00:12Z"));
    assert_ne!(hash(&Print::of(text), "2026-01-01T00:00:02Z"), hash(&later, "2026-01-01T00:00:13Z"));
}
