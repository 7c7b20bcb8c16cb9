//! What is written for policies, from facts alone.

use super::plan::{Mend, Work, plan};
use super::roster::Roster;
use super::wave::Contact;
use crate::admission::policy_webhooks;
use crate::api::keys;
use crate::api::revision::Revision;
use crate::object::{Kind, ObjectRef, Write};
use crate::rollout::model::gates::Gate;
use jiff::Timestamp;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn roster(objects: &[Value]) -> Roster {
    let mut roster = Roster::default();
    roster.default_provider = "istio".into();
    for object in objects {
        see(&mut roster, object);
    }
    roster.refresh();
    roster
}

fn see(roster: &mut Roster, object: &Value) {
    roster.see(ObjectRef::of(object).unwrap().kind, object);
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": "shop"}}})
}

fn deployment(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]}}},
    })
}

fn policy(name: &str, change: &Value) -> Value {
    let mut policy = json!({
        "apiVersion": "sidetrack.dev/v1alpha1", "kind": "CanaryPolicy",
        "metadata": {"name": name, "uid": name, "generation": 1, "finalizers": [keys::POLICY_FINALIZER]},
        "spec": {
            "namespaceSelector": {"matchLabels": {"team": "shop"}},
            "canary": {"analysis": {"interval": "1m", "threshold": 2, "stepWeight": 10}},
        },
    });
    json_patch::merge(&mut policy, change);
    policy
}

/// What is made, as `namespace/name port`.
fn made(work: &Work) -> Vec<String> {
    let canary = |write: &Write| match write {
        Write::Create { object, .. } => {
            let text = |pointer: &str| {
                object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let port = object.pointer("/spec/service/port").cloned().unwrap_or_default();
            Some(format!("{}/{} {port}", text("/metadata/namespace"), text("/metadata/name")))
        }
        _ => None,
    };
    work.writes.iter().filter_map(canary).collect()
}

fn created(work: &Work) -> Vec<Value> {
    let object = |write: &Write| match write {
        Write::Create { object, .. } => {
            let mut object = object.clone();
            object["metadata"]["uid"] = "c".into();
            Some(object)
        }
        _ => None,
    };
    work.writes.iter().filter_map(object).collect()
}

fn deleted(work: &Work) -> Vec<String> {
    let one = |write: &Write| match write {
        Write::Delete { target, .. } => Some(target.name.clone()),
        _ => None,
    };
    work.writes.iter().filter_map(one).collect()
}

/// The status that is written of a policy.
fn status(work: &Work, name: &str) -> Value {
    let of = |write: &Write| match write {
        Write::ReplaceStatus { object } if object["metadata"]["name"] == name => {
            Some(object["status"].clone())
        }
        _ => None,
    };
    work.writes.iter().find_map(of).unwrap_or_default()
}

/// Whoever may make Deployments in one namespace ends no guard in another: the policy goes on, and adopts no more.
#[test]
fn more_deployments_than_max_targets_end_no_guard_of_a_policy_that_acts() {
    let limit = |n: i32| policy("shop", &json!({"spec": {"maxTargets": n}}));
    let mut roster = roster(&[namespace("cart"), deployment("cart", "a"), limit(1)]);
    let first = plan(&roster, NOW);
    assert_eq!(made(&first), ["cart/a 80"]);
    for canary in created(&first) {
        see(&mut roster, &canary);
    }
    let mut stored = limit(1);
    // What the policy says after its status was written and somebody has edited it.
    let mut after = |roster: &mut Roster, edit: &Value| {
        for change in [&json!({"status": status(&plan(roster, NOW), "shop")}), edit] {
            json_patch::merge(&mut stored, change);
            see(roster, &stored);
            roster.refresh();
        }
        match status(&plan(roster, NOW), "shop") {
            Value::Null => stored["status"]["conditions"][0]["reason"].clone(),
            status => status["conditions"][0]["reason"].clone(),
        }
    };
    assert_eq!(after(&mut roster, &json!({})), "Enforced");
    for name in ["b", "c"] {
        see(&mut roster, &deployment("cart", name));
    }
    roster.refresh();
    let entries = |roster: &Roster| {
        let configuration = policy_webhooks::configuration(roster, &json!({"caBundle": ""}), "me");
        configuration["webhooks"].as_array().unwrap().len()
    };
    let more = plan(&roster, NOW);
    let ready = &status(&more, "shop")["conditions"][0];
    assert_eq!(
        (made(&more).len(), &ready["reason"], entries(&roster)),
        (0, &json!("Enforced"), 1),
        "{more:?}"
    );
    assert!(ready["message"].as_str().unwrap().contains("more than the 1 of spec.maxTargets"), "{ready}");
    assert_eq!(roster.governed().len(), 3, "their freezes and approvals count");
    // What the webhook has enrolled is to be released.
    let mut enrolled = deployment("cart", "b");
    json_patch::merge(&mut enrolled, &json!({"metadata": {"annotations": {keys::POLICY: "shop"}}}));
    see(&mut roster, &enrolled);
    roster.refresh();
    assert_eq!(made(&plan(&roster, NOW)), ["cart/b 80"]);
    // It is stated, and so survives a restart and an edit of all but the selectors.
    let edited = after(&mut roster, &json!({"spec": {"priority": 3}}));
    assert_eq!((edited, entries(&roster)), ("Enforced".into(), 1));
    let all = json!({"spec": {"selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}});
    assert_eq!((after(&mut roster, &all), entries(&roster)), ("TooMany".into(), 0));
}

/// Deleting an application and making it again is no way past its analysis; one that stays away leaves.
#[test]
fn the_canary_of_a_deployment_that_is_gone_stays_for_a_while() {
    let mut roster = roster(&[namespace("cart"), deployment("cart", "a"), policy("shop", &json!({}))]);
    let mut canary = created(&plan(&roster, NOW)).remove(0);
    let since = NOW.to_string();
    json_patch::merge(&mut canary, &json!({"status": {"phase": "Succeeded", "revisions": {"primary": "p"}}}));
    see(&mut roster, &canary);
    roster.lose(&ObjectRef::new(Kind::Deployment, "cart", "a"));
    roster.refresh();
    assert_eq!(deleted(&plan(&roster, NOW)), [""; 0], "it is not stated yet");
    let stall = json!([{"type": "Stalled", "status": "True", "reason": "TargetMissing", "lastTransitionTime": since}]);
    json_patch::merge(&mut canary, &json!({"status": {"conditions": stall}}));
    see(&mut roster, &canary);
    let later = |minutes: i64| NOW + jiff::SignedDuration::from_mins(minutes);
    let waits = plan(&roster, later(14));
    assert_eq!((deleted(&waits).len(), waits.wake), (0, Some(later(15))));
    assert_eq!(deleted(&plan(&roster, later(15))), ["a"]);
    // What the policy does not select any more, and what has never been promoted, leaves at once.
    let mut other = namespace("cart");
    other["metadata"]["labels"] = json!({});
    see(&mut roster, &other);
    roster.refresh();
    assert_eq!(deleted(&plan(&roster, later(1))), ["a"]);
    see(&mut roster, &namespace("cart"));
    json_patch::merge(&mut canary, &json!({"status": {"revisions": {"primary": null}}}));
    see(&mut roster, &canary);
    roster.refresh();
    assert_eq!(deleted(&plan(&roster, later(1))), ["a"]);
}

#[test]
fn every_deployment_gets_a_canary_with_its_port_and_after_that_nothing_is_written() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "cart", "name": "b"},
        "spec": {"ports": [{"port": 9000, "targetPort": "http"}]}});
    let mut generated = deployment("cart", "a-primary");
    json_patch::merge(&mut generated, &json!({"metadata": {"labels": {keys::ROLE: keys::ROLE_GENERATED}}}));
    let mut roster = roster(&[
        namespace("cart"),
        namespace("kube-system"),
        deployment("cart", "a"),
        deployment("cart", "b"),
        generated,
        deployment("kube-system", "dns"),
        deployment("other", "c"),
        service,
        policy("shop", &json!({})),
    ]);
    let work = plan(&roster, NOW);
    assert_eq!(made(&work), ["cart/a 80", "cart/b 9000"]);
    assert_eq!(status(&work, "shop")["selected"], 2);
    for object in created(&work) {
        see(&mut roster, &object);
    }
    let mut written = policy("shop", &json!({}));
    written["status"] = status(&plan(&roster, NOW), "shop");
    assert_eq!(written["status"]["enrolled"], 2);
    see(&mut roster, &written);
    roster.refresh();
    assert_eq!(plan(&roster, NOW), Work::default());
}

#[test]
fn a_change_of_the_policy_is_written_and_what_a_team_made_its_own_is_let_go() {
    let mut roster = roster(&[
        namespace("cart"),
        deployment("cart", "a"),
        deployment("cart", "b"),
        policy("shop", &json!({})),
    ]);
    let mut canaries = created(&plan(&roster, NOW));
    let ours = json!([{"manager": keys::FIELD_MANAGER, "fieldsV1": {"f:spec": {}}}, {"manager": "kubectl", "fieldsV1": {"f:metadata": {}}}]);
    let theirs = json!([{"manager": "flux", "fieldsV1": {"f:spec": {}}}]);
    canaries[0]["metadata"]["managedFields"] = ours;
    canaries[1]["metadata"]["managedFields"] = theirs;
    canaries.iter().for_each(|canary| see(&mut roster, canary));
    see(&mut roster, &policy("shop", &json!({"spec": {"canary": {"analysis": {"stepWeight": 20}}}})));
    roster.refresh();
    let work = plan(&roster, NOW);
    let [(a, Mend::Write(spec)), (b, Mend::LetGo)] = work.mends.as_slice() else { panic!("{work:#?}") };
    assert_eq!((a.1.as_str(), b.1.as_str()), ("a", "b"));
    assert_eq!(spec["spec"]["analysis"]["stepWeight"], 20);
    assert_eq!(status(&work, "shop")["others"][0]["reason"], "it has a Canary of its own, b");
}

#[test]
fn what_no_policy_wants_any_more_goes_and_a_policy_goes_last() {
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let mut roster = roster(&[namespace("cart"), deployment("cart", "a"), policy("shop", &json!({}))]);
    let canary = created(&plan(&roster, NOW)).remove(0);
    see(&mut roster, &canary);
    see(&mut roster, &policy("shop", &deleting));
    roster.refresh();
    let work = plan(&roster, NOW);
    assert_eq!(deleted(&work), ["a"]);
    assert!(
        !work.writes.iter().any(|write| matches!(write, Write::Patch { .. })),
        "its finalizer stays: {work:#?}"
    );
    roster.lose(&ObjectRef::new(Kind::Canary, "cart", "a"));
    roster.refresh();
    let work = plan(&roster, NOW);
    assert!(
        work.writes
            .iter()
            .any(|write| matches!(write, Write::Patch { target, .. } if target.kind == Kind::CanaryPolicy))
    );
}

/// The webhook enrolled it in the very moment in which the policy went.
#[test]
fn an_enrolment_that_nobody_takes_up_is_taken_back() {
    let mut orphan = deployment("cart", "a");
    json_patch::merge(
        &mut orphan,
        &json!({"metadata": {"labels": {keys::CANARY: "a"}, "annotations": {keys::POLICY: "shop"}}}),
    );
    let gone = plan(&roster(&[namespace("cart"), orphan.clone()]), NOW);
    assert_eq!(gone.orphans, [("cart".to_owned(), "a".to_owned())]);
    let there = plan(&roster(&[namespace("cart"), orphan, policy("shop", &json!({}))]), NOW);
    assert!(there.orphans.is_empty() && made(&there) == ["cart/a 80"]);
}

#[test]
fn the_api_server_is_asked_for_policies_that_act_in_their_order() {
    let roster = roster(&[
        namespace("cart"),
        deployment("cart", "a"),
        deployment("cart", "b"),
        policy("z-first", &json!({"spec": {"priority": 9}})),
        policy("b", &json!({})),
        policy("a", &json!({})),
        policy("audit", &json!({"spec": {"mode": "audit", "priority": -1}})),
        policy("wrong", &json!({"spec": {"maxConcurrentReleases": 0}})),
        policy("many", &json!({"spec": {"maxTargets": 1}})),
        policy("going", &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
    ]);
    let client = json!({"url": "https://127.0.0.1:1/mutate", "caBundle": "QQ=="});
    let configuration = policy_webhooks::configuration(&roster, &client, "me");
    let entries: Vec<[&str; 3]> = configuration["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| [&e["name"], &e["clientConfig"]["url"], &e["failurePolicy"]].map(|v| v.as_str().unwrap()))
        .collect();
    assert_eq!(
        entries,
        [
            ["z-first.policies.sidetrack.dev", "https://127.0.0.1:1/enrol/in-place/z-first", "Fail"],
            ["a.policies.sidetrack.dev", "https://127.0.0.1:1/enrol/in-place/a", "Fail"],
            ["b.policies.sidetrack.dev", "https://127.0.0.1:1/enrol/in-place/b", "Fail"],
            ["audit.policies.sidetrack.dev", "https://127.0.0.1:1/audit/audit", "Ignore"],
        ]
    );
    for entry in configuration["webhooks"].as_array().unwrap() {
        assert!(entry["namespaceSelector"].to_string().contains("sidetrack-system"), "{entry}");
        assert_eq!(entry["clientConfig"]["caBundle"], "QQ==");
    }
}

/// Guards are about the Deployment, whoever says how it is released.
#[test]
fn a_guard_counts_for_a_canary_of_the_teams_own_as_well() {
    let freeze =
        json!({"spec": {"freeze": [{"schedule": "* * * * *", "duration": "5m", "reason": "inventory"}]}});
    let own = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"namespace": "cart", "name": "mine"},
        "spec": {"targetRef": {"name": "a"}}});
    let mut roster = roster(&[namespace("cart"), deployment("cart", "a"), policy("shop", &freeze), own]);
    let key = |name: &str| ("cart".to_owned(), name.to_owned());
    let frozen = roster.guard(&key("mine"), "a", NOW, || None).frozen.unwrap();
    assert_eq!(frozen.reason, "inventory (policy shop)");
    assert_eq!(roster.guard(&key("x"), "elsewhere", NOW, || None).frozen, None);
}

/// A wave is asked about the Canaries that its policy governs, a team's own among them, and about no other.
#[test]
fn a_wave_closes_what_its_policy_governs_and_status_names_a_cluster_that_cannot_be_asked() {
    let own = |namespace: &str| {
        json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"namespace": namespace, "name": "mine"}, "spec": {"targetRef": {"name": "a"}}})
    };
    let policies = [
        policy("shop", &json!({"spec": {"wave": {"after": ["eu-1"]}}})),
        policy("audit", &json!({"spec": {"wave": {"after": ["eu-2"]}, "mode": "audit", "priority": 9}})),
    ];
    let mut objects = vec![namespace("cart"), deployment("cart", "a"), own("cart"), own("other")];
    objects.extend(policies);
    let mut roster = roster(&objects);
    assert_eq!(roster.clusters().into_iter().collect::<Vec<_>>(), ["eu-1"]);
    let mine = ("cart".to_owned(), "mine".to_owned());
    assert_eq!((roster.after("eu-1"), roster.after("eu-2")), (vec![mine.clone()], vec![]));
    let wave = |roster: &mut Roster, target: &str, revision: Option<&str>| {
        roster.guard(&mine, target, NOW, || revision.map(Revision::from_key)).wave
    };
    assert!(matches!(wave(&mut roster, "a", Some("v2")), Gate::Closed { .. }));
    assert_eq!(wave(&mut roster, "a", None), Gate::Open);
    assert_eq!(wave(&mut roster, "b", Some("v2")), Gate::Open);

    let said = |roster: &Roster| {
        let writes = plan(roster, NOW).writes;
        let status = writes.iter().find_map(|write| match write {
            Write::ReplaceStatus { object } if object["metadata"]["name"] == "shop" => {
                Some(&object["status"])
            }
            _ => None,
        });
        status.unwrap()["conditions"][0].clone()
    };
    assert!(!said(&roster).to_string().contains("Wave:"), "it is about to be listed");
    roster.peers.contact("eu-1", Contact::Unusable("there is no Secret eu-1".into()));
    let ready = said(&roster);
    let text = ready["message"].as_str().unwrap();
    assert!(text.ends_with("Wave: cluster eu-1 cannot be asked: there is no Secret eu-1."), "{text}");
    assert_eq!(ready["status"], "True");
}

/// One Deployment too many enrols nobody any more, and lets nobody out.
#[test]
fn what_is_enrolled_stays_so_when_a_policy_goes_wrong() {
    let freeze = json!([{"schedule": "* * * * *", "duration": "5m", "reason": "inventory"}]);
    let change = json!({"spec": {"maxTargets": 1, "freeze": freeze}});
    let mut roster = roster(&[namespace("cart"), deployment("cart", "a"), policy("shop", &change)]);
    let canary = created(&plan(&roster, NOW)).remove(0);
    see(&mut roster, &canary);
    see(&mut roster, &deployment("cart", "b"));
    for wrong in [
        policy("shop", &change),
        policy("shop", &json!({"spec": {"freeze": freeze, "maxConcurrentReleases": 0}})),
    ] {
        see(&mut roster, &wrong);
        roster.refresh();
        let work = plan(&roster, NOW);
        assert!(deleted(&work).is_empty() && made(&work).is_empty() && work.mends.is_empty(), "{work:#?}");
        assert_ne!(status(&work, "shop")["conditions"][0]["status"], "True");
        let key = |name: &str| ("cart".to_owned(), name.to_owned());
        assert!(roster.guard(&key("a"), "a", NOW, || None).frozen.is_some());
        assert!(roster.guard(&key("b"), "b", NOW, || None).frozen.is_none());
    }
}

#[test]
fn whoever_was_governed_hears_when_that_ends() {
    let key = ("cart".to_owned(), "mine".to_owned());
    let own = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"namespace": "cart", "name": "mine"},
        "spec": {"targetRef": {"name": "a"}}});
    let mut roster = roster(&[namespace("cart"), deployment("cart", "a"), policy("shop", &json!({})), own]);
    let before = roster.versions();
    assert!(roster.concerned(&before).is_empty());
    let mut elsewhere = namespace("cart");
    elsewhere["metadata"]["labels"] = json!({});
    see(&mut roster, &elsewhere);
    roster.refresh();
    assert_eq!(roster.concerned(&before), std::slice::from_ref(&key));
    see(&mut roster, &namespace("cart"));
    see(&mut roster, &policy("shop", &json!({"metadata": {"generation": 2}})));
    roster.refresh();
    assert_eq!(roster.concerned(&before), [key]);
}

/// One that is paused at the head of the line holds up nobody.
#[test]
fn whoever_could_not_go_is_passed_over_in_the_line() {
    let waiting = |name: &str, since: &str, paused: bool| {
        json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"namespace": "cart", "name": name},
            "spec": {"targetRef": {"name": name}},
            "status": {"queued": since, "run": {"revision": "r", "stage": "Gated", "since": since, "paused": paused}}})
    };
    let mut roster = roster(&[
        namespace("cart"),
        deployment("cart", "a"),
        deployment("cart", "b"),
        policy("shop", &json!({"spec": {"maxConcurrentReleases": 1}})),
        waiting("a", "2026-01-01T00:00:00Z", true),
        waiting("b", "2026-01-01T00:00:01Z", false),
    ]);
    let turn = |roster: &mut Roster, name: &str| {
        roster.guard(&("cart".to_owned(), name.to_owned()), name, NOW, || None).turn.unwrap().granted
    };
    assert_eq!((turn(&mut roster, "a"), turn(&mut roster, "b")), (false, true));
    let granted = roster.see(Kind::Canary, &waiting("a", "2026-01-01T00:00:00Z", false));
    assert_eq!(granted, [("cart".to_owned(), "a".to_owned())], "resumed, it is the first again");
}

#[test]
fn a_selector_is_written_as_the_api_server_stores_it() {
    let empty = json!({"spec": {"selector": {"matchLabels": {}, "matchExpressions": [{"key": "a", "operator": "Exists", "values": []}]}}});
    let roster = roster(&[policy("shop", &empty)]);
    let configuration =
        policy_webhooks::configuration(&roster, &json!({"url": "https://127.0.0.1:1/mutate"}), "me");
    assert_eq!(
        configuration["webhooks"][0]["objectSelector"],
        json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]})
    );
}

/// What cannot be released is not held: the webhook is not asked about it, and what it enrolled before is let go.
#[test]
fn an_application_that_something_stands_in_the_way_of_is_left_alone_and_named() {
    let mut roster = roster(&[namespace("cart"), deployment("cart", "a"), policy("shop", &json!({}))]);
    let mut canary = created(&plan(&roster, NOW)).remove(0);
    let mut enrolled = deployment("cart", "a");
    json_patch::merge(&mut enrolled, &json!({"metadata": {"annotations": {keys::POLICY: "shop"}}}));
    see(&mut roster, &enrolled);
    see(&mut roster, &canary);
    let client = json!({"url": "https://127.0.0.1:1/mutate"});
    let asked = |roster: &Roster| {
        policy_webhooks::configuration(roster, &client, "me").to_string().contains("cart/a")
    };
    assert!(plan(&roster, NOW).refused.is_empty() && !asked(&roster));
    let why = "Deployment a-canary exists and was not made for Canary a.";
    let stalled =
        |reason: &str| json!([{"type": "Stalled", "status": "True", "reason": reason, "message": why}]);
    canary["status"] = json!({"phase": "Initializing", "conditions": stalled("Refused")});
    see(&mut roster, &canary);
    let work = plan(&roster, NOW);
    assert_eq!(work.refused, [("cart".to_owned(), "a".to_owned())]);
    let status = status(&work, "shop");
    assert_eq!((&status["leftAlone"], &status["enrolled"]), (&json!(["cart/a"]), &json!(0)));
    assert_eq!(status["others"], json!([{"deployment": "cart/a", "reason": why}]));
    assert!(asked(&roster));
    // A refused write is another matter: it is tried again.
    canary["status"]["conditions"] = stalled("WriteRefused");
    see(&mut roster, &canary);
    assert!(plan(&roster, NOW).refused.is_empty() && !asked(&roster));
}

/// A Deployment that loses its last port is told so, also where it has a Canary already.
#[test]
fn who_has_lost_its_port_is_told_why_it_is_not_released() {
    let mut roster = roster(&[namespace("cart"), deployment("cart", "a"), policy("shop", &json!({}))]);
    let canary = created(&plan(&roster, NOW)).remove(0);
    see(&mut roster, &canary);
    let mut portless = deployment("cart", "a");
    portless["spec"]["template"]["spec"]["containers"] = json!([{"name": "c"}]);
    see(&mut roster, &portless);
    let others = status(&plan(&roster, NOW), "shop")["others"].clone();
    assert!(others[0]["reason"].as_str().unwrap().contains("no port is known"), "{others}");
}
