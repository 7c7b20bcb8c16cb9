//! What the core answers: the steps to take now, in order, and when to look again.

use crate::api::revision::Revision;
use crate::api::status::CanaryStatus;
use crate::rollout::model::observed::Backend;
use jiff::Timestamp;

/// The answer of [`crate::rollout::advance`].
///
/// Steps are taken in order; the first that fails ends the plan, and the state is observed again.
/// Every prefix of a plan leaves a state from which the next decision reaches the same end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// When to decide again although nothing changed.
    pub wake: Option<Timestamp>,
}

/// One thing to do. Steps name roles, not objects: [`crate::rollout::objects`] knows which object is which.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Writes the Canary's status.
    Status(Box<CanaryStatus>),
    /// Logs a line, sends an Event.
    Say(Message),
    /// Asks a hook or a metrics server; the answer arrives in [`crate::rollout::Memory`].
    Ask(Check),
    /// Lists what else there is in the namespace; what was found arrives in [`crate::rollout::Observed`].
    Survey,
    /// Puts our finalizer on the Canary.
    GuardCanary,
    /// Takes our finalizer off the Canary: its last moment.
    ReleaseCanary,
    /// Stores the target's live template, which has this revision.
    StoreSnapshot(Revision),
    /// Reads a stored template.
    LoadSnapshot(Revision),
    /// Removes stored templates that no longer matter.
    PruneSnapshots(Vec<String>),
    /// Stores the template that an existing primary runs, turned back into the target's shape.
    StorePrimarySnapshot(Revision),
    /// Stores the template of this revision as one of the target's ReplicaSets has it.
    StoreRunning(Revision),
    /// Labels the target and sets the whole set of our keys.
    Adopt {
        /// The revision that the primary runs, or will.
        promoted: Revision,
        /// Set when the target's template is another one: it is held in the same write.
        hold: Option<Revision>,
        /// What the applier asked for; `None` where an autoscaler decides.
        replicas: Option<i32>,
    },
    /// Makes the primary from a stored template.
    CreatePrimary {
        /// The stored template's revision.
        revision: Revision,
        /// Pods to start with.
        replicas: i32,
    },
    /// Makes the canary (`in-place`) from a stored template.
    CreateCanary {
        /// The stored template's revision.
        revision: Revision,
        /// Pods to start with.
        replicas: i32,
    },
    /// Scales the generated canary (`in-place`).
    ScaleCanary(i32),
    /// Deletes the generated canary (`in-place`).
    DeleteCanary,
    /// Deletes the target's idle ReplicaSets but the promoted one (`in-place`): a paused Deployment that is scaled up from
    /// nothing would start one of them.
    EmptyHistory,
    /// Makes a ReplicaSet of the promoted revision where the target has none any more (`in-place`): a paused Deployment makes
    /// none, and one without history (`revisionHistoryLimit: 0`) loses it with the last pod.
    GiveBackPods(Revision),
    /// Holds a stored template on a target that runs the promoted one (`in-place`): it had run unreleased.
    HoldAgain(Revision),
    /// Evicts the next pod of a held primary (`in-place`) that is older than this, if all are available; what was found
    /// arrives in [`crate::rollout::Memory`].
    EvictOlder(Timestamp),
    /// Asks the pods of a Deployment why they are not ready; what they say arrives in [`crate::rollout::Memory`].
    AskPods {
        /// The Deployment.
        deployment: String,
        /// The revision whose pods these are.
        revision: String,
    },
    /// Writes a stored template to the primary, with the rollout settings of the target.
    WritePrimary {
        /// The stored template's revision.
        revision: Revision,
        /// Pods, where no autoscaler decides and the applier's wish has changed.
        replicas: Option<i32>,
    },
    /// Restarts the primary's pods, same revision, because the target's owner restarted the target.
    RestartPrimary(String),
    /// Creates or updates the primary's autoscaler from the target's.
    SyncAutoscaler,
    /// Creates and repairs Services. While the apex selects the target it is left as its owner made it.
    EnsureServices {
        /// Whom the apex Service selects.
        apex: Backend,
    },
    /// Creates routing objects and repairs everything in them but weights.
    EnsureRoutes,
    /// Sets the canary's weight, in percent.
    SetWeight(i32),
    /// Puts our labels and our traffic finalizer on the primary, and what it runs where it does not say so.
    GuardPrimary,
    /// Takes our traffic finalizer off a terminating primary.
    UnguardPrimary,
    /// Lets the held template run: unpauses and removes the hold, guarded by uid, generation and hold.
    Release(Revision),
    /// Says in the target's status that a release goes on, with the condition that kstatus knows.
    Announce(Timestamp),
    /// Takes that back: the condition at this position.
    Retract(usize),
    /// Holds the live template again; `failed` marks it as rejected.
    Hold {
        /// The live template's revision.
        revision: Revision,
        /// Whether it was rejected.
        failed: bool,
    },
    /// Notes that break-glass counted for the live template.
    Glass {
        /// The live template's revision.
        revision: Revision,
        /// Whether it is to be held as well: it was not meant to run yet.
        hold: bool,
    },
    /// Notes on the primary that break-glass counted for its live template.
    GlassPrimary(Revision),
    /// Asks the API server, by a dry run, what it makes today of a stored template; the answer arrives in
    /// [`crate::rollout::Memory`].
    Redefault {
        /// The stored template's revision.
        revision: Revision,
        /// The live revision that raised the question.
        live: Revision,
    },
    /// Moves every record of a revision on the Deployments to the hash that its template has today.
    Rebaseline {
        /// The hash so far.
        from: Revision,
        /// The hash today.
        to: Revision,
    },
    /// Ends a hold on the promoted revision: unpauses, removes the hold and the traffic finalizer.
    ClearHold(Revision),
    /// Replaces a hold that does not name the live template (a forged one) by one that does.
    CorrectHold(Revision),
    /// Scales the target.
    ScaleTarget(i32),
    /// Scales the primary.
    ScalePrimary(i32),
    /// Writes `requested-replicas`.
    RecordReplicas(i32),
    /// Says on the target which revision the primary runs.
    MarkPromoted(Revision),
    /// Takes the traffic finalizer off the target.
    UnguardTarget,
    /// Takes `spec` fields out of our managedFields entries on the target.
    Disown,
    /// Writes a stored template to the target, unheld: the last step of a run before leaving.
    RestoreTarget(Revision),
    /// Takes every label, key, finalizer and pause of ours off the target.
    Unenrol,
    /// Points the apex Service at the target.
    PointAtTarget,
    /// Deletes the generated Deployment and what belongs to it.
    DeleteGenerated,
}

/// A line for people: an Event and a log line in one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// Its severity.
    pub level: Level,
    /// The text, in Flagger's words where Flagger has them.
    pub text: String,
    /// What it is counted as.
    pub about: About,
}

/// What a [`Message`] is counted as, whatever its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// Nothing.
    #[default]
    Release,
    /// A template that nobody held on its way in (`sidetrack_interlock_bypassed_total`).
    Bypass,
}

/// Severity of a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A log line of level info, no Event.
    Log,
    /// A Normal Event, logged as info.
    Normal,
    /// A Warning Event, logged as info (as Flagger does).
    Warning,
    /// A Warning Event, logged as error.
    Error,
}

impl Message {
    /// A Normal event.
    pub fn normal(text: impl Into<String>) -> Self {
        Self { level: Level::Normal, text: text.into(), about: About::default() }
    }

    /// A Warning event.
    pub fn warning(text: impl Into<String>) -> Self {
        Self { level: Level::Warning, text: text.into(), about: About::default() }
    }

    /// A Warning event about a template that nobody held on its way in.
    pub fn bypassed(text: &str) -> Self {
        Self { about: About::Bypass, ..Self::warning(format!("InterlockBypassed: {text}")) }
    }

    /// A log line only.
    pub fn log(text: impl Into<String>) -> Self {
        Self { level: Level::Log, text: text.into(), about: About::default() }
    }
}

/// One question to the outside, asked at most once a tick.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// `spec.analysis.webhooks[index]`.
    Hook {
        /// Position in the list.
        index: usize,
        /// The phase that the payload states.
        phase: &'static str,
    },
    /// A check of a metric.
    Metric {
        /// Position in the order in which they are made.
        index: usize,
    },
    /// Whether the metric providers answer (asked once, at initialisation).
    Providers,
}

/// The answer to a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the check passed.
    pub passed: bool,
    /// What to say about it.
    pub messages: Vec<Message>,
    /// For hooks: the error, in Flagger's words.
    pub error: String,
    /// For metrics: the value as people read it, where there was one.
    pub value: Option<String>,
}

impl Step {
    /// Whether it may be taken at the same time as its neighbours of which this is true: none of them depends on another,
    /// and whichever a crash leaves undone is done by the next decision.
    #[must_use]
    pub const fn side_by_side(&self) -> bool {
        matches!(self, Self::Status(_) | Self::StoreSnapshot(_) | Self::Announce(_))
    }
}

impl Plan {
    /// Adds a step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Adds a message.
    #[must_use]
    pub fn say(self, message: Message) -> Self {
        self.then(Step::Say(message))
    }

    /// Wakes at the earlier of what is set and `at`.
    #[must_use]
    pub fn wake(mut self, at: Timestamp) -> Self {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
        self
    }
}

impl From<Step> for Plan {
    fn from(step: Step) -> Self {
        Self { steps: vec![step], wake: None }
    }
}
