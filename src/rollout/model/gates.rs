//! What the policy that governs a target says of it: the gates of a release besides the Canary's own.

use jiff::Timestamp;

/// What the policy says about one target now; the default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// No release begins now.
    pub frozen: Option<Frozen>,
    /// A revision that was rejected is not tried again unasked.
    pub quarantine: bool,
    /// A person lets each revision through.
    pub approval: bool,
    /// Nobody lets through what they applied themselves.
    pub four_eyes: bool,
    /// Whether it is this target's turn, where releases are limited.
    pub turn: Option<Turn>,
    /// What clusters that come before say of the held revision.
    pub wave: Gate,
}

/// A time in which no release begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// Its end, if it has one within sight.
    pub until: Option<Timestamp>,
    /// Whose it is and why.
    pub reason: String,
}

/// The place of a target among those that wait for a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// It is its turn. Never before it stands in line.
    pub granted: bool,
    /// What the limit is.
    pub limit: String,
}

/// What the clusters that come before say of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// It may be released here.
    #[default]
    Open,
    /// Not yet.
    Closed {
        /// Why.
        why: String,
        /// When that may be over although nothing is heard.
        until: Option<Timestamp>,
    },
    /// One of them rejected it.
    Rejected(String),
}
