//! A person's wish to pass unheld.
//!
//! The value begins with the generation it was written against, because `kubectl rollout undo`
//! copies old annotations back: a copy carries an old number and must not count.

use crate::admission::view::View;
use crate::api::keys;

/// What the break-glass annotation of a write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakGlass {
    /// It says nothing new.
    Silent,
    /// A copy of an older one came back: it is dropped.
    Outdated,
    /// It counts.
    Counts,
    /// It names no generation, or one that is not there yet.
    Wrong,
}

impl BreakGlass {
    pub(super) fn read(old: View<'_>, new: View<'_>) -> Self {
        let Some(text) = new.annotation(keys::BREAK_GLASS) else { return Self::Silent };
        if old.annotation(keys::BREAK_GLASS) == Some(text) {
            return Self::Silent;
        }
        let (number, reason) = text.split_once(' ').unwrap_or((text, ""));
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Self::Wrong;
        }
        match number.parse::<i64>() {
            Ok(number) if number < old.generation() => Self::Outdated,
            // No leading zero: the admission policy compares text.
            Ok(value)
                if value == old.generation() && !number.starts_with('0') && !reason.trim().is_empty() =>
            {
                Self::Counts
            }
            _ => Self::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(old: Option<&str>, new: Option<&str>) -> BreakGlass {
        let object = |text: Option<&str>| json!({"metadata": {"generation": 17, "annotations": {keys::BREAK_GLASS: text}}});
        let (old, new) = (object(old), object(new));
        BreakGlass::read(View::of(&old).unwrap(), View::of(&new).unwrap())
    }

    #[test]
    fn counts_only_when_new_and_written_against_the_present_generation() {
        for (old, new, expected) in [
            (None, None, BreakGlass::Silent),
            (Some("17 fire"), Some("17 fire"), BreakGlass::Silent),
            (Some("17 fire"), None, BreakGlass::Silent),
            (None, Some("17 fire"), BreakGlass::Counts),
            (Some("16 smoke"), Some("17 fire"), BreakGlass::Counts),
            (Some("16 smoke"), Some("12 older"), BreakGlass::Outdated),
            (None, Some("16"), BreakGlass::Outdated),
            (None, Some("18 fire"), BreakGlass::Wrong),
            (None, Some("fire"), BreakGlass::Wrong),
            (None, Some(""), BreakGlass::Wrong),
            (None, Some("+17 fire"), BreakGlass::Wrong),
            (None, Some("-1 fire"), BreakGlass::Wrong),
            (None, Some("017 fire"), BreakGlass::Wrong),
            (None, Some("17"), BreakGlass::Wrong),
            (None, Some("17  "), BreakGlass::Wrong),
            (None, Some("99999999999999999999 fire"), BreakGlass::Wrong),
        ] {
            assert_eq!(read(old, new), expected, "{old:?} -> {new:?}");
        }
    }
}
