//! What a Canary's spec asks for, with every default applied: the only part of it that the core reads.

use crate::rollout::model::weights::Steps;
use jiff::SignedDuration;

/// The rollout policy of one Canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Time between two analysis steps, at least `--min-interval`.
    pub interval: SignedDuration,
    /// Failed checks at which a run is rolled back.
    pub threshold: i32,
    /// The weights.
    pub steps: Steps,
    /// Percent of the canary's updated pods that must be available.
    pub canary_ready: i32,
    /// Percent of the primary's updated pods that must be available.
    pub primary_ready: i32,
    /// Time that a rollout may take.
    pub deadline: SignedDuration,
    /// The canary's share of the traffic is its part of the pods: weights are set by their number.
    pub by_replicas: bool,
    /// Promote without analysis.
    pub skip_analysis: bool,
    /// Do nothing.
    pub suspend: bool,
    /// The autoscaler that the Canary names.
    pub autoscaler: Option<Autoscaler>,
    /// `spec.analysis.webhooks`, in order.
    pub hooks: Vec<Hook>,
    /// The metrics that a step checks, by name; their order is [`crate::metrics`]'.
    pub metrics: Vec<String>,
}

/// The autoscaler of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Autoscaler {
    /// Its name.
    pub name: String,
    /// `minReplicas` of the autoscaler, where known.
    pub min: Option<i32>,
}

/// One webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// When it is called.
    pub kind: HookKind,
}

/// When a webhook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// Before a new revision is scaled up, until it passes.
    ConfirmRollout,
    /// Before the first weight.
    PreRollout,
    /// At each analysis step.
    Rollout,
    /// Before promotion, until it passes.
    ConfirmPromotion,
    /// After success or failure.
    PostRollout,
    /// At each step; rolls back when it passes.
    Rollback,
    /// Not called by the core.
    Other,
}

impl HookKind {
    /// Returns the type as it stands in a spec; empty for what is not called.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfirmRollout => "confirm-rollout",
            Self::PreRollout => "pre-rollout",
            Self::Rollout => "rollout",
            Self::ConfirmPromotion => "confirm-promotion",
            Self::PostRollout => "post-rollout",
            Self::Rollback => "rollback",
            Self::Other => "",
        }
    }
}

impl Policy {
    /// Returns the positions of the hooks of one kind, in order.
    pub fn hooks_of(&self, kind: HookKind) -> impl Iterator<Item = (usize, &Hook)> {
        self.hooks.iter().enumerate().filter(move |(_, h)| h.kind == kind)
    }
}
