//! Leader election against the API server: makes the calls that [`super::lease`] decides on.

use super::client::{Failure, classify};
use super::lease::{Answer, Call, Contender, Next, Settings, SettingsError};
use crate::clock;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use std::future::pending;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The right to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Someone else has it, or nobody.
    Standby,
    /// This process has it until then, unless it is renewed.
    Held {
        /// The renew deadline.
        until: Instant,
    },
    /// There is no election: this process has it for ever.
    Unchallenged,
}

impl Claim {
    /// Returns whether this process may write at a moment. To be asked before *every* write: a claim that is
    /// not renewed ends without a change that anyone could watch.
    #[must_use]
    pub fn may_write(self, now: Instant) -> bool {
        match self {
            Self::Standby => false,
            Self::Held { until } => now < until,
            Self::Unchallenged => true,
        }
    }

    const fn leads(self) -> bool {
        !matches!(self, Self::Standby)
    }
}

/// Everybody's view of the claim; cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    claim: watch::Receiver<Claim>,
}

impl Leadership {
    /// Returns the leadership of a process that runs without election.
    #[must_use]
    pub fn unchallenged() -> Self {
        Self { claim: watch::channel(Claim::Unchallenged).1 }
    }

    /// The leadership of a process whose claim ends then.
    #[cfg(test)]
    pub(crate) fn until(until: Instant) -> Self {
        Self { claim: watch::channel(Claim::Held { until }).1 }
    }

    /// Returns whether this process may write now; see [`Claim::may_write`].
    #[must_use]
    pub fn may_write(&self) -> bool {
        self.claim.borrow().may_write(Instant::now())
    }

    /// Returns for how long this process may write from now on, unless its claim is renewed; `None` where that has no end.
    #[must_use]
    pub fn lasts(&self) -> Option<Duration> {
        match *self.claim.borrow() {
            Claim::Unchallenged => None,
            Claim::Standby => Some(Duration::ZERO),
            Claim::Held { until } => Some(until.saturating_duration_since(Instant::now())),
        }
    }

    /// Returns whether the claim has lapsed and may come back: it was not renewed in time, and nobody else has it yet.
    #[must_use]
    pub fn has_lapsed(&self) -> bool {
        let claim = *self.claim.borrow();
        claim.leads() && !claim.may_write(Instant::now())
    }

    /// Waits until the claim is gained or lost, then returns whether this process leads; not for renewals.
    /// `known` is what the caller takes to be so.
    pub async fn turned(&mut self, known: bool) -> bool {
        let turned =
            self.claim.wait_for(|claim| claim.leads() != known).await.map(|claim| claim.leads()).ok();
        match turned {
            Some(leads) => leads,
            // Without a sender there is no election, so no turn.
            None => pending().await,
        }
    }

    /// Returns the channel behind, for those that want every renewal.
    #[must_use]
    pub fn claims(&self) -> watch::Receiver<Claim> {
        self.claim.clone()
    }
}

/// Why an election ended. The process has to end with it: it no longer is the only writer.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// The settings contradict each other.
    #[error("leader election cannot work")]
    Settings(#[from] SettingsError),
    /// The lease could not be renewed in time, or was taken.
    #[error("lease {namespace}/{name} is lost, its holder is {holder}")]
    Lost {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Who holds it as far as is known, `nobody` for none.
        holder: String,
    },
}

/// One contender for a Lease.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    namespace: String,
    name: String,
    contender: Contender,
    claim: watch::Sender<Claim>,
    origin: Instant,
}

/// Returns an identity: a name (the pod's) and what makes it unique to this process.
#[must_use]
pub fn identity(name: &str) -> String {
    format!("{name}_{:016x}", random())
}

fn random() -> u64 {
    // The standard library seeds each of these from the system's randomness.
    RandomState::new().build_hasher().finish()
}

impl Election {
    /// Prepares to contend; `client` should not share its connections with heavier traffic.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        settings: Settings,
    ) -> Result<Self, ElectionError> {
        Ok(Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            contender: Contender::new(settings)?,
            claim: watch::channel(Claim::Standby).0,
            origin: Instant::now(),
        })
    }

    /// Returns the view of the claim for those who write.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        Leadership { claim: self.claim.subscribe() }
    }

    /// Contends, and renews when it has won, until `stop`; then gives the lease back.
    ///
    /// # Errors
    /// When a lease once held is lost.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ElectionError> {
        loop {
            let pause = match self.contender.next(self.origin.elapsed(), clock::now()) {
                Next::Lost => {
                    self.claim.send_replace(Claim::Standby);
                    return Err(self.lost());
                }
                Next::Call(call) => {
                    // A call is not cut off by `stop`: a write whose answer is not waited for could not be released.
                    self.call(call).await;
                    continue;
                }
                Next::Pause => self.pause(),
            };
            self.contender.wake();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.release().await;
        Ok(())
    }

    /// Only those who wait are spread out; the holder keeps its beat, and never sleeps past its deadline.
    fn pause(&self) -> Duration {
        let settings = self.contender.settings();
        match self.contender.may_write_until() {
            Some(until) => settings.retry.min(until.saturating_sub(self.origin.elapsed())),
            None => settings.pause(random() as f64 / u64::MAX as f64),
        }
    }

    async fn call(&mut self, call: Call) {
        let started = self.origin.elapsed();
        let limit = self.contender.settings().renew_deadline / 2;
        let post = PostParams::default();
        let (reading, result) = match call {
            Call::Read => (true, timeout(limit, self.api.get(&self.name)).await),
            Call::Create(spec) => {
                let mut lease = Lease { spec: Some(spec), ..Lease::default() };
                lease.metadata.name = Some(self.name.clone());
                (false, timeout(limit, self.api.create(&post, &lease)).await)
            }
            Call::Replace(lease) => {
                (false, timeout(limit, self.api.replace(&self.name, &post, &lease)).await)
            }
        };
        let answer = match result {
            Ok(Ok(lease)) if reading => Answer::Read(Box::new(lease)),
            Ok(Ok(lease)) => Answer::Written(Box::new(lease)),
            Ok(Err(error)) => match classify(&error) {
                Failure::Gone if reading => Answer::Absent,
                Failure::Gone | Failure::Conflict => Answer::Conflict,
                _ => self.failed(&error),
            },
            Err(elapsed) => self.failed(&elapsed),
        };
        let (led, before) = (self.claim.borrow().leads(), self.contender.holder().map(str::to_owned));
        self.contender.answer(started, self.origin.elapsed(), answer);
        if let Some(until) = self.contender.may_write_until() {
            self.claim.send_replace(Claim::Held { until: self.origin + until });
            if !led {
                info!(lease = %self.name, identity = %self.contender.settings().identity, "Became the leader");
            }
        } else if let Some(holder) = self.contender.holder()
            && before.as_deref() != Some(holder)
        {
            info!(lease = %self.name, %holder, "The leader is another replica");
        }
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> Answer {
        warn!(lease = %self.name, error, "Lease request failed");
        Answer::Failed
    }

    async fn release(&mut self) {
        let limit = self.contender.settings().renew_deadline / 2;
        let lease = self.contender.release(clock::now());
        self.claim.send_replace(Claim::Standby);
        let Some(lease) = lease else { return };
        match timeout(limit, self.api.replace(&lease.name_any(), &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => info!(lease = %self.name, "Gave the lease back"),
            Ok(Err(error)) => {
                warn!(lease = %self.name, error = &error as &dyn std::error::Error, "Lease not given back; it expires")
            }
            Err(_) => warn!(lease = %self.name, "Lease not given back in time; it expires"),
        }
    }

    fn lost(&self) -> ElectionError {
        ElectionError::Lost {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            holder: self.contender.holder().unwrap_or("nobody").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_ends_at_its_deadline_without_being_changed() {
        let now = Instant::now();
        let claim = Claim::Held { until: now + Duration::from_secs(10) };
        assert!(claim.may_write(now));
        assert!(!claim.may_write(now + Duration::from_secs(10)));
        assert!(!Claim::Standby.may_write(now));
        assert!(Claim::Unchallenged.may_write(now));
    }

    #[test]
    fn identities_of_one_pod_differ() {
        assert_ne!(identity("pod"), identity("pod"));
    }

    #[tokio::test]
    async fn renewals_are_no_turns() {
        let (sender, claim) = watch::channel(Claim::Standby);
        let mut leadership = Leadership { claim };
        let held = || Claim::Held { until: Instant::now() + Duration::from_secs(10) };
        sender.send_replace(held());
        assert!(leadership.turned(false).await);
        sender.send_replace(held());
        assert!(futures::FutureExt::now_or_never(leadership.turned(true)).is_none());
        sender.send_replace(Claim::Standby);
        assert!(!leadership.turned(true).await);
    }
}
