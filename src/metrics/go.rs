//! Durations and numbers as Go reads and prints them: they stand in Flagger's events, which people and
//! scripts match.

use std::time::Duration;

/// A text that is no duration; worded as Go's `time.ParseDuration`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time: invalid duration {0:?}")]
pub struct InvalidDuration(pub String);

/// Reads a duration such as `10s`, `1m30s` or `1.5h`. A sign is refused: nothing here can last a negative
/// time.
///
/// # Errors
///
/// When the text is no duration.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        seconds += number.parse::<f64>().map_err(|_| invalid())? * factor;
        rest = tail;
    }
    // Go keeps nanoseconds; the rounding hides that 0.1 is no binary fraction.
    Duration::try_from_secs_f64((seconds * 1e9).round() / 1e9).map_err(|_| invalid())
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
        let table =
            [("10s", 10_000), ("1m30s", 90_000), ("250ms", 250), ("1.5h", 5_400_000), ("0", 0), (".5s", 500)];
        for (text, ms) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "1d", "-1s", "1..5s", "."] {
            assert_eq!(parse_duration(text), Err(InvalidDuration(text.to_owned())), "{text}");
        }
    }
}
