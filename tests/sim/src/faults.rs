//! What an API server answers besides yes.

use crate::cluster::Cluster;
use crate::stored::Stored;
use crate::world::World;
use jiff::{SignedDuration, Timestamp};
use sidetrack::object::ObjectRef;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What becomes of one of Sidetrack's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// It is refused as such: by a right, a quota, a schema or an admission policy.
    Refused,
    /// Somebody else was quicker.
    Conflict,
    /// The API server cannot just now.
    Busy,
    /// It is done, and the answer is lost.
    AnswerLost,
}

/// The faults of the writes to come, by their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(BTreeMap<usize, Fault>);

impl Faults {
    /// What the writes to come will meet.
    pub(super) fn ahead(&self, writes: usize) -> Vec<(usize, Fault)> {
        self.0.iter().map(|(at, fault)| (at.saturating_sub(writes), *fault)).collect()
    }
}

/// What the process reads lags behind what is: it sees the objects as they were, and the answers to its own writes.
#[derive(Clone, Debug)]
pub struct Lag {
    pub(super) until: Timestamp,
    pub(super) seen: BTreeMap<ObjectRef, Stored>,
}

impl World {
    /// From now on, for so many seconds, the watch brings nothing.
    pub fn lags(&mut self, seconds: i64) {
        self.note(format!("-- nothing new is seen for {seconds} s"));
        let until = self.cluster.now + SignedDuration::from_secs(seconds);
        self.lag = Some(Lag { until, seen: self.cluster.objects.clone() });
    }

    /// The process sees what is.
    pub(super) fn catch_up(&mut self) {
        self.lag = None;
        if let Some(process) = &mut self.process {
            process.seen = None;
        }
    }

    /// The objects as the process sees them.
    pub(super) fn seen(&self) -> Cow<'_, Cluster> {
        match &self.lag {
            None => Cow::Borrowed(&self.cluster),
            Some(lag) => Cow::Owned(Cluster { objects: lag.seen.clone(), ..Cluster::default() }),
        }
    }

    /// The process has read one object anew, or been shown it by an answer.
    pub(super) fn sees(&mut self, at: &ObjectRef) {
        let Some(lag) = &mut self.lag else { return };
        match self.cluster.objects.get(at) {
            Some(object) => lag.seen.insert(at.clone(), object.clone()),
            None => lag.seen.remove(at),
        };
    }

    /// The n-th write from now meets a fault, and as many after it as `count` says.
    pub fn meets(&mut self, write: usize, fault: Fault, count: usize) {
        let first = self.writes + write;
        self.faults.0.extend((first..first + count).map(|at| (at, fault)));
    }

    /// The API server is well from now on.
    pub fn recovers(&mut self) {
        self.faults.0.clear();
    }

    /// The fault that the write which is about to be sent meets.
    pub(super) fn fault(&mut self) -> Option<Fault> {
        let next = self.writes + 1;
        let fault = self.faults.0.remove(&next);
        self.faults.0.retain(|at, _| *at > next);
        fault
    }
}
