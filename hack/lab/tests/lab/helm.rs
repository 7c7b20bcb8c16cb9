//! Helm: a chart with Deployment and Canary, by Helm 3 (which sends the difference) and Helm 4 (server-side apply).

use std::sync::Arc;

use anyhow::{Result, ensure};
use lab::Lab;
use lab::parts::Helm;
use serde_json::Value;

use crate::Rows;
use crate::stage::{Stage, at, image, until};
use crate::writer::{Typed, Writer, writes};

pub(crate) async fn helm3_release(lab: Arc<Lab>) -> Result<Rows> {
    release(Setup::new(lab, "helm3-release", Helm::Three, true).await?).await
}

pub(crate) async fn helm4_release(lab: Arc<Lab>) -> Result<Rows> {
    release(Setup::new(lab, "helm4-release", Helm::Four, true).await?).await
}

pub(crate) async fn helm3_waits(lab: Arc<Lab>) -> Result<Rows> {
    waits_for_the_deployment(Setup::new(lab, "helm3-waits", Helm::Three, false).await?, "--atomic").await
}

pub(crate) async fn helm4_waits(lab: Arc<Lab>) -> Result<Rows> {
    let setup = Setup::new(lab, "helm4-waits", Helm::Four, false).await?;
    waits_for_the_deployment(setup, "--rollback-on-failure").await
}

/// Either Helm takes a paused Deployment for a ready one, and a held one is paused.
async fn waits_for_the_deployment(mut setup: Setup, atomic: &str) -> Result<Rows> {
    setup.initialised().await?;
    let typed = setup.upgrade("v2", false, &["--wait", "--timeout=2m"]).await?;
    let canary = setup.writer.stage.canary().await?;
    let phase = at(&canary, "/status/phase").as_str().unwrap_or_default().to_owned();
    ensure!(phase != "Succeeded", "it waited for the release after all: {}", typed.said);
    setup.note(
        "`upgrade --wait` to v2, Deployment only in the chart",
        format!("returns after {:.1} s, while the Canary is {phase}", typed.took),
    );
    setup.writer.promoted("v2").await?;
    let typed = setup.upgrade("v3", true, &[atomic, "--timeout=60s"]).await?;
    setup.writer.stage.phase("Failed").await?;
    setup.note(
        &format!("`upgrade {atomic}` to a v3 that is never ready, Deployment only in the chart"),
        format!(
            "returns after {:.1} s as if all were well; v3 is rejected later, and not rolled back by Helm",
            typed.took
        ),
    );
    setup.rows().await
}

/// The Canary's conditions are kstatus': with it in the chart Helm 4 waits for the release, but where it looks at the Canary before
/// Sidetrack has seen the new revision.
pub(crate) async fn helm4_waits_for_the_canary(lab: Arc<Lab>) -> Result<Rows> {
    let mut setup = Setup::new(lab, "helm4-waits-for-the-canary", Helm::Four, true).await?;
    setup.initialised().await?;
    let (mut early, mut took) = (0, Vec::new());
    let versions = ["v2", "v3", "v4", "v5"];
    for version in versions {
        let typed = setup.upgrade(version, false, &["--wait", "--timeout=2m"]).await?;
        let primary = setup.writer.stage.deployment("app-primary").await?;
        // No release of two pods and three steps takes less.
        if typed.took > AT_ONCE {
            ensure!(
                image(&primary) == format!("app:{version}"),
                "it did not wait for {version}: {}",
                typed.said
            );
            took.push(format!("{:.0}", typed.took));
        } else {
            early += 1;
        }
        setup.writer.promoted(version).await?;
    }
    setup.note(
        "`upgrade --wait` to four good versions, Canary in the chart",
        format!(
            "{} times it returned when the version was promoted (after {} s), {early} times at once",
            versions.len() - early,
            took.join(", ")
        ),
    );
    setup.remember().await?;
    let typed = setup.tries("v6", true, &["--rollback-on-failure", "--timeout=60s"]).await?;
    let happened = if typed.took > AT_ONCE {
        ensure!(!typed.succeeded, "it says that v6 is there: {}", typed.said);
        format!("fails after {:.0} s and puts v5 back by itself", typed.took)
    } else {
        setup.writer.stage.phase("Failed").await?;
        setup.writer.types(&["rollback", "app"]).await?;
        "returned at once, v6 was rejected later; `rollback` put v5 back".to_owned()
    };
    setup.rolled_back("v5").await?;
    setup.note(
        "`upgrade --rollback-on-failure` to a v6 that is never ready, Canary in the chart",
        format!("{happened}; the primary untouched"),
    );
    setup.rows().await
}

/// Seconds in which no release is over.
const AT_ONCE: f64 = 3.0;

/// A chart, and who installs it.
struct Setup {
    writer: Writer,
    name: &'static str,
    primary: Value,
}

impl Setup {
    async fn new(lab: Arc<Lab>, name: &str, helm: Helm, canary: bool) -> Result<Self> {
        let (user, called) = match helm {
            Helm::Three => ("helm3", "Helm 3"),
            Helm::Four => ("helm4", "Helm 4"),
        };
        let program = helm.program().path()?;
        let writer = Writer::new(lab, name, user, program).await?;
        writer.file("chart/Chart.yaml", "{apiVersion: v2, name: app, version: 0.1.0}")?;
        writer.file("chart/values.yaml", "{version: v1, refuse: false}")?;
        let sample = writer.stage.sample.clone().env("REFUSE_READINESS", "{{ .Values.refuse }}");
        let deployment = sample.deployment("{{ .Values.version }}").to_string();
        writer.file("chart/templates/deployment.yaml", &deployment)?;
        if canary {
            writer.file("chart/templates/canary.yaml", &sample.canary().to_string())?;
        } else {
            writer.stage.lab.cp.apply(sample.canary()).await?;
        }
        Ok(Self { writer, name: called, primary: Value::Null })
    }

    fn note(&mut self, situation: &str, happened: String) {
        self.writer.note(&format!("{}: {situation}", self.name), happened);
    }

    async fn initialised(&mut self) -> Result<usize> {
        let chart = format!("{}/chart", self.writer.dir());
        let typed = self.writer.types(&["install", "app", &chart]).await?;
        self.writer.stage.phase("Initialized").await?;
        self.writer.watched().await?;
        self.writer.stage.settled().await?;
        Ok(typed.writes)
    }

    async fn tries(&self, version: &str, refuse: bool, more: &[&str]) -> Result<Typed> {
        let chart = format!("{}/chart", self.writer.dir());
        let values = format!("version={version},refuse={refuse}");
        let args = [&["upgrade", "app", &chart, "--set", &values][..], more].concat();
        self.writer.tries(&args, "").await
    }

    async fn upgrade(&self, version: &str, refuse: bool, more: &[&str]) -> Result<Typed> {
        let typed = self.tries(version, refuse, more).await?;
        ensure!(typed.succeeded, "upgrade to {version} said {}", typed.said);
        Ok(typed)
    }

    /// Remembers the primary, which must be the same when [`Self::rolled_back`] looks.
    async fn remember(&mut self) -> Result<()> {
        self.primary = self.writer.stage.deployment("app-primary").await?;
        Ok(())
    }

    /// The Deployment is a version again, unheld and without pods of its own, and the primary was not touched.
    async fn rolled_back(&self, version: &str) -> Result<()> {
        until("the rollback is accepted", async || {
            let target = self.writer.stage.deployment("app").await?;
            Ok((image(&target) == format!("app:{version}")
                && at(&target, "/spec/paused").as_bool() != Some(true))
            .then_some(()))
        })
        .await?;
        self.writer.stage.phase("Succeeded").await?;
        self.writer.stage.settled().await?;
        let primary = self.writer.stage.deployment("app-primary").await?;
        ensure!(image(&primary) == format!("app:{version}"), "the primary is {}", image(&primary));
        let generation = at(&self.primary, "/metadata/generation");
        ensure!(
            generation.is_null() || at(&primary, "/metadata/generation") == generation,
            "the primary was changed"
        );
        Ok(())
    }

    async fn rows(self) -> Result<Rows> {
        self.writer.rows(self.name).await
    }
}

/// From nothing to nothing.
async fn release(mut setup: Setup) -> Result<Rows> {
    let typed = setup.initialised().await?;
    setup.note("`install`, Deployment and Canary in the chart", format!("{}; initialised", writes(typed)));

    let typed = setup.upgrade("v2", false, &[]).await?;
    setup.writer.promoted("v2").await?;
    setup.note("`upgrade` to v2", format!("{}; held, analysed, promoted", writes(typed.writes)));

    let typed = setup.upgrade("v2", false, &[]).await?;
    let grown = setup.writer.came_to_nothing(&typed).await?;
    ensure!(grown == 0, "{grown} generations");
    setup.note(
        "`upgrade` with the same values",
        format!("{}, generation as before; nobody acts on it, no Event", writes(typed.writes)),
    );

    setup.remember().await?;
    let typed = setup.upgrade("v3", true, &[]).await?;
    setup.writer.stage.phase("Failed").await?;
    let rollback = setup.writer.types(&["rollback", "app"]).await?;
    setup.rolled_back("v2").await?;
    setup.note(
        "`upgrade` to a v3 that is never ready, then `rollback`",
        format!(
            "{}, v3 rejected; {}, v2 again without a release, the primary untouched",
            writes(typed.writes),
            writes(rollback.writes)
        ),
    );

    let typed = setup.upgrade("v4", false, &[]).await?;
    setup.writer.stage.weight(20).await?;
    let again = setup.upgrade("v5", false, &[]).await?;
    setup.writer.promoted("v5").await?;
    let events = setup.writer.stage.events().await?;
    ensure!(events.iter().any(|e| e.contains("Restarting analysis")), "no word of it: {events:#?}");
    setup.note(
        "`upgrade` to v4, to v5 while v4 has weight",
        format!(
            "{} and {}; v4 superseded, v5 analysed and promoted",
            writes(typed.writes),
            writes(again.writes)
        ),
    );

    // From here on requests have nowhere to go.
    setup.writer.unwatched(setup.name).await?;
    setup.writer.types(&["uninstall", "app"]).await?;
    let stage = &setup.writer.stage;
    until("nothing is left", async || Ok(left(stage).await?.is_empty().then_some(()))).await?;
    setup.note("`uninstall`", "Deployment, Canary and all that was generated are gone".to_owned());
    setup.rows().await
}

/// What there is in the namespace.
async fn left(stage: &Stage) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (api, kind) in [
        ("/apis/apps/v1", "deployments"),
        ("/apis/apps/v1", "controllerrevisions"),
        ("/apis/flagger.app/v1beta1", "canaries"),
        ("/apis/networking.istio.io/v1", "virtualservices"),
        ("/apis/networking.istio.io/v1", "destinationrules"),
        ("/api/v1", "services"),
        ("/api/v1", "pods"),
    ] {
        let list = stage.get(api, kind).await?;
        let names = at(&list, "/items").as_array().into_iter().flatten().map(|o| at(o, "/metadata/name"));
        left.extend(names.map(|name| format!("{kind}/{name}")));
    }
    Ok(left)
}
