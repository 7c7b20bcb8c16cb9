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
        }),
    )
}

fn waiting() -> Canary {
    canary(
        "cart",
        &json!({
            "phase": "WaitingPromotion", "canaryWeight": 50, "run": run("Analysing", json!({})),
            "conditions": says("Ready", "Unknown", "Confirm-promotion check sign-off has not passed: 403 Forbidden"),
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
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "app", "image": image}]}}},
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

fn tree(canary: Canary) -> Tree {
    Tree {
        canary,
        weight: Some(20),
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
            owned("ReplicaSet", "checkout-6d9f", "ts", "t"),
            owned("ReplicaSet", "checkout-primary-54bb", "ps", "p"),
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
fn what_a_release_waits_for_comes_with_what_frees_it() {
    let end = |canary| {
        let drawn = draw(Screen::PLAIN, &tree(canary), now());
        let lines: Vec<&str> = drawn.lines().collect();
        lines[lines.iter().position(|l| l.contains("spec.analysis.alerts")).unwrap() + 1..].join("\n")
    };
    insta::assert_snapshot!("waits_for_a_gate", end(waiting()));
    insta::assert_snapshot!("waits_for_a_resume", end(paused()));
    insta::assert_snapshot!("waits_for_another_revision", end(failed()));
    assert_eq!(end(at_rest()), "└─ The primary runs revision 23483cbbf2.");
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
