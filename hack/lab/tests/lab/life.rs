//! The lab itself: what it leaves behind.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lab::Lab;

use crate::stage::until;

/// A second lab, with a command that would run for minutes and a child that has left its process group; its owner is killed.
pub(crate) async fn owner_killed(_lab: Arc<Lab>) -> Result<String> {
    let script = "setsid sleep 600 & sleep 600";
    let mut owner = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["up", "--with", "gateway", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(owner.stderr.take().context("no output")?).lines();
    let up = tokio::task::spawn_blocking(move || {
        lines.by_ref().map_while(Result::ok).find(|l| l.contains("up in"))
    });
    ensure!(up.await?.is_some(), "the second lab did not come up");
    let namespace = std::fs::read_link(format!("/proc/{}/ns/net", owner.id()))?;
    ensure!(namespace != std::fs::read_link("/proc/self/ns/net")?, "it has no namespace of its own");
    let before = until("the command runs", async || {
        let all = inside(&namespace);
        Ok((all.len() > 10).then_some(all.len()))
    })
    .await?;
    owner.kill()?;
    owner.wait()?;
    until("nobody is left in its namespace", async || Ok(inside(&namespace).is_empty().then_some(())))
        .await?;
    Ok(format!("each of {before} processes is gone, and the namespace with them"))
}

/// The processes in a network namespace.
fn inside(namespace: &PathBuf) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| std::fs::read_link(path.join("ns/net")).is_ok_and(|of| of == *namespace)).collect()
}
