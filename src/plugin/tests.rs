use super::progress::{Verdict, judge};
use super::screen::{Screen, Widths};
use super::tree::{Tree, draw};
use super::*;
use crate::api::Canary;
use crate::api::status::{Share, ShareBy};
use jiff::Timestamp;
use serde_json::{Value, json};

const V1: &str = "23483cbbf2bf9e6d8d545436dc50e4456771e1c50727df82006072993ee2100c";
const V2: &str = "8ac491156be4b06c8bde3bc0a1dddab1d58558363e705c04831295ddf254f308";

/// A terminal of 80 columns, without colours so that snapshots can be read.
const NARROW: Screen = Screen { colour: false, width: Some(80) };

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn canary(name: &str, status: &Value) -> Canary {
    let mut object = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2025-12-01T00:00:00Z"},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": {"port": 80},
            "analysis": {
                "interval": "1m", "threshold": 5, "stepWeight": 10, "maxWeight": 50,
                "metrics": [
                    {"name": "request-success-rate", "thresholdRange": {"min": 99}},
                    {"name": "request-duration", "thresholdRange": {"max": 500}},
                ],
                "webhooks": [{"name": "sign-off", "type": "confirm-promotion", "url": "http://gate.shop/"}],
            },
        },
        "status": {"revisions": {"primary": V1}, "lastTransitionTime": "2026-01-01T00:59:00Z"},
    });
    json_patch::merge(&mut object["status"], status);
    serde_json::from_value(object).unwrap()
}

fn says(kind: &str, status: &str, message: &str) -> Value {
    json!([{"type": kind, "status": status, "reason": "x", "message": message}])
}

fn run(stage: &str, more: Value) -> Value {
    let mut run = json!({"revision": V2, "stage": stage, "since": "2026-01-01T00:58:00Z", "weight": 20});
    json_patch::merge(&mut run, &more);
    run
}

fn analysing() -> Canary {
    canary(
        "checkout",
        &json!({
            "phase": "Progressing", "canaryWeight": 20, "failedChecks": 1, "run": run("Analysing", json!({})),
            "conditions": says("Ready", "Unknown", "The canary is being analysed."),
            "checks": [
                {"name": "request-success-rate", "type": "metric", "passed": true, "value": "99.53%", "at": "2026-01-01T00:59:30Z"},
                {"name": "request-duration", "type": "metric", "passed": false, "value": "620ms", "at": "2026-01-01T00:59:30Z"},
            ],
        }),
    )
}

fn waiting() -> Canary {
    canary(
        "cart",
        &json!({
            "phase": "WaitingPromotion", "canaryWeight": 50, "run": run("Analysing", json!({})),
            "conditions": says("Ready", "Unknown", "Confirm-promotion check sign-off has not passed: 403 Forbidden"),
            "checks": [{"name": "sign-off", "type": "confirm-promotion", "passed": false, "at": "2026-01-01T00:59:30Z"}],
        }),
    )
}

fn paused() -> Canary {
    canary(
        "search",
        &json!({
            "phase": "Progressing", "canaryWeight": 20, "run": run("Analysing", json!({"paused": true})),
            "conditions": says("Ready", "Unknown", "The run is paused by alice; resume it to go on."),
            "request": {"text": "pause 8ac491156b 1 lunch", "by": "alice", "outcome": "Taken", "at": "2026-01-01T00:50:00Z",
                "message": "The run stays where it is until it is resumed."},
        }),
    )
}

fn failed() -> Canary {
    canary(
        "pay",
        &json!({
            "phase": "Failed", "revisions": {"failed": V2},
            "conditions": says("Ready", "False", "Revision 8ac491156b was rejected, the primary runs 23483cbbf2."),
        }),
    )
}

fn at_rest() -> Canary {
    canary(
        "stock",
        &json!({"phase": "Succeeded", "conditions": says("Ready", "True", "The primary runs revision 23483cbbf2.")}),
    )
}

fn list(screen: Screen, with_namespace: bool, wide: bool) -> String {
    let canaries = [analysing(), waiting(), paused(), failed(), at_rest()];
    let rows = canaries.iter().map(|c| view::row(c, with_namespace, wide, now()));
    let rows: Vec<_> = std::iter::once(view::headings(with_namespace, wide)).chain(rows).collect();
    Widths::default().lay_out(screen, &rows)
}

fn deployment(name: &str, uid: &str, image: &str, metadata: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": name, "uid": uid},
        "spec": {"replicas": 1, "template": {"metadata": {"labels": {}},
            "spec": {"containers": [{"name": "app", "image": image}]}}},
        "status": {"readyReplicas": 1},
    });
    json_patch::merge(&mut object["metadata"], &metadata);
    object
}

fn owned(kind: &str, name: &str, uid: &str, owner: &str) -> Value {
    let ready = json!({
        "phase": "Running", "readyReplicas": 1, "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"restartCount": 2}],
    });
    json!({
        "kind": kind,
        "metadata": {"name": name, "uid": uid, "creationTimestamp": "2026-01-01T00:55:00Z",
            "ownerReferences": [{"uid": owner}]},
        "spec": {"replicas": 1}, "status": ready,
    })
}

/// A ReplicaSet with pods of this image.
fn replica_set(name: &str, uid: &str, owner: &str, image: &str) -> Value {
    let mut set = owned("ReplicaSet", name, uid, owner);
    set["spec"]["template"] = json!({"metadata": {"labels": {"pod-template-hash": name}},
        "spec": {"containers": [{"name": "app", "image": image}]}});
    set
}

fn tree(canary: Canary) -> Tree {
    Tree {
        canary,
        weight: Some(20),
        steps: crate::rollout::model::weights::Steps { step: 10, list: Vec::new(), max: 50, promotion: 0 },
        interval: jiff::SignedDuration::from_secs(60),
        forbidden: std::collections::BTreeSet::new(),
        remarks: vec!["spec.analysis.alerts is not served yet.".into()],
        deployments: vec![
            deployment(
                "checkout",
                "t",
                "shop/checkout:2",
                json!({"annotations": {
                "sidetrack.dev/applied-by": "kustomize-controller system:serviceaccount:flux-system:kustomize-controller"}}),
            ),
            deployment(
                "checkout-primary",
                "p",
                "shop/checkout:1",
                json!({
                "annotations": {"sidetrack.dev/promoted": V1}, "labels": {"sidetrack.dev/role": "generated"}}),
            ),
        ],
        replica_sets: vec![
            replica_set("checkout-6d9f", "ts", "t", "shop/checkout:2"),
            replica_set("checkout-primary-54bb", "ps", "p", "shop/checkout:1"),
        ],
        pods: vec![
            owned("Pod", "checkout-6d9f-x2k", "tp", "ts"),
            owned("Pod", "checkout-primary-54bb-9fw", "pp", "ps"),
            owned("Pod", "stranger", "s", "nobody"),
        ],
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_list_is_cut_to_the_terminal_and_whole_in_a_pipe() {
    insta::assert_snapshot!("list_80", list(NARROW, false, false));
    insta::assert_snapshot!("list", list(Screen::PLAIN, true, false));
    insta::assert_snapshot!("list_wide", list(Screen::PLAIN, false, true));
    assert!(list(NARROW, true, true).lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_tree_is_cut_to_the_terminal_and_whole_in_a_pipe() {
    insta::assert_snapshot!("tree_80", draw(NARROW, &tree(analysing()), now()));
    insta::assert_snapshot!("tree", draw(Screen::PLAIN, &tree(analysing()), now()));
    assert!(draw(NARROW, &tree(analysing()), now()).lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_revision_that_waits_behind_another_one_is_not_given_its_phase() {
    let v3 = "cfde9df5bc0000000000000000000000000000000000000000000000000000000";
    let line = super::progress::line(&analysing(), v3, Verdict::Open);
    assert!(
        line.starts_with("shop/checkout cfde9df5bc held, behind 8ac491156b (Progressing), weight 20"),
        "{line}"
    );
    let line = super::progress::line(&analysing(), V2, Verdict::Open);
    assert!(line.starts_with("shop/checkout 8ac491156b Progressing, weight 20"), "{line}");
}

#[test]
fn a_revision_is_named_by_digits_that_no_other_one_begins_with() {
    let all = ["8ac491156b", "8ac4ffffff", "23483cbbf2"];
    let of = |asked| view::one_of(all.into_iter(), asked);
    assert_eq!(of("2348"), Ok(Some("23483cbbf2")));
    assert_eq!(of("8ac49"), Ok(Some("8ac491156b")));
    assert_eq!(of("ffff"), Ok(None));
    assert!(of("").unwrap_err().contains("at least 4"), "as where a variable is empty");
    assert!(of("8ac4").unwrap_err().contains("8ac491156b, 8ac4ffffff"));
}

/// What people look for stands first and whole: the reason, what to type, and pods that are not well.
#[test]
fn of_many_pods_those_are_shown_that_are_not_ready_and_no_reason_is_cut() {
    let why = "Revision 8ac491156b was rejected (canary deployment checkout.shop not ready: container app exited with code 3: no such \
               table: users (2 pods)), the primary runs 23483cbbf2.";
    let mut shown =
        tree(canary("checkout", &json!({"phase": "Failed", "conditions": says("Ready", "False", why)})));
    let pod =
        shown.pods.iter().find(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == "ts").unwrap().clone();
    shown.pods.retain(|pod| pod["metadata"]["ownerReferences"][0]["uid"] != "ts");
    for number in 0..50 {
        let mut pod = pod.clone();
        pod["metadata"]["name"] = format!("pod-{number}").into();
        if number == 7 {
            pod["status"]["conditions"] = json!([]);
        }
        shown.pods.push(pod);
    }
    let drawn = draw(NARROW, &shown, now());
    assert!(drawn.contains("Pod pod-7  ") && drawn.contains("49 more pods are ready"), "{drawn}");
    assert!(!drawn.contains("Pod pod-8"), "{drawn}");
    let words: Vec<&str> =
        drawn.split_whitespace().filter(|word| !matches!(*word, "├─" | "│" | "└─")).collect();
    assert!(words.join(" ").contains(why), "{drawn}");
    assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
}

/// In place: the target holds v2, its pods run v1, and the canary runs v2.
fn in_place(canary: Canary) -> Tree {
    let held = revision_of("shop/checkout:2");
    let generated =
        json!({"annotations": {"sidetrack.dev/revision": V2}, "labels": {"sidetrack.dev/role": "generated"}});
    let target = json!({"annotations": {"sidetrack.dev/hold": held, "sidetrack.dev/promoted": V1,
        "sidetrack.dev/applied-by": "helm alice"}});
    Tree {
        canary,
        weight: Some(20),
        steps: crate::rollout::model::weights::Steps { step: 10, list: Vec::new(), max: 50, promotion: 0 },
        interval: jiff::SignedDuration::from_secs(60),
        forbidden: std::collections::BTreeSet::new(),
        remarks: Vec::new(),
        deployments: vec![
            deployment("checkout", "t", "shop/checkout:2", target),
            deployment("checkout-canary", "c", "shop/checkout:2", generated),
        ],
        replica_sets: vec![
            replica_set("checkout-54bb", "ts", "t", "shop/checkout:1"),
            replica_set("checkout-canary-6d9f", "cs", "c", "shop/checkout:2"),
        ],
        pods: vec![
            owned("Pod", "checkout-54bb-9fw", "tp", "ts"),
            owned("Pod", "checkout-canary-6d9f-x2k", "cp", "cs"),
        ],
    }
}

fn revision_of(image: &str) -> String {
    let object = deployment("x", "x", image, json!({}));
    crate::api::revision::Revision::of(&object["spec"]["template"]).as_str().to_owned()
}

/// A release with ten pods a side, and when it is looked at.
pub(super) fn crowded() -> (Tree, Timestamp) {
    let mut tree = in_place(analysing());
    for number in 0..9 {
        for set in ["ts", "cs"] {
            let mut pod = owned("Pod", &format!("checkout-{set}-{number}"), &format!("{set}{number}"), set);
            // Those of the canary are not ready, and are shown one by one.
            if set == "cs" {
                pod["status"]["conditions"] = json!([]);
            }
            tree.pods.push(pod);
        }
    }
    (tree, now())
}

#[test]
fn in_place_a_tree_tells_what_is_held_from_what_runs() {
    insta::assert_snapshot!("tree_in_place", draw(Screen::PLAIN, &in_place(analysing()), now()));
    let mut rejected = in_place(failed());
    rejected.deployments[0]["metadata"]["annotations"]["sidetrack.dev/failed"] =
        revision_of("shop/checkout:2").into();
    rejected.replica_sets.push(replica_set("checkout-77aa", "ms", "t", "shop/checkout:3"));
    let drawn = draw(Screen::PLAIN, &rejected, now());
    let line = drawn.lines().find(|line| line.contains("Deployment checkout ")).unwrap();
    let [v1, v2, v3] = [1, 2, 3].map(|n| revision_of(&format!("shop/checkout:{n}"))[..10].to_owned());
    assert_eq!(
        line,
        format!(
            "├─ Deployment checkout  runs {v1}  shop/checkout:1 and {v3}  shop/checkout:3  1/1 ready  \
             holds {v2}  shop/checkout:2, rejected  applied by helm alice"
        )
    );
}

#[test]
fn checks_and_gates_stand_with_what_they_said_last() {
    let line = |canary: Canary, part: &str| {
        let drawn = draw(Screen::PLAIN, &tree(canary), now());
        drawn.lines().find(|line| line.contains(part)).unwrap_or_default().to_owned()
    };
    assert!(line(analysing(), "request-success").ends_with("99.53%  at least 99  30s ago"));
    assert!(line(analysing(), "request-duration").ends_with("620ms  at most 500  30s ago"));
    assert!(line(failed(), "request-duration").ends_with("not asked  at most 500"));
    assert!(line(analysing(), "sign-off").contains("sign-off  not asked  http"));
    assert!(line(waiting(), "confirm-promotion sign").contains("sign-off  waits  30s ago"));
    let mut promoting = waiting();
    let status = promoting.status.as_mut().unwrap();
    status.phase = crate::api::status::Phase::Promoting;
    status.run.as_mut().unwrap().stage = crate::api::status::Stage::Promoting;
    assert!(line(promoting, "confirm-promotion sign").contains("passed on request"));
}

#[test]
fn an_application_without_pods_is_scaled_where_its_pods_are() {
    let stopped = json!({"phase": "Succeeded", "conditions": says("Ready", "True", "Revision b waits: it is scaled to 0.")});
    let mut app = canary("app", &stopped);
    assert!(view::advice(&app)[0].contains("sidetrack.dev/requested-replicas=2"));
    app.metadata.annotations = Some([("sidetrack.dev/layout".to_owned(), "in-place".to_owned())].into());
    assert_eq!(view::advice(&app), ["kubectl scale deployment app -n shop --replicas=2"]);
}

#[test]
fn nothing_is_put_back_into_a_deployment_that_is_gone() {
    let missing =
        json!([{"type": "Stalled", "status": "True", "reason": "TargetMissing", "message": "gone"}]);
    let app = canary("app", &json!({"phase": "Failed", "conditions": missing}));
    assert_eq!(view::advice(&app), ["apply Deployment app again"]);
}

#[test]
fn what_a_policy_holds_says_what_frees_it() {
    let waits = |text: &str| {
        let run = json!({"revision": "b", "stage": "Gated", "since": "2026-01-01T00:00:00Z"});
        let status = json!({"phase": "Waiting", "run": run, "conditions": says("Ready", "Unknown", text)});
        view::advice(&canary("app", &status)).join("; ")
    };
    let approval = "Revision b waits for an approval by somebody other than who applied it.";
    assert_eq!(waits(approval), "kubectl sidetrack approve app -n shop");
    assert!(waits("Frozen until 2026-01-01T00:00:00Z: weekend (policy shop).").contains("the freeze ends"));
    assert!(
        waits("It waits for its turn: policy shop lets 1 run at once.").contains("the releases before it")
    );
    assert!(waits("Revision b waits for its wave: cluster one runs a.").contains("clusters before"));
}

#[test]
fn what_a_release_waits_for_comes_with_what_frees_it() {
    let end = |canary| {
        let drawn = draw(Screen::PLAIN, &tree(canary), now());
        let lines: Vec<&str> = drawn.lines().skip(1).collect();
        lines[..lines.iter().position(|l| l.contains("Weight ")).unwrap()].join("\n")
    };
    insta::assert_snapshot!("waits_for_a_gate", end(waiting()));
    insta::assert_snapshot!("waits_for_a_resume", end(paused()));
    insta::assert_snapshot!("waits_for_another_revision", end(failed()));
    assert_eq!(end(at_rest()), "├─ The primary runs revision 23483cbbf2.");
}

/// Without a router the pods are the share.
#[test]
fn the_pods_that_make_the_share_are_shown() {
    let mut canary = analysing();
    let (by, step, percent, canary_pods, primary) = (ShareBy::Replicas, 20, 33, 1, 2);
    let status = canary.status.as_mut().unwrap();
    status.share = Some(Share { by, step, percent, canary: canary_pods, primary });
    status.canary_weight = percent;
    let row = |wide| format!("{:?}", view::row(&canary, false, wide, now()));
    assert!(row(true).contains("33 (1 of 3 pods, step 20)") && !row(false).contains("pods, step"));
    let drawn = draw(Screen::PLAIN, &tree(canary), now());
    let line = "1 of 3 ready pods are the canary's: 33 % (step 20); failed checks 1 of 5";
    assert!(drawn.contains(line), "{drawn}");
}

#[test]
fn a_revision_is_judged_by_what_status_names() {
    assert_eq!(judge(&at_rest(), V1, Some(V1)), Verdict::Promoted);
    // Just applied: the controller has not seen it.
    assert_eq!(judge(&at_rest(), V2, Some(V2)), Verdict::Open);
    assert_eq!(judge(&analysing(), V2, Some(V2)), Verdict::Open);
    assert_eq!(judge(&failed(), V2, Some(V2)), Verdict::Rejected);
    assert_eq!(judge(&failed(), V2, None), Verdict::Rejected);
    assert_eq!(judge(&at_rest(), V2, Some(V1)), Verdict::Replaced);
    assert_eq!(judge(&analysing(), &"0".repeat(64), Some(V2)), Verdict::Replaced);
    let codes = [Verdict::Promoted, Verdict::Rejected, Verdict::Open, Verdict::Replaced].map(Verdict::code);
    assert_eq!(codes, [0, 3, 4, 5]);
}

/// Who may not read the route is told so, and not that there is none.
#[test]
fn a_route_that_may_not_be_read_is_no_missing_one() {
    let mut seen = tree(canary("checkout", &json!({"phase": "Progressing", "canaryWeight": 20})));
    seen.weight = None;
    assert!(draw(Screen::PLAIN, &seen, now()).contains("set, no route"));
    seen.forbidden.insert("VirtualService");
    let drawn = draw(Screen::PLAIN, &seen, now());
    assert!(drawn.contains("the route is not shown: you may not read VirtualService"), "{drawn}");
}
