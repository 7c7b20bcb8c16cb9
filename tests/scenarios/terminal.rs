//! The plugin on a real (pseudo-)terminal: colours, widths, the full screen and the way out of it.

use anyhow::{Context as _, Result, ensure};
use harness::objects::PERSON;
use harness::{World, deployment, eventually, initialized, shared, weight};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use serde_json::json;
use std::io::{Read as _, Write};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};

/// A terminal with the plugin on it.
struct Terminal {
    master: Box<dyn MasterPty + Send>,
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    /// What came, and what a person sees of it.
    seen: Arc<Mutex<(Vec<u8>, vt100::Parser)>>,
    before: String,
}

fn some(lines: u16) -> Result<NonZeroU16> {
    NonZeroU16::new(lines).context("a terminal without room")
}

impl Terminal {
    fn open(
        world: &World,
        ns: &str,
        (rows, cols): (u16, u16),
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let pty = native_pty_system().openpty(PtySize { rows, cols, pixel_width: 0, pixel_height: 0 })?;
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_kubectl-sidetrack"));
        command.args(["-n", ns]);
        command.args(args);
        command.env("KUBECONFIG", world.cp.kubeconfig(PERSON));
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        for (name, value) in env {
            command.env(name, value);
        }
        let before = format!("{:?}", pty.master.get_termios());
        let child = pty.slave.spawn_command(command)?;
        drop(pty.slave);
        let seen = Arc::new(Mutex::new((Vec::new(), vt100::Parser::new(some(rows)?, some(cols)?, 0))));
        let (mut reader, keys) = (pty.master.try_clone_reader()?, pty.master.take_writer()?);
        let sees = seen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let mut seen = sees.lock().unwrap_or_else(PoisonError::into_inner);
                let came = buffer.get(..count).unwrap_or_default();
                seen.0.extend_from_slice(came);
                seen.1.process(came);
            }
        });
        Ok(Self { master: pty.master, child, keys, seen, before })
    }

    fn screen(&self) -> vt100::Screen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1.screen().clone()
    }

    fn raw(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner).0).into_owned()
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    async fn until(&self, text: &str) -> Result<String> {
        let shown = eventually(text, async || {
            let shown = self.screen().contents();
            Ok(shown.contains(text).then_some(shown))
        });
        shown.await.with_context(|| self.screen().contents())
    }

    /// Waits for the end: exit code 0, and the terminal as it was.
    async fn left(mut self) -> Result<()> {
        let status = eventually("the end", async || Ok(self.child.try_wait()?)).await?;
        ensure!(status.exit_code() == 0, "{status:?}");
        eventually("the screen is given back", async || {
            let screen = self.screen();
            Ok((!screen.alternate_screen() && !screen.hide_cursor()).then_some(()))
        })
        .await?;
        let after = format!("{:?}", self.master.get_termios());
        ensure!(after == self.before, "the terminal is left as {after}, it was {}", self.before);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_watched_and_aborted_full_screen() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("watch", &json!({"analysis": {"interval": "5m"}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;

    let mut wide = Terminal::open(world, &ns, (50, 160), &["watch", "app"], &[])?;
    let shown = wide.until("q quit").await?;
    println!("{shown}");
    ensure!(
        shown.contains("applied by kustomize-controller flux") && shown.contains("Weight 25 set"),
        "{shown}"
    );
    ensure!(wide.screen().alternate_screen());
    wide.press("\u{3}")?;
    wide.left().await?;

    let mut narrow = Terminal::open(world, &ns, (24, 80), &["watch", "app"], &[])?;
    let shown = narrow.until("q quit").await?;
    println!("{shown}");
    ensure!(shown.contains("The canary is being analysed.") && shown.contains("Weight 25 set"), "{shown}");
    narrow.press("a")?;
    narrow.until("abort revision ").await?;
    narrow.press("n")?;
    eventually("the question is gone", async || {
        Ok((!narrow.screen().contents().contains("? y/n")).then_some(()))
    })
    .await?;
    narrow.press("a")?;
    narrow.until("? y/n").await?;
    narrow.press("y")?;
    let shown = narrow.until("held, rejected").await?;
    println!("{shown}");
    ensure!(shown.contains("Request abort"), "{shown}");
    narrow.press("q")?;
    narrow.left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_and_cut_lines_are_for_terminals() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("colours", &json!({})).await?;
    let green = "\u{1b}[32mInitialized\u{1b}[0m";
    let coloured = Terminal::open(world, &ns, (24, 80), &["get"], &[])?;
    coloured.until("Initialized").await?;
    let raw = coloured.raw();
    coloured.left().await?;
    ensure!(raw.contains(green), "{raw:?}");
    let plain = Terminal::open(world, &ns, (24, 60), &["get"], &[("NO_COLOR", "1")])?;
    plain.until("Initialized").await?;
    let raw = plain.raw();
    plain.left().await?;
    ensure!(!raw.contains('\u{1b}') && raw.lines().all(|line| line.chars().count() <= 60), "{raw:?}");
    let piped = world.plugin(&ns, &["get"]).await?;
    ensure!(!piped.out.contains('\u{1b}') && piped.out.contains("The primary runs revision"), "{piped:?}");
    // Nothing but a terminal can be watched full-screen.
    let refused = world.plugin(&ns, &["watch", "app"]).await?;
    ensure!(refused.code == 1 && refused.err.contains("needs a terminal"), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_exist_leaves_the_screen_alone() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("nobody").await?;
    let mut terminal = Terminal::open(world, &ns, (24, 80), &["watch", "app"], &[])?;
    terminal.until("there is no Canary").await?;
    let status = terminal.child.wait().context("waiting")?;
    ensure!(status.exit_code() == 1 && !terminal.raw().contains("\u{1b}[?1049h"), "{:?}", terminal.raw());
    Ok(())
}
