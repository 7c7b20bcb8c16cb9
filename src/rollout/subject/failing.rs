//! Why pods are not ready, in the words of Kubernetes: it survives them in status.

use super::Subject;
use super::eviction::{phase, pods_of, ready};
use crate::api::keys;
use crate::foreign::cut_to;
use crate::object::Kind;
use serde_json::Value;
use std::collections::BTreeMap;

/// Different reasons that are told at most.
const MOST: usize = 3;
/// The longest text of one of them, in bytes: a container's last words may be long.
const LONGEST: usize = 300;

impl Subject<'_> {
    /// The label by which the pods of a Deployment of ours are listed.
    #[must_use]
    pub fn pods_label(&self, deployment: &str) -> Option<(String, String)> {
        let live = self.get(Kind::Deployment, deployment)?;
        let labels = live.pointer("/spec/selector/matchLabels")?;
        // Where nothing routes, the canary's pods are the application's too, and are told from others by a label of their own.
        [keys::PODS.to_owned(), self.label()?.key]
            .into_iter()
            .find_map(|key| Some((key.clone(), labels.get(&key)?.as_str()?.to_owned())))
    }

    /// Says why pods of a Deployment are not ready, or are not even made; `None` when nothing tells. `sets` and `pods` are
    /// those of its label.
    #[must_use]
    pub fn why_not_ready(&self, deployment: &str, sets: &[Value], pods: &[Value]) -> Option<String> {
        let live = self.get(Kind::Deployment, deployment)?;
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for pod in pods_of(live, sets, pods).into_iter().filter(|pod| !ready(pod)) {
            for reason in of_pod(pod) {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        let told = |(reason, pods): (&String, &usize)| {
            if *pods > 1 { format!("{reason} ({pods} pods)") } else { reason.clone() }
        };
        let mut all: Vec<String> = reasons.iter().take(MOST).map(told).collect();
        // Pods that a quota or an admission policy refuses are none: only the Deployment tells of them.
        let conditions = live.pointer("/status/conditions").and_then(Value::as_array);
        let refused = conditions.into_iter().flatten().find(|condition| {
            condition.get("type").is_some_and(|t| t == "ReplicaFailure")
                && condition.get("status").is_some_and(|s| s == "True")
        });
        all.extend(refused.and_then(|c| Some(cut_to(c.get("message")?.as_str()?, LONGEST))));
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// What keeps one pod from being ready: its containers, or that no node takes it.
fn of_pod(pod: &Value) -> Vec<String> {
    let text = |value: &Value, pointer: &str| {
        value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let statuses = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let containers =
        statuses.iter().flat_map(|p| pod.pointer(p).and_then(Value::as_array).into_iter().flatten());
    let mut found = Vec::new();
    for container in containers.filter(|c| c.get("ready").is_none_or(|ready| ready != true)) {
        let name = text(container, "/name").unwrap_or_default();
        // What it died of says more than that it is not started again yet.
        let ended = ["/state/terminated", "/lastState/terminated"].iter().find_map(|p| container.pointer(p));
        let ended = ended.filter(|ended| ended.pointer("/exitCode").is_none_or(|code| code != 0));
        let (what, words) = if let Some(ended) = ended {
            let code = ended.pointer("/exitCode").map_or_else(|| "?".to_owned(), Value::to_string);
            let reason = text(ended, "/reason").filter(|reason| reason != "Error");
            let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            (format!("exited with code {code}{reason}"), text(ended, "/message"))
        } else if let Some(waiting) = container.pointer("/state/waiting") {
            let reason = text(waiting, "/reason").unwrap_or_else(|| "waiting".to_owned());
            if matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") {
                continue;
            }
            (reason, text(waiting, "/message"))
        } else {
            ("runs and is not ready: see its readiness probe".to_owned(), None)
        };
        let words = words.map_or_else(String::new, |words| format!(": {}", words.trim()));
        found.push(cut_to(&format!("container {name} {what}{words}"), LONGEST));
    }
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let unscheduled = conditions.into_iter().flatten().find(|condition| {
        condition.get("type").is_some_and(|t| t == "PodScheduled")
            && condition.get("status").is_some_and(|s| s == "False")
    });
    found.extend(
        unscheduled
            .and_then(|c| Some(cut_to(&format!("no node takes it: {}", text(c, "/message")?), LONGEST))),
    );
    if found.is_empty() && phase(pod) == "Failed" {
        let words = text(pod, "/status/message").or_else(|| text(pod, "/status/reason"));
        found.extend(words.map(|words| cut_to(&format!("failed: {words}"), LONGEST)));
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::api::keys;
    use crate::rollout::subject::testing::{subject_with, target};
    use serde_json::{Value, json};

    fn pod(name: &str, status: &Value) -> Value {
        json!({"metadata": {"name": name, "uid": name, "ownerReferences": [{"uid": "set"}]}, "status": status})
    }

    fn why(deployment: &Value, pods: &[Value]) -> Option<String> {
        let mut live = target(&json!({"spec": {}}));
        json_patch::merge(&mut live, &json!({"metadata": {"uid": "app"}}));
        json_patch::merge(&mut live, deployment);
        let sets = [json!({"metadata": {"uid": "set", "ownerReferences": [{"uid": "app"}]}})];
        subject_with(live).why_not_ready("app", &sets, pods)
    }

    #[test]
    fn what_containers_died_of_and_wait_for_is_told_once_for_pods_that_say_the_same() {
        let crash = json!({"containerStatuses": [{"name": "app", "ready": false,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}},
            "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "message": "no such table: users\n"}}}]});
        let image = json!({"containerStatuses": [{"name": "app", "ready": false,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"app:v9\""}}}]});
        let said = why(&json!({}), &[pod("a", &crash), pod("b", &crash), pod("c", &image)]);
        assert_eq!(
            said.as_deref(),
            Some(
                "container app ImagePullBackOff: Back-off pulling image \"app:v9\"; \
                 container app exited with code 3: no such table: users (2 pods)"
            )
        );
    }

    #[test]
    fn probes_nodes_and_quotas_are_told_too() {
        let probe = json!({"containerStatuses": [{"name": "app", "ready": false, "state": {"running": {}}}]});
        let node = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]});
        let killed = json!({"containerStatuses": [{"name": "app", "ready": false,
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "state": {"running": {}}}]});
        for (status, says) in [
            (probe, "container app runs and is not ready: see its readiness probe"),
            (node, "no node takes it: 0/3 nodes are available"),
            (killed, "container app exited with code 137 (OOMKilled)"),
        ] {
            assert_eq!(why(&json!({}), &[pod("a", &status)]).as_deref(), Some(says));
        }
        let quota = json!({"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]}});
        assert_eq!(why(&quota, &[]).as_deref(), Some("exceeded quota"));
    }

    /// Where nothing routes, the canary's pods have the application's labels, and one more.
    #[test]
    fn pods_are_listed_by_the_label_that_tells_them_from_others() {
        let of = |labels: Value| {
            let selector = json!({"spec": {"selector": {"matchLabels": labels}}});
            let mut live = target(&json!({"spec": {}}));
            json_patch::merge(&mut live, &selector);
            subject_with(live).pods_label("app").unwrap()
        };
        assert_eq!(of(json!({"app": "app"})), ("app".into(), "app".into()));
        assert_eq!(of(json!({"app": "app", keys::PODS: "app"})), (keys::PODS.into(), "app".into()));
    }

    /// Pods that are ready, that are being made, or that are somebody else's tell nothing.
    #[test]
    fn what_is_merely_under_way_is_no_reason() {
        let starting = json!({"containerStatuses": [{"name": "app", "ready": false,
            "state": {"waiting": {"reason": "ContainerCreating"}}}]});
        let mut foreign =
            pod("b", &json!({"containerStatuses": [{"name": "app", "state": {"waiting": {"reason": "X"}}}]}));
        foreign["metadata"]["ownerReferences"] = json!([{"uid": "another"}]);
        assert_eq!(why(&json!({}), &[pod("a", &starting), foreign]), None);
    }
}
