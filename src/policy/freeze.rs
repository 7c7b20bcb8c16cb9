//! Freeze windows: times in which no release begins, by crontab, time zone and duration.

use crate::api::canary_policy::FreezeWindow;
use crate::go;
use crate::rollout::model::gates::Frozen;
use cronexpr::{Crontab, MakeTimestamp};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Longest window; it also bounds how many starts are looked at.
const LONGEST: SignedDuration = SignedDuration::from_hours(31 * 24);
/// Most starts of a window within its own duration: each of them is looked at.
const STARTS: usize = 100;
/// Windows that follow on each other without a gap, after which the end is no longer looked for.
const CHAINED: usize = 64;

/// Longest gap that a change of the clock leaves in local time.
const GAP: SignedDuration = SignedDuration::from_hours(2);

/// A window that can be asked.
#[derive(Debug)]
struct Window {
    /// In local time, whatever the clock is set to: the library skips a start that a change of the clock skips, and has two of
    /// one that comes twice.
    crontab: Crontab,
    zone: TimeZone,
    length: SignedDuration,
    reason: String,
}

/// Says what is wrong with a window, with the path of the field below `field`.
#[must_use]
pub fn problems(field: &str, window: &FreezeWindow) -> Vec<String> {
    let mut found = Vec::new();
    if zone(window).is_err() {
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
    if crontab(window).is_ok_and(|crontab| crontab.find_next(MakeTimestamp(Timestamp::UNIX_EPOCH)).is_err()) {
        found.push(format!("{field}.schedule: {:?} is a day that never comes", window.schedule));
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
    cronexpr::parse_crontab(&format!("{} UTC", window.schedule.trim()))
}

fn zone(window: &FreezeWindow) -> Result<TimeZone, jiff::Error> {
    TimeZone::get(window.time_zone.as_deref().unwrap_or("UTC"))
}

/// The moment of a local time: of one that a change of the clock skips the first one after it, of one that comes twice the
/// first one.
fn moment(zone: &TimeZone, local: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    match ambiguous.offset() {
        AmbiguousOffset::Gap { .. } => Some(zone.preceding(ambiguous.later().ok()?).next()?.timestamp()),
        _ => ambiguous.earlier().ok(),
    }
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
    SignedDuration::try_from(go::parse_duration(&window.duration).ok()?).ok()
}

fn parse(window: &FreezeWindow) -> Option<Window> {
    let length = length(window).filter(|length| *length > SignedDuration::ZERO)?.min(LONGEST);
    let (crontab, zone) = (crontab(window).ok()?, zone(window).ok()?);
    Some(Window { crontab, zone, length, reason: window.reason.clone() })
}

impl Window {
    /// Returns when it opens, again and again, after a moment.
    fn starts(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> {
        let local = self.zone.to_datetime(after).checked_sub(GAP).ok();
        let local = local.and_then(|local| TimeZone::UTC.to_timestamp(local).ok());
        let all = local.and_then(|local| self.crontab.iter_after(MakeTimestamp(local)).ok());
        let moments = all.into_iter().flatten().map_while(Result::ok);
        moments.filter_map(|start| moment(&self.zone, start.datetime())).filter(move |start| *start > after)
    }

    /// Returns the end of the window that `at` lies in, if it lies in one.
    fn end(&self, at: Timestamp) -> Option<Timestamp> {
        // A window that began exactly its length ago is over; the later of two that overlap ends later.
        let from = at.checked_sub(self.length).ok()?;
        let last = self.starts(from).take_while(|start| *start <= at).last()?;
        last.checked_add(self.length).ok().filter(|end| *end > at)
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
    let opens = |window: Window| window.starts(now).next();
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
    fn a_start_that_the_clock_skips_is_made_up_for_and_one_that_comes_twice_counts_once() {
        // In Berlin 02:00 became 03:00 on 2026-03-29, and 03:00 became 02:00 on 2026-10-25.
        let nights = [window("30 2 * * *", "Europe/Berlin", "30m", "backup")];
        let open = |from: &str, to: &str| {
            assert_eq!(until(&nights, from), Some(format!("{to} backup")), "{from}");
            assert_eq!(
                next(&nights, "2026-03-28T12:00:00Z".parse().unwrap()).unwrap().to_string(),
                "2026-03-29T01:00:00Z"
            );
        };
        open("2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z");
        assert_eq!(until(&nights, "2026-03-29T01:30:00Z"), None);
        open("2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z");
        assert_eq!(until(&nights, "2026-10-25T01:35:00Z"), None, "02:30 again");
        open("2026-10-26T01:30:00Z", "2026-10-26T02:00:00Z");
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
            (window("0 0 31 2 *", "", "1h", "x"), "\"0 0 31 2 *\" is a day that never comes"),
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
