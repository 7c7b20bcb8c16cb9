//! What keeps a release from standing still, judged from outside like the invariants: every run has a wake (L1), a look
//! writes little (L2) and nothing in vain twice (L3), and a hold is named (L4).

use crate::cluster::text;
use crate::laws::{annotation, held, primary_revision};
use crate::world::World;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sidetrack::api::keys;
use sidetrack::api::revision::Revision;
use sidetrack::object::Write;

/// Writes that one look may send: those of an initialisation are the most.
const MOST: usize = 16;

/// What has been seen so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    /// The last write that changed nothing.
    idle: Option<Write>,
    /// What is held without being named, and since when.
    nameless: Option<(Revision, Timestamp)>,
}

impl World {
    /// Judges a look that has come to its end, after so many writes.
    pub fn judge_look(&mut self, writes: usize) {
        self.law("L2", writes <= MOST, &format!("{writes} writes in one look"));
        let Some(process) = &self.process else { return };
        let waits = process.wake.is_some() || process.next_answer().is_some();
        let suspended = self.cluster.get(&self.canary).is_none_or(|c| c["spec"]["suspend"] == true);
        let runs = self.status().run.is_some_and(|run| !run.paused) && !suspended;
        self.law("L1", waits || !runs, "a run goes on, and nothing wakes who looks after it");
    }

    /// Judges a write that the API server took.
    pub(super) fn judge_effort(&mut self, write: &Write, changed: bool) {
        let again = !changed && self.laws.life.idle.as_ref() == Some(write);
        self.law("L3", !again, "a write that changed nothing is sent again");
        self.laws.life.idle = (!changed).then(|| write.clone());
    }

    /// Judges whether status names what is held.
    pub(super) fn judge_names(&mut self) {
        let now = self.cluster.now;
        let canary = self.cluster.get(&self.canary);
        let leaves = canary.is_none_or(|c| text(c, "/metadata/deletionTimestamp").is_some());
        let blind = leaves || self.laws.dead || self.lag.is_some() || self.laws.denied.is_some();
        let own = |t: &&Value| t["metadata"]["labels"][keys::CANARY] == self.canary.name.as_str();
        let target = self.target().filter(|_| !blind).filter(own);
        let primary =
            self.primary().and_then(|p| primary_revision(p, &self.names, self.laws.selector.as_ref()));
        // What the primary has already, or goes back to, waits for nothing.
        let back = |target: &Value| {
            primary.as_ref().is_some_and(|p| annotation(target, keys::PROMOTED) == Some(p.as_str()))
        };
        let hold = target.and_then(|t| held(t).filter(|hold| !back(t) || Some(hold) != primary.as_ref()));
        let status = self.status();
        let named = |hold: &Revision| {
            status.run.as_ref().is_some_and(|run| run.revision == hold.as_str())
                || status.conditions.iter().any(|condition| condition.message.contains(hold.short()))
        };
        let nameless = hold.filter(|hold| !named(hold));
        let since = self.laws.life.nameless.take();
        self.laws.life.nameless = nameless.map(|hold| {
            let since = since.filter(|(known, _)| *known == hold).map_or(now, |(_, since)| since);
            (hold, since)
        });
        let long =
            self.laws.life.nameless.as_ref().map(|(hold, since)| (hold.clone(), now.duration_since(*since)));
        let late =
            long.filter(|(_, long)| *long > self.interval() + self.interval() + SignedDuration::from_secs(1));
        if let Some((hold, long)) = late {
            let message = self.ready_message();
            self.law(
                "L4",
                false,
                &format!("{hold} is held for {long:#}, and status does not name it: {message:?}"),
            );
        }
    }
}
