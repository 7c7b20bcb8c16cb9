//! Durations and numbers as Go reads and prints them: they stand in Flagger's events, which people and
//! scripts match.

use std::time::Duration;

/// A text that is no duration; worded as Go's `time.ParseDuration`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time: invalid duration {0:?}")]
pub struct InvalidDuration(pub String);

/// Reads a duration such as `10s`, `1m30s`, `1.5h` or `0`, as Go's `time.ParseDuration` does. One below zero is refused:
/// nothing here can last a negative time.
///
/// The reader in kube takes some texts for zero that Go refuses, such as the empty one (kube-core 5.0).
///
/// # Errors
///
/// When the text is no duration.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    read(text).ok_or_else(|| InvalidDuration(text.to_owned()))
}

fn read(text: &str) -> Option<Duration> {
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

/// Prints whole milliseconds as Go prints a `time.Duration`: `0s`, `500ms`, `1.5s`, `1m0s`, `1h0m0s`.
#[must_use]
pub fn duration(milliseconds: i64) -> String {
    let sign = if milliseconds < 0 { "-" } else { "" };
    let all = milliseconds.unsigned_abs();
    if all == 0 {
        return "0s".to_owned();
    }
    if all < 1000 {
        return format!("{sign}{all}ms");
    }
    let (hours, minutes) = (all / 3_600_000, all / 60_000 % 60);
    let fraction = all % 1000;
    let mut seconds = format!("{}", all / 1000 % 60);
    if fraction != 0 {
        seconds.push_str(format!(".{fraction:03}").trim_end_matches('0'));
    }
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// Prints a float as Go's `%v`: the shortest digits that read back the same, as `d.ddde+XX` when
/// the exponent is below -4 or 6 and more.
#[must_use]
pub fn float(value: f64) -> String {
    if let Some(text) = not_finite(value) {
        return text.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

/// Prints a float as Go's `%.2f`.
#[must_use]
pub fn float2(value: f64) -> String {
    not_finite(value).map_or_else(|| format!("{value:.2}"), str::to_owned)
}

fn not_finite(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("NaN"),
        f64::INFINITY => Some("+Inf"),
        f64::NEG_INFINITY => Some("-Inf"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        let table = [
            (0, "0s"),
            (1, "1ms"),
            (500, "500ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (1050, "1.05s"),
            (60_000, "1m0s"),
            (90_500, "1m30.5s"),
            (3_600_000, "1h0m0s"),
            (-1500, "-1.5s"),
        ];
        for (ms, text) in table {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn floats_are_printed_as_go_prints_them() {
        let table = [
            (99.0, "99"),
            (99.5, "99.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (100_000.0, "100000"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1e20, "1e+20"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (-2.5, "-2.5"),
            (0.0, "0"),
            (f64::INFINITY, "+Inf"),
        ];
        for (value, text) in table {
            assert_eq!(float(value), text);
        }
        for (value, text) in [(90.5, "90.50"), (0.125, "0.12"), (2.675, "2.67"), (f64::NEG_INFINITY, "-Inf")]
        {
            assert_eq!(float2(value), text);
        }
    }

    #[test]
    fn durations_are_read() {
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
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_in_gos_words() {
        let refused = [
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
        ];
        for text in refused {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let said = parse_duration("10").unwrap_err().to_string();
        assert_eq!(said, "time: invalid duration \"10\"");
    }
}
