//! `sidetrack check`: looks at a cluster as a careful operator would, and says what to do.
//!
//! [`gather`] asks the API server for [`facts`]; [`findings`] makes sentences of them and knows nothing else.

pub mod adoption;
mod applications;
pub mod compare;
pub mod facts;
pub mod finding;
pub mod gather;
mod installation;
mod metrics_servers;
mod pre;
mod webhook;

use crate::clock;
use crate::kubernetes::client;
use anyhow::{Context as _, bail};
use facts::Facts;
use finding::{Finding, Level};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Looks at a cluster: is Sidetrack installed as it should be, and does it serve every Canary?
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// A kubeconfig file; none means $KUBECONFIG, then ~/.kube/config, then the pod's ServiceAccount.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig other than its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The only namespace whose Canaries are looked at.
    #[arg(long, short, value_name = "NAME")]
    pub namespace: Option<String>,
    /// How to look.
    #[command(flatten)]
    pub look: Look,
}

/// What is looked at, and how findings are printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Look {
    /// Look before an installation: is the cluster new enough, may you install, and what is there already?
    #[arg(long)]
    pub pre: bool,
    /// How findings are printed.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// Errors and warnings, a line each.
    Short,
    /// For programs.
    Json,
}

impl Check {
    /// Looks, and prints what it finds to `stdout`.
    ///
    /// # Errors
    /// When the API server cannot be reached, and when a finding is an error.
    pub async fn run(&self, stdout: &mut impl Write) -> anyhow::Result<()> {
        let settings = client::Settings {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            ..client::Settings::default()
        };
        run(&settings, self.namespace.as_deref(), self.look, stdout).await
    }
}

/// Looks at a cluster, or what one namespace of it has to do with, and prints what it finds to `stdout`.
///
/// # Errors
/// As [`Check::run`].
pub async fn run(
    settings: &client::Settings,
    namespace: Option<&str>,
    look: Look,
    stdout: &mut impl Write,
) -> anyhow::Result<()> {
    let client = client::connect(settings).await?;
    let mut facts = gather::gather(client.clone(), clock::now()).await?;
    if let Some(namespace) = namespace {
        facts.keep_namespace(namespace);
    }
    let findings = if look.pre {
        pre::findings(&facts, &gather::rights_to_install(client).await?)
    } else {
        findings(&facts)
    };
    let printed = match look.output {
        Output::Text => text(&findings),
        Output::Short => short(&findings),
        Output::Json => format!("{:#}\n", json!({"findings": findings})),
    };
    stdout.write_all(printed.as_bytes()).context("printing the findings")?;
    match count(&findings, Level::Error) {
        0 => Ok(()),
        1 => bail!("one error was found"),
        errors => bail!("{errors} errors were found"),
    }
}

/// Returns what the facts amount to: first the installation, then the applications.
#[must_use]
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = installation::findings(facts);
    found.extend(applications::findings(facts));
    found.extend(metrics_servers::findings(facts));
    found
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn line(finding: &Finding) -> String {
    format!("{:<8} {}", finding.level.as_str(), finding.what)
}

/// Prints what is amiss, a line each.
fn short(findings: &[Finding]) -> String {
    findings
        .iter()
        .filter(|finding| finding.level >= Level::Warning)
        .map(|finding| line(finding) + "\n")
        .collect()
}

/// Prints findings for people: a column for the level, reasons and advice below.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    // The same of many Canaries is explained once.
    for alike in findings
        .chunk_by(|one, next| (one.level, &one.why, &one.action) == (next.level, &next.why, &next.action))
    {
        lines.extend(alike.iter().map(line));
        let Some(finding) = alike.first() else { continue };
        for (label, text) in [("why", &finding.why), ("do", &finding.action)] {
            if !text.is_empty() {
                lines.push(format!("{:<8}   {label:<4} {text}", ""));
            }
        }
    }
    let counts = [Level::Error, Level::Warning, Level::Info, Level::Ok]
        .map(|level| format!("{} {}", count(findings, level), level.as_str()));
    lines.push(String::new());
    lines.push(counts.join(", "));
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests;
