//! What only looks: `get`, `status`, `tree`.

use super::connection::Connection;
use super::progress::{Verdict, judge, line, object as object_line};
use super::screen::{Cell, Colour, Widths};
use super::tree::draw;
use super::{DONE, Out, adopt, canary_name, duration, view};
use crate::api::Canary;
use crate::api::canary_policy::Mode;
use crate::api::revision::Revision;
use crate::check::adoption::{Looks, is_adopted};
use crate::clock;
use crate::object::text;
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Time between two looks while something is waited for.
const PAUSE: Duration = Duration::from_millis(500);

/// One Canary by its name.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Name {
    /// The Canary.
    #[arg(value_parser = canary_name)]
    pub(crate) name: String,
}

/// Lists Canaries.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Get {
    /// A Canary; without one, all of the namespace.
    #[arg(value_parser = canary_name)]
    name: Option<String>,
    /// Those of every namespace.
    #[arg(long, short = 'A', conflicts_with = "name")]
    all_namespaces: bool,
    /// Those with these labels, such as team=checkout.
    #[arg(long, short = 'l', default_value = "", value_name = "LABELS", conflicts_with = "name")]
    selector: String,
    /// How they are printed; without it, a table.
    #[arg(long, short, value_enum)]
    output: Option<Format>,
    /// Go on, with a line (or, with -o json and yaml, an object) for each change.
    #[arg(long, short)]
    watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Wide,
    Json,
    Yaml,
    /// canary.flagger.app/NAME, a line each.
    Name,
}

impl Get {
    async fn read(&self, at: &Connection) -> anyhow::Result<Vec<Value>> {
        match &self.name {
            Some(name) => Ok(vec![at.canary(name).await?]),
            None => at.canaries(self.all_namespaces, &self.selector).await,
        }
    }

    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        // Whoever asks for all columns gets all of them, however wide the terminal is.
        if self.output == Some(Format::Wide) {
            out.screen.width = None;
        }
        let found = self.read(at).await?;
        if found.is_empty() && !self.watch {
            let within = if self.all_namespaces {
                "any namespace".into()
            } else {
                format!("namespace {}", at.namespace)
            };
            let which =
                if self.selector.is_empty() { String::new() } else { format!(" with {}", self.selector) };
            eprintln!("There is no Canary{which} in {within}.");
            return Ok(DONE);
        }
        let mut widths = Widths::default();
        match self.output {
            Some(Format::Json) if !self.watch => out.text(&format!("{:#}\n", self.whole(found.clone())))?,
            Some(Format::Yaml) if !self.watch => {
                out.text(&serde_saphyr::to_string(&self.whole(found.clone()))?)?
            }
            Some(Format::Json | Format::Yaml | Format::Name) => self.print(out, &found, &[], &mut widths)?,
            None | Some(Format::Wide) => {
                let headings = view::headings(self.all_namespaces, self.output == Some(Format::Wide));
                let rows: Vec<_> = std::iter::once(headings).chain(self.rows(&found)?).collect();
                out.text(&widths.lay_out(out.screen, &rows))?;
            }
        }
        if self.watch {
            self.follow(at, out, found, widths).await?;
        }
        Ok(DONE)
    }

    /// Prints what changed and what is gone: a row each, or as kubectl does, one object after the other; of these the last
    /// state before the deletion, with its `deletionTimestamp`, has been printed already.
    fn print(
        &self,
        out: &mut Out<'_>,
        changed: &[Value],
        gone: &[Value],
        widths: &mut Widths,
    ) -> anyhow::Result<()> {
        match self.output {
            Some(Format::Json) => changed.iter().try_for_each(|object| out.text(&format!("{object:#}\n"))),
            Some(Format::Yaml) => changed.iter().try_for_each(|object| {
                let text = serde_saphyr::to_string(object)?;
                out.text(&format!("---\n{}\n", text.trim_end()))
            }),
            Some(Format::Name) => changed.iter().try_for_each(|object| {
                out.line(&format!("canary.flagger.app/{}", text(object, "/metadata/name")))
            }),
            None | Some(Format::Wide) => {
                let mut rows = self.rows(changed)?;
                for mut row in self.rows(gone)? {
                    if let Some(phase) = row.get_mut(1 + usize::from(self.all_namespaces)) {
                        *phase = Cell::painted("Deleted", Colour::Bad);
                    }
                    rows.push(row);
                }
                out.text(&widths.lay_out(out.screen, &rows))
            }
        }
    }

    fn rows(&self, found: &[Value]) -> anyhow::Result<Vec<Vec<Cell>>> {
        let wide = self.output == Some(Format::Wide);
        let row = |canary: &Value| {
            let canary: Canary = serde_json::from_value(canary.clone())?;
            anyhow::Ok(view::row(&canary, self.all_namespaces, wide, clock::now()))
        };
        found.iter().map(row).collect()
    }

    /// A single object as it is, several as a list.
    fn whole(&self, mut found: Vec<Value>) -> Value {
        match (&self.name, found.pop()) {
            (Some(_), Some(only)) => only,
            (_, last) => {
                found.extend(last);
                json!({"apiVersion": "v1", "kind": "List", "items": found})
            }
        }
    }

    async fn follow(
        &self,
        at: &Connection,
        out: &mut Out<'_>,
        mut before: Vec<Value>,
        mut widths: Widths,
    ) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(PAUSE).await;
            let now = match &self.name {
                // It was there: that it is not any more is news, and no error.
                Some(name) => at.read(&at.uri_of_canary(name)).await?.into_iter().collect(),
                None => at.canaries(self.all_namespaces, &self.selector).await?,
            };
            let missing = |of: &[Value], one: &Value, pointers: &[&str]| {
                !of.iter().any(|other| pointers.iter().all(|p| one.pointer(p) == other.pointer(p)))
            };
            let new = |c: &&Value| missing(&before, c, &["/metadata/uid", "/metadata/resourceVersion"]);
            let changed: Vec<Value> = now.iter().filter(new).cloned().collect();
            let gone: Vec<Value> =
                before.iter().filter(|c| missing(&now, c, &["/metadata/uid"])).cloned().collect();
            self.print(out, &changed, &gone, &mut widths)?;
            before = now;
        }
    }
}

/// Says what became of a revision, or how a policy stands.
///
/// Of what is not adopted, a new Canary or all that a policy in mode audit selects, it says what adopting would do.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Exit codes of a revision, for pipelines:
  0  promoted: the primary is ready on the revision
  1  an error; 2 the command line makes no sense
  3  rejected: it was rolled back
  4  not decided yet, or not in time
  5  another revision took its place")]
pub(crate) struct Status {
    /// The Canary.
    #[arg(required_unless_present = "policy", value_parser = canary_name)]
    name: Option<String>,
    /// A CanaryPolicy instead.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["name", "revision", "wait"])]
    policy: Option<String>,
    /// The revision, its first digits; without it, the one that the target has now.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// How it is printed: as a line, or as an object for each line, with the verdict in words and as its exit code.
    #[arg(long, short, value_enum, conflicts_with = "policy")]
    output: Option<Lines>,
    /// Wait until it is promoted or rejected, with a line for each change.
    #[arg(long, short)]
    wait: bool,
    /// How long to wait at most.
    #[arg(long, default_value = "30m", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Lines {
    Json,
}

impl Status {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        match (&self.name, &self.policy) {
            (Some(name), _) => self.of_canary(name, at, out).await,
            (None, Some(policy)) => of_policy(policy, at, out).await,
            (None, None) => bail!("name a Canary, or give --policy"),
        }
    }

    async fn of_canary(&self, name: &str, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        let end = Instant::now().checked_add(self.timeout);
        let canary = at.typed(name).await?;
        let live = live_revision(at, &canary).await?;
        let revision = match &self.revision {
            Some(asked) => whole(&canary, live.as_deref(), asked)?,
            None => live.with_context(|| {
                format!(
                    "Deployment {} does not exist: apply it, or name a revision",
                    canary.spec.target_ref.name
                )
            })?,
        };
        let mut last = String::new();
        loop {
            let object = at.canary(name).await?;
            let canary: Canary = serde_json::from_value(object.clone())?;
            let live = live_revision(at, &canary).await?;
            let verdict = judge(&canary, &revision, live.as_deref());
            let now = match self.output {
                None => line(&canary, &revision, verdict),
                Some(Lines::Json) => object_line(&canary, &revision, verdict).to_string(),
            };
            if now != last {
                out.line(&now)?;
                last = now;
            }
            // What it leaves alone it decides nothing about, however long one waits.
            let alone = crate::rollout::leaves_alone(&view::status(&canary)).is_some();
            if verdict != Verdict::Open || !self.wait || alone {
                if !is_adopted(&object) && self.output.is_none() {
                    let mut looks = Looks::new(at.client.clone(), at.config().await);
                    adopt::tell(&mut looks, &adopt::only(vec![object]), out).await?;
                }
                return Ok(verdict.code());
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                eprintln!(
                    "not decided in time; go on with kubectl sidetrack status {name} -n {} --wait",
                    at.namespace
                );
                return Ok(verdict.code());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Says how a policy stands; if it only audits, with what it would do.
async fn of_policy(name: &str, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
    let mut looks = Looks::new(at.client.clone(), at.config().await);
    let policy = looks.policy(name).await?;
    for line in view::policy(&policy) {
        out.line(&line)?;
    }
    if policy.spec.mode == Mode::Audit {
        let selected = looks.of_policy(name).await?;
        adopt::tell(&mut looks, &selected, out).await?;
    }
    Ok(DONE)
}

/// The revision that the target has now.
pub(crate) async fn live_revision(at: &Connection, canary: &Canary) -> anyhow::Result<Option<String>> {
    let target = at.deployment(&canary.spec.target_ref.name).await?;
    Ok(target.and_then(|t| t.pointer("/spec/template").map(Revision::of)).map(|r| r.as_str().to_owned()))
}

/// The whole hash of a revision that was named by its first digits.
fn whole(canary: &Canary, live: Option<&str>, asked: &str) -> anyhow::Result<String> {
    let status = view::status(canary);
    let revisions = &status.revisions;
    let known =
        [live, revisions.primary.as_deref(), revisions.analysed.as_deref(), revisions.failed.as_deref()];
    let past = status.history.iter().map(|past| past.revision.as_str());
    let known: Vec<&str> = known.into_iter().flatten().chain(past).collect();
    let found = view::one_of(known.iter().copied(), asked).map_err(anyhow::Error::msg)?;
    let names = || known.iter().map(|r| view::short(Some(r))).collect::<std::collections::BTreeSet<_>>();
    let found = found.with_context(|| {
        let names = names().into_iter().collect::<Vec<_>>().join(", ");
        format!("Canary {} knows of no revision {asked}; it knows {names}", view::name(canary))
    })?;
    Ok(found.to_owned())
}

/// Shows a release.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TreeArgs {
    /// The Canary.
    #[arg(value_parser = canary_name)]
    name: String,
}

impl TreeArgs {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        let tree = at.tree(&self.name).await?;
        out.text(&draw(out.screen, &tree, clock::now()))?;
        Ok(DONE)
    }
}
