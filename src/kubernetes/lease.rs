//! Who may write: the rules of leader election, without IO.
//!
//! The rules are client-go's (`tools/leaderelection`). The expiry of a foreign claim counts from the moment its
//! record was *seen to change*, by the local clock, never from the time written in it: clocks differ. The
//! holder stops writing at its renew deadline, which is shorter than what others wait. A lease is no fence:
//! every write has a condition of its own beside it.
//!
//! Local time is a [`Duration`] since some moment of this process; [`super::election`] does the calls.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use std::time::Duration;

/// The settings of an election.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this contender; unique to the process, not to the pod.
    pub identity: String,
    /// How long others wait after the last change of the record. Written in whole seconds, rounded up.
    pub lease: Duration,
    /// How long after its last renewal the holder may write.
    pub renew_deadline: Duration,
    /// Pause between renewals, and the least pause between attempts.
    pub retry: Duration,
}

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The contender has no name.
    #[error("the identity is empty")]
    NoIdentity,
    /// Others would take the lease while the holder still writes.
    #[error("the lease ({lease:?}) must be longer than the renew deadline ({renew_deadline:?})")]
    LeaseTooShort {
        /// The lease duration.
        lease: Duration,
        /// The renew deadline.
        renew_deadline: Duration,
    },
    /// There would be no time for a second attempt.
    #[error(
        "the renew deadline ({renew_deadline:?}) must be longer than 1.2 times the retry period ({retry:?})"
    )]
    DeadlineTooShort {
        /// The renew deadline.
        renew_deadline: Duration,
        /// The retry period.
        retry: Duration,
    },
}

/// How much longer than the retry period a pause may get (client-go's `JitterFactor`).
const JITTER: f64 = 1.2;

impl Settings {
    /// Names a contender, with client-go's defaults of 15 s, 10 s and 2 s.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }

    /// Checks the settings against each other (client-go's checks).
    ///
    /// # Errors
    /// When two holders could write at once, or a holder could not renew twice.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let Self { lease, renew_deadline, retry, .. } = *self;
        if self.identity.is_empty() {
            return Err(SettingsError::NoIdentity);
        }
        if lease <= renew_deadline {
            return Err(SettingsError::LeaseTooShort { lease, renew_deadline });
        }
        if retry.is_zero() || renew_deadline <= retry.mul_f64(JITTER) {
            return Err(SettingsError::DeadlineTooShort { renew_deadline, retry });
        }
        Ok(())
    }

    /// Returns a contender's pause: the retry period and up to 1.2 times as much again. `random` is in 0 to 1.
    #[must_use]
    pub fn pause(&self, random: f64) -> Duration {
        self.retry.mul_f64(1.0 + JITTER * random.clamp(0.0, 1.0))
    }
}

/// A record and when, by the local clock, it was seen to change.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The object as last read or written.
    pub lease: Lease,
    /// When its spec last differed from the one before.
    pub changed: Duration,
}

/// What the record allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// There is no Lease: create it.
    Create,
    /// It is ours: write a new renew time.
    Renew,
    /// Nobody holds it, or its holder has been silent for too long: take it.
    Acquire,
    /// Someone holds it: not before this local time.
    WaitUntil(Duration),
}

/// Says what a contender may do about a record.
#[must_use]
pub fn evaluate(seen: Option<&Seen>, settings: &Settings, now: Duration) -> LeaseAction {
    let Some(seen) = seen else { return LeaseAction::Create };
    let spec = seen.lease.spec.as_ref();
    let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
    if holder.is_empty() {
        return LeaseAction::Acquire;
    }
    if holder == settings.identity {
        return LeaseAction::Renew;
    }
    let stated = spec.and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    let expiry = seen.changed + stated.filter(|s| *s > 0).map_or(settings.lease, Duration::from_secs);
    if now >= expiry { LeaseAction::Acquire } else { LeaseAction::WaitUntil(expiry) }
}

/// A request to the API server. A [`Lease`] in it carries the resourceVersion that it replaces.
#[derive(Clone, Debug)]
pub enum Call {
    /// GET.
    Read,
    /// POST of this spec.
    Create(LeaseSpec),
    /// PUT.
    Replace(Box<Lease>),
}

/// What a call came to.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The record as it is.
    Read(Box<Lease>),
    /// There is none.
    Absent,
    /// The record as we wrote it.
    Written(Box<Lease>),
    /// Someone else wrote first.
    Conflict,
    /// No answer, or an error; whether a write took place is unknown.
    Failed,
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Next {
    /// Make this call now.
    Call(Call),
    /// Pause for a retry period.
    Pause,
    /// The lease is lost: writing has ended, so must the process.
    Lost,
}

/// One contender: all state of an election.
#[derive(Debug)]
pub struct Contender {
    settings: Settings,
    seen: Option<Seen>,
    /// The record has to be read before anything is decided on it.
    stale: bool,
    /// Nothing more to do in this round.
    rests: bool,
    /// Start of the last successful renewal.
    renewed: Option<Duration>,
}

impl Contender {
    /// Makes a contender that knows nothing yet.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.validate()?;
        Ok(Self { settings, seen: None, stale: true, rests: false, renewed: None })
    }

    /// Returns the settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns until when (local time) this contender may write; `None` when it does not hold the lease.
    #[must_use]
    pub fn may_write_until(&self) -> Option<Duration> {
        self.renewed.map(|renewed| renewed + self.settings.renew_deadline)
    }

    /// Returns the holder that the record last seen names.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref()?.lease.spec.as_ref()?.holder_identity.as_deref().filter(|h| !h.is_empty())
    }

    /// Begins a round, after a pause. The holder trusts its own last write (a stale one is refused); others look.
    pub const fn wake(&mut self) {
        self.rests = false;
        self.stale |= self.renewed.is_none();
    }

    /// Says what to do at a local time; `wall` is what gets written as the time.
    #[must_use]
    pub fn next(&self, now: Duration, wall: Timestamp) -> Next {
        if self.may_write_until().is_some_and(|until| now >= until) {
            return Next::Lost;
        }
        if self.rests {
            return Next::Pause;
        }
        if self.stale {
            return Next::Call(Call::Read);
        }
        match evaluate(self.seen.as_ref(), &self.settings, now) {
            LeaseAction::Create => Next::Call(Call::Create(self.claim(None, wall))),
            LeaseAction::Renew | LeaseAction::Acquire => {
                let mut lease = self.seen.as_ref().map(|s| s.lease.clone()).unwrap_or_default();
                lease.spec = Some(self.claim(lease.spec.as_ref(), wall));
                Next::Call(Call::Replace(Box::new(lease)))
            }
            LeaseAction::WaitUntil(_) if self.renewed.is_some() => Next::Lost,
            LeaseAction::WaitUntil(_) => Next::Pause,
        }
    }

    /// Takes the answer to a call that was started at one local time and answered at another.
    pub fn answer(&mut self, started: Duration, now: Duration, answer: Answer) {
        match answer {
            Answer::Read(lease) => self.see(*lease, now),
            Answer::Absent => {
                self.seen = None;
                self.stale = false;
            }
            Answer::Written(lease) => {
                self.see(*lease, now);
                // From the start of the call: others may have seen the record change from then on.
                self.renewed = Some(started);
                self.rests = true;
            }
            Answer::Conflict => self.stale = true,
            Answer::Failed => self.rests = true,
        }
    }

    /// Gives the lease up: from now on this contender does not write. Returns the record that lets another one
    /// take it at once (client-go's `ReleaseOnCancel`), when it was held.
    pub fn release(&mut self, wall: Timestamp) -> Option<Lease> {
        self.renewed.take()?;
        let mut lease = self.seen.as_ref()?.lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(wall));
        spec.acquire_time = Some(MicroTime(wall));
        Some(lease)
    }

    fn see(&mut self, lease: Lease, now: Duration) {
        // By the spec, not by the resourceVersion: a note put on the Lease is no sign of life of its holder.
        let changed = match &self.seen {
            Some(seen) if seen.lease.spec == lease.spec => seen.changed,
            _ => now,
        };
        self.seen = Some(Seen { lease, changed });
        self.stale = false;
    }

    fn claim(&self, before: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let before = before.cloned().unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(self.settings.identity.as_str());
        let transitions = before.lease_transitions.unwrap_or(0);
        let had_holder = before.holder_identity.is_some();
        let seconds = self.settings.lease.as_millis().div_ceil(1000);
        LeaseSpec {
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(wall)),
            acquire_time: before.acquire_time.filter(|_| ours).or(Some(MicroTime(wall))),
            lease_transitions: Some(transitions + i32::from(had_holder && !ours)),
            ..before
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Timestamp = Timestamp::UNIX_EPOCH;

    fn lease(holder: &str, seconds: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    fn seen(holder: &str, seconds: i32, changed: u64) -> Seen {
        Seen { lease: lease(holder, seconds), changed: Duration::from_secs(changed) }
    }

    #[test]
    fn record_decides_what_a_contender_may_do() {
        let settings = Settings::new("me");
        let at = Duration::from_secs;
        for (record, now, action) in [
            (None, 0, LeaseAction::Create),
            (Some(seen("me", 15, 0)), 100, LeaseAction::Renew),
            (Some(seen("", 1, 0)), 0, LeaseAction::Acquire),
            (Some(seen("you", 15, 10)), 24, LeaseAction::WaitUntil(at(25))),
            (Some(seen("you", 15, 10)), 25, LeaseAction::Acquire),
            (Some(seen("you", 60, 10)), 25, LeaseAction::WaitUntil(at(70))),
            (Some(seen("you", 0, 10)), 24, LeaseAction::WaitUntil(at(25))),
            (Some(seen("you", -5, 10)), 24, LeaseAction::WaitUntil(at(25))),
        ] {
            assert_eq!(evaluate(record.as_ref(), &settings, at(now)), action, "{record:?} at {now}");
        }
    }

    #[test]
    fn settings_that_allow_two_holders_are_refused() {
        let good = Settings::new("me");
        assert_eq!(good.validate(), Ok(()));
        assert!(Settings { lease: good.renew_deadline, ..good.clone() }.validate().is_err());
        assert!(Settings { retry: Duration::from_secs(9), ..good.clone() }.validate().is_err());
        assert!(Settings { retry: Duration::ZERO, ..good.clone() }.validate().is_err());
        assert_eq!(Settings::new("").validate(), Err(SettingsError::NoIdentity));
    }

    #[test]
    fn foreign_note_on_the_lease_does_not_prolong_it() {
        let mut me = Contender::new(Settings::new("me")).unwrap();
        me.answer(Duration::ZERO, Duration::ZERO, Answer::Read(Box::new(lease("you", 15))));
        let mut noted = lease("you", 15);
        noted.metadata.resource_version = Some("7".to_owned());
        me.answer(Duration::from_secs(14), Duration::from_secs(14), Answer::Read(Box::new(noted)));
        assert!(matches!(me.next(Duration::from_secs(15), WALL), Next::Call(Call::Replace(_))));
    }

    #[test]
    fn taking_over_counts_a_transition_and_renewing_keeps_the_acquire_time() {
        let mut me = Contender::new(Settings::new("me")).unwrap();
        me.answer(Duration::ZERO, Duration::ZERO, Answer::Read(Box::new(lease("", 1))));
        let Next::Call(Call::Replace(taken)) = me.next(Duration::ZERO, WALL) else { panic!("not taken") };
        assert_eq!(taken.spec.as_ref().unwrap().lease_transitions, Some(1));
        me.answer(Duration::ZERO, Duration::ZERO, Answer::Written(taken));
        me.wake();
        let later = WALL + Duration::from_secs(5);
        let Next::Call(Call::Replace(renewed)) = me.next(Duration::from_secs(2), later) else { panic!() };
        let spec = renewed.spec.unwrap();
        assert_eq!((spec.lease_transitions, spec.acquire_time), (Some(1), Some(MicroTime(WALL))));
        assert_eq!(spec.renew_time, Some(MicroTime(later)));
    }

    #[test]
    fn holder_that_sees_another_one_has_lost() {
        let mut me = Contender::new(Settings::new("me")).unwrap();
        me.answer(Duration::ZERO, Duration::ZERO, Answer::Written(Box::new(lease("me", 15))));
        me.wake();
        me.answer(Duration::ZERO, Duration::ZERO, Answer::Conflict);
        assert!(matches!(me.next(Duration::ZERO, WALL), Next::Call(Call::Read)));
        me.answer(Duration::ZERO, Duration::ZERO, Answer::Read(Box::new(lease("you", 15))));
        assert!(matches!(me.next(Duration::ZERO, WALL), Next::Lost));
    }

    #[test]
    fn released_lease_names_nobody_and_ends_the_right_to_write() {
        let mut me = Contender::new(Settings::new("me")).unwrap();
        assert!(me.release(WALL).is_none(), "nothing to release");
        me.answer(Duration::ZERO, Duration::ZERO, Answer::Written(Box::new(lease("me", 15))));
        assert!(me.may_write_until().is_some());
        let spec = me.release(WALL).unwrap().spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some(""), Some(1)));
        assert_eq!(me.may_write_until(), None);
    }

    #[test]
    fn right_to_write_counts_from_the_start_of_the_renewal() {
        let (started, answered) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut me = Contender::new(Settings::new("me")).unwrap();
        me.answer(started, answered, Answer::Written(Box::new(lease("me", 15))));
        assert_eq!(me.may_write_until(), Some(started + me.settings().renew_deadline));
        assert!(matches!(me.next(Duration::from_secs(11), WALL), Next::Lost));
    }
}
