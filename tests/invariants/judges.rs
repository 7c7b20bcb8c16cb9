//! What kstatus, the library by which Flux and Helm 4 wait, makes of a Canary at every moment of a story.

use jiff::SignedDuration;
use serde_json::{Value, json};
use sidetrack::api::{crds, keys};
use sim::World;
use sim::manifests::{canary, in_place};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// A Canary as it was, and what a person would say of it.
struct Moment {
    story: &'static str,
    canary: Value,
    truth: &'static str,
}

/// What a person who knows everything would say: whoever waits must go on waiting, give up, or go ahead.
fn truth(world: &World) -> &'static str {
    let canary = world.cluster.get(&world.canary).unwrap();
    if canary["metadata"].get("deletionTimestamp").is_some() {
        return "Terminating";
    }
    let status = world.status();
    if !canary["spec"]["analysis"]["mirror"].is_null() || world.target().is_none() && status.adopted.is_some()
    {
        return "Failed";
    }
    let key = |key: &str| world.key(key).map(str::to_owned);
    match key(keys::HOLD) {
        Some(hold) if key(keys::FAILED) == Some(hold.clone()) && status.run.is_none() => "Failed",
        Some(_) => "InProgress",
        // Pods of the canary may be on their way out yet; the primary runs what the target says.
        None if status.run.is_none() && status.revisions.primary.is_some() => "Current",
        None => "InProgress",
    }
}

/// Plays on, and notes each state of the Canary that the controller leaves when it has seen everything.
fn plays(world: &mut World, seconds: i64, story: &'static str, moments: &mut Vec<Moment>) {
    let end = world.cluster.now + SignedDuration::from_secs(seconds);
    while world.cluster.now < end {
        world.step(end);
        let Some(canary) = world.cluster.get(&world.canary).cloned() else { return };
        let looked = world.process.as_ref().is_some_and(|p| p.seen == Some(world.cluster.version()));
        let settled = looked || canary.get("status").is_none();
        if settled && moments.last().is_none_or(|last| last.canary != canary) {
            moments.push(Moment { story, canary, truth: truth(world) });
        }
    }
}

/// A definition's default is what an object has that nobody has looked at.
fn as_stored(mut canary: Value) -> Value {
    if canary.get("status").is_none() {
        let crd = serde_json::to_value(crds().remove(0)).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        canary["status"] = schema["default"].clone();
    }
    canary
}

fn judged(moments: &[Moment]) -> Vec<String> {
    let program = ground::kstatus();
    ground::build_program(&program).unwrap();
    let mut judge =
        Command::new(program.path().unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String =
        moments.iter().map(|moment| format!("{}\n", as_stored(moment.canary.clone()))).collect();
    let mut stdin = judge.stdin.take().unwrap();
    let writes = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = judge.wait_with_output().unwrap();
    writes.join().unwrap().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn promoted(canary: &Value) -> bool {
    let conditions = canary["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Promoted" && c["status"] == "True")
}

#[test]
fn whoever_waits_by_kstatus_waits_gives_up_and_goes_ahead_when_a_person_would() {
    let mut moments = Vec::new();
    for of in [canary, in_place] {
        let mut world = World::with(of(&[]));
        plays(&mut world, 60, "adopted", &mut moments);
        let ready = world.fork();
        world.update("v2");
        plays(&mut world, 200, "promoted", &mut moments);
        world.update_with("v3", Some("never")).unwrap();
        plays(&mut world, 200, "rejected", &mut moments);
        world.update("v2");
        plays(&mut world, 100, "reverted", &mut moments);

        let mut suspended = ready.fork();
        suspended.edit_canary("/spec/suspend", json!(true));
        suspended.update("v2");
        plays(&mut suspended, 60, "suspended", &mut moments);

        let mut superseded = ready.fork();
        superseded.update("v2");
        plays(&mut superseded, 15, "superseded", &mut moments);
        superseded.update("v4");
        plays(&mut superseded, 200, "superseded", &mut moments);

        let mut refused = ready.fork();
        refused.edit_canary("/spec/analysis/mirror", json!(true));
        plays(&mut refused, 30, "refused", &mut moments);

        let mut deleted = ready.fork();
        let target = deleted.deployment("app");
        deleted.delete(&target);
        plays(&mut deleted, 60, "target deleted", &mut moments);

        let mut leaves = ready.fork();
        let at = leaves.canary.clone();
        leaves.delete(&at);
        plays(&mut leaves, 60, "leaves", &mut moments);

        let mut gated = World::initialised(of(&[("gate", "confirm-rollout")]));
        gated.answers.hook("gate", 500);
        gated.update("v2");
        plays(&mut gated, 60, "gated", &mut moments);
    }
    let verdicts = judged(&moments);
    assert_eq!(verdicts.len(), moments.len());
    let mut seen = std::collections::BTreeMap::new();
    for (moment, verdict) in moments.iter().zip(&verdicts) {
        let (status, message) = verdict.split_once('\t').unwrap();
        *seen.entry(status).or_insert(0) += 1;
        let at = &moment.canary["status"];
        assert_eq!(status, moment.truth, "{}: {message}\n{at:#}", moment.story);
        // `kubectl wait --for=condition=promoted` goes ahead with it, or waits.
        assert!(status == "Current" || !promoted(&moment.canary), "{}: {at:#}", moment.story);
    }
    println!("{} moments: {seen:?}", moments.len());
    for status in ["InProgress", "Current", "Failed", "Terminating"] {
        assert!(seen.contains_key(status), "{status} was never seen: {seen:?}");
    }
}
