//! Freeze windows: times in which no release begins, by crontab, time zone and duration.

use crate::api::canary_policy::FreezeWindow;
use crate::api::duration;
use crate::rollout::guard::Frozen;
use cronexpr::{Crontab, MakeTimestamp};
use jiff::{SignedDuration, Timestamp};

/// Longest window; it also bounds how many starts are looked at.
const LONGEST: SignedDuration = SignedDuration::from_hours(31 * 24);
/// Most starts of a window within its own duration: each of them is looked at.
const STARTS: usize = 100;
/// Windows that follow on each other without a gap, after which the end is no longer looked for.
const CHAINED: usize = 64;

/// A window that can be asked.
#[derive(Debug)]
struct Window {
    crontab: Crontab,
    length: SignedDuration,
    reason: String,
}

/// Says what is wrong with a window, with the path of the field below `field`.
#[must_use]
pub fn problems(field: &str, window: &FreezeWindow) -> Vec<String> {
    let mut found = Vec::new();
    if window.time_zone.as_deref().is_some_and(|zone| jiff::tz::TimeZone::get(zone).is_err()) {
        let zone = window.time_zone.as_deref().unwrap_or_default();
        found
            .push(format!("{field}.timeZone: {zone:?} is no time zone; write one such as \"Europe/Berlin\""));
    } else if let Err(why) = crontab(window) {
        let why = why.to_string();
        let why = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        found.push(format!(
            "{field}.schedule: {:?} is no schedule: {why}; write minute, hour, day of month, month and day of week, such as \
             \"0 18 * * FRI\"",
            window.schedule
        ));
    }
    match length(window) {
        None => found.push(format!(
            "{field}.duration: {:?} is no duration; write one such as \"62h\" or \"30m\"",
            window.duration
        )),
        Some(length) if length <= SignedDuration::ZERO || length > LONGEST => {
            found.push(format!(
                "{field}.duration: {:?} is not between 1s and 31 days (744h)",
                window.duration
            ));
        }
        Some(length) => {
            if crontab(window).is_ok_and(|crontab| crowded(&crontab, length)) {
                found.push(format!(
                    "{field}.schedule: it begins more than {STARTS} times within its own duration; write a longer one that begins less often"
                ));
            }
        }
    }
    if window.reason.trim().is_empty() {
        found.push(format!("{field}.reason: it is empty; say why, for whoever waits"));
    }
    found
}

fn crontab(window: &FreezeWindow) -> Result<Crontab, cronexpr::Error> {
    let zone = window.time_zone.as_deref().unwrap_or("UTC");
    cronexpr::parse_crontab(&format!("{} {zone}", window.schedule.trim()))
}

/// Whether it begins too often within its own duration, counted from some moment.
fn crowded(crontab: &Crontab, length: SignedDuration) -> bool {
    let from = Timestamp::UNIX_EPOCH;
    let within = |start: &Result<jiff::Zoned, cronexpr::Error>| {
        start.as_ref().is_ok_and(|start| start.timestamp().duration_since(from) < length)
    };
    let starts = crontab.iter_after(MakeTimestamp(from)).ok();
    starts.is_some_and(|starts| starts.take_while(within).nth(STARTS).is_some())
}

fn length(window: &FreezeWindow) -> Option<SignedDuration> {
    SignedDuration::try_from(duration::parse(&window.duration)?).ok()
}

fn parse(window: &FreezeWindow) -> Option<Window> {
    let (crontab, length) =
        (crontab(window).ok()?, length(window).filter(|length| *length > SignedDuration::ZERO)?);
    Some(Window { crontab, length: length.min(LONGEST), reason: window.reason.clone() })
}

impl Window {
    /// Returns the end of the window that `at` lies in, if it lies in one.
    fn end(&self, at: Timestamp) -> Option<Timestamp> {
        let from = at.checked_sub(self.length).ok()?;
        // A window that began exactly its length ago is over.
        let mut starts = self.crontab.iter_after(MakeTimestamp(from)).ok()?;
        let mut end = None;
        // The later of two that overlap ends later.
        for start in starts.by_ref() {
            let start = start.ok()?.timestamp();
            if start > at {
                break;
            }
            end = start.checked_add(self.length).ok();
        }
        end.filter(|end| *end > at)
    }
}

/// Returns until when no release begins, if one of the windows is open; windows that follow on each other are one.
#[must_use]
pub fn frozen(windows: &[FreezeWindow], now: Timestamp) -> Option<Frozen> {
    let windows: Vec<Window> = windows.iter().filter_map(parse).collect();
    let last = |at| windows.iter().filter_map(|w| Some((w.end(at)?, w))).max_by_key(|(end, _)| *end);
    let (mut until, first) = last(now)?;
    for _ in 0..CHAINED {
        match last(until) {
            Some((end, _)) => until = end,
            None => return Some(Frozen { until: Some(until), reason: first.reason.clone() }),
        }
    }
    Some(Frozen { until: Some(until), reason: first.reason.clone() })
}

/// Returns when the next window opens.
#[must_use]
pub fn next(windows: &[FreezeWindow], now: Timestamp) -> Option<Timestamp> {
    let opens = |window: Window| Some(window.crontab.find_next(MakeTimestamp(now)).ok()?.timestamp());
    windows.iter().filter_map(parse).filter_map(opens).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(schedule: &str, zone: &str, duration: &str, reason: &str) -> FreezeWindow {
        let time_zone = Some(zone.to_owned()).filter(|zone| !zone.is_empty());
        FreezeWindow {
            schedule: schedule.into(),
            time_zone,
            duration: duration.into(),
            reason: reason.into(),
        }
    }

    fn until(windows: &[FreezeWindow], now: &str) -> Option<String> {
        frozen(windows, now.parse().unwrap()).map(|f| format!("{} {}", f.until.unwrap(), f.reason))
    }

    #[test]
    fn a_window_is_open_from_its_start_to_its_end() {
        let weekend = [window("0 18 * * FRI", "Europe/Berlin", "62h", "weekend")];
        assert_eq!(until(&weekend, "2026-11-27T16:59:59Z"), None);
        let open = Some("2026-11-30T07:00:00Z weekend".to_owned());
        assert_eq!(until(&weekend, "2026-11-27T17:00:00Z"), open);
        assert_eq!(until(&weekend, "2026-11-30T06:59:59.999Z"), open);
        assert_eq!(until(&weekend, "2026-11-30T07:00:00Z"), None);
    }

    #[test]
    fn a_schedule_follows_its_time_zone_through_a_change_of_the_clock() {
        // Clocks in Berlin went back on 2026-10-25 at 03:00.
        let nights = [window("0 20 * * *", "Europe/Berlin", "1h", "backup")];
        assert!(until(&nights, "2026-10-24T18:30:00Z").is_some());
        assert!(until(&nights, "2026-10-25T18:30:00Z").is_none());
        assert!(until(&nights, "2026-10-25T19:30:00Z").is_some());
    }

    #[test]
    fn windows_that_follow_on_each_other_are_one() {
        let windows = [window("0 0 * * *", "", "12h", "night"), window("0 11 * * *", "", "3h", "lunch")];
        assert_eq!(until(&windows, "2026-01-01T01:00:00Z"), Some("2026-01-01T14:00:00Z night".into()));
        let always = [window("* * * * *", "", "2m", "for ever")];
        assert!(
            until(&always, "2026-01-01T01:00:30Z").is_some(),
            "an end that is not found is looked for later"
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (bad, said) in [
            (window("0 25 * * *", "", "1h", "x"), "f.schedule: \"0 25 * * *\" is no schedule"),
            (window("", "", "1h", "x"), "f.schedule"),
            (window("0 1 * * *", "Mars/Olympus", "1h", "x"), "f.timeZone: \"Mars/Olympus\""),
            (window("0 1 * * *", "", "1 hour", "x"), "f.duration: \"1 hour\" is no duration"),
            (window("0 1 * * *", "", "0s", "x"), "not between"),
            (window("0 1 * * *", "", "9000h", "x"), "not between"),
            (window("0 1 * * *", "", "1h", " "), "f.reason"),
            (window("* * * * *", "", "744h", "x"), "more than 100 times"),
        ] {
            let found = problems("f", &bad);
            assert!(found.len() == 1 && found[0].contains(said) && !found[0].contains('\n'), "{found:?}");
        }
        assert_eq!(problems("f", &window("0 18 * * FRI", "Europe/Berlin", "62h", "weekend")), [""; 0]);
    }
}
