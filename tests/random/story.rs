//! What was seen of an application, written down for a person who looks for the cause.

use anyhow::Result;
use harness::laws::ready_message;
use harness::objects::{State, pod_image, ready};
use harness::outside::Heard;
use harness::{at, image, weight};
use serde_json::Value;
use sidetrack::api::revision::Revision;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// Writes the story of an application into a file, and returns where it is.
pub(crate) fn story(
    seed: u64,
    ns: &str,
    deeds: &str,
    states: &[State],
    heard: &[Heard],
    begun: Instant,
) -> Result<String> {
    let seconds = |at: Instant| at.saturating_duration_since(begun).as_secs_f64();
    let mut lines: Vec<(f64, String)> = states
        .iter()
        .map(|s| {
            let object = s.object.as_ref().map_or_else(|| "deleted".to_owned(), |o| told(s.kind, o));
            (seconds(s.seen), format!("{} {} {}: {object}", s.version, s.kind, s.name))
        })
        .collect();
    lines.extend(heard.iter().map(|h| {
        let answer = if h.passes { "yes" } else { "no" };
        let path = h.address.split(' ').next().unwrap_or_default();
        (seconds(h.at), format!("asked {path} about {}: {answer}", at(&h.body, "/checksum")))
    }));
    lines.extend(deeds.lines().map(|line| {
        let at = line.split_whitespace().next().and_then(|t| t.parse().ok()).unwrap_or(0.0);
        (at, format!("==== {line}"))
    }));
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut text = String::new();
    for (at, line) in lines {
        writeln!(text, "{at:7.2} {line}")?;
    }
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("seed-{seed}"));
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{ns}.txt"));
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn told(kind: &str, object: &Value) -> String {
    let text = |pointer: &str| at(object, pointer).as_str().unwrap_or("-").to_owned();
    let short = |pointer: &str| text(pointer).chars().take(10).collect::<String>();
    match kind {
        "deploy" => {
            let key = |name: &str| short(&format!("/metadata/annotations/sidetrack.dev~1{name}"));
            let revision = Revision::of(at(object, "/spec/template"));
            let gone = if at(object, "/metadata/deletionTimestamp").is_null() { "" } else { " TERMINATING" };
            let status = |field: &str| at(object, &format!("/status/{field}")).as_i64().unwrap_or(0);
            format!(
                "{} {} paused {} hold {} failed {} promoted {} requested {} replicas {} (updated {} ready {} available {} of {}){} generation {} seen {}",
                image(object),
                revision.short(),
                at(object, "/spec/paused"),
                key("hold"),
                key("failed"),
                key("promoted"),
                key("requested-replicas"),
                at(object, "/spec/replicas"),
                status("updatedReplicas"),
                status("readyReplicas"),
                status("availableReplicas"),
                status("replicas"),
                gone,
                at(object, "/metadata/generation"),
                at(object, "/status/observedGeneration"),
            )
        }
        "pod" => {
            let ends = !at(object, "/metadata/deletionTimestamp").is_null();
            let labels = at(object, "/metadata/labels");
            format!(
                "{} ready {} {}{}",
                pod_image(object),
                ready(object),
                labels["ready"],
                if ends { " ends" } else { "" }
            )
        }
        "vs" => format!("weight {:?}", weight(object)),
        _ => format!(
            "{} {} weight {} last step {} failed checks {}: {}{}",
            text("/status/phase"),
            text("/status/run/stage") + " " + &short("/status/run/revision"),
            at(object, "/status/run/weight"),
            text("/status/run/lastStep"),
            at(object, "/status/failedChecks"),
            ready_message(object),
            if at(object, "/spec/skipAnalysis") == true { " SKIPS" } else { "" },
        ),
    }
}
