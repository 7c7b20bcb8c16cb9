//! What people type.

pub mod run;

use crate::check::Check;
use crate::install::Manifests;
use clap::{Parser, Subcommand};
use std::ffi::OsString;

/// Progressive delivery for Kubernetes: new pod templates are held on their way in, released as a canary, analysed, and
/// promoted or rolled back.
#[derive(Debug, Parser)]
#[command(name = "sidetrack", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller and the admission webhook.
    Run(Box<run::RunArgs>),
    /// Print the manifests of an installation.
    Manifests(Manifests),
    /// Look at a cluster: is Sidetrack installed as it should be, and does it serve every Canary?
    Check(Check),
}

impl Cli {
    /// Reads the command line. Flags may be written with one dash, as Flagger's are (`-mesh-provider=istio`).
    #[must_use]
    pub fn from_args() -> Self {
        Self::parse_from(std::env::args_os().map(two_dashes))
    }

    /// Does what was asked.
    ///
    /// # Errors
    ///
    /// For the person who typed it: what failed, why, and what to do.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(args) => {
                tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run::run(*args))
            }
            Command::Check(check) => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(check.run(&mut std::io::stdout())),
            Command::Manifests(manifests) => manifests.run(&mut std::io::stdout()),
        }
    }
}

/// Turns `-flag` into `--flag`; single letters, numbers and `-` stay.
fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text)
            if text.starts_with('-')
                && !text.starts_with("--")
                && text.chars().nth(1).is_some_and(|c| c.is_ascii_alphabetic())
                && text.chars().nth(2).is_some_and(|c| c.is_ascii_alphabetic()) =>
        {
            OsString::from(format!("-{text}"))
        }
        _ => arg,
    }
}

/// Reads a duration such as `10s` or `1m30s`, for flags.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    crate::go::parse_duration(text)
        .ok()
        .ok_or_else(|| format!("{text:?} is no duration: write it like 10s or 1m30s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_flagger_are_understood_as_they_are_written() {
        let args = ["sidetrack", "run", "-mesh-provider=gatewayapi:v1", "-metrics-server", "http://p:9090"];
        let cli = Cli::try_parse_from(args.map(OsString::from).map(two_dashes)).unwrap();
        let Command::Run(run) = cli.command else { panic!("another command") };
        assert_eq!(run.mesh_provider, "gatewayapi:v1");
        assert_eq!(run.metrics_server, "http://p:9090");
    }

    #[test]
    fn short_flags_stay() {
        assert_eq!(two_dashes("-h".into()), "-h");
        assert_eq!(two_dashes("--out".into()), "--out");
        assert_eq!(two_dashes("-".into()), "-");
    }
}
