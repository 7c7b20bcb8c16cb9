//! Kubernetes Events: a few tasks send them, those of a Canary in order, so that no decision waits for them.
//!
//! They are core `v1` Events with Flagger's reason. One Event stands for one text about one Canary: saying it again raises
//! its count. The name derives from Canary and text, so that a message said once more after a crash is not a second Event.
//! (kube's own recorder aggregates by reason, which is the same for all of ours: it would show the first text only.)

use crate::api::Canary;
use crate::rollout::model::plan::{Level, Message};
use crate::telemetry::log::chain;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Reason of every Event (Flagger's; scripts select on it).
const REASON: &str = "Synced";
/// Who reports them.
const COMPONENT: &str = "sidetrack";
/// How long the API server keeps an Event by default.
const KEPT_SECONDS: i64 = 3600;

/// Tasks that send: one alone falls behind when many Canaries are analysed at once.
const LANES: usize = 8;
/// Events that may wait in each.
const WAITING: usize = 128;

/// A message and the Canary that it is about.
type Said = (Box<Canary>, Message);

/// Sends Events until the channel closes.
pub async fn publish(client: Client, mut inbox: mpsc::Receiver<Said>) {
    let mut tasks = JoinSet::new();
    let lanes: Vec<mpsc::Sender<Said>> = (0..LANES)
        .map(|_| {
            let (lane, outbox) = mpsc::channel(WAITING);
            tasks.spawn(send_in_order(client.clone(), outbox));
            lane
        })
        .collect();
    while let Some(event) = inbox.recv().await {
        if let Some(lane) = lanes.get(lane_of(&event.0)) {
            // A lane ends with this task only.
            let _ = lane.send(event).await;
        }
    }
}

/// One Canary, one lane.
fn lane_of(canary: &Canary) -> usize {
    let digest = Sha256::digest(canary.uid().unwrap_or_default());
    digest.first().map_or(0, |byte| usize::from(*byte) % LANES)
}

async fn send_in_order(client: Client, mut inbox: mpsc::Receiver<Said>) {
    let mut counts: HashMap<String, (i32, Timestamp)> = HashMap::new();
    while let Some((canary, message)) = inbox.recv().await {
        let now = crate::clock::now();
        counts.retain(|_, (_, last)| now.as_second() - last.as_second() < KEPT_SECONDS);
        let Some(event) = event(&canary, &message, now) else { continue };
        let name = event.name_any();
        let (count, _) = counts.get(&name).copied().unwrap_or((0, now));
        let api: Api<Event> = Api::namespaced(client.clone(), &canary.namespace().unwrap_or_default());
        match send(&api, &event, count).await {
            Ok(count) => drop(counts.insert(name, (count, now))),
            Err(error) => tracing::warn!("an Event could not be sent: {}", chain(&error)),
        }
    }
}

/// Creates an Event, or raises its count; returns the count.
async fn send(api: &Api<Event>, event: &Event, known: i32) -> Result<i32, kube::Error> {
    let params = PostParams { field_manager: Some(COMPONENT.into()), ..PostParams::default() };
    if known == 0 {
        match api.create(&params, event).await {
            Ok(_) => return Ok(1),
            // From before a restart.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    let name = event.name_any();
    let count = match known {
        0 => api.get(&name).await?.count.unwrap_or(1) + 1,
        known => known + 1,
    };
    let patch = json!({"count": count, "lastTimestamp": event.last_timestamp});
    let patched = api.patch(&name, &PatchParams::apply(COMPONENT), &Patch::Merge(&patch)).await;
    match patched {
        Err(kube::Error::Api(status)) if status.code == 404 => api.create(&params, event).await.map(|_| 1),
        other => other.map(|_| count),
    }
}

/// The Event of a message; `None` for one that is a log line only.
#[must_use]
pub fn event(canary: &Canary, message: &Message, now: Timestamp) -> Option<Event> {
    if message.level == Level::Log {
        return None;
    }

    let reference = canary.object_ref(&());
    let type_ = if message.level == Level::Normal { "Normal" } else { "Warning" };
    let digest = Sha256::digest(format!("{:?} {type_} {}", reference.uid, message.text));
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let at = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    Some(Event {
        metadata: ObjectMeta {
            // An object's name has at most 253 characters, a Canary's too.
            name: Some(format!("{}.{hash}", canary.name_any().get(..230).unwrap_or(&canary.name_any()))),
            namespace: canary.namespace(),
            ..ObjectMeta::default()
        },
        involved_object: reference,
        reason: Some(REASON.into()),
        message: Some(message.text.clone()),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: None }),
        first_timestamp: at.clone(),
        last_timestamp: at,
        count: Some(1),
        type_: Some(type_.into()),
        ..Event::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_is_one_event() {
        let mut canary = Canary::default();
        canary.metadata.uid = Some("u".into());
        canary.metadata.name = Some("app".into());
        let at =
            |text: &str| event(&canary, &Message::normal(text), Timestamp::UNIX_EPOCH).map(|e| e.name_any());
        assert_eq!(at("a"), at("a"));
        assert_ne!(at("a"), at("b"));
    }
}
