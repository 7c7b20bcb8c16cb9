//! What the core knows when it decides.

use crate::api::names::Names;
use crate::api::revision::Revision;
use crate::api::status::{Adopted, CanaryStatus};
use crate::rollout::model::gates::Guard;
use crate::rollout::model::plan::{Answer, Check, Message, Step};
use crate::rollout::model::refused::Refused;
use crate::rollout::model::settings::Policy;
use crate::rollout::model::turns::Turns;
use crate::rollout::model::workload::{Rollout, Workload};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Time after which a write that the API server did not keep is tried once more: what changed it may be gone.
const FORGET: SignedDuration = SignedDuration::from_hours(1);

/// One Canary and everything that belongs to it, at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Its names.
    pub names: Names,
    /// `metadata.generation` of the Canary.
    pub generation: i64,
    /// The Canary is being deleted.
    pub deleting: bool,
    /// Our finalizer is on the Canary.
    pub guarded: bool,
    /// Its status as stored.
    pub status: CanaryStatus,
    /// What its spec asks for.
    pub policy: Policy,
    /// Why the spec cannot be served, a sentence each; not empty means that nothing is touched.
    pub refusals: Vec<String>,
    /// What is doubtful in the spec.
    pub warnings: Vec<String>,
    /// What the Canary has taken over, or would.
    pub adopted: Adopted,
    /// What the spec names instead, a sentence.
    pub moves: Option<String>,
    /// Somebody has looked at what else there is in the namespace; what that refuses is among [`Self::refusals`].
    pub surveyed: bool,
    /// What else depends on the target's pods and has to be known, a sentence each; `None` as long as nobody has looked.
    pub dependants: Option<Vec<String>>,
    /// The Deployment that users apply.
    pub target: Option<Workload>,
    /// The Deployment of the primary's pods: generated, or (`in-place`) the target itself.
    pub primary: Option<Workload>,
    /// The Deployment of the canary's pods: the target itself, or (`in-place`) generated.
    pub canary: Option<Workload>,
    /// The revision that the canary's pods are made from.
    pub canary_revision: Option<Revision>,
    /// The revision that the primary was written from, as it says itself or as its template shows.
    pub primary_revision: Option<Revision>,
    /// Whether the primary's template is the one that was last verified against its snapshot.
    pub primary_drifted: bool,
    /// The promoted revision's stored template is missing, and the primary's, turned back into the target's shape, is the
    /// revision that it says.
    pub primary_restorable: bool,
    /// The generated primary lacks a label of ours or the finalizer: the webhook and the policies do not know it.
    pub primary_unguarded: bool,
    /// The Services.
    pub services: Services,
    /// The routes, or what takes their place.
    pub routes: Routes,
    /// The pods that the share of the traffic is counted by; `None` where routes split it, and while nobody knows.
    pub pods: Option<Pods>,
    /// The autoscaler of the primary is missing.
    pub autoscaler_gone: bool,
    /// The autoscaler of the primary needs to be created or updated.
    pub autoscaler_stale: bool,
    /// The error, in Flagger's words, of an autoscaler that is named but absent.
    pub autoscaler_missing: Option<String>,
    /// Names of the stored templates.
    pub snapshots: Vec<String>,
    /// `spec.revisionHistoryLimit` of the target: stored templates to keep.
    pub history: usize,
    /// What a person asks for, answered or not.
    pub request: Option<Asked>,
    /// What the policy that governs the target says.
    pub guard: Guard,
    /// Settings of this process.
    pub settings: Settings,
}

/// A request as it stands on the Canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The annotation as it was written.
    pub text: String,
    /// The user whom the webhook stamped.
    pub by: Option<String>,
}

/// The three Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// `<apex>-canary` or `<apex>-primary` is missing or differs.
    pub stale: bool,
    /// The apex Service is missing or differs (its selector aside).
    pub apex_stale: bool,
    /// Whom the apex Service selects.
    pub apex: Option<Backend>,
}

/// One side of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The primary's pods.
    Primary,
    /// The target's pods, which are not the primary's (`primary-copy`).
    Target,
}

/// The routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// The canary's weight that the live route states; `None` when there is no route.
    pub weight: Option<i32>,
    /// Why the live route cannot be read.
    pub error: Option<String>,
    /// Why the data plane has not taken up the live route yet, where it says so.
    pub unsettled: Option<String>,
    /// A routing object is missing or differs (weights aside).
    pub stale: bool,
}

/// Pods that are ready in the application's Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// The canary's.
    pub canary: i32,
    /// The primary's.
    pub primary: i32,
}

/// Settings of the process that the core reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between a route that leaves a backend and the backend's end.
    pub drain: SignedDuration,
}

/// A restart of a held primary, pod by pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The moment before which no pod is to have begun.
    pub at: Timestamp,
    /// When its pods were last looked at.
    pub looked: Timestamp,
    /// What the Deployment controller said then.
    pub seen: Rollout,
    /// What was found.
    pub found: Evicted,
}

/// How far a restart is, pod by pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// No pod is older.
    All,
    /// Some are.
    Some,
    /// Some are, and the next one may not go: why.
    Refused(String),
}

/// What a process remembers of one Canary between two decisions; lost in a crash, and nothing depends on it but
/// how often a question is asked, how long a drain is waited for, how soon two owners are found out, and whether a
/// break-glass that nobody admitted counts when other writes followed it: else it is analysed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The Canary's generation that was seen last.
    pub generation: Option<i64>,
    /// The Canary was edited since this tick began: its answers do not count.
    pub void: bool,
    /// When the tick that is being worked on began.
    pub tick: Option<Timestamp>,
    /// Answers of this tick.
    pub answers: BTreeMap<Check, Answer>,
    /// Questions of this tick that are on their way.
    pub asked: Vec<Check>,
    /// When the tick of an analysis had begun that the last decision ended.
    pub analysed: Option<Timestamp>,
    /// Since when the live route has been seen with the canary's weight at zero.
    pub zero_since: Option<Timestamp>,
    /// Since when the live route has been seen with the primary's weight at zero.
    pub full_since: Option<Timestamp>,
    /// The weight that the live route states and the data plane has not taken up, and since when.
    pub unsettled: Option<(Option<i32>, Timestamp)>,
    /// Since when the apex Service has been seen at its backend.
    pub apex_since: Option<(Backend, Timestamp)>,
    /// What pods that are not ready have said of that.
    pub pods: Option<PodsSaid>,
    /// The number of pods with which the canary was ready last.
    pub ready_with: Option<i32>,
    /// The weight last seen as this run had set it.
    pub confirmed_weight: Option<i32>,
    /// The target's uid and its last generation with a template that was held, or was meant to run.
    pub seen: Option<(String, i64)>,
    /// The revision of the target's pods when it last had some.
    pub ran: Option<Revision>,
    /// What the API server makes today of a stored template, by its revision and the live one that raised the question.
    pub today: BTreeMap<(Revision, Revision), Revision>,
    /// A revision that was enrolled and of which neither pods nor a ReplicaSet are found.
    pub lost: Option<Revision>,
    /// The target's generation at which its idle ReplicaSets were deleted.
    pub emptied: Option<i64>,
    /// The target's generation at which its promoted revision's pods were looked for, and given back.
    pub given_back: Option<i64>,
    /// The restart of a held primary that goes on.
    pub renewal: Option<Renewal>,
    /// When the primary was last given pods back that somebody had taken away.
    pub scaled_back: Option<Timestamp>,
    /// Said already, so that a state that lasts is not said again and again.
    pub said: Option<Message>,
    /// When a state that lasts was last said.
    pub said_at: Option<Timestamp>,
    /// When the share of the traffic was last stated for its own sake.
    pub counted_at: Option<Timestamp>,
    /// The revisions that were held last; two writers that undo each other are found by them.
    pub turns: Turns,
    /// Revisions whose stored template is at hand.
    pub loaded: Vec<Revision>,
    /// A write that the API server refused, as long as it is still to be done.
    pub refused: Option<Refused>,
    /// Steps whose writes the API server takes and does not keep as they were sent, and what it does not keep.
    pub unkept: Vec<(Step, String)>,
    /// When it is tried again to write these.
    pub unkept_until: Option<Timestamp>,
    /// When it was last looked at what else there is in the namespace.
    pub surveyed: Option<Timestamp>,
}

/// What pods that are not ready say of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodsSaid {
    /// Their Deployment.
    pub deployment: String,
    /// Their revision.
    pub revision: String,
    /// When they were asked.
    pub at: Timestamp,
    /// Their words, where they have some.
    pub why: Option<String>,
}

impl Observed {
    /// The observation without what the API server does not keep as it was sent: writing it again would change nothing. What
    /// that is becomes a warning.
    #[must_use]
    pub fn but_for(&self, unkept: &[(Step, String)]) -> Self {
        let mut seen = self.clone();
        for (step, what) in unkept {
            match step {
                Step::EnsureRoutes => seen.routes.stale = false,
                Step::EnsureServices { .. } => {
                    (seen.services.stale, seen.services.apex_stale) = (false, false)
                }
                Step::SyncAutoscaler => seen.autoscaler_stale = false,
                _ => {}
            }
            seen.warnings.push(format!("The API server does not keep what is written: {what}."));
        }
        seen
    }
}

impl Memory {
    /// Notes what the observation shows, before deciding.
    pub fn note(&mut self, observed: &Observed, now: Timestamp) {
        self.analysed = None;
        if self.unkept.is_empty() {
            self.unkept_until = None;
        } else if *self.unkept_until.get_or_insert(now.saturating_add(FORGET).unwrap_or(now)) <= now {
            self.unkept.clear();
        }
        // Answers are to the spec that asked: another one asks again, when what is on its way is here.
        if self.generation.replace(observed.generation).is_some_and(|before| before != observed.generation) {
            self.void = true;
            self.unkept.clear();
        }
        let under_way =
            self.tick.is_some() && self.asked.iter().any(|check| !self.answers.contains_key(check));
        if self.void && !under_way {
            self.void = false;
            self.tick = None;
            self.answers.clear();
            self.asked.clear();
        }
        let at = |is: bool, since: Option<Timestamp>| if is { Some(since.unwrap_or(now)) } else { None };
        let settled = observed.routes.unsettled.is_none();
        self.zero_since = at(settled && observed.routes.weight == Some(0), self.zero_since);
        self.full_since = at(settled && observed.routes.weight == Some(100), self.full_since);
        let weight = observed.routes.weight;
        let since = self.unsettled.filter(|(of, _)| *of == weight).map_or(now, |(_, since)| since);
        self.unsettled = (!settled).then_some((weight, since));
        self.apex_since = observed
            .services
            .apex
            .map(|b| (b, self.apex_since.filter(|(old, _)| *old == b).map_or(now, |(_, t)| t)));
        let run = observed.status.run.as_ref().map(|run| run.revision.as_str());
        let meant = |t: &Workload| {
            let is = |key: &Option<Revision>| key.as_ref() == Some(&t.revision);
            t.held() || is(&t.keys.promoted) || is(&t.keys.glassed) || run == Some(t.revision.as_str())
        };
        if let Some(target) = &observed.target {
            self.turns.note(target, now);
        }
        if let Some(target) = observed.target.as_ref().filter(|t| t.replicas > 0 && !t.held()) {
            self.ran = Some(target.revision.clone());
        }
        if let Some(target) = observed.target.as_ref().filter(|t| meant(t)) {
            self.seen = Some((target.uid.clone(), target.generation));
        }
    }

    /// When the namespace is to be looked at again, if it has been.
    #[must_use]
    pub fn survey_due(&self, interval: SignedDuration) -> Option<Timestamp> {
        self.surveyed.map(|at| at.saturating_add(interval).unwrap_or(at))
    }

    /// Begins a tick: what was asked before is forgotten.
    pub fn begin_tick(&mut self, now: Timestamp) {
        self.tick = Some(now);
        self.void = false;
        self.answers.clear();
        self.asked.clear();
        self.pods = None;
    }
}
