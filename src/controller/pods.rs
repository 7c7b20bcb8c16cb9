//! Steps that look at a target's ReplicaSets and pods: these are listed when they are needed, and followed by no watch.

use super::act::{ActError, Actor};
use super::cache::CanaryKey;
use crate::api::revision::Revision;
use crate::clock;
use crate::kubernetes::writer::WriteError;
use crate::object::Kind;
use crate::rollout::model::observed::{Evicted, PodsSaid};
use crate::rollout::model::plan::Message;
use crate::rollout::subject::{Older, Subject};
use crate::telemetry::log::chain;
use jiff::Timestamp;
use serde_json::Value;

/// How often marks are taken off ReplicaSets when a Canary leaves.
const UNMARKED: usize = 4;

impl Actor {
    async fn replica_sets(&self, subject: &Subject<'_>) -> Result<Vec<Value>, WriteError> {
        let Some(label) = subject.label() else { return Ok(Vec::new()) };
        let label = (label.key.as_str(), label.value.as_str());
        self.writer.list(Kind::ReplicaSet, &subject.names.namespace, label).await
    }

    /// The ReplicaSets and the pods that have a label.
    async fn sets_and_pods(
        &self,
        subject: &Subject<'_>,
        label: (&str, &str),
    ) -> Result<(Vec<Value>, Vec<Value>), WriteError> {
        let list = |kind| self.writer.list(kind, &subject.names.namespace, label);
        tokio::try_join!(list(Kind::ReplicaSet), list(Kind::Pod))
    }

    /// Stores what the target's pods were made from before a newer template was held on it.
    pub(super) async fn store_running(
        &self,
        key: &CanaryKey,
        subject: &Subject<'_>,
        revision: &Revision,
    ) -> Result<(), ActError> {
        let sets = self.replica_sets(subject).await?;
        let Some(template) = subject.template_among(&sets, revision) else {
            self.states().entry(key.clone()).or_default().memory.lost = Some(revision.clone());
            return Err(ActError::Snapshot(subject.names.snapshot(revision)));
        };
        for write in subject.store(&template, revision)? {
            self.write(key, &write).await?;
        }
        self.keep(key, revision, template);
        Ok(())
    }

    /// Deletes the target's ReplicaSets that are idle, but for the promoted one.
    pub(super) async fn empty_history(&self, key: &CanaryKey, subject: &Subject<'_>) -> Result<(), ActError> {
        let sets = self.replica_sets(subject).await?;
        for write in subject.idle_history(&sets) {
            self.write(key, &write).await?;
        }
        Ok(())
    }

    /// Takes our marks off the target's ReplicaSets. They do no harm: where that is refused, nobody waits for it.
    pub(super) async fn unmark_history(
        &self,
        key: &CanaryKey,
        subject: &Subject<'_>,
    ) -> Result<(), ActError> {
        // The Deployment controller may be copying still what it has read a moment ago.
        for _ in 0..UNMARKED {
            let writes = subject.unmarked_history(&self.replica_sets(subject).await?);
            if writes.is_empty() {
                break;
            }
            for write in writes {
                match self.write(key, &write).await {
                    Err(ActError::Write(error))
                        if error.code().is_some_and(|code| (400..500).contains(&code)) =>
                    {
                        tracing::debug!("marks stay on a ReplicaSet for now: {}", chain(&error));
                    }
                    done => drop(done?),
                }
            }
        }
        Ok(())
    }

    /// Asks the pods of a Deployment why they are not ready. Where they cannot be listed, nobody waits for what they would say.
    pub(super) async fn ask_pods(
        &self,
        key: &CanaryKey,
        subject: &Subject<'_>,
        deployment: &str,
        revision: &str,
    ) {
        let why = match subject.pods_label(deployment) {
            None => None,
            Some((name, value)) => match self.sets_and_pods(subject, (&name, &value)).await {
                Ok((sets, pods)) => subject.why_not_ready(deployment, &sets, &pods),
                Err(error) => {
                    tracing::debug!("the pods of {deployment} are not asked: {}", chain(&error));
                    None
                }
            },
        };
        let said = PodsSaid {
            deployment: deployment.to_owned(),
            revision: revision.to_owned(),
            at: clock::now(),
            why,
        };
        self.states().entry(key.clone()).or_default().memory.pods = Some(said);
    }

    /// Makes a ReplicaSet of the promoted revision, if there is none.
    pub(super) async fn give_back_pods(
        &self,
        key: &CanaryKey,
        subject: &Subject<'_>,
        promoted: &Revision,
    ) -> Result<(), ActError> {
        let sets = self.replica_sets(subject).await?;
        let Ok(template) = subject.template(promoted) else { return Ok(()) };
        for write in subject.given_back(&sets, promoted, template) {
            self.write(key, &write).await?;
        }
        Ok(())
    }

    /// Evicts one pod of the primary that is older, if there is one and it may go, and notes what there is.
    pub(super) async fn evict_older(
        &self,
        key: &CanaryKey,
        subject: &Subject<'_>,
        than: Timestamp,
    ) -> Result<(), ActError> {
        let Some(label) = subject.label() else { return Ok(()) };
        let (sets, pods) = self.sets_and_pods(subject, (&label.key, &label.value)).await?;
        let found = match subject.older(&sets, &pods, than) {
            Older::None => Evicted::All,
            Older::Wait => Evicted::Some,
            Older::Stay(why) => Evicted::Refused(why),
            Older::Evict(write) => match self.writer.write(&write).await {
                Ok(_) => {
                    let pod = write.target().map(|at| at.name).unwrap_or_default();
                    self.say(subject, &Message::log(format!("Pod {pod} evicted")));
                    Evicted::Some
                }
                Err(error) => match error.answer() {
                    Some((403 | 429, why)) => Evicted::Refused(why.to_owned()),
                    Some((404 | 409, _)) => Evicted::Some,
                    _ => return Err(error.into()),
                },
            },
        };
        if let Some(state) = self.states().get_mut(key)
            && let Some(renewal) = state.memory.renewal.as_mut().filter(|renewal| renewal.at == than)
        {
            renewal.found = found;
        }
        Ok(())
    }
}
