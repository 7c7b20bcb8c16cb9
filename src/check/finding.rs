//! One thing that was found.

use super::facts::Refusal;
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Info,
    /// Works, but not as one might expect, or not for long.
    Warning,
    /// Does not work, or does not protect.
    Error,
}

impl Level {
    /// Returns the level as it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What to do.
    #[serde(rename = "do", skip_serializing_if = "String::is_empty")]
    pub action: String,
}

impl Finding {
    /// States that something is as it should be.
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), why: String::new(), action: String::new() }
    }

    /// States something that is not.
    pub fn new(
        level: Level,
        what: impl Into<String>,
        why: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self { level, what: what.into(), why: why.into(), action: action.into() }
    }

    /// States that something could not be looked at: no error, but nothing to rely on either.
    #[must_use]
    pub fn unknown(what: &str, refusal: &Refusal) -> Self {
        let action = match refusal.code {
            401 | 403 => "ask somebody who may look, or get the right to",
            _ => "look again",
        };
        Self::new(Level::Warning, format!("{what} not known"), refusal.message.clone(), action)
    }
}
