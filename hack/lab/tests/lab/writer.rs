//! Somebody at a terminal who changes a Deployment: what is typed, what was written of it, and what came of it.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ground::{AuditRequest, Mark};
use lab::Lab;
use lab::load::{Counts, Load};
use lab::sample::Traffic;
use serde_json::Value;
use tokio::process::Command;

use crate::Rows;
use crate::stage::{Stage, at, image, until};

/// Requests a second while somebody types.
const RATE: u32 = 20;

/// One who types one program's commands, as a user of that name.
pub(crate) struct Writer {
    pub(crate) stage: Stage,
    user: &'static str,
    program: PathBuf,
    dir: PathBuf,
    rows: Vec<(Option<String>, String)>,
    load: Option<Load>,
}

/// What a command did.
pub(crate) struct Typed {
    /// What it printed.
    pub(crate) said: String,
    /// Whether it said that it succeeded.
    pub(crate) succeeded: bool,
    /// How often it wrote the Deployment, its subresources included, dry runs and refused tries left out.
    pub(crate) writes: usize,
    /// Seconds that it took.
    pub(crate) took: f64,
    /// The moment before it.
    pub(crate) mark: Mark,
    /// The Deployment before it.
    before: Value,
}

impl Writer {
    /// Makes an empty namespace.
    pub(crate) async fn new(lab: Arc<Lab>, name: &str, user: &'static str, program: PathBuf) -> Result<Self> {
        let mut stage = Stage::new(lab, name, Traffic::Istio).unjudged();
        stage.sample.progress_deadline = 10;
        stage.lab.cp.apply(stage.sample.namespace()).await?;
        let dir = stage.lab.dir().join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(Self { stage, user, program, dir, rows: Vec::new(), load: None })
    }

    /// Sends requests from now on; none of them may fail.
    pub(crate) async fn watched(&mut self) -> Result<()> {
        self.load = Some(self.stage.load(RATE).await?);
        Ok(())
    }

    /// Writes a file, and returns where it is.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.join(name);
        std::fs::create_dir_all(path.parent().context("a file in no folder")?)?;
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> String {
        self.dir.display().to_string()
    }

    async fn output(&self, args: &[&str], editor: &str) -> Result<Output> {
        Command::new(&self.program)
            .args(["-n", &self.stage.sample.namespace])
            .args(args)
            .env("KUBECONFIG", self.stage.lab.cp.kubeconfig(self.user))
            .env("KUBE_EDITOR", editor)
            // What it remembers between two commands.
            .env("HOME", &self.dir)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("running {}", self.program.display()))
    }

    /// Types a command, whatever comes of it.
    pub(crate) async fn tries(&self, args: &[&str], editor: &str) -> Result<Typed> {
        let before = self.stage.deployment("app").await?;
        let mark = self.stage.lab.cp.audit().mark().await?;
        let start = Instant::now();
        let output = self.output(args, editor).await?;
        let took = start.elapsed().as_secs_f64();
        let own = self.stage.lab.cp.audit().requests_since(mark, self.user).await?;
        let writes = own.iter().filter(|r| {
            r.namespace == self.stage.sample.namespace
                && r.resource == "deployments"
                && r.is_write()
                && r.code < 400
                && !r.uri.contains("dryRun")
        });
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let succeeded = output.status.success();
        Ok(Typed { said, succeeded, writes: writes.count(), took, mark, before })
    }

    /// Types a command that succeeds.
    pub(crate) async fn types(&self, args: &[&str]) -> Result<Typed> {
        let typed = self.tries(args, "false").await?;
        ensure!(typed.succeeded, "{args:?} said {}", typed.said);
        Ok(typed)
    }

    /// Waits until a version is the primary and its release over.
    pub(crate) async fn promoted(&self, version: &str) -> Result<()> {
        let image_is = format!("app:{version}");
        until(&format!("{version} is the primary"), async || {
            Ok((image(&self.stage.deployment("app-primary").await?) == image_is).then_some(()))
        })
        .await?;
        self.stage.phase("Succeeded").await?;
        self.stage.settled().await
    }

    /// Checks that a command which was typed once more came to nothing: nobody else wrote anything, no Event, no release, the
    /// same spec. Returns by how much `metadata.generation` has grown.
    pub(crate) async fn came_to_nothing(&self, typed: &Typed) -> Result<i64> {
        self.stage.settled().await?;
        let mut writes = self.stage.writes_since(typed.mark).await?;
        // Kubernetes puts the annotations back that `kubectl replace` leaves out.
        let native =
            |r: &AuditRequest| r.user == "system:kube-controller-manager" && r.subresource == "status";
        writes.retain(|r| r.user != self.user && !native(r));
        ensure!(writes.is_empty(), "somebody acted on it: {writes:#?}");
        let after = self.stage.deployment("app").await?;
        ensure!(at(&after, "/spec") == at(&typed.before, "/spec"), "{after:#} was {:#}", typed.before);
        let generation = |object| at(object, "/metadata/generation").as_i64().unwrap_or(0);
        Ok(generation(&after) - generation(&typed.before))
    }

    /// Notes what happened, for the table.
    pub(crate) fn note(&mut self, situation: &str, happened: String) {
        self.rows.push((Some(situation.to_owned()), happened));
    }

    /// Sends no more requests: none has failed.
    pub(crate) async fn unwatched(&mut self, of: &str) -> Result<()> {
        if let Some(load) = self.load.take() {
            let counts = Counts::of(&load.stop().await);
            ensure!(counts.failed == 0, "{counts:?}");
            self.note(&format!("{of}: requests meanwhile"), format!("{}, 0 failed", counts.total));
        }
        Ok(())
    }

    /// Ends it.
    pub(crate) async fn rows(mut self, of: &str) -> Result<Rows> {
        self.unwatched(of).await?;
        Ok(Rows(self.rows))
    }
}

/// How often a program wrote the Deployment, in words.
pub(crate) fn writes(number: usize) -> String {
    if number == 1 { "1 write".to_owned() } else { format!("{number} writes") }
}
