//! kubectl as a person types it, each way of changing a Deployment to its end.

use std::sync::Arc;

use anyhow::{Result, ensure};
use lab::Lab;
use serde_json::{Value, json};

use crate::Rows;
use crate::stage::{at, image, until};
use crate::writer::{Typed, Writer, writes};

/// A writer whose application is there, released in two steps of a second.
async fn writer(lab: Arc<Lab>, name: &str) -> Result<Writer> {
    let mut writer = Writer::new(lab, name, "kubectl", ground::Part::Kubectl.path()?).await?;
    let mut canary = writer.stage.sample.canary();
    if let Some(Value::Object(analysis)) = canary.pointer_mut("/spec/analysis") {
        analysis.extend([("interval".to_owned(), json!("1s")), ("stepWeight".to_owned(), json!(30))]);
    }
    let v1 = manifest(&writer, "v1")?;
    writer.types(&["apply", "-f", &v1]).await?;
    writer.stage.lab.cp.apply(canary).await?;
    writer.stage.phase("Initialized").await?;
    writer.watched().await?;
    writer.stage.settled().await?;
    Ok(writer)
}

fn manifest(writer: &Writer, version: &str) -> Result<String> {
    writer.file(&format!("{version}.json"), &writer.stage.sample.deployment(version).to_string())
}

/// Every way to write a new template ends in a release; typed again it comes to nothing.
pub(crate) async fn as_typed(lab: Arc<Lab>) -> Result<Rows> {
    let mut writer = writer(lab, "as-typed").await?;
    let files = ["v2", "v3", "v7"].map(|version| manifest(&writer, version));
    let [v2, v3, v7] = files;
    let (v2, v3, v7) = (v2?, v3?, v7?);
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"app:v6"}]}}}}"#;
    let rows: [(&str, &str, Vec<&str>); 6] = [
        ("apply", "v2", vec!["apply", "-f", &v2]),
        ("apply --server-side", "v3", vec!["apply", "--server-side", "--force-conflicts", "-f", &v3]),
        ("set image", "v4", vec!["set", "image", "deploy/app", "app=app:v4"]),
        ("edit", "v5", vec!["edit", "deploy/app"]),
        ("patch", "v6", vec!["patch", "deploy/app", "-p", patch]),
        ("replace", "v7", vec!["replace", "-f", &v7]),
    ];
    for (what, version, args) in rows {
        let editor = format!("sed -i s/app:v4/app:{version}/");
        let typed = writer.tries(&args, &editor).await?;
        ensure!(typed.succeeded && held(&typed), "{args:?} said {}", typed.said);
        writer.promoted(version).await?;
        let again = writer.tries(&args, "true").await?;
        ensure!(again.succeeded && !held(&again), "{args:?} again said {}", again.said);
        let grown = writer.came_to_nothing(&again).await?;
        // `replace` leaves out the annotation with the number of the ReplicaSet, which Kubernetes puts back.
        ensure!(grown == 0 || what == "replace", "{args:?} again: {grown} generations");
        writer.note(
            &format!("`kubectl {what}`"),
            format!(
                "{}; held, analysed, promoted; again: {}, nobody acts on it",
                writes(typed.writes),
                writes(again.writes)
            ),
        );
    }
    writer.rows("kubectl, new templates").await
}

fn held(typed: &Typed) -> bool {
    typed.said.contains("is held until Canary app releases it")
}

/// What is no new template, or one in a particular situation.
pub(crate) async fn owners_wishes(lab: Arc<Lab>) -> Result<Rows> {
    let mut writer = writer(lab, "owners-wishes").await?;
    let deployment = "deploy/app";

    let typed = writer.types(&["scale", deployment, "--replicas=3"]).await?;
    let three = async || {
        let primary = writer.stage.deployment("app-primary").await?;
        Ok((at(&primary, "/status/readyReplicas") == 3).then_some(()))
    };
    until("the primary has three pods", three).await?;
    writer.stage.settled().await?;
    ensure!(at(&writer.stage.deployment("app").await?, "/spec/replicas") == 0, "the target keeps its pods");
    writer.note(
        "`kubectl scale --replicas=3`",
        format!("{}; the primary gets them, no release", writes(typed.writes)),
    );

    let before = writer.stage.deployment("app-primary").await?;
    let typed = writer.types(&["rollout", "restart", deployment]).await?;
    until("the primary is restarted", async || {
        let primary = writer.stage.deployment("app-primary").await?;
        let newer =
            at(&primary, "/metadata/generation").as_i64() > at(&before, "/metadata/generation").as_i64();
        let all = at(&primary, "/status/updatedReplicas") == 3 && at(&primary, "/status/replicas") == 3;
        let seen = at(&primary, "/status/observedGeneration") == at(&primary, "/metadata/generation");
        Ok((newer && seen && all && at(&primary, "/status/availableReplicas") == 3).then_some(()))
    })
    .await?;
    writer.stage.settled().await?;
    ensure!(at(&writer.stage.canary().await?, "/status/phase") == "Initialized", "it was a release");
    writer.note(
        "`kubectl rollout restart`",
        format!("{}; the primary's pods are replaced, no release", writes(typed.writes)),
    );

    writer.types(&["rollout", "pause", deployment]).await?;
    let typed = writer.types(&["set", "image", deployment, "app=app:v2"]).await?;
    ensure!(held(&typed), "{}", typed.said);
    until("the Canary says whom it waits for", async || {
        let conditions = at(&writer.stage.canary().await?, "/status/conditions").to_string();
        Ok(conditions.contains("is held until its owner resumes").then_some(()))
    })
    .await?;
    writer.types(&["rollout", "resume", deployment]).await?;
    let status = writer.types(&["rollout", "status", deployment, "--timeout=60s"]).await?;
    let canary = writer.stage.canary().await?;
    let phase = at(&canary, "/status/phase").as_str().unwrap_or_default().to_owned();
    ensure!(phase != "Succeeded", "it waited for the release after all");
    writer.note(
        "`kubectl rollout pause`, `set image` to v2, `rollout resume`",
        "held until it is resumed, then analysed and promoted".to_owned(),
    );
    writer.promoted("v2").await?;
    writer.note(
        "`kubectl rollout status` during a release",
        format!("\"{}\" while the Canary is {phase}", status.said.lines().last().unwrap_or_default()),
    );

    writer.types(&["set", "image", deployment, "app=app:v3"]).await?;
    writer.types(&["wait", "canary/app", "--for=condition=promoted", "--timeout=60s"]).await?;
    let primary = writer.stage.deployment("app-primary").await?;
    ensure!(image(&primary) == "app:v3", "it returned while the primary was {}", image(&primary));
    writer
        .note("`kubectl wait canary/app --for=condition=promoted`", "returns when v3 is promoted".to_owned());
    writer.promoted("v3").await?;

    let typed = writer.types(&["rollout", "undo", deployment]).await?;
    writer.promoted("v2").await?;
    writer.note(
        "`kubectl rollout undo` after a promotion",
        format!("{}; v2 is analysed and promoted as any other", writes(typed.writes)),
    );

    writer.types(&["set", "image", deployment, "app=app:v4"]).await?;
    writer.stage.weight(30).await?;
    let generation = at(&writer.stage.deployment("app-primary").await?, "/metadata/generation").clone();
    let typed = writer.types(&["rollout", "undo", deployment]).await?;
    until("the run is cancelled", async || {
        let canary = writer.stage.canary().await?;
        Ok((at(&canary, "/status/phase") == "Succeeded" && at(&canary, "/status/run").is_null())
            .then_some(()))
    })
    .await?;
    let primary = writer.stage.deployment("app-primary").await?;
    ensure!(
        *at(&primary, "/metadata/generation") == generation && image(&primary) == "app:v2",
        "the primary was touched"
    );
    writer.note(
        "`kubectl rollout undo` while v4 has weight",
        format!("{}; cancelled, the primary untouched", writes(typed.writes)),
    );
    writer.stage.settled().await?;

    let v5 = manifest(&writer, "v5")?;
    let before = at(&writer.stage.deployment("app").await?, "/metadata/uid").clone();
    writer.types(&["delete", deployment]).await?;
    until("the Canary says that its target is missing", async || {
        let conditions = at(&writer.stage.canary().await?, "/status/conditions").to_string();
        Ok(conditions.contains("Deployment app does not exist").then_some(()))
    })
    .await?;
    writer.types(&["apply", "-f", &v5]).await?;
    writer.promoted("v5").await?;
    let after = at(&writer.stage.deployment("app").await?, "/metadata/uid").clone();
    ensure!(after.is_string() && before != after, "it is the same Deployment");
    writer.note(
        "`kubectl delete deployment`, then `apply` of v5",
        "the primary serves on; v5 is analysed and promoted".to_owned(),
    );
    writer.rows("kubectl, beside new templates").await
}
