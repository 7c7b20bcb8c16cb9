//! How many questions may be on their way at once: of one Canary, of one namespace, to one host, and in all.
//!
//! Shares, not one pot: whoever asks much, or asks somebody who does not answer, waits for himself. A permit is held while an
//! attempt is on its way, never between two.

use super::cache::CanaryKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// To one host: hooks that take minutes do not keep others' checks waiting.
pub(super) const TO_ONE_HOST: usize = 64;
/// Of one Canary: a few metrics and hooks side by side.
pub(super) const OF_ONE_CANARY: usize = 8;
/// Of the Canaries of one namespace.
const OF_ONE_NAMESPACE: usize = 64;
/// Hooks, and metrics, in all: the ones may take minutes, the others may not wait for them.
const IN_ALL: usize = 512;

/// What is asked: each kind has its own share of what is there for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// A hook.
    Hooks,
    /// A metrics server.
    Metrics,
}

/// Who asks, and how long it may wait for others to end.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The Canary.
    pub canary: CanaryKey,
    /// What is asked.
    pub pool: Pool,
    /// How long the question may wait before it is sent: what is not asked within an interval is a failed check.
    pub patience: Duration,
}

/// A share that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Share {
    Canary(CanaryKey),
    Namespace(String),
    Host(String),
}

impl Share {
    const fn size(&self) -> usize {
        match self {
            Self::Canary(_) => OF_ONE_CANARY,
            Self::Namespace(_) => OF_ONE_NAMESPACE,
            Self::Host(_) => TO_ONE_HOST,
        }
    }
}

/// The limits.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    hooks: Arc<Semaphore>,
    metrics: Arc<Semaphore>,
    /// The shares of which something is on its way.
    shares: Arc<Mutex<HashMap<Share, Arc<Semaphore>>>>,
}

impl Limits {
    pub(super) fn new() -> Self {
        let all = || Arc::new(Semaphore::new(IN_ALL));
        Self { hooks: all(), metrics: all(), shares: Arc::default() }
    }

    fn share(&self, share: Share) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|other, limit| *other == share || Arc::strong_count(limit) > 1);
        let size = share.size();
        shares.entry(share).or_insert_with(|| Arc::new(Semaphore::new(size))).clone()
    }

    /// Waits for a turn: the narrowest share first, so that what waits for that does not count among the others. `None` when
    /// there was none in time.
    pub(super) async fn turn(&self, asker: &Asker, host: &str) -> Option<[OwnedSemaphorePermit; 4]> {
        let (namespace, _) = &asker.canary;
        let of_canary = self.share(Share::Canary(asker.canary.clone()));
        let of_namespace = self.share(Share::Namespace(namespace.clone()));
        let of_host = self.share(Share::Host(host.to_owned()));
        let of_all = match asker.pool {
            Pool::Hooks => self.hooks.clone(),
            Pool::Metrics => self.metrics.clone(),
        };
        let turns = async {
            Some([
                of_canary.acquire_owned().await.ok()?,
                of_namespace.acquire_owned().await.ok()?,
                of_host.acquire_owned().await.ok()?,
                of_all.acquire_owned().await.ok()?,
            ])
        };
        tokio::time::timeout(asker.patience, turns).await.ok().flatten()
    }

    #[cfg(test)]
    fn shares_in_use(&self) -> usize {
        self.shares.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn asker(namespace: &str, name: &str, pool: Pool) -> Asker {
        Asker { canary: (namespace.into(), name.into()), pool, patience: Duration::from_secs(60) }
    }

    /// A turn that is there without waiting; the runtime's own budget of steps aside.
    fn at_once(limits: &Limits, asker: &Asker, host: &str) -> Option<[OwnedSemaphorePermit; 4]> {
        tokio::task::unconstrained(limits.turn(asker, host)).now_or_never().flatten()
    }

    /// One Canary, one namespace and one host each wait for themselves.
    #[tokio::test]
    async fn each_share_is_its_own() {
        let limits = Limits::new();
        let mut held = Vec::new();
        for _ in 0..OF_ONE_CANARY {
            held.push(limits.turn(&asker("a", "app", Pool::Hooks), "slow").await.unwrap());
        }
        let greedy = asker("a", "app", Pool::Metrics);
        assert!(at_once(&limits, &greedy, "quick").is_none(), "the Canary's share is used up");
        for n in OF_ONE_CANARY..OF_ONE_NAMESPACE {
            held.push(limits.turn(&asker("a", &format!("app-{n}"), Pool::Hooks), "slow").await.unwrap());
        }
        let neighbour = asker("a", "another", Pool::Hooks);
        assert!(at_once(&limits, &neighbour, "quick").is_none(), "the namespace's share is used up");
        let other = asker("b", "app", Pool::Metrics);
        assert!(at_once(&limits, &other, "slow").is_none(), "the host's share is used up");
        drop(at_once(&limits, &other, "quick").unwrap());
        drop(held);
        drop(at_once(&limits, &neighbour, "quick").unwrap());
        assert!(limits.shares_in_use() <= 3, "what nobody uses is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn what_gets_no_turn_in_time_is_not_asked() {
        let limits = Limits::new();
        let one = asker("a", "app", Pool::Hooks);
        let mut held = Vec::new();
        for _ in 0..OF_ONE_CANARY {
            held.push(limits.turn(&one, "slow").await.unwrap());
        }
        assert!(limits.turn(&one, "slow").await.is_none());
    }
}
