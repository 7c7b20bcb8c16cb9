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

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::convert::Infallible;

    #[tokio::test]
    async fn each_message_is_an_event_with_its_own_text() {
        let (sent, mut requests) = mpsc::unbounded_channel();
        let server = tower::service_fn(move |request: http::Request<Body>| {
            let sent = sent.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let event: Value = serde_json::from_slice(&body).unwrap();
                sent.send((head.method, event["note"].as_str().unwrap().to_owned())).unwrap();
                Ok::<_, Infallible>(http::Response::new(Body::from(body.to_vec())))
            }
        });
        let canary: Canary = serde_json::from_value(json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "app", "namespace": "test", "uid": "u"},
            "spec": {"targetRef": {"kind": "Deployment", "name": "app"}, "service": {"port": 80}, "analysis": {}},
        }))
        .unwrap();
        let (inbox, outbox) = mpsc::channel(2);
        for text in ["one", "two"] {
            inbox.send((Box::new(canary.clone()), Message::normal(text))).await.unwrap();
        }
        drop(inbox);
        publish(Client::new(server, "default"), outbox).await;
        for text in ["one", "two"] {
            assert_eq!(requests.recv().await, Some((http::Method::POST, text.to_owned())));
        }
    }
}
