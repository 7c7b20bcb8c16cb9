//! Serves a certificate that somebody else puts into files: cert-manager through a mounted Secret, or a person.
//!
//! The files are read again at an interval and their bytes compared. File notifications are of no use: a mounted
//! Secret is a chain of symlinks whose middle one is swapped, so the file that was watched never changes.

use super::resolver::{Pair, PairError, Resolver};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The certificate chain in PEM, leaf first.
    pub certificate: PathBuf,
    /// The key in PEM.
    pub key: PathBuf,
}

impl Paths {
    /// Names the files of a mounted Secret of type `kubernetes.io/tls`.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self { certificate: directory.join("tls.crt"), key: directory.join("tls.key") }
    }
}

/// Why the files cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// What they hold cannot be served.
    #[error("{certificate} and its key cannot be served")]
    Pair {
        /// The certificate file.
        certificate: PathBuf,
        /// The cause.
        #[source]
        source: PairError,
    },
}

/// Follows the two files.
#[derive(Debug)]
pub struct Files {
    paths: Paths,
    resolver: Arc<Resolver>,
    /// The bytes last looked at, good or bad, so that a bad pair is reported once.
    seen: Option<(String, String)>,
}

impl Files {
    /// Follows files on behalf of a resolver.
    #[must_use]
    pub const fn new(paths: Paths, resolver: Arc<Resolver>) -> Self {
        Self { paths, resolver, seen: None }
    }

    /// Reads the files; serves them when they changed and are good, else keeps what was served before.
    /// Returns the new pair, `None` when nothing changed.
    ///
    /// # Errors
    /// When the files cannot be read, and once for each content that cannot be served.
    pub async fn refresh(&mut self) -> Result<Option<Pair>, FilesError> {
        let content = (self.read(&self.paths.certificate).await?, self.read(&self.paths.key).await?);
        if self.seen.as_ref() == Some(&content) {
            return Ok(None);
        }
        let (chain, key) = self.seen.insert(content);
        let pair = Pair::from_pem(chain, key)
            .map_err(|source| FilesError::Pair { certificate: self.paths.certificate.clone(), source })?;
        self.resolver.set(&pair);
        Ok(Some(pair))
    }

    /// Refreshes at an interval until `stop`. `expires` is told the end of each new certificate's validity.
    ///
    /// # Errors
    /// When the first reading fails: a server without a certificate is a mistake to be seen at once. Later
    /// failures are logged, and the pair before stays.
    pub async fn run(
        mut self,
        interval: Duration,
        expires: impl Fn(jiff::Timestamp),
        stop: CancellationToken,
    ) -> Result<(), FilesError> {
        if let Some(pair) = self.refresh().await? {
            expires(pair.validity.until);
        }
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            match self.refresh().await {
                Ok(Some(pair)) => {
                    info!(expires = %pair.validity.until, "Certificate files changed");
                    expires(pair.validity.until);
                }
                Ok(None) => {}
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "Certificate files are unusable; the certificate before is still served"
                ),
            }
        }
        Ok(())
    }

    async fn read(&self, path: &Path) -> Result<String, FilesError> {
        tokio::fs::read_to_string(path)
            .await
            .map_err(|source| FilesError::Read { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::issue::{self, Material};
    use crate::tls::plan::{Policy, Step};
    use jiff::Timestamp;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A directory as the kubelet makes it: files are links into `..data`, which is a link to the present version.
    struct Volume(PathBuf);

    impl Volume {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("sidetrack-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            for file in ["tls.crt", "tls.key"] {
                symlink(format!("..data/{file}"), root.join(file)).unwrap();
            }
            Self(root)
        }

        fn publish(&self, version: &str, chain: &str, key: &str) {
            let directory = self.0.join(version);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("tls.crt"), chain).unwrap();
            fs::write(directory.join("tls.key"), key).unwrap();
            symlink(version, self.0.join("..next")).unwrap();
            fs::rename(self.0.join("..next"), self.0.join("..data")).unwrap();
        }
    }

    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn made(seconds: i64) -> Material {
        let now = Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        issue::take(Step::Create, None, &["a.b.svc".to_owned()], &Policy::default(), now).unwrap()
    }

    #[tokio::test]
    async fn swapped_symlink_is_noticed_and_a_bad_pair_is_not_served() {
        let (volume, resolver) = (Volume::new("swap"), Arc::new(Resolver::default()));
        let mut files = Files::new(Paths::in_directory(&volume.0), resolver.clone());
        assert!(matches!(files.refresh().await, Err(FilesError::Read { .. })));
        let (one, two) = (made(0), made(60));
        volume.publish("..1", &one.leaf, &one.leaf_key);
        let first = files.refresh().await.unwrap().unwrap();
        assert!(files.refresh().await.unwrap().is_none(), "nothing changed");
        volume.publish("..2", &two.leaf, &one.leaf_key);
        assert!(matches!(files.refresh().await, Err(FilesError::Pair { .. })));
        assert!(files.refresh().await.unwrap().is_none(), "reported once");
        assert!(resolver.is_set());
        volume.publish("..3", &two.leaf, &two.leaf_key);
        let second = files.refresh().await.unwrap().unwrap();
        assert!(second.validity.until > first.validity.until);
    }

    #[tokio::test]
    async fn files_that_are_bad_at_the_start_end_the_task() {
        let (volume, resolver) = (Volume::new("start"), Arc::new(Resolver::default()));
        volume.publish("..1", "junk", "junk");
        let files = Files::new(Paths::in_directory(&volume.0), resolver);
        let run = files.run(Duration::from_secs(30), |_| {}, CancellationToken::new());
        assert!(matches!(run.await, Err(FilesError::Pair { .. })));
    }
}
