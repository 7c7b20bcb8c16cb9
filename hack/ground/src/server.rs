//! A child process that ends when its owner ends, however it ends.
//!
//! The owner holds the only write end of a pipe. A shell in the child's process group reads the other end and
//! kills that group when the pipe closes, which the operating system does for any owner, one killed by SIGKILL too.
//! A parent-death signal would be tied to the thread that spawned, a finished worker of a runtime for instance,
//! and needs code between fork and exec; this needs `sh` only and leaves the child's pid the server's own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// `$0` is the server's name, `$@` its command. A process group's number is not reused while a member lives, so
/// `kill 0` cannot hit a stranger.
const TIED_TO_OWNER: &str = r#"exec 3<&0; (read -r _ <&3; kill -KILL 0) & exec "$@" 3<&- </dev/null"#;

pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) log: PathBuf,
    child: Child,
}

impl Server {
    /// Starts `program` in `dir`, its output going to `LOGS/NAME.log`.
    pub(crate) fn spawn(
        name: &'static str,
        program: &Path,
        args: &[String],
        dir: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = Command::new("sh")
            .args(["-c", TIED_TO_OWNER, name])
            .arg(program)
            .args(args)
            .current_dir(dir)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name, log, child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how the process ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Returns the last lines of the log, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
    }

    /// Kills the process and waits until it is gone. Its state is thrown away, so there is nothing to end in order.
    pub(crate) fn kill(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // ESRCH: it is gone already.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
