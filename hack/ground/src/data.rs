//! The directory of one control plane, and tidying up after owners that could not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::go::say;
use crate::parts::cache_dir;

/// How long logs of an ended control plane are kept when its owner did not remove them itself.
const KEEP_LOGS: Duration = Duration::from_secs(3600);

/// A fresh directory in the cache, removed on drop unless kept.
///
/// The lock on its file `owner` lasts as long as the process does: a directory whose lock is free has no owner.
pub struct DataDir {
    /// Where it is.
    pub path: PathBuf,
    _owner: File,
    kept: bool,
}

impl DataDir {
    /// Makes one, and removes what ended owners left.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn create() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let all = cache_dir()?.join("run");
        fs::create_dir_all(&all).with_context(|| format!("creating {}", all.display()))?;
        sweep(&all);
        // A pid may have been used before by a process whose directory is still there.
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = all.join(format!("{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    let owner = File::create(path.join("owner"))?;
                    owner.lock().context("locking the data directory")?;
                    return Ok(Self { path, _owner: owner, kept: false });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("creating {}", path.display())),
            }
        }
    }

    /// Leaves the directory, without etcd's data, when this value is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.kept {
            let _ = fs::remove_dir_all(self.path.join("etcd"));
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            say(&format!("ground: {} could not be removed: {error}", self.path.display()));
        }
    }
}

/// Removes what ended owners left: etcd's data at once, logs when they are older than an hour.
fn sweep(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let path = entry.path();
        let orphaned = File::open(path.join("owner")).is_ok_and(|owner| owner.try_lock().is_ok());
        if !orphaned {
            continue;
        }
        let _ = fs::remove_dir_all(path.join("etcd"));
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > KEEP_LOGS) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}
