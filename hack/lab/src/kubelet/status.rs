//! What a kubelet says of a pod.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

/// Where the container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It does not run, for this reason.
    Waiting(&'static str),
    /// It runs since.
    Running(Timestamp),
}

/// How the container ended last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
}

/// All that there is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) address: Ipv4Addr,
    pub(super) state: State,
    pub(super) ready: bool,
    /// When `ready` was last another.
    pub(super) ready_since: Timestamp,
    pub(super) restarts: i32,
    pub(super) last: Option<Ended>,
    pub(super) started: Timestamp,
}

impl Status {
    /// Returns a strategic merge patch of the pod's status; the uid makes it miss a successor of the same name.
    pub(super) fn patch(&self, pod: &Pod, container: &Container) -> Value {
        let ready = if self.ready { "True" } else { "False" };
        let condition = |kind: &str, status: &str, since: Timestamp| {
            let mut condition =
                json!({ "type": kind, "status": status, "lastTransitionTime": seconds(since) });
            if let (Some(fields), "False") = (condition.as_object_mut(), status) {
                fields.insert("reason".to_owned(), json!("ContainersNotReady"));
            }
            condition
        };
        let (state, runs) = match &self.state {
            State::Waiting(reason) => (json!({ "waiting": { "reason": reason } }), false),
            State::Running(since) => (json!({ "running": { "startedAt": seconds(*since) } }), true),
        };
        let last = self.last.as_ref().map(|ended| {
            json!({ "terminated": {
                "exitCode": ended.code, "reason": if ended.code == 0 { "Completed" } else { "Error" },
                "startedAt": seconds(ended.started), "finishedAt": seconds(ended.finished),
            } })
        });
        let id = format!("lab://{}-{}", pod.uid().unwrap_or_default(), self.restarts);
        let phase = if runs || self.restarts > 0 { "Running" } else { "Pending" };
        json!({
            "metadata": { "uid": pod.uid() },
            "status": {
                "phase": phase,
                "hostIP": "10.244.0.1", "hostIPs": [{ "ip": "10.244.0.1" }],
                "podIP": self.address.to_string(), "podIPs": [{ "ip": self.address.to_string() }],
                "startTime": seconds(self.started),
                "conditions": [
                    condition("PodReadyToStartContainers", "True", self.started),
                    condition("Initialized", "True", self.started),
                    condition("Ready", ready, self.ready_since),
                    condition("ContainersReady", ready, self.ready_since),
                    condition("PodScheduled", "True", self.started),
                ],
                "containerStatuses": [{
                    "name": container.name, "image": container.image, "imageID": container.image,
                    "containerID": id, "ready": self.ready, "started": runs, "restartCount": self.restarts,
                    // A merge keeps what is not mentioned: a container that runs waits no more.
                    "state": { "waiting": state.get("waiting"), "running": state.get("running") },
                    "lastState": last.unwrap_or_else(|| json!({})),
                }],
            },
        })
    }
}

/// Times of the API have no fractions.
fn seconds(at: Timestamp) -> Value {
    json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_that_runs_waits_no_more() {
        let at: Timestamp = "2026-01-02T03:04:05.9Z".parse().unwrap();
        let status = Status {
            address: Ipv4Addr::new(10, 244, 0, 10),
            state: State::Running(at),
            ready: false,
            ready_since: at,
            restarts: 0,
            last: None,
            started: at,
        };
        let patch = status.patch(&Pod::default(), &Container::default());
        let container = &patch["status"]["containerStatuses"][0];
        assert_eq!(container["state"]["running"]["startedAt"], "2026-01-02T03:04:05Z");
        assert!(container["state"]["waiting"].is_null());
        assert_eq!(patch["status"]["phase"], "Running");
        assert_eq!(patch["status"]["conditions"][2]["status"], "False");
    }
}
