//! Which pod of a primary is evicted next, so that in the end none is older than a moment.

use super::Subject;
use crate::object::{Kind, ObjectRef, Write};
use crate::rollout::model::workload::Workload;
use jiff::Timestamp;
use serde_json::Value;

/// What is to be done about pods that are older than a moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Older {
    /// There are none.
    None,
    /// They stay until there are as many available pods as there should be.
    Wait,
    /// This one is evicted.
    Evict(Write),
    /// They stay, for this reason.
    Stay(String),
}

impl Subject<'_> {
    /// Picks the next pod of the target to evict among the pods and ReplicaSets of its namespace: one that is not ready,
    /// as that costs nothing, else the oldest, while all pods that there should be are available.
    #[must_use]
    pub fn older(&self, sets: &[Value], pods: &[Value], than: Timestamp) -> Older {
        let Some((target, workload)) = self.target().and_then(|t| Some((t, Workload::parse(t)?))) else {
            return Older::None;
        };
        let mut live = pods_of(target, sets, pods);
        live.retain(|pod| !matches!(phase(pod), "Succeeded" | "Failed"));
        live.sort_by_key(|pod| created(pod));
        let full = usize::try_from(workload.replicas).unwrap_or(0);
        let all = live.iter().filter(|pod| ready(pod)).count() >= full
            && workload.rollout.available >= workload.replicas;
        let older: Vec<&Value> = live.into_iter().filter(|pod| created(pod) < Some(than)).collect();
        let next = older.iter().find(|pod| !ready(pod));
        match next.or_else(|| older.first().filter(|_| all)) {
            None if older.is_empty() => Older::None,
            None => Older::Wait,
            Some(pod) if ready(pod) && full == 1 => {
                Older::Stay("it is the only one, and would be gone before another one is there".into())
            }
            Some(pod) => {
                let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let target = ObjectRef::new(Kind::Pod, &self.names.namespace, text("/metadata/name"));
                Older::Evict(Write::Evict { target, uid: text("/metadata/uid").to_owned() })
            }
        }
    }
}

/// The pods of a Deployment that are not on their way out, by way of its ReplicaSets.
pub(super) fn pods_of<'p>(deployment: &Value, sets: &[Value], pods: &'p [Value]) -> Vec<&'p Value> {
    let owned = |object: &Value, owner: Option<&Value>| {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owner.is_some() && owners.into_iter().flatten().any(|o| o.get("uid") == owner)
    };
    let uid = |object: &Value| object.pointer("/metadata/uid").cloned();
    let sets: Vec<Value> =
        sets.iter().filter(|set| owned(set, uid(deployment).as_ref())).filter_map(uid).collect();
    pods.iter()
        .filter(|pod| sets.iter().any(|set| owned(pod, Some(set))))
        .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
        .collect()
}

pub(super) fn phase(pod: &Value) -> &str {
    pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
}

fn created(pod: &Value) -> Option<Timestamp> {
    pod.pointer("/metadata/creationTimestamp")?.as_str()?.parse().ok()
}

pub(super) fn ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let is = |key: &str, value: &str| condition.get(key).is_some_and(|v| v == value);
        is("type", "Ready") && is("status", "True")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::subject::testing::{subject, target};
    use serde_json::json;

    /// A pod: its name, the second in which it was made, whether it is ready; and its ReplicaSet.
    fn pod(name: &str, second: i64, ready: bool, set: &str) -> Value {
        json!({
            "metadata": {"name": name, "uid": name, "ownerReferences": [{"uid": set}],
                "creationTimestamp": Timestamp::from_second(second).unwrap().to_string()},
            "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })
    }

    fn next(replicas: i32, available: i32, pods: &[Value]) -> String {
        let mut live = target(&json!({}));
        json_patch::merge(
            &mut live,
            &json!({"spec": {"replicas": replicas}, "status": {"availableReplicas": available}}),
        );
        let mut subject = subject(&json!({}));
        subject.objects.insert(ObjectRef::new(Kind::Deployment, "test", "app"), live.into());
        let set =
            |name: &str, owner: &str| json!({"metadata": {"uid": name, "ownerReferences": [{"uid": owner}]}});
        let sets = [set("old", "u"), set("older", "u"), set("foreign", "other")];
        match subject.older(&sets, pods, Timestamp::from_second(100).unwrap()) {
            Older::Evict(write) => write.target().unwrap().name,
            Older::None => "none".into(),
            Older::Wait => "wait".into(),
            Older::Stay(_) => "stay".into(),
        }
    }

    #[test]
    fn the_oldest_pod_goes_when_all_are_available_and_one_that_is_not_ready_before_it() {
        let (a, b) = (pod("a", 50, true, "old"), pod("b", 40, true, "older"));
        let new = pod("new", 100, true, "old");
        assert_eq!(next(2, 2, &[a.clone(), b.clone()]), "b");
        assert_eq!(next(2, 1, &[a.clone(), b.clone()]), "wait", "as the Deployment has it");
        assert_eq!(next(3, 3, &[a.clone(), b.clone()]), "wait", "as the pods are");
        assert_eq!(next(2, 1, &[pod("a", 50, false, "old"), b.clone()]), "a");
        assert_eq!(next(2, 1, &[b.clone(), pod("new", 100, false, "old")]), "wait");
        assert_eq!(next(2, 2, &[new.clone(), new.clone()]), "none");
        assert_eq!(next(1, 1, std::slice::from_ref(&a)), "stay");
        assert_eq!(next(2, 2, &[new.clone(), new, pod("theirs", 1, true, "foreign")]), "none");
        let mut leaving = a;
        leaving["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:01Z".into();
        assert_eq!(next(2, 2, &[leaving, b.clone()]), "wait");
        assert_eq!(next(0, 0, &[]), "none");
    }
}
