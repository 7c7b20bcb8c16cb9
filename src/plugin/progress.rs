//! What became of one revision: what a pipeline waits for. Pure.

use super::view::{message, name, namespace, phase, short, status};
use crate::api::Canary;
use crate::api::status::{Phase, Stage};
use serde_json::{Value, json};

/// How far a revision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The primary runs it.
    Promoted,
    /// It was rolled back.
    Rejected,
    /// Another one took its place, or the template went back.
    Replaced,
    /// Not decided yet.
    Open,
}

impl Verdict {
    /// Returns the exit code of `status`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Promoted => 0,
            Self::Rejected => 3,
            Self::Open => 4,
            Self::Replaced => 5,
        }
    }
}

/// Judges a revision; `live` is the one that the target has now, where it is known.
#[must_use]
pub fn judge(canary: &Canary, revision: &str, live: Option<&str>) -> Verdict {
    let status = status(canary);
    let run = status.run.as_ref().filter(|run| run.stage != Stage::Closing);
    if run.is_some_and(|run| run.revision == revision) {
        return Verdict::Open;
    }
    let is = |of: &Option<String>| of.as_deref() == Some(revision);
    if is(&status.revisions.primary) && matches!(status.phase, Phase::Succeeded | Phase::Initialized) {
        return Verdict::Promoted;
    }
    if is(&status.revisions.failed) && status.phase == Phase::Failed {
        return Verdict::Rejected;
    }
    if live.is_some_and(|live| live != revision) {
        return if is(&status.revisions.primary) { Verdict::Promoted } else { Verdict::Replaced };
    }
    Verdict::Open
}

/// One line: how a revision stands.
#[must_use]
pub fn line(canary: &Canary, revision: &str, verdict: Verdict) -> String {
    let status = status(canary);
    let word = match verdict {
        Verdict::Promoted => "promoted".to_owned(),
        Verdict::Rejected => "rejected".to_owned(),
        Verdict::Replaced => "replaced by another revision".to_owned(),
        Verdict::Open => match status.run.as_ref().filter(|run| run.revision != revision) {
            // The phase is of the release that goes on, not of what waits for its end.
            Some(run) => format!("held, behind {} ({})", short(Some(&run.revision)), phase(canary).text),
            None => phase(canary).text,
        },
    };
    let mut line = format!("{}/{} {} {word}", namespace(canary), name(canary), short(Some(revision)));
    if verdict == Verdict::Open {
        line = format!(
            "{line}, weight {}, failed checks {} of {}",
            status.canary_weight,
            status.failed_checks,
            canary.spec.analysis.threshold()
        );
    }
    let why = message(&status);
    if why.is_empty() || verdict == Verdict::Replaced { line } else { format!("{line}: {why}") }
}

/// The same for programs: an object of the names, the verdict in a word, its exit code, and what status says.
#[must_use]
pub fn object(canary: &Canary, revision: &str, verdict: Verdict) -> Value {
    let status = status(canary);
    let word = match verdict {
        Verdict::Promoted => "promoted",
        Verdict::Rejected => "rejected",
        Verdict::Replaced => "replaced",
        Verdict::Open => "open",
    };
    json!({
        "namespace": namespace(canary), "canary": name(canary), "revision": revision, "verdict": word,
        "exitCode": verdict.code(), "phase": status.phase.as_str(), "weight": status.canary_weight,
        "failedChecks": status.failed_checks, "threshold": canary.spec.analysis.threshold(),
        "message": message(&status),
    })
}
