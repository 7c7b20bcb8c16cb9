//! A dozen of the recorded runs of Flagger on the real API server, by the shipped binary, at intervals of a second or
//! three. They are compared as `tests/conformance.rs` compares all of them in virtual time, against the same deviations.

#[path = "../conformance/compare.rs"]
mod compare;
#[path = "../conformance/tables.rs"]
#[expect(dead_code, reason = "which traces are left out is the other test's")]
mod tables;
#[path = "../conformance/view.rs"]
#[expect(dead_code, reason = "writes are seen in what they leave")]
mod view;

use anyhow::{Context as _, Result, ensure};
use harness::objects::Timeline;
use harness::outside::{Outside, no_sample, sample};
use harness::{Sidetrack, World, at, eventually, shared};
use recordings::Run;
use serde_json::{Value, json};
use tables::Deviations;
use view::{View, anchor};

const CANARY: &str = "podinfo";
/// Kinds whose states are compared, by their short names.
const WATCHED: [&str; 6] = ["canary", "svc", "vs", "dr", "split:v1alpha2", "httproute"];

/// One run being driven.
struct Replay {
    world: &'static World,
    sidetrack: &'static Sidetrack,
    trace: &'static Run,
    namespace: String,
    outside: Outside,
    timeline: Timeline,
}

/// Drives a trace and waits until what is seen is what was recorded.
async fn replay(name: &str) -> Result<()> {
    let trace = recordings::named(name);
    let (world, sidetrack) = shared().await;
    let namespace = world.cp.namespace(name).await?;
    let timeline = world.timeline(&namespace, &WATCHED).await?;
    let outside = Outside::start().await?;
    let replay = Replay { world, sidetrack, trace, namespace, outside, timeline };
    replay.metrics(replay.trace.input("metricAnswersAtStart"));
    for (hook, answer) in replay.trace.input("hookAnswersAtStart").as_object().into_iter().flatten() {
        replay.hook(hook, answer);
    }
    replay.drive().await?;
    replay.compare().await
}

impl Replay {
    fn metrics(&self, table: &Value) {
        for row in table.as_array().into_iter().flatten().rev() {
            let part = row[0].as_str().filter(|part| !part.is_empty()).unwrap_or("query=");
            match &row[1] {
                Value::Null => self.outside.says(part, 200, &no_sample()),
                value => self.outside.says(part, 200, &sample(value.as_str().unwrap())),
            }
        }
        self.outside.says("query=vector(1)", 200, &sample("1"));
    }

    fn hook(&self, name: &str, answer: &Value) {
        let code = u16::try_from(answer["code"].as_u64().unwrap()).unwrap();
        self.outside.says(&format!("/{name}/hook"), code, answer["body"].as_str().unwrap_or("{}"));
    }

    /// Where the recording had the hooks.
    fn hooks_url(&self) -> String {
        format!("http://127.0.0.1:9091/{}", self.trace.name())
    }

    /// An object of the recording with its endpoints here and in less time.
    fn adapted(&self, object: &Value) -> Value {
        let mut object = object.clone();
        object["metadata"]["namespace"] = self.namespace.clone().into();
        if object["kind"] != "Canary" {
            // The node has another name here.
            if let Some(pods) = object.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) {
                pods.remove("nodeName");
            }
            return object;
        }
        let spec = &mut object["spec"];
        if spec.get("provider").is_none()
            && let Some(provider) = self.trace.flag("-mesh-provider")
        {
            // The flag may name a mesh after the version, the field may not.
            spec["provider"] = provider.trim_end_matches(":linkerd").into();
        }
        spec["metricsServer"] = self.outside.url("").into();
        // What is done within a run is done before its next step.
        spec["analysis"]["interval"] = if acts_within_a_run(self.trace) { "3s" } else { "1s" }.into();
        spec["analysis"].as_object_mut().unwrap().remove("alerts");
        for hook in spec["analysis"].get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
            let name = hook["url"].as_str().unwrap().rsplit('/').next().unwrap();
            hook["url"] = self.outside.url(&format!("/{name}/hook")).into();
        }
        object
    }

    async fn drive(&self) -> Result<()> {
        let statuses = view::statuses(self.trace);
        let mut seen = 0;
        for action in self.trace.actions() {
            let t = action["t"].as_f64().unwrap();
            let before = statuses.iter().filter(|(at, _)| *at <= t).count();
            if before > seen {
                seen = before;
                self.reaches(&statuses[before - 1].1).await?;
            }
            let asked = self.asked_before(t);
            eventually("the hooks are called as often as before", async || {
                let hooks = self.ours()?.remove("hooks").unwrap_or_default();
                Ok((hooks.len() >= asked).then_some(()))
            })
            .await?;
            self.act(action).await?;
        }
        self.reaches(&statuses.last().unwrap().1).await
    }

    /// How many calls of hooks the recording has before a moment, as they are compared.
    fn asked_before(&self, t: f64) -> usize {
        let mut view = View::new();
        for call in self.trace.list("hooks").iter().filter(|call| call["t"].as_f64().unwrap() <= t) {
            if let Some(line) = view::hook(call["to"].as_str().unwrap(), &call["body"]) {
                view::add(&mut view, "hooks", line);
            }
        }
        view.remove("hooks").unwrap_or_default().len()
    }

    /// Waits for the state in which the recording's driver acted.
    async fn reaches(&self, state: &str) -> Result<()> {
        let from = self.statuses().len().saturating_sub(1);
        let reached = eventually(state, async || {
            let statuses = self.statuses();
            Ok(statuses.iter().skip(from).any(|s| anchor(s) == anchor(state)).then_some(()))
        });
        reached.await.with_context(|| format!("{:#?}", self.statuses()))
    }

    async fn act(&self, action: &Value) -> Result<()> {
        let kind = match action["kind"].as_str().unwrap_or_default() {
            "Deployment" => "deploy",
            "HorizontalPodAutoscaler" => "hpa",
            "Canary" => "canary",
            other => other,
        };
        match action["do"].as_str().unwrap() {
            "apply" if kind == "AlertProvider" => Ok(()),
            "apply" => self.world.flux(self.adapted(&action["object"])).await,
            "merge-patch" => {
                let name = action["name"].as_str().unwrap();
                self.world.merge(&self.namespace, kind, name, action["patch"].clone()).await?;
                Ok(())
            }
            "delete" => self.world.delete(&self.namespace, kind, action["name"].as_str().unwrap()).await,
            "hook-answer" => {
                self.hook(action["hook"].as_str().unwrap(), &action["set"]);
                Ok(())
            }
            "metric-answers" => {
                self.metrics(&action["metrics"]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn statuses(&self) -> Vec<String> {
        let states = self.timeline.states();
        // The definition's default is nobody's word yet.
        let looked_at = |c: &&Value| at(c, "/status/phase") != "";
        let canaries = states.iter().filter(|s| s.kind == "canary").filter_map(|s| s.object.as_ref());
        let canaries = canaries.filter(looked_at);
        let mut lines: Vec<String> = canaries.filter_map(|c| view::status(at(c, "/status"))).collect();
        lines.dedup();
        lines
    }

    /// What was recorded, as far as it is compared here: what the writes left, not each of them.
    fn theirs(&self) -> View {
        let mut theirs = view::of_trace(self.trace);
        let written = ["object Deployment", "object Scale", "object HorizontalPodAutoscaler"];
        theirs.retain(|theme, _| !written.iter().any(|w| theme.starts_with(w)));
        theirs.entry("messages".into()).or_default().retain(|text| !is_slow(text));
        theirs
    }

    fn ours(&self) -> Result<View> {
        let mut ours = View::new();
        let here = |text: &str| {
            let text = text.replace(&self.namespace, self.trace.namespace());
            text.replace("/hook giving up", " giving up").replace(&self.outside.url(""), &self.hooks_url())
        };
        for line in self.statuses() {
            view::add(&mut ours, "statuses", line);
        }
        let suffix = format!(" canary={CANARY}.{}", self.namespace);
        let log = self.sidetrack.logged()?;
        let lines = log.lines().filter_map(|line| {
            line.strip_suffix(&suffix)
                .or_else(|| line.strip_suffix(&format!(" canary=\"{CANARY}.{}\"", self.namespace)))
        });
        for text in
            lines.filter_map(|line| line.splitn(3, ' ').nth(2)).map(str::trim_start).filter(|t| !is_slow(t))
        {
            view::message(&mut ours, &here(text));
        }
        for heard in self.outside.heard("/hook") {
            let to = heard.address.trim_end_matches("/hook").trim_start_matches('/');
            let body = serde_json::from_str(&here(&heard.body.to_string()))?;
            if let Some(line) = view::hook(to, &body) {
                view::add(&mut ours, "hooks", line);
            }
        }
        for heard in self.outside.heard(" query=") {
            let (_, query) = heard.address.split_once(" query=").unwrap_or_default();
            view::add_new(&mut ours, "queries", here(query));
        }
        for object in self.timeline.states().iter().filter_map(|s| s.object.as_ref()) {
            if let Some((theme, line)) = view::object(object) {
                view::add(&mut ours, &theme, line);
            }
        }
        Ok(ours)
    }

    async fn compare(&self) -> Result<()> {
        let theirs = self.theirs();
        let mut differences = Vec::new();
        let compared = eventually("the run is as recorded", async || {
            let mut deviations = Deviations::read();
            differences = compare::differences(self.trace.name(), &theirs, &self.ours()?, &mut deviations);
            Ok(differences.is_empty().then_some(()))
        })
        .await;
        compared.with_context(|| differences.join("\n"))
    }
}

/// Whether something was done within a run.
fn acts_within_a_run(trace: &Run) -> bool {
    let statuses = view::statuses(trace);
    trace.actions().iter().filter_map(|a| a["t"].as_f64()).any(|t| {
        let before = statuses.iter().rfind(|(at, _)| *at <= t);
        let quiet = ["Initializing", "Initialized", "Progressing weight 0", "Succeeded", "Failed"];
        before.is_some_and(|(_, s)| !quiet.iter().any(|quiet| s.starts_with(quiet)))
    })
}

/// Whether a message tells of a start that takes longer than an interval: ours are short here.
fn is_slow(text: &str) -> bool {
    text.contains(": waiting for rollout to finish: ")
}

macro_rules! replayed {
    ($($test:ident: $trace:literal),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() -> Result<()> {
            replay($trace).await
        }
    )*};
}

replayed! {
    success_with_all_hooks: "istio-weighted-success",
    refused_rollout_hook_rolls_back: "istio-fail-rollout-hook",
    failed_metrics_roll_back: "istio-fail-success-rate",
    metric_recovers: "istio-metric-recovers",
    rollback_hook_rolls_back: "gate-rollback",
    rollout_gate_is_waited_for: "gate-confirm-rollout",
    promotion_gate_is_waited_for: "waitingpromotion-metric-fail",
    analysis_is_skipped: "istio-skip-analysis",
    autoscaler_is_copied: "istio-hpa-v2",
    listed_weights_and_steps_back: "istio-stepweights-stepweightpromotion",
    new_revision_restarts_the_analysis: "istio-new-revision-midrun",
    canary_is_deleted_at_weight: "istio-revert-on-deletion-midrun",
    gateway_api: "gatewayapi-weighted",
    smi: "smi-v1alpha2",
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_schema_refuses_here_it_refuses_as_flaggers_did() -> Result<()> {
    let (world, _) = shared().await;
    let namespace = world.cp.namespace("schema").await?;
    for name in ["error-legacy-canary-analysis", "istio-no-strategy"] {
        let trace = recordings::named(name);
        for canary in trace.applied("Canary") {
            let mut canary = canary.clone();
            json_patch::merge(&mut canary, &json!({"metadata": {"namespace": namespace}}));
            ensure!(world.flux(canary).await.is_err(), "{name} is let in");
        }
    }
    Ok(())
}
