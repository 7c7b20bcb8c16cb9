//! Who writes to an enrolled Deployment, in which situation, and what comes of it: kubectl, told by what it prints and by
//! what is stored. Each write that kubectl can try out is tried first, and the trial must tell the truth.

use anyhow::{Context as _, Result, ensure};
use harness::{World, at, canary, deployment, image, shared};
use serde_json::{Value, json};

/// A namespace with Deployment `app`, applied by kubectl, and its Canary; and hands to write with.
struct Bench {
    world: &'static World,
    ns: String,
}

/// The spec of a Canary whose gate stays closed, as nobody listens there: a held revision stays held.
fn gated() -> Value {
    json!({"analysis": {"webhooks": [{"name": "gate", "type": "confirm-rollout", "url": "http://127.0.0.1:1/"}]}})
}

/// What a write leaves that matters: our keys, the finalizers and the spec.
fn essence(object: &Value) -> Value {
    let ours = |map: &str| -> Value {
        let all = at(object, map).as_object().cloned().unwrap_or_default();
        all.into_iter().filter(|(key, _)| key.starts_with("sidetrack.dev/")).collect()
    };
    json!([
        ours("/metadata/labels"),
        ours("/metadata/annotations"),
        at(object, "/metadata/finalizers"),
        at(object, "/spec")
    ])
}

fn note<'a>(object: &'a Value, key: &str) -> &'a str {
    at(object, &format!("/metadata/annotations/sidetrack.dev~1{key}")).as_str().unwrap_or_default()
}

fn is_held(object: &Value) -> bool {
    at(object, "/spec/paused") == true && !note(object, "hold").is_empty()
}

impl Bench {
    async fn new(name: &str, spec: &Value, first: &[&str]) -> Result<Self> {
        let (world, _) = shared().await;
        let bench = Self { world, ns: world.cp.namespace(name).await? };
        let v1 = bench.manifest("v1")?;
        bench.good(&[first, &["-f", &v1]].concat()).await?;
        world.cp.apply(canary(&bench.ns, spec)).await?;
        world.phase(&bench.ns, "Initialized").await?;
        Ok(bench)
    }

    /// Writes an object to a file and returns its path.
    fn file(&self, name: &str, object: &Value) -> Result<String> {
        let path = self.world.cp.logs().join(format!("{}-{name}.json", self.ns));
        std::fs::write(&path, object.to_string())?;
        Ok(path.display().to_string())
    }

    /// Writes the manifest of a version.
    fn manifest(&self, version: &str) -> Result<String> {
        self.file(version, &deployment(&self.ns, version, 2))
    }

    async fn target(&self) -> Result<Value> {
        self.world.get(&self.ns, "deploy", "app").await
    }

    async fn says(&self, args: &[&str]) -> Result<String> {
        self.world.kubectl_says(&[&["-n", &self.ns], args].concat()).await
    }

    async fn good(&self, args: &[&str]) -> Result<String> {
        self.world.kubectl(&[&["-n", &self.ns], args].concat()).await
    }

    /// Tries a write by a dry run, then makes it; both must say and give the same. Returns what kubectl complained of, and
    /// the object (`Null` if refused).
    async fn write(&self, args: &[&str]) -> Result<(String, Value)> {
        let mut outcomes = Vec::new();
        for more in [&["-o", "json", "--dry-run=server"][..], &["-o", "json"]] {
            let output = self.world.cp.run_kubectl(&[&["-n", &self.ns], args, more].concat()).await?;
            // kubectl's own words about its last-applied annotation, which a dry run cannot move.
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String =
                said.lines().filter(|l| !l.contains("failed to migrate")).map(|l| format!("{l}\n")).collect();
            let object = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            outcomes.push((said, object));
        }
        let real = outcomes.pop().unwrap_or_default();
        let tried = outcomes.pop().unwrap_or_default();
        ensure!(tried.0 == real.0, "{args:?}: the dry run said {:?}, the write {:?}", tried.0, real.0);
        let (tried, given) = (essence(&tried.1), essence(&real.1));
        ensure!(tried == given, "{args:?}: the dry run gave {tried:#}, the write {given:#}");
        Ok(real)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_releases_what_is_held() -> Result<()> {
    let bench = Bench::new("held", &gated(), &["apply"]).await?;
    let v2 = bench.manifest("v2")?;
    let (warned, held) = bench.write(&["apply", "-f", &v2]).await?;
    ensure!(is_held(&held) && warned.contains("is held until Canary app releases it"), "{warned}");
    bench.world.phase(&bench.ns, "Waiting").await?;
    let before = bench.target().await?;
    let hold = note(&before, "hold").to_owned();
    let mut unpaused = deployment(&bench.ns, "v2", 2);
    json_patch::merge(&mut unpaused, &json!({"spec": {"paused": false}}));
    let unpaused = bench.file("unpaused", &unpaused)?;
    let stays = "stays paused: revision";
    let put_back = "labels put back: to leave Sidetrack delete Canary app";
    let forged = format!("sidetrack.dev/promoted={hold}");
    let patch = |kind, text| vec!["patch", "deploy/app", kind, "-p", text];
    let rows: Vec<(Vec<&str>, &str)> = vec![
        (patch("--type=strategic", r#"{"spec":{"paused":false}}"#), stays),
        (patch("--type=strategic", r#"{"spec":{"paused":null}}"#), stays),
        (patch("--type=merge", r#"{"spec":{"paused":false}}"#), stays),
        (patch("--type=merge", r#"{"spec":{"paused":null}}"#), stays),
        (patch("--type=json", r#"[{"op":"replace","path":"/spec/paused","value":false}]"#), stays),
        (patch("--type=json", r#"[{"op":"remove","path":"/spec/paused"}]"#), stays),
        (
            patch(
                "--type=json",
                r#"[{"op":"remove","path":"/spec/paused"},{"op":"remove","path":"/metadata/annotations/sidetrack.dev~1hold"}]"#,
            ),
            stays,
        ),
        (patch("--type=merge", r#"{"metadata":{"finalizers":["sidetrack.dev/traffic"]}}"#), ""),
        (vec!["annotate", "deploy/app", "sidetrack.dev/hold-"], ""),
        (vec!["annotate", "deploy/app", "sidetrack.dev/hold=0", "--overwrite"], ""),
        (vec!["annotate", "deploy/app", "sidetrack.dev/promoted-"], ""),
        (vec!["annotate", "deploy/app", &forged, "--overwrite"], ""),
        (vec!["annotate", "deploy/app", "sidetrack.dev/failed=0"], ""),
        (vec!["annotate", "deploy/app", "sidetrack.dev/glassed=0"], ""),
        (vec!["label", "deploy/app", "sidetrack.dev/canary-"], put_back),
        (vec!["label", "deploy/app", "sidetrack.dev/role=generated", "--overwrite"], put_back),
        (vec!["label", "deploy/app", "sidetrack.dev/layout=in-place", "--overwrite"], put_back),
        (vec!["apply", "-f", &v2], ""),
        (vec!["apply", "-f", &unpaused], stays),
        (vec!["apply", "--server-side", "--force-conflicts", "-f", &v2], ""),
        (vec!["apply", "--server-side", "--force-conflicts", "-f", &unpaused], stays),
        (vec!["replace", "-f", &unpaused], stays),
    ];
    for (args, expected) in rows {
        let (said, object) = bench.write(&args).await?;
        ensure!(!object.is_null(), "{args:?} was refused: {said}");
        ensure!(said.contains(expected), "{args:?} said {said:?}");
        ensure!(expected == stays || !said.contains("Warning: stays"), "{args:?} said {said:?}");
        let after = bench.target().await?;
        ensure!(essence(&after) == essence(&before), "{args:?} left {after:#}, before {before:#}");
    }
    for (args, expected) in [
        (["rollout", "resume", "deploy/app"], "deployment.apps/app resumed"),
        (["rollout", "resume", "deploy/app"], stays),
        (["rollout", "restart", "deploy/app"], "can't restart paused deployment"),
        (["rollout", "undo", "deploy/app"], "error: "),
        (["rollout", "pause", "deploy/app"], "is already paused"),
        // Nought of nought: only the Canary knows of the release.
        (["rollout", "status", "deploy/app"], "successfully rolled out"),
    ] {
        let said = bench.says(&args).await?;
        ensure!(said.contains(expected), "{args:?} said {said:?}");
        ensure!(essence(&bench.target().await?) == essence(&before), "{args:?}");
    }
    let selector = r#"{"spec":{"selector":{"matchLabels":{"app":"other"}},"template":{"metadata":{"labels":{"app":"other"}}}}}"#;
    let (said, object) = bench.write(&["patch", "deploy/app", "-p", selector]).await?;
    ensure!(object.is_null() && said.contains("the selector of Deployment app cannot be changed"), "{said}");
    ensure!(essence(&bench.target().await?) == essence(&before), "selector");
    // What kubectl refuses may be written by other means: a restart is no new revision, and no way out either.
    let restart = r#"{"spec":{"paused":false,"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}"#;
    let (said, object) = bench.write(&["patch", "deploy/app", "-p", restart]).await?;
    ensure!(said.contains(stays) && is_held(&object) && note(&object, "hold") == hold, "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_new_template_is_held_whoever_writes_it() -> Result<()> {
    let bench = Bench::new("new", &gated(), &["apply"]).await?;
    let files = ["v1", "v7", "v8", "v9", "v10"].map(|v| bench.manifest(v));
    let [v1, v7, v8, v9, v10] = files;
    let (v1, v7, v8, v9, v10) = (v1?, v7?, v8?, v9?, v10?);
    let container = |v: &str| {
        format!(
            r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"app","image":"app:{v}"}}]}}}}}}}}"#
        )
    };
    let (v3, v4) = (container("v3"), container("v4"));
    let json_patch = r#"[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"app:v5"}]"#;
    let rows: Vec<(&str, &str, Vec<&str>)> = vec![
        ("v2", "kubectl-set", vec!["set", "image", "deploy/app", "app=app:v2"]),
        ("v3", "kubectl-patch", vec!["patch", "deploy/app", "-p", &v3]),
        ("v4", "kubectl-patch", vec!["patch", "deploy/app", "--type=merge", "-p", &v4]),
        ("v5", "kubectl-patch", vec!["patch", "deploy/app", "--type=json", "-p", json_patch]),
        ("v6", "kubectl-edit", vec!["edit", "deploy/app"]),
        ("v7", "kubectl-replace", vec!["replace", "-f", &v7]),
        ("v8", "kubectl-client-side-apply", vec!["apply", "-f", &v8]),
        ("v9", "kubectl", vec!["apply", "--server-side", "--force-conflicts", "-f", &v9]),
        ("v10", "me", vec!["apply", "--server-side", "--force-conflicts", "--field-manager=me", "-f", &v10]),
    ];
    let mut holds = std::collections::BTreeSet::new();
    for (version, manager, args) in rows {
        for again in [false, true] {
            let before = bench.target().await?;
            let said = if manager == "kubectl-edit" {
                // The object as the editor gets it has no container ports after the merge patch of v4.
                let output = bench
                    .world
                    .cp
                    .kubectl(&[&["-n", &bench.ns], &args[..]].concat())
                    .env("KUBE_EDITOR", "sed -i s/app:v5/app:v6/")
                    .output()
                    .await?;
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
            } else {
                bench.write(&args).await?.0
            };
            let after = bench.target().await?;
            if again {
                // The manager's list may be rewritten; nothing that has a generation is.
                ensure!(essence(&after) == essence(&before), "{args:?} again: {said}");
                ensure!(
                    at(&after, "/metadata/generation") == at(&before, "/metadata/generation"),
                    "{args:?} again"
                );
                ensure!(!said.contains("Warning: revision"), "{args:?} again said {said:?}");
            } else {
                ensure!(said.contains("is held until Canary app releases it"), "{args:?} said {said:?}");
                ensure!(
                    is_held(&after) && image(&after) == format!("app:{version}"),
                    "{args:?} left {after:#}"
                );
                ensure!(
                    note(&after, "applied-by") == format!("{manager} admin"),
                    "{}",
                    note(&after, "applied-by")
                );
                ensure!(holds.insert(note(&after, "hold").to_owned()), "{args:?}: a hold of its own");
                ensure!(at(&after, "/spec/replicas") == 0, "{args:?}: no pods");
            }
        }
    }
    bench.world.phase(&bench.ns, "Waiting").await?;
    let sets = bench
        .good(&[
            "get",
            "rs",
            "-l",
            "app=app",
            "-o",
            "jsonpath={.items[*].spec.template.spec.containers[0].image}",
        ])
        .await?;
    ensure!(sets == "app:v1", "none of them ever had a ReplicaSet: {sets}");
    // Back to what the primary runs: held at first, then cancelled by the controller.
    bench.good(&["apply", "--server-side", "--force-conflicts", "-f", &v1]).await?;
    let rest = bench
        .world
        .until(&bench.ns, "deploy", "app", "the revert is accepted", |d| note(d, "hold").is_empty())
        .await?;
    ensure!(at(&rest, "/spec/paused").as_bool() != Some(true) && image(&rest) == "app:v1");
    bench
        .world
        .until(&bench.ns, "canary", "app", "the run is over", |c| at(c, "/status/run").is_null())
        .await?;
    let primary = bench.world.get(&bench.ns, "deploy", "app-primary").await?;
    ensure!(
        at(&primary, "/metadata/generation") == 1 || image(&primary) == "app:v1",
        "the primary is untouched"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn break_glass_counts_with_the_present_generation_only() -> Result<()> {
    let bench = Bench::new("glass", &gated(), &["apply"]).await?;
    bench.good(&["set", "image", "deploy/app", "app=app:v2"]).await?;
    bench.world.phase(&bench.ns, "Waiting").await?;
    let held = bench.target().await?;
    let generation = at(&held, "/metadata/generation").as_i64().context("no generation")?;
    let glass = |number: i64| format!("sidetrack.dev/break-glass={number} fire");
    for wrong in ["sidetrack.dev/break-glass=fire".to_owned(), glass(generation + 1)] {
        let (said, object) = bench.write(&["annotate", "deploy/app", &wrong]).await?;
        ensure!(object.is_null() && said.contains(&format!("\"{generation} REASON\"")), "{wrong}: {said}");
    }
    let (said, object) = bench.write(&["annotate", "deploy/app", &glass(generation - 1)]).await?;
    ensure!(
        said.contains("an outdated break-glass was dropped") && essence(&object) == essence(&held),
        "{said}"
    );
    // The dropped write may have moved nothing: the number is still the right one.
    let (said, object) = bench.write(&["annotate", "deploy/app", &glass(generation)]).await?;
    ensure!(said.contains("is promoted without analysis by Canary app"), "{said}");
    ensure!(
        is_held(&object) && note(&object, "glassed") == note(&object, "hold"),
        "held until the controller acts"
    );
    bench.world.phase(&bench.ns, "Succeeded").await?;
    ensure!(image(&bench.world.get(&bench.ns, "deploy", "app-primary").await?) == "app:v2");
    // A used one may go, and stands for nothing more.
    let (_, object) = bench.write(&["annotate", "deploy/app", "sidetrack.dev/break-glass-"]).await?;
    ensure!(note(&object, "break-glass").is_empty());
    let (_, object) = bench.write(&["set", "image", "deploy/app", "app=app:v3"]).await?;
    ensure!(is_held(&object) && note(&object, "glassed").is_empty());
    bench.world.phase(&bench.ns, "Waiting").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_primary_is_changed_through_the_target_only() -> Result<()> {
    let bench = Bench::new("generated", &gated(), &["apply"]).await?;
    let name = "deploy/app-primary";
    let before = bench.world.get(&bench.ns, "deploy", "app-primary").await?;
    for args in [
        &["set", "image", name, "app=app:evil"][..],
        &["label", name, "sidetrack.dev/canary-"],
        &["annotate", name, "sidetrack.dev/hold=0"],
        &["annotate", name, "sidetrack.dev/template-"],
    ] {
        let (said, object) = bench.write(args).await?;
        ensure!(object.is_null(), "{args:?} passed");
        ensure!(
            said.contains("Deployment app-primary is generated for Canary app"),
            "{args:?} said {said:?}"
        );
        ensure!(said.contains("change Deployment app instead"), "{args:?} said {said:?}");
    }
    let after = bench.world.get(&bench.ns, "deploy", "app-primary").await?;
    ensure!(essence(&after) == essence(&before), "the primary is as before");
    bench.write(&["annotate", name, "example.com/foo=bar"]).await?;
    bench.good(&["rollout", "restart", name]).await?;
    bench.good(&["rollout", "status", name, "--timeout=30s"]).await?;
    bench.good(&["scale", name, "--replicas=3"]).await?;
    let scaled = bench
        .world
        .until(&bench.ns, "deploy", "app-primary", "three pods", |d| at(d, "/status/readyReplicas") == 3)
        .await?;
    ensure!(!at(&scaled, "/spec/template/metadata/annotations").is_null(), "restarted");
    ensure!(image(&scaled) == "app:v1" && at(&bench.target().await?, "/spec/replicas") == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_enrols_by_hand() -> Result<()> {
    let (world, _) = shared().await;
    let bench = Bench { world, ns: world.cp.namespace("enrol").await? };
    let mut forged = deployment(&bench.ns, "v9", 0);
    let keys = json!({
        "labels": {"sidetrack.dev/canary": "app", "sidetrack.dev/layout": "in-place", "sidetrack.dev/role": "target"},
        "annotations": {"sidetrack.dev/hold": "0", "sidetrack.dev/promoted": "0", "sidetrack.dev/failed": "0"},
        "finalizers": ["sidetrack.dev/traffic"],
    });
    json_patch::merge(&mut forged, &json!({"metadata": keys, "spec": {"paused": true}}));
    let forged = bench.file("forged", &forged)?;
    let plain = json!([{}, {}, null]);
    let (said, object) = bench.write(&["create", "-f", &forged]).await?;
    ensure!(said.contains("only a Canary that names an object enrols it"), "{said}");
    let stripped = |object: &Value| {
        essence(object).as_array().is_some_and(|e| e.get(..3) == plain.as_array().map(Vec::as_slice))
    };
    ensure!(stripped(&object) && at(&object, "/spec/paused").is_null(), "{object:#}");
    let (_, object) = bench.write(&["apply", "--server-side", "--force-conflicts", "-f", &forged]).await?;
    ensure!(stripped(&object) && at(&object, "/spec/paused").is_null(), "{object:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_pause_waits_for_the_owner() -> Result<()> {
    let bench = Bench::new("pause", &json!({}), &["apply"]).await?;
    bench.good(&["rollout", "restart", "deploy/app"]).await?;
    let asked = bench.target().await?;
    let at_time =
        at(&asked, "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt").clone();
    ensure!(note(&asked, "hold").is_empty() && at_time.is_string(), "a restart is no release");
    bench
        .world
        .until(&bench.ns, "deploy", "app-primary", "the primary restarts in its place", |d| {
            *at(d, "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt") == at_time
        })
        .await?;
    bench.good(&["rollout", "pause", "deploy/app"]).await?;
    let (_, held) = bench.write(&["set", "image", "deploy/app", "app=app:v2"]).await?;
    ensure!(is_held(&held) && note(&held, "paused-before") == "true");
    bench
        .world
        .until(&bench.ns, "canary", "app", "the Canary says whom it waits for", |c| {
            at(c, "/status/conditions").to_string().contains("is held until its owner resumes")
        })
        .await?;
    ensure!(is_held(&bench.target().await?), "still held");
    bench.good(&["rollout", "resume", "deploy/app"]).await?;
    bench.world.phase(&bench.ns, "Succeeded").await?;
    ensure!(image(&bench.world.get(&bench.ns, "deploy", "app-primary").await?) == "app:v2");
    // The way back is a release like any other.
    let said = bench.good(&["rollout", "undo", "deploy/app"]).await?;
    ensure!(said.contains("rolled back"), "{said}");
    bench
        .world
        .until(&bench.ns, "deploy", "app-primary", "the old revision is promoted again", |d| {
            image(d) == "app:v1"
        })
        .await?;
    Ok(())
}
