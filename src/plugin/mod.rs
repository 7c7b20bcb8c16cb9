//! `kubectl sidetrack`: looks at releases and steers them, as the person whose kubeconfig it is.
//!
//! [`connection`] reads and writes; [`view`], [`tree`], [`progress`] and [`history`] make lines of what was read and know
//! nothing else; [`screen`] knows colours and widths.

mod adopt;
mod ask;
mod complete;
pub mod connection;
mod diff;
mod events;
pub mod history;
mod look;
mod migrate;
pub mod pace;
pub mod progress;
pub mod screen;
pub mod tree;
mod uninstall;
mod version;
pub mod view;
mod watch;

use crate::api::Verb;
use crate::check;
use crate::kubernetes::client::Settings;
use clap::{CommandFactory as _, Parser, Subcommand};
use connection::Connection;
use screen::Screen;
use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Looks at releases and steers them.
///
/// A verb (promote, abort, retry, skip, pause, resume, approve, restart) is a request on the Canary: it is answered in the
/// Canary's status, an Event says who asked for what, and re-applying the Canary from Git neither undoes nor repeats it.
#[derive(Debug, Parser)]
#[command(name = "kubectl-sidetrack", bin_name = "kubectl sidetrack", version)]
pub struct Cli {
    /// Namespace; none means the one of the kubeconfig's context.
    #[arg(long, short, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// A context of the kubeconfig other than its current one.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// A kubeconfig file; none means $KUBECONFIG, then ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A user to act as, as with kubectl: what may this person do?
    #[arg(long = "as", global = true, value_name = "USER")]
    act_as: Option<String>,
    /// A group to act as, beside --as; several times for several.
    #[arg(long = "as-group", global = true, value_name = "GROUP", requires = "act_as")]
    act_as_group: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List Canaries, or show one.
    Get(look::Get),
    /// Say what became of the revision that the target has now, and wait for it if asked to.
    Status(look::Status),
    /// Show a release with its Deployments, ReplicaSets, pods, checks and gates, and what it waits for.
    Tree(look::TreeArgs),
    /// Promote the revision now, past gates and the rest of the analysis, as soon as its pods are ready.
    Promote(ask::Ask),
    /// Roll the revision back as failed.
    Abort(ask::Ask),
    /// Release a rejected revision again.
    Retry(ask::Ask),
    /// Skip the rest of the analysis; gates are still asked.
    Skip(ask::Ask),
    /// Stay at the weight that is set. Pods that fail are still rolled back.
    Pause(ask::Ask),
    /// Go on with a paused release.
    Resume(ask::Ask),
    /// Open the gate (confirm-rollout, confirm-promotion) that waits.
    Approve(ask::Ask),
    /// Restart the primary's pods, same revision; also while a new revision is held, when kubectl cannot.
    Restart(ask::Ask),
    /// List what became of the revisions of a target.
    History(look::Name),
    /// Put a promoted revision back into the target.
    Undo(history::Undo),
    /// List what Sidetrack has said of a release in Events.
    Events(events::Events),
    /// Show what the target has against what the primary runs.
    Diff(look::Name),
    /// Watch a release full-screen, with a key for each verb.
    Watch(look::Name),
    /// Say what adopting an application, or all that a policy selects, would do; nothing is changed.
    Adopt(adopt::Adopt),
    /// Move over from Flagger: say what would be done, and do it with --yes.
    Migrate(migrate::Migrate),
    /// Leave: give every application back its traffic and remove Sidetrack; say what would be done, and do it with --yes.
    Uninstall(uninstall::Uninstall),
    /// Look at a cluster: is Sidetrack installed as it should be, and does it serve every Canary?
    Check(check::Look),
    /// Say which version this is, and which one the cluster runs.
    Version,
    /// Print a completion script.
    Completion {
        /// The shell that it is for, for who types kubectl-sidetrack; or kubectl, for who types kubectl sidetrack.
        shell: Completes,
    },
    /// Answer kubectl, which completes kubectl sidetrack by the script of `completion kubectl`.
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words so far, the last one being completed.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Who completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Completes {
    Bash,
    Elvish,
    Fish,
    #[value(name = "powershell")]
    PowerShell,
    Zsh,
    /// Print the executable that kubectl runs: `kubectl_complete-sidetrack`, to be put on the PATH.
    Kubectl,
}

impl Completes {
    const fn shell(self) -> Option<clap_complete::Shell> {
        use clap_complete::Shell;
        Some(match self {
            Self::Bash => Shell::Bash,
            Self::Elvish => Shell::Elvish,
            Self::Fish => Shell::Fish,
            Self::PowerShell => Shell::PowerShell,
            Self::Zsh => Shell::Zsh,
            Self::Kubectl => return None,
        })
    }
}

/// Where things are printed.
pub(crate) struct Out<'a> {
    stdout: &'a mut dyn Write,
    screen: Screen,
}

impl Out<'_> {
    /// Prints a text as it is.
    fn text(&mut self, text: &str) -> anyhow::Result<()> {
        self.stdout.write_all(text.as_bytes())?;
        Ok(self.stdout.flush()?)
    }

    /// Prints a line.
    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.text(&format!("{line}\n"))
    }
}

/// Exit code of what was done as asked.
const DONE: u8 = 0;

impl Cli {
    /// Does what was asked and returns the exit code. A pipe that nobody reads any more is no error.
    ///
    /// # Errors
    ///
    /// For the person who typed it: what failed, why, and what to do.
    pub fn execute(self, stdout: &mut impl Write) -> anyhow::Result<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut out = Out { stdout, screen: screen() };
        let done = runtime.block_on(self.run(&mut out));
        match done {
            Err(error) if is_closed_pipe(&error) => Ok(DONE),
            done => done,
        }
    }

    async fn run(self, out: &mut Out<'_>) -> anyhow::Result<u8> {
        let settings = Settings {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            act_as: self.act_as.clone(),
            act_as_groups: self.act_as_group.clone(),
        };
        match self.command {
            Command::Complete { words } => {
                return out.text(&complete::run(&words).await).map(|()| DONE);
            }
            Command::Completion { shell } => {
                let Some(shell) = shell.shell() else { return out.text(complete::SCRIPT).map(|()| DONE) };
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "kubectl-sidetrack", &mut script);
                return out.text(&String::from_utf8_lossy(&script)).map(|()| DONE);
            }
            Command::Check(look) => {
                return check::run(&settings, self.namespace.as_deref(), look, &mut out.stdout)
                    .await
                    .map(|()| DONE);
            }
            _ => {}
        }
        let at = Connection::new(&settings, self.namespace).await?;
        match self.command {
            Command::Get(get) => get.run(&at, out).await,
            Command::Status(status) => status.run(&at, out).await,
            Command::Tree(tree) => tree.run(&at, out).await,
            Command::Promote(ask) => ask.run(&at, out, Verb::Promote).await,
            Command::Abort(ask) => ask.run(&at, out, Verb::Abort).await,
            Command::Retry(ask) => ask.run(&at, out, Verb::Retry).await,
            Command::Skip(ask) => ask.run(&at, out, Verb::Skip).await,
            Command::Pause(ask) => ask.run(&at, out, Verb::Pause).await,
            Command::Resume(ask) => ask.run(&at, out, Verb::Resume).await,
            Command::Approve(ask) => ask.run(&at, out, Verb::Approve).await,
            Command::Restart(ask) => ask.run(&at, out, Verb::Restart).await,
            Command::History(name) => history::run(&name, &at, out).await,
            Command::Undo(undo) => undo.run(&at, out).await,
            Command::Events(events) => events.run(&at, out).await,
            Command::Version => version::run(&at, out).await,
            Command::Diff(name) => diff::run(&name, &at, out).await,
            Command::Watch(name) => watch::run(&name, &at).await,
            Command::Adopt(adopt) => adopt.run(&at, out).await,
            Command::Migrate(migrate) => migrate.run(&at, out).await,
            Command::Uninstall(uninstall) => uninstall.run(&at, out).await,
            Command::Check(_) | Command::Completion { .. } | Command::Complete { .. } => Ok(DONE),
        }
    }
}

/// What standard output is: colours and a width on a terminal only, and no colours where `NO_COLOR` asks for none
/// (no-color.org).
fn screen() -> Screen {
    if !std::io::stdout().is_terminal() {
        return Screen::PLAIN;
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let dumb = set("TERM").is_some_and(|term| term == "dumb");
    let width = crossterm::terminal::size().ok().map(|(width, _)| usize::from(width));
    Screen { colour: set("NO_COLOR").is_none() && !dumb, width: width.filter(|width| *width > 0) }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Reads the name of a Canary, also as kubectl prints it with its type.
fn canary_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        None => Ok(text.to_owned()),
        Some(("canary" | "canaries" | "canary.flagger.app" | "canaries.flagger.app", name))
            if !name.is_empty() =>
        {
            Ok(name.to_owned())
        }
        Some((kind, _)) => Err(format!("{kind} is no type of Canaries: write NAME or canary/NAME")),
    }
}

/// Reads a duration such as `90s` or `5m`, for flags.
fn duration(text: &str) -> Result<Duration, String> {
    crate::go::parse_duration(text)
        .ok()
        .ok_or_else(|| format!("{text:?} is no duration: write it like 90s or 5m"))
}

#[cfg(test)]
mod tests;
