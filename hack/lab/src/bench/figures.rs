//! What the requests say, a line a figure, and all of them in a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::bench::side::Chapter;
use crate::load::{Counts, Sample as Request, chi_square};

/// Collects figures.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Value>);

impl Report {
    /// Prints and notes a figure. `beside` says what it is held against, or is made of.
    pub(super) fn figure(&mut self, name: &str, value: f64, unit: &str, beside: &str) {
        println!("{name:<60} {value:>9.2} {unit:<12} {beside}");
        self.0.push(json!({ "name": name, "value": value, "unit": unit, "beside": beside }));
    }

    /// Prints and notes the median of some times.
    fn seconds(&mut self, name: &str, times: &mut [f64]) {
        times.sort_by(f64::total_cmp);
        let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
        let longest = times.last().copied().unwrap_or(f64::NAN);
        self.figure(name, median, "s", &format!("median of {}, longest {longest:.2}", times.len()));
    }

    /// Writes the file.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(file, serde_json::to_string_pretty(&self.0)?)?)
    }
}

/// Reports on one gateway. `windows` are the requests that were sent while a weight was set.
pub(super) fn of_requests(
    report: &mut Report,
    gateway: &str,
    chapters: &[Chapter],
    requests: &[Request],
    weights: &[(Instant, i64)],
    windows: &[(i64, Vec<Request>)],
) {
    let (first, last) = (requests.iter().map(|r| r.at).min(), requests.iter().map(|r| r.at).max());
    let time = first.zip(last).map_or(0.0, |(first, last)| last.duration_since(first).as_secs_f64());
    report.figure(
        &format!("{gateway}: load"),
        float(requests.len()) / time,
        "requests/s",
        &format!(
            "{} requests in {time:.0} s, {} in the slowest second; {} asked for",
            requests.len(),
            first.map_or(0, |first| slowest_second(first, requests)),
            crate::bench::RATE
        ),
    );
    let mut delays = Delays::default();
    for (number, chapter) in chapters.iter().enumerate() {
        let end = chapters.get(number + 1).map(|next| next.begun);
        let within = |at: Instant| at >= chapter.begun && end.is_none_or(|end| at < end);
        let asked: Vec<&Request> = requests.iter().filter(|r| within(r.at)).collect();
        let seen: Vec<(Instant, i64)> = weights.iter().filter(|(at, _)| within(*at)).copied().collect();
        match chapter.name {
            "shares" => shares(report, gateway, chapter, windows),
            "promotion" => {
                let took = chapter.ended.duration_since(chapter.begun).as_secs_f64();
                let ideal = (crate::bench::INTERVAL * crate::bench::STEPS).as_secs_f64();
                report.figure(
                    &format!("{gateway}: five steps of 5 s"),
                    took,
                    "s",
                    &format!("{ideal} s of it analysis"),
                );
            }
            _ => {}
        }
        errors(report, gateway, chapter, &asked, &seen);
        delays.add(chapter, &asked, &seen);
    }
    let what = format!("{gateway}: weight in the route to the first request on it");
    report.seconds(&what, &mut delays.rises);
    let what = format!("{gateway}: weight 0 in the route to the last request on it");
    report.seconds(&what, &mut delays.falls);
}

/// How many requests were sent in the second that had the fewest; the last one is not whole.
fn slowest_second(first: Instant, requests: &[Request]) -> usize {
    let mut seconds = BTreeMap::<u64, usize>::new();
    for request in requests {
        *seconds.entry(request.at.duration_since(first).as_secs()).or_default() += 1;
    }
    seconds.pop_last();
    seconds.into_values().min().unwrap_or(0)
}

/// Who answered at each weight that was held.
fn shares(report: &mut Report, gateway: &str, chapter: &Chapter, windows: &[(i64, Vec<Request>)]) {
    let Some(version) = chapter.versions.first() else { return };
    for weight in crate::bench::SHARES {
        let Some((_, window)) = windows.iter().find(|(seen, _)| *seen == weight) else { continue };
        let counts = Counts::of(window);
        let hits = counts.version(version);
        #[expect(clippy::cast_precision_loss, reason = "weights are up to 100")]
        let percent = weight as f64;
        let beside = if weight == 100 {
            format!("{hits} of {}", counts.total)
        } else {
            // Passed by one honest draw in twenty, and in ten thousand.
            let far = chi_square(hits, counts.total, percent);
            format!("{hits} of {}, chi-square {far:.2} (3.84, 15.1)", counts.total)
        };
        let share = 100.0 * float(hits) / float(counts.total);
        report.figure(&format!("{gateway}: share at weight {weight}"), share, "%", &beside);
    }
}

/// Who was let down; by a version that is bad on purpose, how many it got.
fn errors(
    report: &mut Report,
    gateway: &str,
    chapter: &Chapter,
    asked: &[&Request],
    seen: &[(Instant, i64)],
) {
    let bad = chapter.versions.first().filter(|_| chapter.name == "rollback");
    let others = Counts::of(asked.iter().copied().filter(|r| bad != Some(&r.version)));
    let name = chapter.name;
    report.figure(
        &format!("{gateway}: {name}, failed"),
        float(others.failed),
        "requests",
        &format!("of {}, goal 0", others.total),
    );
    for request in asked.iter().filter(|r| r.failed() && bad != Some(&r.version)).take(10) {
        let Request { at, took, status, version } = request;
        let (sent, took) = (at.duration_since(chapter.begun).as_secs_f64(), took.as_secs_f64());
        let set = seen.iter().rev().find(|(since, _)| since <= at);
        let weight = set.map_or_else(
            || "before any weight".to_owned(),
            |(since, weight)| {
                format!("{:.2} s after weight {weight}", at.duration_since(*since).as_secs_f64())
            },
        );
        println!("    sent after {sent:.2} s, {weight}: {status:?} from {version:?} after {took:.2} s");
    }
    if let Some(bad) = bad {
        let of_it: Vec<&Request> = asked.iter().copied().filter(|r| r.version == *bad).collect();
        let counts = Counts::of(of_it.iter().copied());
        let from = of_it.iter().map(|r| r.at).min();
        let time = from.zip(of_it.iter().map(|r| r.at).max()).map_or(Duration::ZERO, |(from, to)| to - from);
        let beside = format!(
            "{} of them failed, in {:.1} s; {} were asked meanwhile",
            counts.failed,
            time.as_secs_f64(),
            asked.iter().filter(|r| from.is_some_and(|from| r.at >= from && r.at <= from + time)).count()
        );
        report.figure(
            &format!("{gateway}: the bad version answered"),
            float(counts.total),
            "requests",
            &beside,
        );
    }
}

/// Seconds from a weight that is seen in the route to the first request on the new side, and to the last one when it is taken away.
#[derive(Debug, Default)]
struct Delays {
    rises: Vec<f64>,
    falls: Vec<f64>,
}

impl Delays {
    fn add(&mut self, chapter: &Chapter, asked: &[&Request], seen: &[(Instant, i64)]) {
        let sent = |version: &str| -> Vec<Instant> {
            asked.iter().filter(|r| r.version == version).map(|r| r.at).collect()
        };
        let mut versions = chapter.versions.iter();
        let mut before = 0;
        let mut now = versions.next();
        for (at, weight) in seen {
            let Some(version) = now else { break };
            let sent = sent(version);
            let after = |moment: Instant| moment.saturating_duration_since(*at).as_secs_f64();
            if before == 0 {
                self.rises.extend(sent.iter().min().map(|first| after(*first)));
            }
            if *weight == 0 {
                // Unless it is promoted, when it goes on answering as the primary.
                if chapter.name == "rollback" || versions.len() > 0 {
                    self.falls.extend(sent.iter().max().map(|last| after(*last)));
                }
                now = versions.next();
            }
            before = *weight;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
const fn float(count: usize) -> f64 {
    count as f64
}
