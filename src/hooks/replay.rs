//! Replays recorded runs: each hook is sent Flagger's payload, and its answer gets Flagger's words.

use super::{Event, Hook, HookType};
use crate::outbound::{Exchange, HttpResponse};
use recordings::Run;
use serde_json::Value;
use std::collections::BTreeSet;

fn hooks(trace: &Run) -> Vec<Hook> {
    let Some(canary) = trace.canary() else { return Vec::new() };
    let mut hooks: Vec<Hook> =
        serde_json::from_value(canary["spec"]["analysis"]["webhooks"].clone()).unwrap_or_default();
    if let Some(url) = trace.flag("-event-webhook")
        && !hooks.iter().any(|h| h.type_ == HookType::Event)
    {
        hooks.push(Hook::global_event(url));
    }
    hooks
}

/// Returns the hook that a recorded request went to; `None` for an alert.
fn called<'a>(hooks: &'a [Hook], request: &Value) -> Option<&'a Hook> {
    let path = request["path"].as_str().unwrap();
    hooks.iter().find(|h| h.url.ends_with(path))
}

fn answer(request: &Value) -> Exchange {
    Ok(HttpResponse {
        status: u16::try_from(request["answer"]["code"].as_u64().unwrap()).unwrap(),
        body: request["answer"]["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
    })
}

#[test]
fn every_payload_is_reproduced() {
    let mut compared = 0;
    for trace in recordings::all() {
        let hooks = hooks(trace);
        for sent in trace.list("hooks") {
            let Some(hook) = called(&hooks, sent) else { continue };
            let body = &sent["body"];
            let text = |key: &str| body[key].as_str().unwrap();
            let (name, namespace, phase, checksum) =
                (text("name"), text("namespace"), text("phase"), text("checksum"));
            let payload = if hook.type_ == HookType::Event {
                let of = |key: &str| body["metadata"][key].as_str().unwrap();
                let event = Event { message: of("eventMessage"), type_: of("eventType"), unix_ms: 0 };
                hook.event_payload(name, namespace, phase, checksum, &event)
            } else {
                hook.payload(name, namespace, phase, checksum)
            };
            let request = hook.request(&payload).unwrap();
            let mut ours: Value = serde_json::from_slice(&request.body).unwrap();
            if hook.type_ == HookType::Event {
                // The recording has a placeholder for the time.
                ours["metadata"]["timestamp"] = body["metadata"]["timestamp"].clone();
            }
            assert_eq!(&ours, body, "{} {}", trace.name(), hook.name);
            for (header, value) in &request.headers {
                assert_eq!(&sent["headers"][header], value);
            }
            compared += 1;
        }
    }
    assert!(compared > 200, "only {compared} payloads");
}

/// What each answer lets us say, Flagger's log has; and it has nothing else of hooks.
#[test]
fn verdicts_have_flaggers_words() {
    let (mut compared, mut kinds) = (0, BTreeSet::new());
    for trace in recordings::all() {
        let hooks = hooks(trace);
        let mut ours = Vec::new();
        let mut attempts = 0;
        for sent in trace.list("hooks") {
            let Some(hook) = called(&hooks, sent) else { continue };
            let exchange = answer(sent);
            let retried = exchange.as_ref().is_ok_and(|r| r.status >= 500);
            attempts += 1;
            if retried && attempts <= hook.retries {
                continue;
            }
            attempts = 0;
            let canary = sent["body"]["name"].as_str().unwrap();
            let said = match hook.verdict(&exchange) {
                Ok(()) => hook.passed(),
                Err(error) => Some(hook.failed(canary, trace.name(), &error)),
            };
            kinds.insert(format!("{:?} {}", hook.type_, hook.verdict(&exchange).is_ok()));
            ours.extend(said);
        }
        let theirs: Vec<String> = trace
            .list("log")
            .iter()
            .filter_map(|l| l["msg"].as_str())
            .filter(|m| {
                let m = m.replace(trace.name(), "NS");
                ["check ", "hook ", "waiting for approval", "waiting for promotion", "waiting for traffic"]
                    .iter()
                    .any(|part| m.contains(part))
                    && !m.starts_with("Error checking")
                    && !m.starts_with("Rolling back")
                    || m.starts_with("error sending event")
            })
            .map(str::to_owned)
            .collect();
        // A gate that stays closed is logged once, and asked at each step.
        let distinct = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(distinct(&ours), distinct(&theirs), "{}", trace.name());
        compared += ours.len();
    }
    assert!(compared > 100 && kinds.len() >= 12, "{compared} answers, {kinds:?}");
}
