//! What adopting would do, before anything is touched: for one application, or for all that a policy selects.

use super::connection::Connection;
use super::{DONE, Out, canary_name};
use crate::check::adoption::{Looks, Selected, changes, is_adopted};
use crate::object::Kind;
use crate::object::text;
use crate::rollout::preview::Preview;
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Exit code: something would be refused.
const REFUSED: u8 = 1;

/// Says what adopting would do.
///
/// Nothing is changed. Each object that would be made, edited, scaled, restarted or deleted is listed, or why the application
/// would be left alone. The exit code is 1 when one would be.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Adopt {
    /// The Canary.
    #[arg(required_unless_present_any = ["file", "policy"], conflicts_with_all = ["file", "policy"], value_parser = canary_name)]
    name: Option<String>,
    /// A file with Canaries that are not applied yet.
    #[arg(long, short, value_name = "FILE", conflicts_with = "policy")]
    file: Option<PathBuf>,
    /// Everything that this CanaryPolicy selects, as if it had `mode: enforce`.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
}

impl Adopt {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        let mut looks = Looks::new(at.client.clone(), at.config().await);
        let selected = match (&self.name, &self.file, &self.policy) {
            (_, Some(file), _) => {
                let mut canaries = from_file(file, &at.namespace)?;
                for canary in &mut canaries {
                    as_applied(at, canary).await?;
                }
                only(canaries)
            }
            (_, _, Some(policy)) => looks.of_policy(policy).await?,
            (Some(name), ..) => only(vec![at.canary(name).await?]),
            (None, None, None) => bail!("name a Canary, or give --file or --policy"),
        };
        let refused = tell(&mut looks, &selected, out).await?;
        out.line("Nothing was changed.")?;
        Ok(if refused > 0 { REFUSED } else { DONE })
    }
}

/// Prints what adopting would do to each application, and returns how many would be left alone.
pub(super) async fn tell(looks: &mut Looks, selected: &Selected, out: &mut Out<'_>) -> anyhow::Result<usize> {
    let mut refused = 0;
    for canary in &selected.canaries {
        let seen = looks.at(canary).await?;
        refused += usize::from(!seen.refusals.is_empty());
        for line in lines(canary, &seen) {
            out.line(&line)?;
        }
    }
    for other in &selected.others {
        out.line(other)?;
    }
    let all = selected.canaries.len();
    if all != 1 {
        out.line(&format!("{} would be adopted or are already, {refused} left alone.", all - refused))?;
    }
    Ok(refused)
}

pub(super) const fn only(canaries: Vec<Value>) -> Selected {
    Selected { canaries, others: Vec::new() }
}

/// What is said about one application.
fn lines(canary: &Value, seen: &Preview) -> Vec<String> {
    let (namespace, name) = (text(canary, "/metadata/namespace"), text(canary, "/metadata/name"));
    let target = text(canary, "/spec/targetRef/name");
    let of = format!("{namespace}/{name}: Deployment {target}, layout {}", seen.layout);
    let mut lines = Vec::new();
    let mut list = |what: &str, all: &[String]| {
        lines.push(format!("{of}{what}"));
        lines.extend(all.iter().map(|one| format!("  {one}")));
    };
    if is_adopted(canary) {
        // What came to be in the way since is worth knowing.
        match seen.refusals.as_slice() {
            [] => list(" is adopted.", &[]),
            since => list(" is adopted, and is not released any more:", since),
        }
    } else if !seen.refusals.is_empty() {
        list(" would be left alone, nothing is touched:", &seen.refusals);
    } else {
        let changes = changes(seen);
        let what = if changes.is_empty() { ": nothing would be changed." } else { " would be adopted:" };
        list(what, &changes);
    }
    lines.extend(seen.warnings.iter().map(|warning| format!("  Note: {warning}")));
    lines
}

/// Makes of a manifest what applying it would store: what is applied already keeps its identity, its finalizers and its status.
async fn as_applied(at: &Connection, canary: &mut Value) -> anyhow::Result<()> {
    let (namespace, name) = (text(canary, "/metadata/namespace"), text(canary, "/metadata/name"));
    let Some(live) = at.read(&Connection::uri_of(namespace, name)).await? else { return Ok(()) };
    let at = |pointer: &str| live.pointer(pointer).cloned().unwrap_or_default();
    let stored = json!({
        "metadata": {
            "uid": at("/metadata/uid"),
            "resourceVersion": at("/metadata/resourceVersion"),
            "generation": at("/metadata/generation"),
            "creationTimestamp": at("/metadata/creationTimestamp"),
            "finalizers": at("/metadata/finalizers"),
        },
        "status": at("/status"),
    });
    json_patch::merge(canary, &stored);
    Ok(())
}

/// The Canaries of a file, in their namespaces.
fn from_file(file: &PathBuf, namespace: &str) -> anyhow::Result<Vec<Value>> {
    let read = std::fs::read_to_string(file);
    let manifests = read.with_context(|| format!("{} cannot be read", file.display()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&manifests).with_context(|| format!("{} is no YAML", file.display()))?;
    let mut canaries: Vec<Value> =
        documents.into_iter().filter(|object| text(object, "/kind") == Kind::Canary.as_str()).collect();
    if canaries.is_empty() {
        bail!("{} has no Canary", file.display());
    }
    for canary in &mut canaries {
        if text(canary, "/metadata/namespace").is_empty() {
            json_patch::merge(canary, &json!({"metadata": {"namespace": namespace}}));
        }
    }
    Ok(canaries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectRef;
    use crate::rollout::preview::Change;

    fn canary(phase: &str) -> Value {
        json!({"metadata": {"namespace": "shop", "name": "app"}, "spec": {"targetRef": {"name": "web"}}, "status": {"phase": phase}})
    }

    #[test]
    fn each_application_is_told_of_in_its_own_lines() {
        let seen = Preview {
            layout: "primary-copy",
            changes: vec![
                (ObjectRef::new(Kind::Deployment, "shop", "web"), Change::Scale(2, 0)),
                (ObjectRef::new(Kind::Service, "shop", "web"), Change::Edit(vec!["spec.selector".into()])),
            ],
            warnings: vec!["PodMonitor web scrapes no pods of web-primary.".into()],
            ..Preview::default()
        };
        assert_eq!(
            lines(&canary(""), &seen),
            [
                "shop/app: Deployment web, layout primary-copy would be adopted:",
                "  Deployment web is scaled from 2 to 0 pods",
                "  Service web is edited: spec.selector",
                "  Note: PodMonitor web scrapes no pods of web-primary.",
            ]
        );
        let refused = Preview { refusals: vec!["Deployment web-primary exists.".into()], ..seen.clone() };
        assert_eq!(
            lines(&canary("Initializing"), &refused)[..2],
            [
                "shop/app: Deployment web, layout primary-copy would be left alone, nothing is touched:"
                    .to_owned(),
                "  Deployment web-primary exists.".to_owned(),
            ]
        );
        assert_eq!(
            lines(&canary("Succeeded"), &seen)[0],
            "shop/app: Deployment web, layout primary-copy is adopted."
        );
    }
}
