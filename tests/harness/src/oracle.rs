//! The judge: from the recorded states of a namespace to what was exposed.

use crate::laws::Laws;
use crate::objects::{Cluster, State, pod_image, pods_of, ready};
use crate::outside::Heard;
use crate::{at, image, weight};
use serde_json::Value;
use sidetrack::api::keys;
use sidetrack::api::revision::Revision;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

/// How long weight may stay on pods that somebody else made unready or deleted: a tenth of a second, which is printed; on
/// a machine that is busy elsewhere the Deployment controller alone takes seconds to tell.
const REPAIR: Duration = Duration::from_secs(15);

/// How long it may stay once the Deployment's status tells (interlock I3).
pub const REACTION: Duration = Duration::from_secs(1);

/// How long what a decision was based on may lie back: caches and watches are behind each other by that much.
pub const BEHIND: Duration = Duration::from_secs(3);

/// What the judge is told besides the recording.
#[derive(Debug, Default)]
pub struct Terms {
    /// Weight of the last step.
    pub last: i64,
    /// What somebody else wrote, by resourceVersion.
    pub foreign: BTreeSet<u64>,
    /// When nobody could act: no controller, or no API server.
    pub outages: Vec<(Instant, Instant)>,
    /// What hooks were asked and answered.
    pub heard: Vec<Heard>,
    /// How long weight may stay on a Deployment without ready pods.
    pub reaction: Duration,
    /// How long a primary that somebody scaled down may wait for the write that takes this back; `None` where it is not
    /// taken back at any time.
    pub repair: Option<Duration>,
}

/// What was seen of one scenario.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Un-analysed revisions behind weight: percent of the traffic times seconds.
    pub exposed: f64,
    /// Moments at which one was, however short.
    pub exposures: Vec<String>,
    /// The longest time that weight stood on a backend without ready pods while the other one had some.
    pub deserted: Duration,
    /// Where that was.
    pub desert: String,
    /// The longest time that it did although the Deployment's status told, and where.
    pub unheeded: (Duration, u64),
    /// How long it might have.
    pub reaction: Duration,
    /// How long nothing served: no pod of either side was ready.
    pub dark: Duration,
    /// The longest time that a primary scaled down by hand was left so.
    pub unrepaired: Duration,
    /// Revisions that the primary was given without an analysis.
    pub unpassed: BTreeSet<String>,
    /// Times that status said Succeeded of a primary that was not ready on the revision it names.
    pub untrue: usize,
    /// Analysis steps that came less than an interval after the one before.
    pub hurried: usize,
    /// Changes of the primary's template.
    pub rolls: usize,
    /// Laws that were broken, and where.
    pub broken: Vec<String>,
    /// What is wrong with the state at the end.
    pub end: Vec<String>,
}

impl Verdict {
    /// Whether every property held.
    pub fn clean(&self) -> bool {
        self.exposures.is_empty()
            && self.deserted <= REPAIR
            && self.unheeded.0 <= self.reaction
            && self.unpassed.is_empty()
            && self.untrue == 0
            && self.hurried == 0
            && self.broken.is_empty()
            && self.end.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deserted = self.deserted.as_secs_f64();
        write!(f, "un-analysed {:6.1} %s, without backend {deserted:4.1} s", self.exposed)?;
        if self.unheeded.0 > self.reaction {
            write!(f, ", {:.1} s of it told", self.unheeded.0.as_secs_f64())?;
        }
        if self.dark > Duration::ZERO {
            write!(f, ", nothing served {:.1} s", self.dark.as_secs_f64())?;
        }
        if self.unrepaired > Duration::ZERO {
            write!(f, ", repair asked for after {:.2} s", self.unrepaired.as_secs_f64())?;
        }
        for (count, what) in [
            (self.unpassed.len(), "promoted unseen"),
            (self.untrue, "untrue Succeeded"),
            (self.hurried, "hurried steps"),
            (self.broken.len(), "laws broken"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        for wrong in &self.end {
            write!(f, ", {wrong}")?;
        }
        Ok(())
    }
}

/// What an oracle remembers while it reads.
struct Reader<'t> {
    terms: &'t Terms,
    laws: Laws,
    images: BTreeMap<String, String>,
    /// What the primary may run: what it ran first, what it runs and ran before, and what has passed its analysis.
    passed: BTreeSet<String>,
    /// Let through on purpose.
    glassed: BTreeSet<String>,
    primary: Option<String>,
    analysed: Option<String>,
    deserted_since: Option<Instant>,
    told_since: Option<Instant>,
    /// When somebody scaled the primary down, and from what.
    scaled_down: Option<(Instant, i64)>,
    /// Some pod has served.
    served: bool,
    /// Images that have had weight since there was none, and were allowed to.
    standing: BTreeSet<String>,
    /// When the primary last had no ready pods.
    alone: Option<Instant>,
    step: Option<(i64, jiff::Timestamp)>,
    succeeded: bool,
    /// The primary was last ready, and the target last written.
    whole: Option<Instant>,
    verdict: Verdict,
}

/// Judges a recording.
pub fn judge(states: &[State], terms: &Terms) -> Verdict {
    let mut cluster = Cluster::new();
    let mut reader = Reader {
        terms,
        laws: Laws::default(),
        images: BTreeMap::new(),
        passed: BTreeSet::new(),
        glassed: BTreeSet::new(),
        primary: None,
        analysed: None,
        deserted_since: None,
        told_since: None,
        scaled_down: None,
        served: false,
        standing: BTreeSet::new(),
        alone: None,
        step: None,
        succeeded: false,
        whole: None,
        verdict: Verdict { reaction: terms.reaction, ..Verdict::default() },
    };
    for (i, state) in states.iter().enumerate() {
        let key = (state.kind, state.name.clone());
        if whole(&cluster, "app-primary") {
            reader.whole = Some(state.seen);
        }
        let before = match &state.object {
            Some(object) => cluster.insert(key, object.clone()),
            None => cluster.remove(&key),
        };
        let until = states.get(i + 1).map_or(state.seen, |next| next.seen);
        reader.read(&cluster, before.as_ref(), state, until.saturating_duration_since(state.seen));
        let broken = reader.laws.read(&cluster, before.as_ref(), state, terms);
        reader.verdict.broken.extend(broken.into_iter().map(|law| format!("{law}, at {}", state.version)));
    }
    if reader.scaled_down.is_some() && terms.repair.is_some() {
        reader.verdict.broken.push("the primary is left scaled down".into());
    }
    reader.verdict
}

/// Whether a Deployment has all its pods, ready and on its template, as its status has it.
pub fn whole(cluster: &Cluster, name: &str) -> bool {
    cluster.get(&("deploy", name.to_owned())).is_some_and(|d| {
        let wanted = at(d, "/spec/replicas");
        wanted == 0
            || at(d, "/status/observedGeneration") == at(d, "/metadata/generation")
                && [at(d, "/status/updatedReplicas"), at(d, "/status/availableReplicas")] == [wanted, wanted]
    })
}

impl Reader<'_> {
    fn read(&mut self, cluster: &Cluster, before: Option<&Value>, state: &State, lasts: Duration) {
        if let Some(object) = state.object.as_ref().filter(|_| state.kind == "deploy") {
            if state.name == "app" {
                let revision = Revision::of(at(object, "/spec/template"));
                self.images.insert(revision.as_str().into(), image(object).into());
                if is_glassed(before, object, &revision) {
                    self.glassed.insert(image(object).into());
                }
            } else if self.primary.as_deref() != Some(image(object)) {
                self.promoted(image(object));
            }
        }
        self.repairs(before, state);
        let nothing = Value::Null;
        let canary = cluster.get(&("canary", "app".into())).unwrap_or(&nothing);
        let routes = cluster.get(&("vs", "app".into()));
        let route = routes.and_then(weight);
        let weight = route.unwrap_or(0);
        // What somebody else wrote into the routes is put right, not prevented.
        let foreign = routes.is_some_and(|vs| self.terms.foreign.contains(&written(vs)));
        let run = at(canary, "/status/run");
        let analysed = at(run, "/revision").as_str().and_then(|r| self.images.get(r)).cloned();
        if analysed != self.analysed {
            // What passed and was not promoted has to pass again.
            if let Some(before) = self.analysed.take().filter(|i| self.primary.as_ref() != Some(i)) {
                self.passed.remove(&before);
            }
            self.analysed.clone_from(&analysed);
        }
        let skips = at(canary, "/spec/skipAnalysis") == true;
        let stated = at(run, "/weight").as_i64().unwrap_or(0);
        let last = weight >= self.terms.last && stated >= self.terms.last && !foreign;
        if let Some(image) = analysed.clone().filter(|_| skips || last) {
            self.passed.insert(image);
        }
        if route.is_some() {
            self.shares(cluster, state, weight, analysed.as_deref().filter(|_| !foreign), foreign, lasts);
        }
        self.heeds(cluster, state, weight, lasts);
        self.pace(run);
        self.truth(cluster, canary, state.seen);
    }

    fn promoted(&mut self, image: &str) {
        match self.primary.take() {
            None => {}
            Some(before) => {
                self.verdict.rolls += 1;
                if !self.passed.contains(image) && !self.glassed.contains(image) {
                    self.verdict.unpassed.insert(image.into());
                }
                // It may have to be restored.
                self.passed = BTreeSet::from([before]);
            }
        }
        self.passed.insert(image.into());
        self.primary = Some(image.into());
    }

    fn shares(
        &mut self,
        cluster: &Cluster,
        state: &State,
        weight: i64,
        run: Option<&str>,
        foreign: bool,
        lasts: Duration,
    ) {
        let mut none = Vec::new();
        let mut some = false;
        if weight == 0 {
            self.standing.clear();
        }
        if !pods_of(cluster, "app-primary").into_iter().any(ready) {
            self.alone = Some(state.seen);
        }
        // Pods that have the traffic of a primary without any keep it, whatever is to be analysed next.
        let alone = self.alone.is_some_and(|at| state.seen.saturating_duration_since(at) <= BEHIND);
        for (app, weight) in [("app", weight), ("app-primary", 100 - weight)] {
            let serving: Vec<&str> = pods_of(cluster, app)
                .into_iter()
                .filter(|p| ready(p) && at(p, "/metadata/deletionTimestamp").is_null())
                .map(pod_image)
                .collect();
            some |= !serving.is_empty();
            if weight == 0 || self.primary.is_none() {
                continue;
            }
            if serving.is_empty() {
                none.push(app);
            }
            let allowed = |image: &str| {
                self.passed.contains(image)
                    || self.glassed.contains(image)
                    || app == "app"
                        && (foreign || run == Some(image) || alone && self.standing.contains(image))
            };
            let unseen = serving.iter().filter(|image| !allowed(image)).count();
            if app == "app" {
                let stand: Vec<String> =
                    serving.iter().filter(|i| allowed(i) && !foreign).map(|i| (*i).to_owned()).collect();
                self.standing.extend(stand);
            }
            if unseen > 0 {
                #[expect(clippy::cast_precision_loss, reason = "percent and counts of pods")]
                let share = weight as f64 * unseen as f64 / serving.len() as f64;
                self.verdict.exposed += share * lasts.as_secs_f64();
                self.verdict
                    .exposures
                    .push(format!("{app} at {weight} runs {serving:?} at {}", state.version));
            }
        }
        self.served |= some;
        if self.served && !some && !self.terms.nobody(state.seen) {
            self.verdict.dark += lasts;
        }
        if none.is_empty() || !some || self.terms.nobody(state.seen) {
            self.deserted_since = None;
        } else {
            let since = *self.deserted_since.get_or_insert(state.seen);
            let all = (state.seen + lasts).saturating_duration_since(since);
            if all > self.verdict.deserted {
                self.verdict.deserted = all;
                self.verdict.desert = format!("{none:?} at weight {weight}, until after {}", state.version);
            }
        }
    }

    /// What the Deployments' status tells is acted on.
    fn heeds(&mut self, cluster: &Cluster, state: &State, weight: i64, lasts: Duration) {
        let has = |name: &str| {
            let status =
                cluster.get(&("deploy", name.to_owned())).map(|d| at(d, "/status/availableReplicas"));
            status.and_then(Value::as_i64).unwrap_or(0) > 0
        };
        let (canary, primary) = (has("app"), has("app-primary"));
        let deserted = weight > 0 && canary != primary && (primary || weight < 100);
        if !deserted || self.terms.nobody(state.seen) {
            self.told_since = None;
            return;
        }
        let since = *self.told_since.get_or_insert(state.seen);
        let all = (state.seen + lasts).saturating_duration_since(since);
        if all > self.verdict.unheeded.0 {
            self.verdict.unheeded = (all, state.version);
        }
    }

    /// A primary that somebody scaled down is given its pods back.
    fn repairs(&mut self, before: Option<&Value>, state: &State) {
        let primary = state.object.as_ref().filter(|_| state.kind == "deploy" && state.name == "app-primary");
        let Some((primary, bound)) = primary.zip(self.terms.repair) else { return };
        let replicas = |d: &Value| at(d, "/spec/replicas").as_i64().unwrap_or(1);
        let was = before.map_or(0, replicas);
        if replicas(primary) < was && self.terms.foreign.contains(&state.version) {
            self.scaled_down = Some((state.seen, was));
        }
        let Some((since, _)) = self.scaled_down.filter(|(_, was)| replicas(primary) >= *was) else { return };
        self.scaled_down = None;
        let waited = state.seen.saturating_duration_since(since);
        self.verdict.unrepaired = self.verdict.unrepaired.max(waited);
        if waited > bound {
            self.verdict.broken.push(format!("the primary was left scaled down for {waited:?}"));
        }
    }

    fn pace(&mut self, run: &Value) {
        let stated = at(run, "/weight").as_i64().unwrap_or(0);
        let at_ = at(run, "/lastStep").as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
        let Some(now) = at_.filter(|_| at(run, "/stage") == "Analysing") else {
            self.step = None;
            return;
        };
        if let Some((weight, before)) = self.step
            && stated > weight
            && now.duration_since(before).as_millis() < 1000
        {
            self.verdict.hurried += 1;
        }
        self.step = Some((stated, now));
    }

    fn truth(&mut self, cluster: &Cluster, canary: &Value, now: Instant) {
        let succeeded = at(canary, "/status/phase") == "Succeeded";
        if succeeded && !self.succeeded {
            let named = at(canary, "/status/revisions/primary").as_str().and_then(|r| self.images.get(r));
            let nothing = Value::Null;
            let primary = cluster.get(&("deploy", "app-primary".into())).unwrap_or(&nothing);
            let was = self.whole.is_some_and(|at| now.saturating_duration_since(at) <= BEHIND);
            let is = named.is_some_and(|n| n == image(primary)) && (was || whole(cluster, "app-primary"));
            self.verdict.untrue += usize::from(!is);
        }
        self.succeeded = succeeded;
    }
}

impl Terms {
    /// Whether nobody could act at that moment.
    pub fn nobody(&self, now: Instant) -> bool {
        self.outages.iter().any(|(from, until)| *from <= now && now <= *until)
    }
}

/// The resourceVersion of an object.
pub fn written(object: &Value) -> u64 {
    at(object, "/metadata/resourceVersion").as_str().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Whether a write let a template through by break-glass: the webhook or the controller says so, or it came in unheld with
/// a new one while the webhook was gone.
pub fn is_glassed(before: Option<&Value>, target: &Value, revision: &Revision) -> bool {
    fn key<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
        at(object, "/metadata/annotations").get(key).and_then(Value::as_str)
    }
    let glass = key(target, keys::BREAK_GLASS);
    key(target, keys::GLASSED) == Some(revision.as_str())
        || glass.is_some()
            && key(target, keys::HOLD).is_none()
            && before.is_some_and(|b| key(b, keys::BREAK_GLASS) != glass)
}
