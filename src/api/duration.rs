//! Durations as they stand in a Canary: the notation of Go's `time.ParseDuration`.

use std::time::Duration;

/// Reads a duration such as `30s`, `1m`, `1m30s` or `1.5h`; `None` if it is no such thing or negative.
///
/// The units are `ns`, `us` (`µs`), `ms`, `s`, `m` and `h`; a plain `0` needs none.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after, |c| !c.is_ascii_digit() && c != '.');
        // `f64` would also read `inf` and `nan`, which the split above cannot yield.
        let number: f64 = number.parse().ok()?;
        let part = Duration::try_from_secs_f64(number * seconds(unit)?).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    Some(total)
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m", 60_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            (".5s", 500),
            ("+2s", 2_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in [
            "",
            "10",
            "s",
            "ten",
            "-5s",
            "1m30",
            "10sx",
            "1..5s",
            "10 s",
            "inf",
            "1d",
            "999999999999999999999h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
