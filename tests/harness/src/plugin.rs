//! `kubectl sidetrack` as people type it.

use crate::World;
use crate::objects::PERSON;
use anyhow::{Context as _, Result};
use tokio::process::Command;

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl World {
    /// A command of the plugin, as a person; about the whole cluster where the namespace is empty.
    pub fn plugin_command(&self, namespace: &str, args: &[&str]) -> Command {
        let mut command = Command::new(crate::binary("kubectl-sidetrack"));
        if !namespace.is_empty() {
            command.arg("-n").arg(namespace);
        }
        command.args(args).env("KUBECONFIG", self.cp.kubeconfig(PERSON)).kill_on_drop(true);
        command
    }

    /// Runs the plugin. What it prints is shown with the test's own output.
    pub async fn plugin(&self, namespace: &str, args: &[&str]) -> Result<Said> {
        let output = self.plugin_command(namespace, args).output().await.context("running the plugin")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        let said = Said { code, out: text(output.stdout), err: text(output.stderr) };
        println!("$ kubectl sidetrack {}\n{}{}[{code}]\n", args.join(" "), said.out, said.err);
        Ok(said)
    }
}
