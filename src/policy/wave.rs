//! Waves across clusters: a revision is released here when clusters that come before have promoted it.
//!
//! The same revision is the one of the same hash. A wave has passed when `passed` of its clusters have promoted it, and it
//! has failed when so many have rejected it that this cannot be reached any more: which clusters answer first makes no
//! difference to how it ends. A cluster that cannot be asked counts as one that has not promoted it, even where it was
//! seen to before: it may have gone back since.

use super::roster::Key;
use crate::api::canary_policy::Wave;
use crate::api::revision::Revision;
use crate::api::status::{CanaryStatus, Outcome, Past};
use crate::go;
use crate::rollout::model::gates::Gate;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Whether a cluster can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Contact {
    /// It has not been listed yet.
    #[default]
    Unheard,
    /// It is listed and followed.
    Heard,
    /// What is known of it may be out of date.
    Lost {
        /// Since when.
        since: Timestamp,
        /// Why, of the last try.
        why: String,
    },
    /// It cannot be asked until somebody changes something.
    Unusable(String),
}

/// What a Canary in another cluster says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    primary: Option<String>,
    failed: Option<String>,
    running: Option<String>,
    history: Vec<Past>,
}

impl Seen {
    /// Takes what counts from a status. Weights and counters do not: a release in a cluster before is no news here at each
    /// of its steps.
    #[must_use]
    pub fn of(status: CanaryStatus) -> Self {
        Self {
            primary: status.revisions.primary,
            failed: status.revisions.failed,
            running: status.run.map(|run| run.revision),
            history: status.history,
        }
    }

    fn verdict(&self, revision: &Revision) -> Verdict {
        let is = |hash: &Option<String>| hash.as_deref() == Some(revision.as_str());
        let of = |past: &&Past| past.revision == revision.as_str();
        let promoted = self.history.iter().rposition(|p| of(&p) && p.outcome == Outcome::Promoted);
        let at = promoted.and_then(|index| self.history.get(index)?.at);
        let last = self.history.iter().rev().find(of).map(|past| past.outcome);
        if last == Some(Outcome::BreakGlass) {
            return Verdict::Not("let it through unanalysed, by a break-glass".into());
        }
        if is(&self.primary) {
            // What the history does not reach back to was before all of it.
            return Verdict::Promoted(at.or_else(|| self.history.first()?.at));
        }
        if is(&self.running) {
            return Verdict::Not("has not finished releasing it".into());
        }
        match last {
            Some(Outcome::Rejected) => Verdict::Rejected,
            None if is(&self.failed) => Verdict::Rejected,
            Some(Outcome::Promoted | Outcome::BreakGlass) => {
                match self.went_back(promoted.unwrap_or_default()) {
                    Some(to) => Verdict::Not(format!("went back from it to revision {to}")),
                    None => Verdict::Promoted(at),
                }
            }
            Some(Outcome::Unknown) => {
                Verdict::Not("says of it what only a newer version of Sidetrack knows".into())
            }
            None => Verdict::Not(self.primary.as_ref().map_or_else(
                || "has promoted nothing yet".into(),
                |primary| format!("runs revision {}, not {revision}", Revision::from_key(primary.as_str())),
            )),
        }
    }

    /// The revision that the primary runs, if it ran it before the promotion at this place of the history too: what came
    /// after did not take its place, it was taken back.
    fn went_back(&self, promotion: usize) -> Option<Revision> {
        let primary = self.primary.as_ref()?;
        let mut before = self.history.iter().take(promotion);
        before
            .any(|past| past.revision == *primary && past.outcome == Outcome::Promoted)
            .then(|| Revision::from_key(primary.as_str()))
    }
}

/// What one cluster says of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Promoted(Option<Timestamp>),
    Rejected,
    /// Neither, as a sentence about the cluster goes on.
    Not(String),
}

#[derive(Clone, Debug, Default)]
struct Peer {
    contact: Contact,
    canaries: BTreeMap<Key, Seen>,
}

/// What is known of other clusters.
#[derive(Clone, Debug, Default)]
pub struct Peers(BTreeMap<String, Peer>);

impl Peers {
    /// Forgets all clusters but these.
    pub fn retain(&mut self, clusters: &BTreeSet<String>) {
        self.0.retain(|name, _| clusters.contains(name));
    }

    /// Notes whether a cluster can be asked; a loss lasts since it began. `false` when that was known.
    pub fn contact(&mut self, cluster: &str, mut contact: Contact) -> bool {
        let peer = self.0.entry(cluster.to_owned()).or_default();
        if let (Contact::Lost { since: first, .. }, Contact::Lost { since, .. }) =
            (&peer.contact, &mut contact)
        {
            *since = *first;
        }
        let new = peer.contact != contact;
        peer.contact = contact;
        new
    }

    /// Takes in a complete list of a cluster's Canaries.
    pub fn listed(&mut self, cluster: &str, canaries: BTreeMap<Key, Seen>) {
        self.0.insert(cluster.to_owned(), Peer { contact: Contact::Heard, canaries });
    }

    /// Takes in what a Canary says, or that it is gone. `false` when that was known.
    pub fn see(&mut self, cluster: &str, key: Key, seen: Option<Seen>) -> bool {
        let canaries = &mut self.0.entry(cluster.to_owned()).or_default().canaries;
        match seen {
            Some(seen) if canaries.get(&key) == Some(&seen) => false,
            Some(seen) => {
                canaries.insert(key, seen);
                true
            }
            None => canaries.remove(&key).is_some(),
        }
    }

    /// Says which clusters of a wave cannot be asked, and why; those that are about to be listed aside.
    #[must_use]
    pub fn amiss(&self, wave: &Wave) -> Vec<String> {
        let known = wave.after.iter().filter_map(|name| Some((name, self.0.get(name)?)));
        known
            .filter(|(_, peer)| peer.contact != Contact::Unheard)
            .filter_map(|(name, peer)| Some(format!("cluster {name} {}", peer.contact.amiss()?)))
            .collect()
    }

    fn verdict(&self, cluster: &str, canary: &Key, revision: &Revision) -> Verdict {
        let Some(peer) = self.0.get(cluster) else {
            return Verdict::Not("has not been listed yet".into());
        };
        if let Some(amiss) = peer.contact.amiss() {
            return Verdict::Not(amiss);
        }
        match peer.canaries.get(canary) {
            Some(seen) => seen.verdict(revision),
            None => Verdict::Not(format!("has no Canary {}/{}", canary.0, canary.1)),
        }
    }
}

impl Contact {
    /// Why it cannot be asked, as a sentence about the cluster goes on.
    fn amiss(&self) -> Option<String> {
        match self {
            Self::Heard => None,
            Self::Unheard => Some("has not been listed yet".into()),
            Self::Lost { since, why } => Some(format!("has not been heard since {}: {why}", seconds(*since))),
            Self::Unusable(why) => Some(format!("cannot be asked: {why}")),
        }
    }
}

/// People read whole seconds.
fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// What the clusters that come before say of a revision of one Canary.
#[must_use]
pub fn gate(wave: &Wave, peers: &Peers, canary: &Key, revision: &Revision, now: Timestamp) -> Gate {
    let clusters: BTreeSet<&String> = wave.after.iter().collect();
    let all = clusters.len();
    if all == 0 {
        return Gate::Open;
    }
    let needed = wave.passed.map_or(all, |passed| usize::try_from(passed).unwrap_or_default().clamp(1, all));
    let soak = wave
        .soak
        .as_deref()
        .and_then(|text| go::parse_duration(text).ok())
        .and_then(|s| SignedDuration::try_from(s).ok());
    let soak = soak.unwrap_or_default();

    let (mut promoted, mut rejected, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for cluster in clusters {
        match peers.verdict(cluster, canary, revision) {
            Verdict::Promoted(None) if soak > SignedDuration::ZERO => {
                waits.push(format!("cluster {cluster} promoted it and does not say when"));
            }
            Verdict::Promoted(at) => promoted.push((at, cluster.as_str())),
            Verdict::Rejected => {
                rejected.push(cluster.as_str());
                waits.push(format!("cluster {cluster} rejected it"));
            }
            Verdict::Not(why) => waits.push(format!("cluster {cluster} {why}")),
        }
    }
    if all - rejected.len() < needed {
        let plural = if rejected.len() == 1 { "cluster" } else { "clusters" };
        return Gate::Rejected(format!("it was rejected in {plural} {}", rejected.join(", ")));
    }
    // The first ones that are enough: a later one does not make it wait longer.
    promoted.sort();
    promoted.truncate(needed);
    if promoted.len() < needed {
        let so_far =
            if all == 1 { String::new() } else { format!(", promoted in {} of {needed}", promoted.len()) };
        let why = format!("Revision {revision} waits for its wave{so_far}: {}.", waits.join("; "));
        return Gate::Closed { why, until: None };
    }
    let last = promoted.last().and_then(|(at, _)| *at);
    match last.and_then(|last| last.checked_add(soak).ok()) {
        Some(opens) if opens > now => {
            let names: Vec<&str> = promoted.into_iter().map(|(_, name)| name).collect();
            let why =
                format!("Revision {revision} was promoted in {}, soak until {opens}.", names.join(", "));
            Gate::Closed { why, until: Some(opens) }
        }
        _ => Gate::Open,
    }
}

#[cfg(test)]
mod tests;
