//! Kubernetes Events: one task sends them, in order, so that no decision waits for them.

use crate::api::Canary;
use crate::rollout::plan::{Level, Message};
use crate::telemetry::log::chain;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;

/// Reason of every Event (Flagger's; scripts select on it).
const REASON: &str = "Synced";

/// Sends Events until the channel closes.
pub async fn publish(client: Client, mut inbox: mpsc::Receiver<(Box<Canary>, Message)>) {
    let reporter = Reporter { controller: "sidetrack".into(), instance: std::env::var("POD_NAME").ok() };
    while let Some((canary, message)) = inbox.recv().await {
        let event = Event {
            type_: if message.level == Level::Normal { EventType::Normal } else { EventType::Warning },
            reason: REASON.into(),
            note: Some(message.text),
            action: REASON.into(),
            secondary: None,
        };
        // A recorder of its own for each: one that is kept takes all messages of a Canary for one series, as they have the
        // same reason, and repeats the text of the first.
        let recorder = Recorder::new(client.clone(), reporter.clone());
        if let Err(error) = recorder.publish(&event, &canary.object_ref(&())).await {
            tracing::warn!("an Event could not be sent: {}", chain(&error));
        }
    }
}
