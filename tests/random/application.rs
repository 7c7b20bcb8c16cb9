//! One application of a round: what is done to it, how it ends, and what is written down when something was wrong.

use crate::deeds::{Deed, HOOKS, Move, Pods, Says, Side, Version};
use crate::stage::Suffered;
use crate::story::story;
use anyhow::{Context as _, Result, bail};
use harness::laws::ready_message;
use harness::objects::{Timeline, pod_image, ready};
use harness::oracle::{REACTION, Terms, judge, written};
use harness::outside::{Outside, no_sample, sample};
use harness::{World, at, canary, deployment, image, weight};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::api::revision::Revision;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long all may take to come to rest: a promotion that fails and one that follows, on a machine with other work.
const REST: Duration = Duration::from_secs(150);

/// How long a writer tries again while nobody takes the write.
const STUBBORN: Duration = Duration::from_secs(20);

/// One application, `app` in a namespace of its own.
pub(crate) struct Application {
    world: Arc<World>,
    ns: String,
    outside: Outside,
    timeline: Timeline,
    told: Mutex<Told>,
    /// What Git says: the number of the version, how its pods are, how many.
    git: (AtomicUsize, Mutex<Pods>, AtomicI32),
}

#[derive(Default)]
struct Told {
    /// What was done, a line each.
    deeds: Vec<String>,
    /// Writes to what the controller owns, by resourceVersion.
    foreign: BTreeSet<u64>,
}

fn spec(outside: &Outside) -> Value {
    let hooks: Vec<Value> = HOOKS
        .iter()
        .map(|kind| {
            json!({"name": kind, "type": kind, "url": outside.url(&format!("/{kind}")), "timeout": "2s", "retries": 0})
        })
        .collect();
    json!({
        "metricsServer": outside.url("/prometheus"),
        "progressDeadlineSeconds": 12,
        "analysis": {"interval": "1s", "threshold": 2, "stepWeight": 20, "maxWeight": 60, "webhooks": hooks,
            "metrics": [{"name": "request-success-rate", "interval": "1m", "thresholdRange": {"min": 99}}]},
    })
}

impl Application {
    /// Applies v1 and its Canary and waits until it is initialised.
    pub(crate) async fn new(world: &Arc<World>, number: usize) -> Result<Self> {
        let ns = world.cp.namespace(&format!("app{number}")).await?;
        let outside = Outside::start().await?;
        let timeline = world.timeline(&ns, &["deploy", "pod", "vs", "canary"]).await?;
        let application = Self {
            world: world.clone(),
            ns,
            outside,
            timeline,
            told: Mutex::default(),
            git: (AtomicUsize::new(1), Mutex::new(Pods::Good), AtomicI32::new(2)),
        };
        application.answers_well();
        application.apply().await?;
        world.cp.apply(canary(&application.ns, &spec(&application.outside))).await?;
        world.phase(&application.ns, "Initialized").await?;
        Ok(application)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers_well(&self) {
        for hook in HOOKS {
            self.outside.says(&format!("/{hook}"), 200, "");
        }
        self.outside.says("istio_requests_total", 200, &sample("100"));
    }

    fn manifest(&self, version: Version, replicas: i32) -> Value {
        let mut manifest = deployment(&self.ns, &version.to_string(), replicas);
        // Kubernetes' own judgement of pods that never come; without it ten minutes.
        manifest["spec"]["progressDeadlineSeconds"] = 10.into();
        // Always stated: a label that another writer put there stays when Flux applies a manifest without it.
        let labels = &mut manifest["spec"]["template"]["metadata"]["labels"];
        labels["ready"] = version.pods.label().unwrap_or("soon").into();
        labels["ready-after"] = if version.pods == Pods::Slow { "3" } else { "0" }.into();
        manifest
    }

    /// What Git says, applied as Flux does.
    async fn apply(&self) -> Result<()> {
        let pods = *self.git.1.lock().unwrap_or_else(PoisonError::into_inner);
        let version = Version { number: self.git.0.load(Ordering::Relaxed), pods };
        self.world.flux(self.manifest(version, self.git.2.load(Ordering::Relaxed))).await
    }

    fn commit(&self, version: Version, replicas: i32) {
        self.git.0.store(version.number, Ordering::Relaxed);
        *self.git.1.lock().unwrap_or_else(PoisonError::into_inner) = version.pods;
        self.git.2.store(replicas, Ordering::Relaxed);
    }

    fn template(&self, version: Version) -> Value {
        at(&self.manifest(version, 0), "/spec/template").clone()
    }

    /// Does what a round has for it, each at its time.
    pub(crate) async fn lives(&self, deeds: &[Move<Deed>], begun: Instant) {
        for Move { at, what } in deeds {
            tokio::time::sleep_until((begun + *at).into()).await;
            let from = Instant::now();
            let outcome = loop {
                match self.does(*what).await {
                    Ok(()) => break String::new(),
                    Err(error) if refused(&error) || from.elapsed() > STUBBORN => {
                        break format!(": {error:#}");
                    }
                    // Tried again after a pause, as Flux would.
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            };
            let (from, took) = ((from - begun).as_secs_f64(), from.elapsed().as_secs_f64());
            self.told().deeds.push(format!("{from:6.2} {what:?} ({took:.1} s){outcome}"));
        }
    }

    async fn does(&self, deed: Deed) -> Result<()> {
        let name = |side: Side| if side == Side::Target { "app" } else { "app-primary" };
        let merge = async |side: Side, patch: Value| {
            let written_ = self.world.merge(&self.ns, "deploy", name(side), patch).await?;
            if side == Side::Primary {
                self.told().foreign.insert(written(&written_));
            }
            anyhow::Ok(())
        };
        match deed {
            Deed::Update(version) => {
                merge(Side::Target, json!({"spec": {"template": self.template(version)}})).await
            }
            Deed::Apply(version, replicas) => {
                self.commit(version, replicas);
                self.apply().await
            }
            Deed::Again => self.apply().await,
            Deed::Revert => {
                let primary = self.world.get(&self.ns, "deploy", "app-primary").await?;
                let version = Version::of(image(&primary)).context("no primary")?;
                merge(Side::Target, json!({"spec": {"template": self.template(version)}})).await
            }
            Deed::Scale(Side::Target, replicas) => {
                let scale = Patch::Merge(json!({"spec": {"replicas": replicas}}));
                let api = self.world.api(&self.ns, "deploy")?;
                let scaled = api.patch_scale("app", &PatchParams::default(), &scale).await?;
                let version = scaled.metadata.resource_version.and_then(|v| v.parse::<u64>().ok());
                self.told().foreign.extend(version);
                Ok(())
            }
            Deed::Scale(side, replicas) => merge(side, json!({"spec": {"replicas": replicas}})).await,
            Deed::Restart(side) => {
                let now = json!({"kubectl.kubernetes.io/restartedAt": sidetrack::clock::now().to_string()});
                merge(side, json!({"spec": {"template": {"metadata": {"annotations": now}}}})).await
            }
            Deed::Retry => {
                merge(Side::Target, json!({"metadata": {"annotations": {keys::FAILED: null}}})).await
            }
            Deed::BreakGlass(version) => {
                let target = self.world.get(&self.ns, "deploy", "app").await?;
                let glass = format!("{} a fire", at(&target, "/metadata/generation"));
                let patch = json!({"metadata": {"annotations": {keys::BREAK_GLASS: glass}},
                    "spec": {"paused": null, "template": self.template(version)}});
                merge(Side::Target, patch).await
            }
            Deed::Hook(hook, says) => {
                let path = format!("/{hook}");
                match says {
                    Says::Yes => self.outside.says(&path, 200, ""),
                    Says::No => self.outside.says(&path, 500, "no"),
                    Says::Late => self.outside.is_late(&path, 1500),
                    Says::Nothing => self.outside.is_silent(&path),
                }
                Ok(())
            }
            Deed::Rate(says) => {
                let query = "istio_requests_total";
                match says {
                    Says::Yes => self.outside.says(query, 200, &sample("100")),
                    Says::No => self.outside.says(query, 200, &sample("50")),
                    Says::Late => self.outside.says(query, 200, &no_sample()),
                    Says::Nothing => self.outside.says(query, 503, "down"),
                }
                Ok(())
            }
            Deed::Readiness(side, is) => self.readiness(name(side), is).await,
            Deed::DeletePods(side) => {
                for pod in self.world.list(&self.ns, "pod", &format!("app={}", name(side))).await? {
                    let name = at(&pod, "/metadata/name").as_str().unwrap_or_default();
                    self.world.delete(&self.ns, "pod", name).await?;
                }
                Ok(())
            }
            Deed::Delete(side) => self.world.delete(&self.ns, "deploy", name(side)).await,
            Deed::Route(weight) => {
                let to = json!([
                    {"op": "replace", "path": "/spec/http/0/route/0/weight", "value": 100 - weight},
                    {"op": "replace", "path": "/spec/http/0/route/1/weight", "value": weight}]);
                let edited = self.world.edit(&self.ns, "vs", "app", to).await?;
                self.told().foreign.insert(written(&edited));
                Ok(())
            }
            Deed::Skip(skip) => self.edits(json!({"spec": {"skipAnalysis": skip}})).await,
            Deed::Interval(seconds) => {
                self.edits(json!({"spec": {"analysis": {"interval": format!("{seconds}s")}}})).await
            }
        }
    }

    async fn edits(&self, patch: Value) -> Result<()> {
        self.world.merge(&self.ns, "canary", "app", patch).await.map(drop)
    }

    /// Makes all pods of an application unready, or as their version has them.
    async fn readiness(&self, app: &str, is: bool) -> Result<()> {
        for pod in self.world.list(&self.ns, "pod", &format!("app={app}")).await? {
            let name = at(&pod, "/metadata/name").as_str().unwrap_or_default();
            let own = Version::of(pod_image(&pod)).and_then(|v| v.pods.label());
            let label = if is { own.unwrap_or("soon") } else { "never" };
            self.world
                .merge(&self.ns, "pod", name, json!({"metadata": {"labels": {"ready": label}}}))
                .await?;
            if !is {
                let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
                let api = self.world.api(&self.ns, "pod")?;
                api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await?;
            }
        }
        Ok(())
    }

    /// All is well from here on: it comes to rest with its last revision accounted for, releases one more, and nothing
    /// that was recorded on the way broke a law.
    pub(crate) async fn ends(&self, seed: u64, outages: &[Suffered], begun: Instant) -> Result<()> {
        let outcome = async {
            self.rests().await.context("it does not come to rest")?;
            let last = Version { number: 1000, pods: Pods::Good };
            self.commit(last, 2);
            self.told().deeds.push(format!("{:6.2} Apply({last})", begun.elapsed().as_secs_f64()));
            self.apply().await?;
            self.until_well(async || {
                let mut wrong = self.accounted_for().await?;
                let pods = self.world.list(&self.ns, "pod", "app=app-primary").await?;
                let serving =
                    pods.iter().filter(|p| ready(p) && pod_image(p) == format!("app:{last}")).count();
                if serving != 2 {
                    wrong.push(format!("{serving} primary pods of {last}"));
                }
                Ok(wrong)
            })
            .await
            .context("a good revision is not promoted in the end")
        };
        let outcome = outcome.await;
        self.timeline.caught_up(&self.world).await?;
        let terms = Terms {
            last: 60,
            foreign: self.told().foreign.clone(),
            outages: outages.iter().filter_map(Suffered::excuse).collect(),
            heard: self.outside.heard(""),
            // With all that goes on at once, processes wait for a processor.
            reaction: 5 * REACTION,
            repair: None,
        };
        let states = self.timeline.states();
        let verdict = judge(&states, &terms);
        if outcome.is_ok() && verdict.clean() {
            return Ok(());
        }
        let deeds = self.told().deeds.join("\n");
        let path = story(seed, &self.ns, &deeds, &states, &terms.heard, begun)?;
        let outcome = outcome.err().map(|e| format!(": {e:#}")).unwrap_or_default();
        bail!("{}{outcome}\n{verdict}: {verdict:#?}\n{deeds}\nall that was seen is in {path}", self.ns)
    }

    async fn rests(&self) -> Result<()> {
        self.answers_well();
        ground::eventually("a quiet Canary", STUBBORN, async || {
            let quiet = json!({"spec": {"skipAnalysis": false, "analysis": {"interval": "1s"}}});
            Ok(self.edits(quiet).await.ok())
        })
        .await?;
        if self.world.get(&self.ns, "deploy", "app").await?.is_null() {
            self.apply().await?;
        }
        self.until_well(async || {
            // Again and again: pods that were being started are made unready by nobody any more, but may have been.
            self.heals().await?;
            self.accounted_for().await
        })
        .await
    }

    async fn heals(&self) -> Result<()> {
        for app in ["app", "app-primary"] {
            let hurt = self.world.list(&self.ns, "pod", &format!("app={app},ready=never")).await?;
            let own = |pod: &Value| Version::of(pod_image(pod)).is_some_and(|v| v.pods == Pods::Never);
            if hurt.iter().any(|pod| !own(pod)) {
                // A pod that goes away meanwhile needs no healing.
                let _ = self.readiness(app, true).await;
            }
        }
        Ok(())
    }

    async fn until_well(&self, wrong: impl AsyncFn() -> Result<Vec<String>>) -> Result<()> {
        let mut last = Vec::new();
        let settled = ground::eventually("all is well", REST, async || {
            last = wrong().await?;
            // Each look asks for much: fewer of them than `eventually` would make.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(last.is_empty().then_some(()))
        });
        match settled.await {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}: {last:?}"),
        }
    }

    /// What is wrong with the state of rest (interlock I5 and I9): the live revision is promoted, failed or held with its
    /// reason in status, and nothing is under way.
    async fn accounted_for(&self) -> Result<Vec<String>> {
        let get = async |kind: &str, name: &str| self.world.get(&self.ns, kind, name).await;
        let (target, primary) = (get("deploy", "app").await?, get("deploy", "app-primary").await?);
        let (canary, routes) = (get("canary", "app").await?, get("vs", "app").await?);
        let live = Revision::of(at(&target, "/spec/template"));
        let key = |key: &str| at(&target, "/metadata/annotations").get(key).and_then(Value::as_str);
        let is = |value: Option<&str>| value == Some(live.as_str());
        let status = |pointer: &str| at(&canary, pointer).as_str();
        let promoted = is(key(keys::PROMOTED))
            && is(status("/status/revisions/primary"))
            && image(&primary) == image(&target)
            && key(keys::HOLD).is_none();
        let failed = is(key(keys::FAILED))
            && is(status("/status/revisions/failed"))
            && status("/status/phase") == Some("Failed");
        let held = is(key(keys::HOLD)) && ready_message(&canary).contains(live.short());
        let mut wrong = Vec::new();
        let mut check = |is: bool, what: String| wrong.extend((!is).then_some(what));
        let phase = status("/status/phase");
        check(
            promoted || failed || held,
            format!("{} is lost: {phase:?}, {}", image(&target), ready_message(&canary)),
        );
        check(at(&canary, "/status/run").is_null(), format!("a run goes on: {}", at(&canary, "/status/run")));
        check(at(&target, "/spec/replicas") == 0, "the target has pods".into());
        check(weight(&routes) == Some(0), format!("weight {:?}", weight(&routes)));
        Ok(wrong)
    }

    /// The namespace is deleted with all that is in it; nothing may keep it.
    pub(crate) async fn leaves(&self) -> Result<()> {
        self.world.kubectl(&["delete", "namespace", &self.ns, "--wait=false"]).await?;
        let gone = async || Ok(self.world.get(&self.ns, "canary", "app").await?.is_null().then_some(()));
        ground::eventually("the Canary of a deleted namespace is gone", REST, gone).await?;
        let gone = async || Ok(self.world.list(&self.ns, "deploy", "").await?.is_empty().then_some(()));
        ground::eventually("the Deployments of a deleted namespace are gone", REST, gone).await
    }
}

/// Whether somebody decided against a write, rather than nobody having been there to take it.
fn refused(error: &anyhow::Error) -> bool {
    let status = error.chain().find_map(|e| e.downcast_ref::<kube::Error>());
    matches!(status, Some(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429)
        || error.downcast_ref::<kube::Error>().is_none()
}
