//! A child process that ends when its owner ends, however it ends.
//!
//! The owner holds the only write end of a pipe. A shell in the child's process group reads the other end and
//! kills that group when the pipe closes, which the operating system does for any owner, one killed by SIGKILL too.
//! A parent-death signal would be tied to the thread that spawned, a finished worker of a runtime for instance,
//! and needs code between fork and exec; this needs `sh` only and leaves the child's pid the server's own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// `$0` is the server's name, `$@` its command. A process group's number is not reused while a member lives, so
/// `kill 0` cannot hit a stranger.
const TIED_TO_OWNER: &str = r#"exec 3<&0; (read -r _ <&3; kill -KILL 0) & exec "$@" 3<&- </dev/null"#;

/// What to start, and how.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The name, for messages.
    pub name: String,
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// All of its environment; none means that of this process without KUBECONFIG.
    pub env: Option<Vec<(String, String)>>,
    /// Its working directory.
    pub dir: PathBuf,
    /// The file that its output is appended to.
    pub log: PathBuf,
}

/// A running child process; it ends with this value.
#[derive(Debug)]
pub struct Server {
    /// Its name, for messages.
    pub name: String,
    /// The file with its output.
    pub log: PathBuf,
    launch: Launch,
    child: Child,
}

impl Server {
    /// Starts it.
    ///
    /// # Errors
    /// When the log cannot be opened or `sh` does not run. A program that is missing ends at once, with 127.
    pub fn start(launch: &Launch) -> Result<Self> {
        let Launch { name, log, .. } = launch;
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new("sh");
        command.args(["-c", TIED_TO_OWNER, name]).arg(&launch.program).args(&launch.args);
        match &launch.env {
            Some(env) => command.env_clear().envs(env.iter().map(|(key, value)| (key, value))),
            None => command.env_remove("KUBECONFIG"),
        };
        let child = command
            .current_dir(&launch.dir)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.clone(), log: log.clone(), launch: launch.clone(), child })
    }

    /// Ends it, if it runs, and starts it again as it was started.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        *self = Self::start(&self.launch)?;
        Ok(())
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Returns the last lines of the log, for an error message.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
    }

    /// Asks the process to end: SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends the process as a crash would, and leaves it to [`ended`](Self::ended) to be noticed: SIGKILL.
    pub fn crash(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // ESRCH: it is gone already. Until it is waited for, its number is not given to another.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Kills the process and waits until it is gone. Its state is thrown away, so there is nothing to end in order.
    pub fn kill(&mut self) {
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
