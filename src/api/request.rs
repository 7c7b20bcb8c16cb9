//! What a person asks of a running release: the verbs, and the annotation that carries one.
//!
//! A verb is no part of the spec, so that whoever applies the Canary from Git neither states nor reverts it.

use std::fmt;

/// Longest reason, in characters: it has to fit into an Event with everything around it.
const REASON_LENGTH: usize = 500;
/// Fewest digits that name a revision.
const REVISION_LENGTH: usize = 7;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Promote the revision now, past the gates and the rest of the analysis, but not before its pods are ready.
    Promote,
    /// Roll the revision back as failed.
    Abort,
    /// Take a failed revision up again.
    Retry,
    /// Skip the rest of the analysis; gates are still asked.
    Skip,
    /// Stay at the weight that is set.
    Pause,
    /// Go on.
    Resume,
    /// Open the gate that waits.
    Approve,
    /// Restart the primary's pods, same revision.
    Restart,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 8] = [
        Self::Promote,
        Self::Abort,
        Self::Retry,
        Self::Skip,
        Self::Pause,
        Self::Resume,
        Self::Approve,
        Self::Restart,
    ];

    /// Returns the verb as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Approve => "approve",
            Self::Restart => "restart",
        }
    }

    /// Returns the RBAC verb on `canaries.flagger.app` that it takes: who may pause may resume.
    #[must_use]
    pub const fn right(self) -> &'static str {
        match self {
            Self::Resume => Self::Pause.as_str(),
            verb => verb.as_str(),
        }
    }

    /// Reads a verb.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One request: the value of annotation `sidetrack.dev/request`, `VERB REVISION ID REASON…`, one space between two words. The
/// API server's own check of the right to a verb ([`crate::admission::requests`]) reads it by the same grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub verb: Verb,
    /// The revision that it is meant for, at least its first seven digits.
    pub revision: String,
    /// Tells it from an earlier request of the same words.
    pub id: String,
    /// Why; may be empty.
    pub reason: String,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and how it is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: String| {
            Err(format!("{what}; write VERB REVISION ID REASON, such as \"promote 4f1c2a9b3d 1 urgent fix\""))
        };
        if let Some(odd) = text.chars().find(|c| c.is_control() || c.is_whitespace() && *c != ' ') {
            return wrong(format!("{odd:?} stands in it, where only plain spaces part words"));
        }
        let mut words = text.splitn(4, ' ');
        let (Some(verb), Some(revision), Some(id)) =
            (words.next(), words.next(), words.next().filter(|id| !id.is_empty()))
        else {
            return wrong("a request has at least three words, one space between two".into());
        };
        let Some(verb) = Verb::parse(verb) else {
            return wrong(format!("{verb:?} is none of {}", Verb::ALL.map(Verb::as_str).join(", ")));
        };
        if revision.len() < REVISION_LENGTH || !revision.bytes().all(|b| b.is_ascii_hexdigit()) {
            return wrong(format!(
                "{revision:?} is no revision: give at least {REVISION_LENGTH} of its digits"
            ));
        }
        let reason = words.next().unwrap_or_default().to_owned();
        if reason.chars().count() > REASON_LENGTH {
            return wrong(format!("the reason has more than {REASON_LENGTH} characters"));
        }
        Ok(Self { verb, revision: revision.to_ascii_lowercase(), id: id.to_owned(), reason })
    }

    /// Whether it is meant for this revision.
    #[must_use]
    pub fn names(&self, revision: &str) -> bool {
        revision.starts_with(&self.revision)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.verb, self.revision, self.id, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for verb in Verb::ALL {
            let request = Request {
                verb,
                revision: "4f1c2a9b3d".into(),
                id: "2026-01-01T00:00:00Z".into(),
                reason: "a fix, urgent".into(),
            };
            assert_eq!(Request::parse(&request.to_string()), Ok(request));
        }
        let bare = Request::parse("pause 4F1C2A9B3D 1").unwrap();
        assert_eq!((bare.reason.as_str(), bare.revision.as_str()), ("", "4f1c2a9b3d"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_write() {
        for (text, why) in [
            ("", "three words"),
            ("promote 4f1c2a9b3d", "three words"),
            ("Promote 4f1c2a9b3d 1", "none of promote, abort"),
            ("promote latest 1", "\"latest\" is no revision"),
            ("promote\t4f1c2a9b3d 1 a fix", "'\\t' stands in it"),
            ("promote 4f1c2a9b3d 1 a\u{a0}fix", "'\\u{a0}' stands in it"),
            (" promote 4f1c2a9b3d 1", "\"\" is none of"),
            ("promote  4f1c2a9b3d 1", "\"\" is no revision"),
            ("promote 4f1c2a9b3d  fix", "three words"),
            ("promote 4f1c2a 1", "at least 7"),
            (&format!("promote 4f1c2a9b3d 1 {}", "a".repeat(501)), "more than 500"),
        ] {
            let said = Request::parse(text).unwrap_err();
            assert!(said.contains(why) && said.contains("write VERB REVISION ID REASON"), "{text}: {said}");
        }
    }

    #[test]
    fn a_request_is_for_one_revision() {
        let request = Request::parse("promote 4f1c2a9b3d 1").unwrap();
        assert!(request.names(&format!("4f1c2a9b3d{}", "0".repeat(54))));
        assert!(!request.names(&"4".repeat(64)));
    }
}
