//! What became of revisions, and the way back to one.

use super::connection::{Connection, FIELD_MANAGER};
use super::look::{Name, live_revision};
use super::screen::{Cell, Colour, Screen, age, table};
use super::{DONE, Out, canary_name, view};
use crate::api::Canary;
use crate::api::revision::Revision;
use crate::api::status::Outcome;
use crate::clock;
use crate::rollout::objects;
use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Prints the history.
pub(crate) async fn run(name: &Name, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
    let canary = at.typed(&name.name).await?;
    let snapshots = at.snapshots(&name.name).await?;
    let live = live_revision(at, &canary).await?;
    out.text(&list(out.screen, &canary, &snapshots, live.as_deref(), clock::now()))?;
    Ok(DONE)
}

/// The name of the stored template of a revision ends with its first digits.
fn stored<'a>(snapshots: &'a [Value], canary: &Canary, revision: &str) -> Option<&'a Value> {
    let name = format!("{}-{}", canary.spec.target_ref.name, view::short(Some(revision)));
    snapshots.iter().find(|s| s.pointer("/metadata/name").is_some_and(|n| *n == name))
}

/// The template of a revision, as it was analysed.
pub(super) fn stored_template(snapshots: &[Value], canary: &Canary, revision: &str) -> anyhow::Result<Value> {
    let template = stored(snapshots, canary, revision)
        .and_then(|s| objects::template_of(s, &Revision::from_key(revision.to_owned())));
    template.with_context(|| {
        let shown = view::short(Some(revision));
        format!("the template of revision {shown} is not stored any more (spec.revisionHistoryLimit of the target)")
    })
}

fn images(template: Option<&Value>) -> String {
    let containers = template.and_then(|t| t.pointer("/spec/containers")?.as_array());
    let images = containers.into_iter().flatten().filter_map(|c| c.get("image")?.as_str());
    images.collect::<Vec<_>>().join(", ")
}

/// Lays out what became of revisions, the latest first.
#[must_use]
pub fn list(
    screen: Screen,
    canary: &Canary,
    snapshots: &[Value],
    live: Option<&str>,
    now: Timestamp,
) -> String {
    let status = view::status(canary);
    let mut rows = Vec::new();
    // What a revision is now stands at its last end; the primary's was promoted.
    let mut now_is = vec![("primary", status.revisions.primary.as_deref()), ("target", live)];
    let mut row = |revision: &str, outcome: Cell, at: String, by: &str, rejected: bool| {
        let snapshot = stored(snapshots, canary, revision);
        let here =
            |(role, of): &(&str, Option<&str>)| *of == Some(revision) && !(rejected && *role == "primary");
        let roles: Vec<&str> = now_is.iter().filter(|role| here(role)).map(|(role, _)| *role).collect();
        now_is.retain(|role| !here(role));
        let stored = if snapshot.is_some() { "yes" } else { "no" };
        rows.push(vec![
            Cell::new(view::short(Some(revision))),
            outcome,
            Cell::new(at),
            Cell::new(if roles.is_empty() { "-".into() } else { roles.join(", ") }),
            Cell::new(stored),
            Cell::new(images(snapshot.and_then(|s| s.pointer("/data/spec/template")))),
            Cell::new(by),
        ]);
    };
    if let Some(run) = &status.run {
        row(&run.revision, Cell::painted("in progress", Colour::Busy), age(Some(run.since), now), "-", true);
    }
    for past in status.history.iter().rev() {
        let outcome = match past.outcome {
            Outcome::Promoted => Cell::painted("promoted", Colour::Good),
            Outcome::BreakGlass => Cell::painted("break-glass", Colour::Busy),
            Outcome::Rejected => Cell::painted("rejected", Colour::Bad),
            Outcome::Unknown => Cell::painted("unknown", Colour::Busy),
        };
        let rejected = past.outcome == Outcome::Rejected;
        row(&past.revision, outcome, age(past.at, now), past.by.as_deref().unwrap_or("-"), rejected);
    }
    table(screen, &["REVISION", "OUTCOME", "AGE", "NOW", "STORED", "IMAGES", "APPLIED BY"], &rows)
}

/// Puts a promoted revision back into the target, where it is held and analysed as any other.
///
/// While a release goes on, the revision that the primary runs is put back, which cancels it. A GitOps tool applies what Git
/// says again at its next interval: revert there as well.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Undo {
    /// The Canary.
    #[arg(value_parser = canary_name)]
    name: String,
    /// The revision, its first digits; without it, the one before, see `history`.
    #[arg(long, value_name = "REVISION")]
    to_revision: Option<String>,
}

impl Undo {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        let canary = at.typed(&self.name).await?;
        let target = &canary.spec.target_ref.name;
        let live = live_revision(at, &canary)
            .await?
            .with_context(|| format!("Deployment {target} does not exist: there is nothing to undo"))?;
        let revision = choose(&canary, &live, self.to_revision.as_deref()).map_err(anyhow::Error::msg)?;
        let shown = view::short(Some(&revision));
        let snapshots = at.snapshots(&self.name).await?;
        let template = stored_template(&snapshots, &canary, &revision)?;
        let object = at.deployment(target).await?.with_context(|| format!("Deployment {target} is gone"))?;
        let unchanged =
            |pointer: &str| json!({"op": "test", "path": pointer, "value": object.pointer(pointer)});
        let patch = json!([
            unchanged("/metadata/uid"),
            unchanged("/metadata/generation"),
            {"op": "replace", "path": "/spec/template", "value": template},
        ]);
        let uri = format!(
            "/apis/apps/v1/namespaces/{}/deployments/{target}?fieldManager={FIELD_MANAGER}",
            at.namespace
        );
        at.send(http::Method::PATCH, &uri, "application/json-patch+json", &patch).await?;
        out.line(&format!(
            "deployment {target} has revision {shown} again; follow it: kubectl sidetrack status {} -n {} --wait",
            self.name, at.namespace
        ))?;
        if let Some(line) = undone_by(&object, &at.namespace) {
            out.line(&line)?;
        }
        Ok(DONE)
    }
}

/// Who applies the Deployment again as Git or a chart has it, by the marks that they leave, and how to keep them from it.
fn undone_by(target: &Value, namespace: &str) -> Option<String> {
    const KEEP: &str = "until Git is reverted, keep it from that";
    let of = |part: &str, key: &str| target.pointer(part)?.get(key)?.as_str();
    let (label, annotation) =
        (|key: &str| of("/metadata/labels", key), |key: &str| of("/metadata/annotations", key));
    let flux = |kind: &str, group: &str| {
        let name = label(&format!("{group}.toolkit.fluxcd.io/name"))?;
        let of = label(&format!("{group}.toolkit.fluxcd.io/namespace")).unwrap_or(namespace);
        let kind_name = if kind == "kustomization" { "Kustomization" } else { "HelmRelease" };
        Some((format!("Flux ({kind_name} {of}/{name})"), KEEP, format!("flux suspend {kind} {name} -n {of}")))
    };
    let argo = || {
        let application = annotation("argocd.argoproj.io/tracking-id")?.split(':').next()?;
        Some((
            format!("Argo CD (Application {application})"),
            KEEP,
            format!("argocd app set {application} --sync-policy none"),
        ))
    };
    let helm = || {
        let release = annotation("meta.helm.sh/release-name")?;
        let of = annotation("meta.helm.sh/release-namespace").unwrap_or(namespace);
        let undo = format!("helm rollback {release} -n {of}");
        Some((format!("helm upgrade (release {of}/{release})"), "use instead", undo))
    };
    let found = flux("kustomization", "kustomize")
        .or_else(|| flux("helmrelease", "helm"))
        .or_else(argo)
        .or_else(helm);
    let (who, what, how) = found?;
    Some(format!("{who} applies its own revision again at its next turn; {what}: {how}"))
}

/// Chooses the revision to go back to.
fn choose(canary: &Canary, live: &str, asked: Option<&str>) -> Result<String, String> {
    let status = view::status(canary);
    let promoted: Vec<&str> = status
        .history
        .iter()
        .rev()
        .filter(|past| past.outcome != Outcome::Rejected)
        .map(|past| past.revision.as_str())
        .collect();
    let primary = status.revisions.primary.as_deref();
    let name = view::name(canary);
    let history = view::pasted(&format!("kubectl sidetrack history {name}"), canary);
    let none = || format!("no other revision of {name} was promoted; see {history}");
    let found = match asked {
        Some(asked) => {
            let all = promoted.iter().copied().chain(primary);
            view::one_of(all, asked)?
                .ok_or_else(|| format!("{asked} is no revision of {name} that was promoted; see {history}"))?
        }
        None if primary.is_some_and(|primary| primary != live) => primary.ok_or_else(none)?,
        None => promoted.iter().copied().find(|revision| *revision != live).ok_or_else(none)?,
    };
    if found == live {
        return Err(format!(
            "{} has revision {} already",
            canary.spec.target_ref.name,
            view::short(Some(live))
        ));
    }
    Ok(found.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary(primary: &str, promoted: &[&str]) -> Canary {
        let history: Vec<Value> =
            promoted.iter().map(|r| json!({"revision": r, "outcome": "Promoted"})).collect();
        serde_json::from_value(json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "app"},
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                "service": {"port": 80}, "analysis": {}},
            "status": {"phase": "Succeeded", "revisions": {"primary": primary}, "history": history},
        }))
        .unwrap()
    }

    #[test]
    fn who_will_undo_an_undo_is_told_by_the_marks_on_the_deployment() {
        let said = |metadata: Value| undone_by(&json!({"metadata": metadata}), "shop").unwrap_or_default();
        let flux = json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}});
        assert_eq!(
            said(flux),
            "Flux (Kustomization flux-system/apps) applies its own revision again at its next turn; until Git is reverted, keep it from \
             that: flux suspend kustomization apps -n flux-system"
        );
        let helm_controller = json!({
            "labels": {"helm.toolkit.fluxcd.io/name": "app", "helm.toolkit.fluxcd.io/namespace": "shop"},
            "annotations": {"meta.helm.sh/release-name": "app"},
        });
        assert!(said(helm_controller).ends_with("flux suspend helmrelease app -n shop"));
        let argo =
            json!({"annotations": {"argocd.argoproj.io/tracking-id": "store:apps/Deployment:shop/app"}});
        assert!(said(argo).ends_with("argocd app set store --sync-policy none"));
        let helm = json!({"annotations": {"meta.helm.sh/release-name": "app", "meta.helm.sh/release-namespace": "shop"}});
        assert!(said(helm).ends_with("use instead: helm rollback app -n shop"));
        assert_eq!(said(json!({"labels": {"app": "app"}})), "");
    }

    #[test]
    fn undo_goes_to_the_primarys_revision_or_to_the_promoted_one_before() {
        let app = canary("bbbb", &["aaaa", "bbbb"]);
        assert_eq!(choose(&app, "cccc", None).as_deref(), Ok("bbbb"));
        assert_eq!(choose(&app, "bbbb", None).as_deref(), Ok("aaaa"));
        assert_eq!(choose(&app, "bbbb", Some("aaaa")).as_deref(), Ok("aaaa"));
        assert!(choose(&app, "bbbb", Some("bbbb")).unwrap_err().contains("already"));
        assert!(choose(&app, "bbbb", Some("cccc")).unwrap_err().contains("is no revision"));
        assert!(choose(&canary("aaaa", &["aaaa"]), "aaaa", None).unwrap_err().contains("no other revision"));
    }
}
