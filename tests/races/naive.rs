//! The control: a controller that looks once a second and decides as one without Sidetrack's guards would. It copies the
//! template that it finds instead of the one it analysed, goes on with the weight that it finds in the routes, never asks
//! whether a backend has pods, and takes any template that it has stored as seen. What each scenario proves is worth
//! something only if the oracle finds this one guilty.

use anyhow::{Context, Result};
use harness::objects::ready;
use harness::{World, at, weight};
use serde_json::{Value, json};
use sidetrack::api::revision::Revision;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A running one; it ends with this value.
pub(crate) struct Naive {
    looks: Arc<AtomicUsize>,
    retired: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Naive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Naive {
    pub(crate) fn start(world: &'static World, ns: &str) -> Self {
        let (looks, retired) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop, ns) = (looks.clone(), retired.clone(), ns.to_owned());
        let task = tokio::spawn(async move {
            let mut waited = 0;
            while !stop.load(Ordering::Relaxed) {
                // Its interval.
                tokio::time::sleep(Duration::from_secs(1)).await;
                // What it trips over it tries again, as any controller does.
                if let Err(error) = (Look { world, ns: &ns }).once(&mut waited).await {
                    eprintln!("the control in {ns}: {error:#}");
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { looks, retired, task }
    }

    /// Lets it end what it is at, and do no more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// How often it has looked.
    pub(crate) fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }
}

struct Look<'a> {
    world: &'static World,
    ns: &'a str,
}

impl Look<'_> {
    async fn once(&self, waited: &mut usize) -> Result<()> {
        let canary = self.world.get(self.ns, "canary", "app").await?;
        let primary = self.world.get(self.ns, "deploy", "app-primary").await?;
        if canary.is_null() {
            for (kind, name) in [("deploy", "app-primary"), ("vs", "app")] {
                let _ = self.world.delete(self.ns, kind, name).await;
            }
            return Ok(());
        }
        let target = self.world.get(self.ns, "deploy", "app").await?;
        if target.is_null() {
            return Ok(());
        }
        if primary.is_null() {
            return self.make_primary(&target).await;
        }
        let stored = at(&canary, "/status/lastAppliedSpec").as_str().unwrap_or_default().to_owned();
        let live = Revision::of(at(&target, "/spec/template")).as_str().to_owned();
        match at(&canary, "/status/phase").as_str().unwrap_or_default() {
            "" | "Initializing" => {
                if self.are_ready("app-primary", 1).await? {
                    self.route(0).await?;
                    self.world.scale(self.ns, "app", 0).await?;
                    self.status("Initialized", &live, None).await?;
                }
            }
            "Progressing" => self.progress(&canary, &stored, &live, waited).await?,
            "Promoting" => self.finish(&stored, waited).await?,
            "Waiting" => {
                if self.asks(&canary, "confirm-rollout", &live).await? {
                    self.begin(&live, &primary).await?;
                }
            }
            phase => {
                if live != stored {
                    if !self.are_ready("app-primary", 1).await? {
                        self.status(phase, &live, None).await?;
                    } else if self.asks(&canary, "confirm-rollout", &live).await? {
                        self.begin(&live, &primary).await?;
                    } else {
                        self.status("Waiting", &live, None).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn make_primary(&self, target: &Value) -> Result<()> {
        let mut primary = target.clone();
        primary["metadata"] = json!({"name": "app-primary", "namespace": self.ns});
        for map in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
            if let Some(labels) = primary.pointer_mut(map) {
                labels["app"] = "app-primary".into();
            }
        }
        primary["spec"]["replicas"] = at(target, "/spec/replicas").as_i64().unwrap_or(1).max(1).into();
        if let Some(object) = primary.as_object_mut() {
            object.remove("status");
        }
        self.world.create(self.ns, "deploy", primary).await
    }

    async fn begin(&self, live: &str, primary: &Value) -> Result<()> {
        let replicas = at(primary, "/spec/replicas").as_i64().and_then(|n| i32::try_from(n).ok());
        self.world.scale(self.ns, "app", replicas.unwrap_or(1).max(1)).await?;
        self.status("Progressing", live, Some(0)).await
    }

    async fn progress(&self, canary: &Value, stored: &str, live: &str, waited: &mut usize) -> Result<()> {
        if live != stored {
            self.route(0).await?;
            return self.status("Progressing", live, Some(0)).await;
        }
        let target = self.world.get(self.ns, "deploy", "app").await?;
        let complete = at(&target, "/status/observedGeneration") == at(&target, "/metadata/generation")
            && at(&target, "/status/updatedReplicas") == at(&target, "/spec/replicas");
        if !complete {
            return Ok(());
        }
        let skip = at(canary, "/spec/skipAnalysis") == true;
        let now = weight(&self.world.get(self.ns, "vs", "app").await?).unwrap_or(0);
        if !skip {
            if now == 0 && !self.asks(canary, "pre-rollout", stored).await?
                || !self.asks(canary, "rollout", stored).await?
            {
                self.route(0).await?;
                self.world.scale(self.ns, "app", 0).await?;
                return self.status("Failed", stored, None).await;
            }
            let max = at(canary, "/spec/analysis/maxWeight").as_i64().unwrap_or(100);
            if now < max {
                let next = now + at(canary, "/spec/analysis/stepWeight").as_i64().unwrap_or(10);
                self.status("Progressing", stored, Some(next)).await?;
                return self.route(next).await;
            }
            if !self.asks(canary, "confirm-promotion", stored).await? {
                return Ok(());
            }
        }
        let target = self.world.get(self.ns, "deploy", "app").await?;
        let mut template = at(&target, "/spec/template").clone();
        template["metadata"]["labels"]["app"] = "app-primary".into();
        // As Flagger stamps each copy; then it copies what the template refers to, which takes a while.
        template["metadata"]["annotations"]["copied"] = sidetrack::clock::now().to_string().into();
        let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
        self.world.edit(self.ns, "deploy", "app-primary", patch).await?;
        *waited = 0;
        tokio::time::sleep(Duration::from_millis(200)).await;
        if skip {
            self.world.scale(self.ns, "app", 0).await?;
            return self.status("Succeeded", stored, None).await;
        }
        self.status("Promoting", stored, Some(now)).await
    }

    async fn finish(&self, stored: &str, waited: &mut usize) -> Result<()> {
        *waited += 1;
        let primary = self.world.get(self.ns, "deploy", "app-primary").await?;
        let complete = at(&primary, "/status/updatedReplicas") == at(&primary, "/spec/replicas")
            && at(&primary, "/status/availableReplicas") == at(&primary, "/spec/replicas")
            && at(&primary, "/status/replicas") == at(&primary, "/spec/replicas");
        if complete {
            self.route(0).await?;
            self.world.scale(self.ns, "app", 0).await?;
            return self.status("Succeeded", stored, None).await;
        }
        if *waited > 6 {
            self.route(100).await?;
            return self.status("Failed", stored, None).await;
        }
        Ok(())
    }

    async fn are_ready(&self, app: &str, count: usize) -> Result<bool> {
        let pods = self.world.list(self.ns, "pod", &format!("app={app}")).await?;
        Ok(pods.iter().filter(|p| ready(p)).count() >= count)
    }

    /// Calls the hooks of a kind.
    async fn asks(&self, canary: &Value, kind: &str, revision: &str) -> Result<bool> {
        let body = json!({"checksum": Revision::from_key(revision).short()});
        for hook in at(canary, "/spec/analysis/webhooks").as_array().into_iter().flatten() {
            if at(hook, "/type") == kind {
                let url = at(hook, "/url").as_str().context("url")?;
                if !reqwest::Client::new().post(url).json(&body).send().await?.status().is_success() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn route(&self, canary: i64) -> Result<()> {
        let to = |host: &str, weight: i64| json!({"destination": {"host": host}, "weight": weight});
        let http = json!([{"route": [to("app-primary", 100 - canary), to("app-canary", canary)]}]);
        let spec = json!({"hosts": ["app"], "http": http});
        if self.world.get(self.ns, "vs", "app").await?.is_null() {
            let object = json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
                "metadata": {"name": "app", "namespace": self.ns}, "spec": spec});
            return self.world.create(self.ns, "vs", object).await;
        }
        self.world.merge(self.ns, "vs", "app", json!({"spec": spec})).await.map(drop)
    }

    async fn status(&self, phase: &str, stored: &str, weight: Option<i64>) -> Result<()> {
        let run = weight.map(|weight| {
            json!({"revision": stored, "stage": "Analysing", "since": "2026-01-01T00:00:00Z", "weight": weight,
                "lastStep": sidetrack::clock::now().to_string()})
        });
        let status = json!({"status": {"phase": phase, "lastAppliedSpec": stored, "run": run,
            "canaryWeight": weight.unwrap_or(0), "failedChecks": 0, "iterations": 0,
            "revisions": {"primary": stored}}});
        let api = self.world.api(self.ns, "canary")?;
        let patch = kube::api::Patch::Merge(&status);
        api.patch_status("app", &kube::api::PatchParams::default(), &patch).await?;
        Ok(())
    }
}
