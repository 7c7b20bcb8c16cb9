//! Builds parts and fetches modules with the `go` command, once, however many processes ask at the same time.

use std::fs::{self, File, TryLockError};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::parts::{Module, Part, Program, cache_dir, hash};

/// Builds the parts that are missing, saying how far it is on stderr. Needs `go` and, the first time, a network;
/// returns at once and needs neither when all are there.
///
/// # Errors
/// When `go` is missing or too old (the message says what to install) or a build fails (it names the log).
pub fn build(parts: &[Part]) -> Result<()> {
    parts.iter().try_for_each(|part| build_program(&part.program()))
}

/// Builds a program that is missing, as [`build`] does.
///
/// # Errors
/// As [`build`].
pub fn build_program(program: &Program) -> Result<()> {
    make(program).with_context(|| format!("building {}", program.binary))
}

fn make(program: &Program) -> Result<()> {
    let binary = program.path()?;
    if binary.exists() {
        return Ok(());
    }
    let folder = program.folder()?;
    let _lock = lock(&folder, program.binary)?;
    if binary.exists() {
        return Ok(());
    }
    write_module(program.module, &folder)?;
    let version = go_version(&folder)?;
    let partial = folder.join("partial");
    let log = folder.join("build.log");
    let mut command = go(&folder);
    command.args(["build", "-v", "-trimpath", "-ldflags", &program.ldflags, "-o"]);
    command.arg(&partial).arg(program.package);
    run_with_progress(&mut command, program.binary, &version, &log)?;
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    fs::rename(&partial, &binary).context("moving the new binary into place")?;
    Ok(())
}

/// Downloads the pinned version of the one module that `module` requires and returns where its files are.
pub(crate) fn download(module: &Module, path: &str) -> Result<PathBuf> {
    let folder = cache_dir()?.join(format!("{}-{}", module.name, hash(&[module.go_mod, module.go_sum])));
    let _lock = lock(&folder, module.name)?;
    write_module(module, &folder)?;
    go_version(&folder)?;
    let output = go(&folder)
        .args(["mod", "download", "-json", path])
        .output()
        .with_context(|| format!("running go mod download {path}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
    match answer.get("Dir").and_then(serde_json::Value::as_str) {
        Some(dir) if output.status.success() => Ok(PathBuf::from(dir)),
        _ => bail!("go mod download {path} failed: {said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Takes the lock of a cache folder, saying so when another process holds it. Ends with the returned file.
///
/// # Errors
/// When the folder cannot be made or locked.
pub fn lock(folder: &Path, what: &str) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let file = File::create(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            say(&format!("ground: {what} is being made by another process, waiting"))
        }
        Err(TryLockError::Error(error)) => return Err(error).context("locking the cache folder"),
    }
    file.lock().context("waiting for the lock of the cache folder")?;
    Ok(file)
}

fn write_module(module: &Module, folder: &Path) -> Result<()> {
    fs::write(folder.join("go.mod"), module.go_mod)?;
    fs::write(folder.join("go.sum"), module.go_sum)?;
    if let Some(main_go) = module.main_go {
        fs::write(folder.join("main.go"), main_go)?;
    }
    Ok(())
}

/// Returns a `go` command in `folder` that no workspace file or flag of the caller changes.
fn go(folder: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .stdin(Stdio::null());
    command
}

/// Returns the version of Go that builds the module in `folder`, which may be one that `go` fetched for it.
fn go_version(folder: &Path) -> Result<String> {
    const INSTALL: &str = "install Go 1.26 or newer (https://go.dev/dl) and have `go` in PATH";
    let output = match go(folder).args(["env", "GOVERSION"]).output() {
        Ok(output) => output,
        Err(error) => {
            bail!("the control plane is built from source and `go` does not run ({error}): {INSTALL}")
        }
    };
    if !output.status.success() {
        bail!("{INSTALL}; it says: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn run_with_progress(command: &mut Command, what: &str, version: &str, log: &Path) -> Result<()> {
    let start = Instant::now();
    let file = File::create(log)?;
    let mut child = command.stdout(file.try_clone()?).stderr(file).spawn().context("starting go build")?;
    let terminal = std::io::stderr().is_terminal();
    let every = Duration::from_secs(if terminal { 1 } else { 10 });
    say(&format!("ground: building {what} with {version}, minutes the first time"));
    let mut said = start;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(100));
        if said.elapsed() >= every {
            said = Instant::now();
            let line = format!(
                "ground: building {what}: {} s, {} packages compiled",
                start.elapsed().as_secs(),
                lines(log).len()
            );
            if terminal { say_over(&line) } else { say(&line) }
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    if status.success() {
        say(&format!("{}ground: built {what} in {seconds:.1} s", if terminal { "\r\x1b[K" } else { "" }));
        return Ok(());
    }
    let lines = lines(log);
    let last = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n");
    bail!(
        "go build failed after {seconds:.0} s; all of its output is in {}, which ends in:\n{last}",
        log.display()
    )
}

fn lines(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Writes to stderr itself rather than by `eprintln!`, which a test harness captures: a build of minutes must be seen.
pub fn say(line: &str) {
    // Nobody to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn say_over(line: &str) {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "\r\x1b[K{line}");
    let _ = stderr.flush();
}
