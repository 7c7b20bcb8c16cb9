//! The judge: from the recorded states of a namespace to what was exposed.

use crate::harness::objects::{Cluster, State, pod_image, pods_of, ready};
use crate::harness::{at, image, weight};
use serde_json::Value;
use sidetrack::rollout::revision::Revision;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How long weight may stay on pods that somebody else made unready or deleted: it is a tenth of a second, and that is
/// printed; on a machine that is busy elsewhere the Deployment controller alone takes seconds to tell.
const REPAIR: Duration = Duration::from_secs(15);

/// What was seen of one scenario.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Un-analysed revisions behind weight: percent of the traffic times seconds.
    pub(crate) exposed: f64,
    /// Moments at which one was, however short.
    pub(crate) exposures: Vec<String>,
    /// The longest time that weight stood on a backend without ready pods while the other one had some.
    pub(crate) deserted: Duration,
    /// Where that was.
    pub(crate) desert: String,
    /// Revisions that the primary was given without an analysis.
    pub(crate) unpassed: BTreeSet<String>,
    /// Times that status said Succeeded of a primary that was not ready on the revision it names.
    pub(crate) untrue: usize,
    /// Analysis steps that came less than an interval after the one before.
    pub(crate) hurried: usize,
    /// Changes of the primary's template.
    pub(crate) rolls: usize,
    /// What is wrong with the state at the end.
    pub(crate) end: Vec<String>,
}

impl Verdict {
    /// Whether every property held.
    pub(crate) fn clean(&self) -> bool {
        self.exposures.is_empty()
            && self.deserted <= REPAIR
            && self.unpassed.is_empty()
            && self.untrue == 0
            && self.hurried == 0
            && self.end.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deserted = self.deserted.as_secs_f64();
        write!(f, "un-analysed {:6.1} %s, without backend {deserted:4.1} s", self.exposed)?;
        for (count, what) in [
            (self.unpassed.len(), "promoted unseen"),
            (self.untrue, "untrue Succeeded"),
            (self.hurried, "hurried steps"),
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
struct Reader {
    images: BTreeMap<String, String>,
    passed: BTreeSet<String>,
    last: i64,
    primary: Option<String>,
    deserted_since: Option<std::time::Instant>,
    step: Option<(i64, jiff::Timestamp)>,
    succeeded: bool,
    verdict: Verdict,
}

/// Judges a recording; an analysis is passed at weight `last`, or when the Canary says that there is none.
pub(crate) fn judge(states: &[State], last: i64) -> Verdict {
    let mut cluster = Cluster::new();
    let mut reader = Reader {
        images: BTreeMap::new(),
        passed: BTreeSet::new(),
        last,
        primary: None,
        deserted_since: None,
        step: None,
        succeeded: false,
        verdict: Verdict::default(),
    };
    for (i, state) in states.iter().enumerate() {
        let key = (state.kind, state.name.clone());
        match &state.object {
            Some(object) => drop(cluster.insert(key, object.clone())),
            None => drop(cluster.remove(&key)),
        }
        let until = states.get(i + 1).map_or(state.seen, |next| next.seen);
        reader.read(&cluster, state, until.saturating_duration_since(state.seen));
    }
    reader.verdict
}

impl Reader {
    fn read(&mut self, cluster: &Cluster, state: &State, lasts: Duration) {
        if let Some(object) = state.object.as_ref().filter(|_| state.kind == "deploy") {
            if state.name == "app" {
                let revision = Revision::of(at(object, "/spec/template"));
                self.images.insert(revision.as_str().into(), image(object).into());
            } else if self.primary.as_deref() != Some(image(object)) {
                self.promoted(image(object));
            }
        }
        let nothing = Value::Null;
        let canary = cluster.get(&("canary", "app".into())).unwrap_or(&nothing);
        let route = cluster.get(&("vs", "app".into())).and_then(weight);
        let weight = route.unwrap_or(0);
        let run = at(canary, "/status/run");
        let analysed = at(run, "/revision").as_str().and_then(|r| self.images.get(r)).cloned();
        let skips = at(canary, "/spec/skipAnalysis") == true;
        if let Some(image) = analysed.clone().filter(|_| skips || weight >= self.last) {
            self.passed.insert(image);
        }
        if route.is_some() {
            self.shares(cluster, state, weight, analysed.as_deref(), lasts);
        }
        self.pace(run);
        self.truth(cluster, canary);
    }

    fn promoted(&mut self, image: &str) {
        match self.primary {
            None => drop(self.passed.insert(image.into())),
            Some(_) => {
                self.verdict.rolls += 1;
                if !self.passed.contains(image) {
                    self.verdict.unpassed.insert(image.into());
                }
            }
        }
        self.primary = Some(image.into());
    }

    fn shares(&mut self, cluster: &Cluster, state: &State, weight: i64, run: Option<&str>, lasts: Duration) {
        let mut none = Vec::new();
        let mut some = false;
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
            let allowed = |image: &str| self.passed.contains(image) || (app == "app" && run == Some(image));
            let foreign = serving.iter().filter(|image| !allowed(image)).count();
            if foreign > 0 {
                #[expect(clippy::cast_precision_loss, reason = "percent and counts of pods")]
                let share = weight as f64 * foreign as f64 / serving.len() as f64;
                self.verdict.exposed += share * lasts.as_secs_f64();
                self.verdict
                    .exposures
                    .push(format!("{app} at {weight} runs {serving:?} at {}", state.version));
            }
        }
        if none.is_empty() || !some {
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

    fn truth(&mut self, cluster: &Cluster, canary: &Value) {
        let succeeded = at(canary, "/status/phase") == "Succeeded";
        if succeeded && !self.succeeded {
            let named = at(canary, "/status/revisions/primary").as_str().and_then(|r| self.images.get(r));
            let nothing = Value::Null;
            let primary = cluster.get(&("deploy", "app-primary".into())).unwrap_or(&nothing);
            let wanted = at(primary, "/spec/replicas");
            let is = named.is_some_and(|n| n == image(primary))
                && at(primary, "/status/updatedReplicas") == wanted
                && at(primary, "/status/availableReplicas") == wanted;
            self.verdict.untrue += usize::from(!is);
        }
        self.succeeded = succeeded;
    }
}
