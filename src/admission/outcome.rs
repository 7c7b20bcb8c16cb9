//! What [`super::decide::decide`] answers, as data.

use crate::api::revision::Revision;
use serde_json::Value;
use std::collections::BTreeMap;

/// Longest warning, in characters; kubectl prints each on one line.
const WARNING_LENGTH: usize = 120;

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether the request passes, and how it is changed.
    pub verdict: Verdict,
    /// The rules that spoke, the weightiest first.
    pub rules: Vec<Rule>,
    /// Texts for whoever made the request, at most 120 characters each.
    pub warnings: Vec<String>,
    /// The revision that the request brings, where a rule had to know it.
    pub revision: Option<Revision>,
}

/// Whether a request passes.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// As it is.
    Pass,
    /// With these changes, never none.
    Mutate(Vec<Change>),
    /// Not at all.
    Deny(Denial),
}

/// Why a request does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Whose fault it is.
    pub reason: Reason,
    /// What, why and what to do instead, in one sentence.
    pub message: String,
}

/// The two ways to deny. Others are dangerous: clients retry a 409, and a forced Flux Kustomization
/// answers a 422 by deleting and re-creating the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 400: the request makes no sense.
    BadRequest,
    /// 403: the request is refused.
    Forbidden,
}

impl Reason {
    /// Returns the HTTP code.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
        }
    }
}

/// One change to the object of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A label is set, or removed.
    Label(&'static str, Option<String>),
    /// An annotation is set, or removed.
    Annotation(&'static str, Option<String>),
    /// Our finalizer is put in at this position.
    AddFinalizer(usize),
    /// Our finalizer is taken out.
    RemoveFinalizer,
    /// `spec.paused` is true, or not there.
    Paused(bool),
    /// `spec.replicas`.
    Replicas(Value),
    /// `spec.selector` of a Service, or its absence.
    Selector(Option<Value>),
    /// `spec.ports` of a Service.
    Ports(Vec<Value>),
}

/// A rule of the interlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Nobody enrols by hand: our keys are stripped.
    Strip,
    /// The selector of an enrolled Deployment does not change.
    Selector,
    /// A break-glass counts, is out of date, or is wrong.
    BreakGlass,
    /// A generated Deployment is the controller's.
    Generated,
    /// An `in-place` target went back to the promoted revision.
    Revert,
    /// A new pod template is held.
    Hold,
    /// What is held stays held.
    StayHeld,
    /// A replica count is recorded instead of taken.
    Replicas,
    /// Keys of ours are put back.
    Restore,
    /// An apex Service stays pointed at the primary.
    Service,
    /// A policy enrols what it selects.
    Enrol,
    /// A policy says what it would hold.
    Audit,
    /// A CanaryPolicy that makes no sense is refused.
    Policy,
    /// A request on a Canary is stamped with who makes it.
    Request,
    /// Annotations would pass the API server's limit.
    AnnotationLimit,
    /// The request lacks an object that it must have.
    NoObject,
}

impl Rule {
    /// Returns a short name, for metric labels and the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strip => "strip",
            Self::Selector => "selector",
            Self::BreakGlass => "break-glass",
            Self::Generated => "generated",
            Self::Revert => "revert",
            Self::Hold => "hold",
            Self::StayHeld => "stay-held",
            Self::Replicas => "replicas",
            Self::Restore => "restore",
            Self::Service => "service",
            Self::Enrol => "enrol",
            Self::Audit => "audit",
            Self::Policy => "policy",
            Self::Request => "request",
            Self::AnnotationLimit => "annotation-limit",
            Self::NoObject => "no-object",
        }
    }
}

impl Outcome {
    /// Lets a request pass as it is.
    #[must_use]
    pub const fn pass() -> Self {
        Self { verdict: Verdict::Pass, rules: Vec::new(), warnings: Vec::new(), revision: None }
    }

    /// Denies a request by a rule.
    #[must_use]
    pub fn deny(rule: Rule, reason: Reason, message: String) -> Self {
        Self { verdict: Verdict::Deny(Denial { reason, message }), rules: vec![rule], ..Self::pass() }
    }

    /// Forbids a request by a rule.
    #[must_use]
    pub fn forbid(rule: Rule, message: String) -> Self {
        Self::deny(rule, Reason::Forbidden, message)
    }

    /// Returns one word for metrics: `pass`, `deny`, or the weightiest rule.
    #[must_use]
    pub fn decision(&self) -> &'static str {
        match (&self.verdict, self.rules.first()) {
            (Verdict::Deny(_), _) => "deny",
            (_, Some(rule)) => rule.as_str(),
            (_, None) => "pass",
        }
    }

    /// Returns what the audit log should know: decision, rules and revision; nothing for a pass.
    #[must_use]
    pub fn audit_annotations(&self) -> BTreeMap<&'static str, String> {
        let mut annotations = BTreeMap::new();
        if !self.rules.is_empty() {
            annotations.insert("decision", self.decision().to_owned());
            let rules: Vec<_> = self.rules.iter().map(|rule| rule.as_str()).collect();
            annotations.insert("rules", rules.join(","));
        }
        if let Some(revision) = &self.revision {
            annotations.insert("revision", revision.as_str().to_owned());
        }
        annotations
    }

    /// Notes that a rule spoke.
    pub(super) fn note(&mut self, rule: Rule) {
        if let Err(position) = self.rules.binary_search(&rule) {
            self.rules.insert(position, rule);
        }
    }

    /// Warns whoever made the request. Names may be long; the end of a text is cut rather than its beginning.
    pub(super) fn warn(&mut self, mut text: String) {
        if let Some((cut, _)) = text.char_indices().nth(WARNING_LENGTH) {
            text.truncate(cut);
        }
        self.warnings.push(text);
    }

    /// Finishes an answer with the changes found.
    pub(super) fn with_changes(mut self, changes: Vec<Change>) -> Self {
        self.verdict = if changes.is_empty() { Verdict::Pass } else { Verdict::Mutate(changes) };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_cut_at_120_characters() {
        let mut outcome = Outcome::pass();
        outcome.warn("ä".repeat(121));
        outcome.warn("short".to_owned());
        assert_eq!(outcome.warnings, ["ä".repeat(120), "short".to_owned()]);
    }

    #[test]
    fn the_decision_is_the_weightiest_rule() {
        let mut outcome = Outcome::pass();
        assert_eq!(outcome.decision(), "pass");
        for rule in [Rule::Restore, Rule::Hold, Rule::Restore] {
            outcome.note(rule);
        }
        assert_eq!((outcome.decision(), outcome.rules.len()), ("hold", 2));
        assert_eq!(outcome.audit_annotations().get("rules").map(String::as_str), Some("hold,restore"));
        assert_eq!(Outcome::forbid(Rule::Selector, String::new()).decision(), "deny");
    }
}
