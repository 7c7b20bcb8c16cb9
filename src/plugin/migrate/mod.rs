//! Moving over from Flagger.

mod flags;

use super::connection::{Connection, FIELD_MANAGER};
use super::{DONE, Out, duration, view};
use crate::admission::configuration;
use crate::api::keys;
use crate::api::status::Phase;
use crate::check::facts::Facts;
use crate::check::gather::gather;
use crate::clock;
use crate::install::{installation, workload};
use crate::kubernetes::path;
use crate::object::{key, text};
use crate::rollout::subject::Subject;
use anyhow::bail;
use flags::Arguments;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Time between two looks at Flagger's pods.
const PAUSE: Duration = Duration::from_millis(500);

/// Moves over from Flagger.
///
/// Flagger is scaled to 0 first, as two controllers would move the same routes; then Sidetrack's manifests are applied, whose
/// definitions take the place of Flagger's and accept the same objects, and it is waited until Sidetrack is ready. Nothing else is
/// touched: each Canary goes on with the primary that Flagger made.
///
/// Before that it says what Flagger was started with, which Canaries go on and what each of them loses, and which are not served:
/// with Flagger stopped nobody releases these any more.
///
/// With --namespace the Canaries of that namespace are looked at, and nothing is done: Flagger serves all of them, or none.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Migrate {
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// The image to install; without it, nothing is installed.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Go on although Canaries are not served: their new revisions reach nobody until they are changed.
    #[arg(long)]
    leave_unserved: bool,
    /// How long to wait for Flagger's pods to end, and for Sidetrack's to be ready.
    #[arg(long, default_value = "2m", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

/// What a move consists of.
#[derive(Debug, Default)]
struct Move {
    /// Flagger's Deployments that run, by namespace and name.
    flaggers: Vec<(String, String)>,
    /// What Flagger was started with.
    arguments: Arguments,
    /// Objects of the installation that are missing.
    missing: usize,
    /// Flagger's arguments that the installed controller has not.
    unset: Vec<String>,
    /// Canaries that are served, and how they stand.
    served: Vec<String>,
    /// Canaries that will be left alone, and why: nobody releases them.
    refused: Vec<String>,
    /// Canaries that Flagger is releasing.
    busy: Vec<String>,
}

impl Move {
    fn of(facts: &Facts) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        let replicas = |d: &Value| d.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        let flaggers = facts.flaggers.clone()?;
        plan.flaggers = flaggers.iter().filter(|d| replicas(d) > 0).map(key).collect();
        plan.arguments = flaggers.first().map(Arguments::of).unwrap_or_default();
        plan.unset = plan.arguments.unset(facts.live("Deployment", workload::NAME));
        plan.missing = facts.installed.iter().filter(|i| matches!(i.live, Ok(None))).count();
        let mut config = facts.config();
        // What names no provider has had Flagger's.
        if let Some(provider) = &plan.arguments.mesh_provider {
            config.mesh_provider.clone_from(provider);
        }
        // What cannot be listed is not taken for missing.
        facts.templates.as_ref().map_err(Clone::clone)?;
        let templates = facts.templates();
        for object in facts.canaries.clone()? {
            let (namespace, name) = key(&object);
            let at = format!("{namespace}/{name}");
            let (snapshots, stored) = Default::default();
            let Ok(subject) = Subject::new(object, templates.clone(), snapshots, &stored, &config) else {
                plan.refused.push(format!("{at}: it cannot be read"));
                continue;
            };
            let phase = view::status(&subject.canary).phase;
            let not_served = subject.not_served();
            if !not_served.is_empty() {
                plan.refused.push(format!("{at}: {}", not_served.join(" ")));
                continue;
            }
            // One that Flagger has not initialised yet, as where its Deployment is missing, is begun anew.
            let idle =
                [Phase::None, Phase::Initializing, Phase::Initialized, Phase::Succeeded, Phase::Failed];
            // Where no Flagger runs, it is Sidetrack's own release.
            if !idle.contains(&phase) && !plan.flaggers.is_empty() {
                plan.busy.push(format!("{at}: {}", phase.as_str()));
            }
            plan.served.push(at);
            plan.served.extend(subject.review.warnings.iter().map(|warning| format!("  note: {warning}")));
        }
        Ok(plan)
    }

    fn print(&self, image: Option<&str>) -> String {
        let mut lines = Vec::new();
        for (namespace, name) in &self.flaggers {
            lines.push(format!(
                "scale deployment {name} in {namespace} (Flagger) to 0 and wait until its pods are gone"
            ));
        }
        match (self.missing, image) {
            (0, _) => {}
            (missing, Some(image)) => lines.push(format!("apply Sidetrack's manifests with image {image} ({missing} objects are missing)")),
            (missing, None) => lines.push(format!(
                "not installed: {missing} objects are missing; name an image with --image, or apply them yourself: \
                 sidetrack manifests --image IMAGE | kubectl apply -f -"
            )),
        }
        if lines.is_empty() {
            lines.push("nothing to do: no Flagger runs, and Sidetrack is installed".into());
        }
        let listed = |lines: &mut Vec<String>, heading: &str, items: &[String]| {
            if !items.is_empty() {
                lines.push(heading.to_owned());
                lines.extend(items.iter().map(|item| format!("  {item}")));
            }
        };
        let Arguments { carried, lost, .. } = &self.arguments;
        if self.missing == 0 {
            let heading =
                "Flagger's arguments that Sidetrack's Deployment does not have; add them to its args first:";
            listed(&mut lines, heading, &self.unset);
        } else {
            listed(&mut lines, "Flagger's arguments, which Sidetrack's Deployment gets too:", carried);
        }
        listed(&mut lines, "Flagger's arguments for which nothing stands here:", lost);
        listed(&mut lines, "Canaries that go on:", &self.served);
        listed(
            &mut lines,
            "Canaries that this version does not serve. With Flagger stopped nobody releases them: their primaries serve on, and new \
             revisions do not reach them. Change them, or keep Flagger:",
            &self.refused,
        );
        listed(&mut lines, "Releases that Flagger is in the middle of; let them end first:", &self.busy);
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Migrate {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        let mut facts = gather(at.client.clone(), clock::now()).await?;
        if let Some(namespace) = at.only() {
            if self.yes {
                bail!(
                    "Flagger serves the whole cluster: look at one namespace with --namespace, and move over without it"
                );
            }
            facts.keep_namespace(namespace);
        }
        let plan = Move::of(&facts)?;
        out.text(&plan.print(self.image.as_deref()))?;
        if !self.yes {
            out.line("Nothing was changed; do it with --yes.")?;
            return Ok(DONE);
        }
        if !plan.busy.is_empty() && !plan.flaggers.is_empty() {
            bail!("Flagger is in the middle of a release: {}; let it end first", plan.busy.join(", "));
        }
        let installed = facts.live("MutatingWebhookConfiguration", configuration::NAME).is_some();
        if !installed && self.image.is_none() {
            bail!(
                "Sidetrack is not installed, and without Flagger nobody would finish a release: name an image with --image"
            );
        }
        if installed && !plan.unset.is_empty() {
            bail!(
                "Sidetrack is installed without Flagger's {}: add it to the args of Deployment {} in namespace {}, or state another \
                 value there",
                plan.unset.join(" and "),
                workload::NAME,
                keys::NAMESPACE
            );
        }
        if !plan.refused.is_empty() && !self.leave_unserved {
            bail!(
                "{} would be released by nobody: change them, or add --leave-unserved",
                if plan.refused.len() == 1 {
                    "one Canary".into()
                } else {
                    format!("{} Canaries", plan.refused.len())
                }
            );
        }
        for (namespace, name) in &plan.flaggers {
            self.stop(at, out, namespace, name).await?;
        }
        if let (Some(image), true) = (&self.image, plan.missing > 0) {
            for mut object in installation(image)?.into_iter().flat_map(|(_, objects)| objects) {
                plan.arguments.add_to(&mut object);
                let object = &object;
                let uri = format!("{}?fieldManager={FIELD_MANAGER}&force=true", path::of_manifest(object));
                at.send(http::Method::PATCH, &uri, "application/apply-patch+yaml", object).await?;
                out.line(&format!("applied {} {}", text(object, "/kind"), text(object, "/metadata/name")))?;
            }
            self.ready(at, out, &plan.flaggers).await?;
        }
        if plan.flaggers.is_empty() && plan.missing > 0 && self.image.is_none() {
            bail!("nothing was done: no Flagger runs, and without --image nothing is installed");
        }
        out.line("Done; now: kubectl sidetrack check")?;
        Ok(DONE)
    }

    /// Waits until Sidetrack serves: until then nobody releases anything.
    async fn ready(
        &self,
        at: &Connection,
        out: &mut Out<'_>,
        flaggers: &[(String, String)],
    ) -> anyhow::Result<()> {
        let uri = format!("/apis/apps/v1/namespaces/{}/deployments/{}", keys::NAMESPACE, workload::NAME);
        if self.until(at, &uri, "/status/availableReplicas", |available| available > 0).await?.is_ok() {
            return out.line("Sidetrack is ready");
        }
        let back: Vec<String> = flaggers
            .iter()
            .map(|(namespace, name)| format!("kubectl -n {namespace} scale deployment {name} --replicas 1"))
            .collect();
        bail!(
            "Sidetrack is not ready after {:?}: see kubectl -n {} describe pods. Until then nobody releases anything; to go back: {}",
            self.timeout,
            keys::NAMESPACE,
            back.join("; ")
        );
    }

    /// Waits until a Deployment's controller has seen it as it is and counts so many pods; the last count where that does not come
    /// in time.
    async fn until(
        &self,
        at: &Connection,
        uri: &str,
        counted: &str,
        so: impl Fn(i64) -> bool,
    ) -> anyhow::Result<Result<(), i64>> {
        let end = Instant::now().checked_add(self.timeout);
        loop {
            let live = at.read(uri).await?.unwrap_or_default();
            let seen = live.pointer("/status/observedGeneration") == live.pointer("/metadata/generation");
            let pods = live.pointer(counted).and_then(Value::as_i64).unwrap_or(0);
            if seen && so(pods) {
                return Ok(Ok(()));
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(Err(pods));
            }
            tokio::time::sleep(PAUSE).await; // between two looks
        }
    }

    async fn stop(
        &self,
        at: &Connection,
        out: &mut Out<'_>,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let uri = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
        let scale = format!("{uri}/scale?fieldManager={FIELD_MANAGER}");
        at.send(
            http::Method::PATCH,
            &scale,
            "application/merge-patch+json",
            &json!({"spec": {"replicas": 0}}),
        )
        .await?;
        match self.until(at, &uri, "/status/replicas", |left| left == 0).await? {
            Ok(()) => out.line(&format!("scaled deployment {name} in {namespace} to 0")),
            Err(left) => bail!(
                "{left} pods of {namespace}/{name} are still there after {:?}: see why, then go on",
                self.timeout
            ),
        }
    }
}
