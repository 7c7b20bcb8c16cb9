//! Questions to the outside: asked beside the look, and no longer than the tick that wants to know.

use super::act::Actor;
use super::cache::CanaryKey;
use super::limits::{Asker, Pool};
use super::watch::Change;
use crate::rollout::model::plan::Check;
use crate::rollout::subject::{Judged, Question, Subject};
use crate::telemetry::log::chain;
use std::collections::BTreeMap;
use tokio_util::task::AbortOnDropHandle;

impl Actor {
    /// Asks in the background; the answer counts only if the tick that asked is still the current one.
    pub(super) fn ask(&self, key: &CanaryKey, subject: &Subject<'_>, check: Check) {
        let tick = self.states().get(key).and_then(|s| s.memory.tick);
        let secret = subject.secret_of(&check);
        let (actor, key, config) = (self.clone(), key.clone(), self.config.clone());
        let (object, objects, target) =
            (subject.object.clone(), subject.objects.clone(), subject.names.target.clone());
        let asker = Asker {
            canary: key.clone(),
            pool: if matches!(check, Check::Hook { .. }) { Pool::Hooks } else { Pool::Metrics },
            patience: subject.spec().analysis.interval(config.min_interval),
        };
        let of = key.clone();
        let task = tokio::spawn(async move {
            let templates = BTreeMap::new();
            let Ok(subject) = Subject::new(object, objects, BTreeMap::new(), &templates, &config) else {
                return;
            };
            let secret = match secret {
                None => None,
                Some(at) => Some(match actor.writer.read(&at).await {
                    Ok(Some(secret)) => Ok(secret),
                    Ok(None) => Err(format!("secrets {:?} not found", at.name)),
                    Err(error) => Err(chain(&error)),
                }),
            };
            let judged = match subject.question(&check, secret) {
                Question::Settled(answer) => Judged { answer, exported: None },
                Question::Send(request) => subject.judge(&check, &actor.sender.send(&request, &asker).await),
            };
            {
                let mut states = actor.states();
                let Some(state) = states.get_mut(&key) else { return };
                if state.memory.tick != tick || !state.memory.asked.contains(&check) {
                    return;
                }
                // Whoever is gone exports nothing any more: nobody would take it away again.
                if let Some((metric, value)) = judged.exported {
                    actor.metrics.set_metric(&target, &key.0, &metric, value);
                    let metrics = &subject.spec().analysis.metrics;
                    let named = metrics.iter().map(|metric| metric.name.as_str()).collect();
                    actor.metrics.keep_metrics(&target, &key.0, &named);
                }
                state.memory.answers.insert(check, judged.answer);
            }
            let _ = actor.changes.send(Change::Dirty(vec![key])).await;
        });
        if let Some(state) = self.states().get_mut(&of) {
            state.asked.push((tick, AbortOnDropHandle::new(task)));
        }
    }
}
