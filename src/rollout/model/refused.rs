//! A write that the API server refused.

use crate::rollout::model::plan::Step;
use jiff::Timestamp;

/// A write that was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The step that it belonged to.
    pub step: Step,
    /// What was to be done, such as `create Service test/app`.
    pub what: String,
    /// The API server's words.
    pub why: String,
    /// When.
    pub at: Timestamp,
    /// It has been stated.
    pub told: bool,
}
