//! What all applications share: the control plane, two processes, and their outages.

use crate::deeds::{Move, Outage};
use anyhow::{Context as _, Result};
use harness::{PATIENCE, Sidetrack, World, free_port};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// From the end of an outage, or the death of a process, until somebody leads again and its watches have caught up.
const RECOVERY: Duration = Duration::from_secs(8);

/// The control plane, and who keeps two processes running on it.
pub(crate) struct Stage {
    pub(crate) world: Arc<World>,
    replicas: Arc<Mutex<[Replica; 2]>>,
    keeper: JoinHandle<()>,
}

struct Replica {
    flags: Vec<String>,
    wanted: bool,
    process: Option<Sidetrack>,
    logs: Vec<PathBuf>,
}

/// An outage as it was.
pub(crate) struct Suffered {
    what: Outage,
    from: Instant,
    until: Instant,
}

impl Suffered {
    /// How long nobody could be expected to act.
    pub(crate) fn excuse(&self) -> Option<(Instant, Instant)> {
        (self.what != Outage::Configuration).then(|| (self.from, self.until + RECOVERY))
    }

    pub(crate) fn said(&self, begun: Instant) -> String {
        let from = self.from.saturating_duration_since(begun).as_secs_f64();
        format!("{from:6.2} {:?} for {:.1} s", self.what, (self.until - self.from).as_secs_f64())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn lock(replicas: &Mutex<[Replica; 2]>) -> MutexGuard<'_, [Replica; 2]> {
    replicas.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    pub(crate) async fn set() -> Result<Self> {
        let world = Arc::new(World::start(false).await?);
        let lease = "--lease-duration=3s".to_owned();
        let replica = |flags| Replica { flags, wanted: true, process: None, logs: Vec::new() };
        let replicas = Arc::new(Mutex::new([
            replica(vec![lease.clone()]),
            replica(vec![lease, format!("--webhook-bind=127.0.0.1:{}", free_port())]),
        ]));
        let (kept, on) = (replicas.clone(), world.clone());
        // A process that ends by itself, as one that loses the lease does, is started again, as a kubelet would.
        let keeper = tokio::spawn(async move {
            loop {
                for replica in lock(&kept).iter_mut().filter(|r| r.wanted) {
                    if replica.process.as_ref().is_none_or(Sidetrack::has_ended) {
                        let flags: Vec<&str> = replica.flags.iter().map(String::as_str).collect();
                        replica.process = on.run(&flags).ok();
                        if let Some(process) = &replica.process {
                            replica.logs.push(process.log.clone());
                        }
                    }
                }
                // The pause between two looks.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let stage = Self { world, replicas, keeper };
        stage.world.wait_for_webhook().await.with_context(|| stage.said())?;
        Ok(stage)
    }

    /// Suffers a round's outages, one after the other, and tells when they were.
    pub(crate) async fn suffers(
        &self,
        outages: &[Move<(Outage, Duration)>],
        begun: Instant,
    ) -> Vec<Suffered> {
        let mut suffered = Vec::new();
        for Move { at, what: (what, lasts) } in outages {
            tokio::time::sleep_until((begun + *at).into()).await;
            let from = Instant::now();
            let end = from + *lasts;
            match what {
                Outage::Kill(which) => {
                    let process = {
                        let mut replicas = lock(&self.replicas);
                        replicas[*which].wanted = false;
                        replicas[*which].process.take()
                    };
                    drop(process);
                    tokio::time::sleep_until(end.into()).await;
                    lock(&self.replicas)[*which].wanted = true;
                }
                Outage::Configuration => {
                    let gone = ["delete", "mutatingwebhookconfiguration", "sidetrack"];
                    let _ = self.world.kubectl(&gone).await;
                    tokio::time::sleep_until(end.into()).await;
                    let _ = self.world.install_webhook().await;
                }
                Outage::ApiServer => {
                    self.world.cp.crash_api_server();
                    tokio::time::sleep_until(end.into()).await;
                    if let Err(error) = self.world.cp.restart_api_server().await {
                        eprintln!("the API server does not come back: {error:#}");
                    }
                }
            }
            suffered.push(Suffered { what: *what, from, until: Instant::now() });
        }
        suffered
    }

    /// Waits until the webhook is asked and answers.
    pub(crate) async fn heals(&self) -> Result<()> {
        ground::eventually("the webhook configuration is there", PATIENCE, async || {
            Ok(self.world.install_webhook().await.ok())
        })
        .await?;
        self.world.wait_for_webhook().await
    }

    /// What the processes last said.
    fn said(&self) -> String {
        lock(&self.replicas).iter().filter_map(|r| r.process.as_ref()?.logged().ok()).collect()
    }

    /// Keeps the processes' logs beside the stories of a seed, and says where.
    pub(crate) fn keeps_logs(&self, seed: u64) -> Result<String> {
        let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("seed-{seed}"));
        std::fs::create_dir_all(&dir)?;
        for (n, replica) in lock(&self.replicas).iter().enumerate() {
            let logs = replica.logs.iter().map(std::fs::read_to_string);
            std::fs::write(dir.join(format!("process-{n}.log")), logs.collect::<Result<String, _>>()?)?;
        }
        Ok(format!("the processes' logs are in {}", dir.display()))
    }
}
