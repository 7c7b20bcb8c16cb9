//! A scenario's hands: a namespace with v1 behind routes, a recording of all that happens in it, and its end.

use crate::naive::Naive;
use anyhow::{Context as _, Result, ensure};
use harness::objects::{Timeline, pod_image, ready};
use harness::oracle::{REACTION, Terms, Verdict, judge};
use harness::outside::Outside;
use harness::{Sidetrack, World, at, canary, deployment, eventually, free_port, image, shared, weight};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Sidetrack, with webhook and policies.
    Sidetrack,
    /// [`Naive`], with neither.
    Naive,
}

/// One scenario under way.
pub(crate) struct Race {
    pub(crate) side: Side,
    pub(crate) world: &'static World,
    pub(crate) ns: String,
    pub(crate) outside: Outside,
    timeline: Timeline,
    last: i64,
    written: AtomicU64,
    /// What [`Self::merge`] wrote.
    foreign: Mutex<BTreeSet<u64>>,
    election: &'static str,
    deciders: Mutex<Vec<Decider>>,
}

/// A controller that belongs to a scenario, and ends with it.
enum Decider {
    Naive(Naive),
    Sidetrack { _process: Sidetrack },
}

/// A world without webhook and policies, for the naive controller.
async fn bare() -> &'static World {
    static BARE: OnceCell<World> = OnceCell::const_new();
    let made = BARE.get_or_try_init(|| async {
        let world = World::start(false).await?;
        for kind in ["mutatingwebhookconfigurations", "validatingadmissionpolicybindings"] {
            world.kubectl(&["delete", kind, "--all"]).await?;
        }
        anyhow::Ok(world)
    });
    match made.await {
        Ok(world) => world,
        Err(error) => panic!("{error:?}"),
    }
}

/// A world in which nobody decides until a scenario starts somebody.
async fn empty() -> &'static World {
    static EMPTY: OnceCell<World> = OnceCell::const_new();
    match EMPTY.get_or_try_init(|| World::start(false)).await {
        Ok(world) => world,
        Err(error) => panic!("{error:?}"),
    }
}

/// What a Canary of the suite asks for: 20, 40, 60, a second each, one failed check is the end; a rollout hook.
pub(crate) fn spec(outside: &Outside, more: Value) -> Value {
    let hook =
        |name: &str, kind: &str| json!({"name": name, "type": kind, "url": outside.url(&format!("/{name}"))});
    let mut spec = json!({"analysis": {"stepWeight": 20, "maxWeight": 60, "threshold": 1,
        "webhooks": [hook("rollout", "rollout")]}});
    json_patch::merge(&mut spec, &more);
    let gates: Vec<Value> = spec["gates"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|kind| hook(kind, kind))
        .collect();
    if let Some(hooks) = spec["analysis"]["webhooks"].as_array_mut() {
        hooks.extend(gates);
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("gates");
    }
    spec
}

impl Race {
    /// Applies v1 and its Canary and waits for `Initialized`.
    pub(crate) async fn new(side: Side, name: &str, more: Value) -> Result<Self> {
        let race = Self::before(side, name, more, deployment("", "v1", 2)).await?;
        race.phase("Initialized").await?;
        Ok(race)
    }

    /// The same with another first Deployment, and without waiting.
    pub(crate) async fn before(side: Side, name: &str, more: Value, mut first: Value) -> Result<Self> {
        let world = match side {
            Side::Sidetrack => &shared().await.0,
            Side::Naive => bare().await,
        };
        let race = Self::on(world, side, name, more, &mut first).await?;
        if side == Side::Naive {
            race.starts()?;
        }
        Ok(race)
    }

    /// The same on a control plane of the scenario's own, with one process that is its own too.
    pub(crate) async fn alone(side: Side, name: &str, more: Value, election: &'static str) -> Result<Self> {
        let world = match side {
            Side::Sidetrack => empty().await,
            Side::Naive => bare().await,
        };
        let mut race = Self::on(world, side, name, more, &mut deployment("", "v1", 2)).await?;
        race.election = election;
        race.starts()?;
        race.phase("Initialized").await?;
        Ok(race)
    }

    async fn on(
        world: &'static World,
        side: Side,
        name: &str,
        more: Value,
        first: &mut Value,
    ) -> Result<Self> {
        let ns = world.cp.namespace(name).await?;
        let outside = Outside::start().await?;
        outside.says("/", 200, "");
        let spec = spec(&outside, more);
        let last = at(&spec, "/analysis/maxWeight").as_i64().unwrap_or(100);
        let timeline = world.timeline(&ns, &["deploy", "pod", "vs", "canary"]).await?;
        first["metadata"]["namespace"] = ns.clone().into();
        world.flux(first.clone()).await?;
        world.cp.apply(canary(&ns, &spec)).await?;
        let (written, foreign, deciders) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Ok(Self { side, world, ns, outside, timeline, last, written, foreign, election: "", deciders })
    }

    fn deciders(&self) -> MutexGuard<'_, Vec<Decider>> {
        self.deciders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one more controller.
    pub(crate) fn starts(&self) -> Result<()> {
        let mut all = self.deciders();
        let first = all.is_empty();
        let elsewhere = format!("--webhook-bind=127.0.0.1:{}", free_port());
        all.push(match self.side {
            Side::Naive => Decider::Naive(Naive::start(self.world, &self.ns)),
            Side::Sidetrack => {
                let flags = [self.election, elsewhere.as_str()];
                let flags = if first { flags.get(..1) } else { flags.get(..) };
                Decider::Sidetrack { _process: self.world.run(flags.unwrap_or_default())? }
            }
        });
        Ok(())
    }

    /// Kills every controller of the scenario.
    pub(crate) fn kills(&self) {
        self.deciders().clear();
    }

    /// The interval is edited. The control does as Flagger does: another loop begins, the one before ends its round.
    pub(crate) async fn edits_interval(&self, interval: &str) -> Result<()> {
        self.merge("canary", "app", json!({"spec": {"analysis": {"interval": interval}}})).await?;
        let mut retired = 0;
        for decider in self.deciders().iter() {
            if let Decider::Naive(naive) = decider {
                naive.retire();
                retired += 1;
            }
        }
        if retired > 0 {
            self.starts()?;
        }
        Ok(())
    }

    /// How often the control has looked; `None` where Sidetrack decides.
    fn looks(&self) -> Option<usize> {
        let of = |d: &Decider| match d {
            Decider::Naive(naive) => naive.looks(),
            Decider::Sidetrack { .. } => 0,
        };
        (self.side == Side::Naive).then(|| self.deciders().iter().map(of).sum())
    }

    /// A manifest of a version, its pods ready as its label says.
    pub(crate) fn manifest(&self, version: &str, readiness: Option<&str>) -> Value {
        let mut manifest = deployment(&self.ns, version, 2);
        if let Some(readiness) = readiness {
            manifest["spec"]["template"]["metadata"]["labels"]["ready"] = readiness.into();
            if readiness == "slow" {
                manifest["spec"]["template"]["metadata"]["labels"]["ready-after"] = "3".into();
            }
        }
        manifest
    }

    /// Somebody changes the template to another version, and nothing else.
    pub(crate) async fn update(&self, version: &str) -> Result<()> {
        self.update_with(version, None).await
    }

    /// The same, with pods that are ready as the label says.
    pub(crate) async fn update_with(&self, version: &str, readiness: Option<&str>) -> Result<()> {
        let manifest = self.manifest(version, readiness);
        let mut template = at(&manifest, "/spec/template").clone();
        for label in ["ready", "ready-after"] {
            if template["metadata"]["labels"].get(label).is_none() {
                template["metadata"]["labels"][label] = Value::Null;
            }
        }
        self.merge("deploy", "app", json!({"spec": {"template": template}})).await
    }

    /// Changes an object, and remembers when.
    pub(crate) async fn merge(&self, kind: &str, name: &str, patch: Value) -> Result<()> {
        let written = self.world.merge(&self.ns, kind, name, patch).await?;
        let version = at(&written, "/metadata/resourceVersion").as_str().and_then(|v| v.parse().ok());
        self.written.store(version.unwrap_or(0), Ordering::Relaxed);
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).extend(version);
        Ok(())
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.world.get(&self.ns, kind, name).await
    }

    pub(crate) async fn phase(&self, phase: &str) -> Result<Value> {
        self.world.phase(&self.ns, phase).await
    }

    pub(crate) async fn until_weight(&self, wanted: i64) -> Result<()> {
        let what = format!("weight {wanted}");
        self.world.until(&self.ns, "vs", "app", &what, |vs| weight(vs) == Some(wanted)).await.map(drop)
    }

    /// Waits until the hook has been called once more.
    pub(crate) async fn until_asked(&self, hook: &str) -> Result<()> {
        let before = self.outside.heard(hook).len();
        eventually(&format!("a call of {hook}"), async || {
            Ok((self.outside.heard(hook).len() > before).then_some(()))
        })
        .await
    }

    /// All pods of an application become unready, and stay so.
    pub(crate) async fn unready(&self, app: &str) -> Result<()> {
        for pod in self.world.list(&self.ns, "pod", &format!("app={app}")).await? {
            let name = at(&pod, "/metadata/name").as_str().unwrap_or_default();
            self.merge("pod", name, json!({"metadata": {"labels": {"ready": "never"}}})).await?;
            let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
            let patch = kube::api::Patch::Strategic(&status);
            let api = self.world.api(&self.ns, "pod")?;
            api.patch_status(name, &kube::api::PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    /// Gives whoever decides the time to do what it must not: the control three looks, Sidetrack more than an interval.
    pub(crate) async fn looked_at(&self) -> Result<()> {
        match self.looks() {
            Some(before) => {
                eventually("three looks", async || Ok((self.looks() >= Some(before + 3)).then_some(()))).await
            }
            None => {
                // Nothing is to happen, so there is nothing to wait for; the oracle sees what does.
                tokio::time::sleep(Duration::from_millis(1500)).await;
                Ok(())
            }
        }
    }

    /// The weights that the route was given after the scenario's last [`Self::merge`].
    pub(crate) fn weights_since(&self) -> Vec<i64> {
        let version = self.written.load(Ordering::Relaxed);
        let states = self.timeline.states();
        let routes = states.iter().filter(|s| s.kind == "vs" && s.version > version);
        let mut weights: Vec<i64> = routes.filter_map(|s| weight(s.object.as_ref()?)).collect();
        weights.dedup();
        weights
    }

    /// How often the primary's template changed.
    pub(crate) async fn rolls(&self) -> Result<usize> {
        let template = |d: &Value| Some(at(d, "/spec/template").clone());
        let all = self.timeline.values(self.world, "deploy", "app-primary", template).await?;
        Ok(all.len().saturating_sub(1))
    }

    /// Whether a pod of an application with this image was ever there.
    pub(crate) fn ran(&self, app: &str, image: &str) -> bool {
        let is = |pod: &Value| at(pod, "/metadata/labels/app") == app && pod_image(pod) == image;
        self.timeline.states().iter().any(|s| s.kind == "pod" && s.object.as_ref().is_some_and(is))
    }

    fn terms(&self) -> Terms {
        let foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Terms {
            last: self.last,
            foreign,
            heard: self.outside.heard(""),
            reaction: REACTION,
            repair: Some(REACTION),
            ..Terms::default()
        }
    }

    /// Judges what was recorded, the state at the end included.
    pub(crate) async fn verdict(&self, end: impl AsyncFn(&Self) -> Result<Vec<String>>) -> Result<Verdict> {
        self.timeline.caught_up(self.world).await?;
        let mut verdict = judge(&self.timeline.states(), &self.terms());
        verdict.end = end(self).await?;
        Ok(verdict)
    }
}

/// Runs a scenario with Sidetrack and with the control, prints what both came to, and demands that every property held
/// with the one and that some did not with the other. `end` tells what is wrong with the state in the end.
pub(crate) async fn race(
    what: &str,
    more: Value,
    deeds: impl AsyncFn(&Race) -> Result<()>,
    end: impl AsyncFn(&Race) -> Result<Vec<String>>,
) -> Result<()> {
    let name = what.split(' ').next().unwrap_or("race").to_lowercase();
    raced(what, async |side| Race::new(side, &name, more.clone()).await, deeds, end).await
}

/// The same for scenarios that begin in another way.
pub(crate) async fn raced(
    what: &str,
    begin: impl AsyncFn(Side) -> Result<Race>,
    deeds: impl AsyncFn(&Race) -> Result<()>,
    end: impl AsyncFn(&Race) -> Result<Vec<String>>,
) -> Result<()> {
    let ours = async {
        let race = begin(Side::Sidetrack).await?;
        deeds(&race).await?;
        let mut wrong = Vec::new();
        let settled = eventually("the end", async || {
            wrong = end(&race).await?;
            Ok(wrong.is_empty().then_some(()))
        });
        if let Err(error) = settled.await {
            anyhow::bail!("{error}: {wrong:?}");
        }
        race.verdict(&end).await
    };
    let control = async {
        let race = begin(Side::Naive).await?;
        deeds(&race).await?;
        let enough = race.looks().map(|looks| looks + 12);
        eventually("twelve looks", async || Ok((race.looks() >= enough).then_some(()))).await?;
        race.verdict(&end).await
    };
    let (ours, control) =
        tokio::try_join!(async { ours.await.with_context(|| format!("{what}, Sidetrack")) }, async {
            control.await.with_context(|| format!("{what}, the control"))
        },)?;
    println!("{what:58} Sidetrack: {ours}\n{:58} without:   {control}", "");
    ensure!(ours.clean(), "{what}: {ours}: {ours:#?}");
    ensure!(!control.clean(), "{what}: the oracle finds nothing wrong with the control: {control:#?}");
    Ok(())
}

/// What is wrong unless the primary serves a version, with two pods, and nothing is under way.
pub(crate) async fn unless_rests_on(race: &Race, version: &str) -> Result<Vec<String>> {
    let primary = race.get("deploy", "app-primary").await?;
    let pods = race.world.list(&race.ns, "pod", "app=app-primary").await?;
    let serving = pods.iter().filter(|p| ready(p) && pod_image(p) == format!("app:{version}")).count();
    let target = race.get("deploy", "app").await?;
    let routed = weight(&race.get("vs", "app").await?);
    let run = at(&race.get("canary", "app").await?, "/status/run").clone();
    let mut wrong = Vec::new();
    let mut check = |is: bool, what: String| {
        if !is {
            wrong.push(what)
        }
    };
    check(image(&primary) == format!("app:{version}"), format!("primary is {}", image(&primary)));
    check(serving == 2, format!("{serving} primary pods of {version}"));
    check(target.is_null() || at(&target, "/spec/replicas") == 0, "target has pods at rest".into());
    check(routed == Some(0), format!("weight {routed:?} at rest"));
    check(run.is_null() || race.side == Side::Naive, "a run goes on".into());
    Ok(wrong)
}
