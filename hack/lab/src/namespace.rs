//! A network namespace for everything, and the guard that leaves nothing in it.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// The pods' addresses; all of them are local to the namespace.
const POD_NETWORK: &str = "10.244.0.0/16";

/// What to do for somebody who may not make a namespace.
const WITHOUT: &str = "the lab runs in a network namespace of its own: run it as root (`sudo`), or where the system lets \
    everybody make user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0). \
    Without either, `make demo` and `make test` play on loopback, with a real control plane and pods that are made up";

/// Ends every process of namespace `$1` when its input ends, its owner `$2` too unless that has said `done`. What a killed
/// owner leaves behind is found by the namespace it is in, so that nothing of another's can be hit.
const GUARD: &str = r#"
ns=$1 owner=$2
read -r word
[ "$word" = done ] || owner=
for round in 1 2 3 4 5; do
    for pid in $(ls -l /proc/[0-9]*/ns/net 2>/dev/null | sed -n "s|.*/proc/\([0-9]*\)/ns/net -> $ns\$|\1|p"); do
        [ "$pid" = $$ ] || [ "$pid" = "$owner" ] || kill -KILL "$pid" 2>/dev/null
    done
done"#;

/// The namespace that this process, and all it starts, is in. When the value or the process ends, however that ends, every
/// other process in it is killed, and with the last one the namespace is gone.
#[derive(Debug)]
pub struct Namespace {
    guard: Child,
}

impl Namespace {
    /// Moves this process into a fresh namespace, whose addresses are loopback's and 10.244.0.0/16. To be called before
    /// the process has a second thread: others would stay where they are.
    ///
    /// # Errors
    /// When the system does not allow it (the message says what does), or there is no `ip`.
    pub fn enter() -> Result<Self> {
        let before = fs::read_link("/proc/thread-self/ns/net").context("finding the present namespace")?;
        if geteuid().is_root() {
            unshare(CloneFlags::CLONE_NEWNET).context(WITHOUT)?;
        } else {
            as_root_of_a_user_namespace().context(WITHOUT)?;
        }
        let namespace = fs::read_link("/proc/thread-self/ns/net")?.display().to_string();
        if before.display().to_string() == namespace {
            bail!("the system made no network namespace: {WITHOUT}");
        }
        ip(&["link", "set", "lo", "up"])?;
        ip(&["route", "add", "local", POD_NETWORK, "dev", "lo"])?;
        // The dots and brackets of `net:[4026]` are to be taken as they are.
        let pattern = namespace.replace('[', r"\[").replace(']', r"\]");
        let guard = Command::new("sh")
            .args(["-c", GUARD, "lab-guard", &pattern, &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the guard of the namespace")?;
        Ok(Self { guard })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(mut input) = self.guard.stdin.take() {
            // A guard that is gone cannot be told anything.
            let _ = input.write_all(b"done\n");
        }
        let _ = self.guard.wait();
    }
}

/// Without root: a user namespace in which we are.
fn as_root_of_a_user_namespace() -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("running `ip` (Debian and Fedora have it in the package iproute2 or iproute)")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
