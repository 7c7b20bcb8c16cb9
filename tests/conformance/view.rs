//! What is compared of a run, as lines of text by theme; timing aside.

use recordings::Run;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Lines by theme: `statuses`, `messages`, `hooks`, `queries`, and `object KIND NAME` for each object.
pub(super) type View = BTreeMap<String, Vec<String>>;

/// Endpoints that receive events and alerts.
const RECEIVERS: [&str; 6] = ["events", "slack", "msteams", "discord", "rocket", "gchat"];

/// Adds a line, unless it repeats the last one.
pub(super) fn add(view: &mut View, theme: &str, line: String) {
    let lines = view.entry(theme.to_owned()).or_default();
    if lines.last() != Some(&line) {
        lines.push(line);
    }
}

/// What Flagger says at each tick of an initialisation is compared once.
const SAID_ONCE: [&str; 2] =
    ["all the metrics providers are available!", "Error checking metric providers: "];

/// Adds a message.
pub(super) fn message(view: &mut View, text: &str) {
    let add = if SAID_ONCE.iter().any(|once| text.starts_with(once)) { add_new } else { add };
    add(view, "messages", text.to_owned());
}

/// Adds a line that has not been there before.
pub(super) fn add_new(view: &mut View, theme: &str, line: String) {
    let lines = view.entry(theme.to_owned()).or_default();
    if !lines.contains(&line) {
        lines.push(line);
    }
}

pub(super) fn hook(to: &str, body: &Value) -> Option<String> {
    let is_event = body.pointer("/metadata/eventType").is_some();
    let mut body = body.clone();
    body.as_object_mut()?.remove("checksum");
    (!is_event && !RECEIVERS.contains(&to)).then(|| format!("{to} {body}"))
}

/// What of a status is waited for: the phase, while weights rise the weight too, and checks that have failed.
pub(super) fn anchor(line: &str) -> &str {
    let counters = match line.starts_with("Progressing") {
        true if line.ends_with(" failed 0") => " failed",
        true => return line,
        false => " weight",
    };
    line.split(counters).next().unwrap_or_default()
}

/// What is compared of a status; nothing of one that is not written yet.
pub(super) fn status(status: &Value) -> Option<String> {
    let phase = status["phase"].as_str()?;
    Some(format!("{phase} weight {} failed {}", status["canaryWeight"], status["failedChecks"]))
}

/// What is compared of an object that was written: nothing for kinds that the routers' own replays compare.
pub(super) fn object(object: &Value) -> Option<(String, String)> {
    let kind = object["kind"].as_str()?;
    let name = object.pointer("/metadata/name")?.as_str()?;
    let spec = &object["spec"];
    let line = match kind {
        "Service" => {
            let port = |p: &Value| {
                let target = p.get("targetPort").unwrap_or(&p["port"]);
                json!({"name": p["name"], "port": p["port"], "to": target, "app": p["appProtocol"]})
            };
            // Flagger discovers ports in the order of a map.
            let mut ports: Vec<Value> = spec["ports"].as_array().into_iter().flatten().map(port).collect();
            ports.sort_by_key(|p| p["name"].to_string());
            json!({"selector": spec["selector"], "ports": ports, "headless": spec["clusterIP"] == "None"})
        }
        "Deployment" => {
            let template = &spec["template"];
            let mut annotations = template.pointer("/metadata/annotations").cloned().unwrap_or(json!({}));
            if let Some(map) = annotations.as_object_mut() {
                map.remove("flagger-id");
            }
            let images: Vec<&Value> = template
                .pointer("/spec/containers")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|c| &c["image"])
                .collect();
            json!({
                "replicas": spec["replicas"], "labels": template.pointer("/metadata/labels"),
                "annotations": annotations, "images": images, "selector": spec["selector"]["matchLabels"],
            })
        }
        "HorizontalPodAutoscaler" => {
            json!({"min": spec["minReplicas"], "max": spec["maxReplicas"], "of": spec["scaleTargetRef"]["name"], "metrics": spec["metrics"]})
        }
        "VirtualService" | "HTTPRoute" | "TrafficSplit" | "TraefikService" => {
            let mut found = Vec::new();
            weights(spec, &mut found);
            json!(found)
        }
        "DestinationRule" => json!({"host": spec["host"], "trafficPolicy": spec["trafficPolicy"]}),
        _ => return None,
    };
    Some((format!("object {kind} {name}"), line.to_string()))
}

/// Weights below a route, with their backends.
fn weights(value: &Value, found: &mut Vec<String>) {
    if let Some(weight) = value.get("weight") {
        let host = ["/destination/host", "/name", "/service"].iter().find_map(|p| value.pointer(p));
        let weight = weight.as_str().map_or_else(|| weight.to_string(), str::to_owned);
        found.push(format!("{}={weight}", host.and_then(Value::as_str).unwrap_or_default()));
    }
    match value {
        Value::Array(all) => all.iter().for_each(|v| weights(v, found)),
        Value::Object(map) => map.values().for_each(|v| weights(v, found)),
        _ => {}
    }
}

/// What Flagger did.
pub(super) fn of_trace(trace: &Run) -> View {
    let mut view = View::new();
    for (_, line) in statuses(trace) {
        add(&mut view, "statuses", line);
    }
    for line in trace.list("log").iter().filter(|l| l.get("canary").is_some() && l["level"] != "debug") {
        message(&mut view, line["msg"].as_str().unwrap());
    }
    for call in trace.list("hooks") {
        if let Some(line) = hook(call["to"].as_str().unwrap(), &call["body"]) {
            add(&mut view, "hooks", line);
        }
    }
    for query in trace.list("metric_queries") {
        add_new(&mut view, "queries", query["query"].as_str().unwrap().to_owned());
    }
    for write in trace.timeline("write").filter(|w| w["code"].as_u64().is_some_and(|c| c < 300)) {
        let resource = write["resource"].as_str().unwrap();
        if resource == "deployments" && write["verb"] == "patch" {
            let line = format!("{{\"replicas\":{}}}", write["patch"]["spec"]["replicas"]);
            add(&mut view, &format!("object Scale {}", write["name"].as_str().unwrap()), line);
        } else if !resource.ends_with("/status")
            && let Some((theme, line)) = object(&write["object"])
        {
            add(&mut view, &theme, line);
        }
    }
    view
}

/// Whether an object is one that Flagger has no counterpart of.
pub(super) fn is_own(kind: &str) -> bool {
    kind == "ControllerRevision" || kind == "Canary"
}

/// Distinct (time, phase, weight, failed checks) of the Canary of a run.
pub(super) fn statuses(run: &Run) -> Vec<(f64, String)> {
    let mut all: Vec<(f64, String)> = Vec::new();
    for entry in run.timeline("status") {
        let Some(text) = status(&entry["status"]) else { continue };
        if all.last().is_none_or(|(_, last)| *last != text) {
            all.push((entry["t"].as_f64().unwrap(), text));
        }
    }
    all
}
