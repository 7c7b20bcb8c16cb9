//! Commands as the documentation has them.

use crate::World;
use anyhow::{Context as _, Result};
use std::path::Path;

impl World {
    /// Runs the shell blocks below a heading of a page, in order, for a namespace in place of `shop`; returns what was said.
    pub async fn as_documented(&self, page: &str, heading: &str, namespace: &str) -> Result<String> {
        self.typed(page, heading, namespace, usize::MAX).await
    }

    /// The same of the first block only.
    pub async fn as_documented_once(&self, page: &str, heading: &str, namespace: &str) -> Result<String> {
        self.typed(page, heading, namespace, 1).await
    }

    async fn typed(&self, page: &str, heading: &str, namespace: &str, most: usize) -> Result<String> {
        let path = crate::root().join("docs").join(page);
        let text = std::fs::read_to_string(path)?;
        let (_, below) = text.split_once(&format!("## {heading}\n")).context("no such heading")?;
        let below = below.split("\n## ").next().unwrap_or_default();
        let blocks = below.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
        let script = blocks.take(most).collect::<String>().replace("-n shop", &format!("-n {namespace}"));
        let kubectl = self.cp.kubectl(&[] as &[&str]);
        let program = Path::new(kubectl.as_std().get_program());
        let tools = program.parent().context("kubectl stands nowhere")?.display().to_string();
        let plugin = crate::binary("kubectl-sidetrack");
        let plugin = plugin.parent().context("the plugin stands nowhere")?.display();
        let path = format!("{plugin}:{tools}:{}", std::env::var("PATH").unwrap_or_default());
        let mut shell = tokio::process::Command::new("sh");
        shell.arg("-c").arg(&script).env("PATH", path);
        for (name, value) in kubectl.as_std().get_envs() {
            if let Some(value) = value.filter(|_| name != "PATH") {
                shell.env(name, value);
            }
        }
        let output = shell.output().await?;
        let said = [output.stdout, output.stderr].concat();
        let said = format!("{script}\n{}", String::from_utf8_lossy(&said));
        println!("{said}");
        Ok(said)
    }
}
