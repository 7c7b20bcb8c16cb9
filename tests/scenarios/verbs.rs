//! Verbs as people use them: an annotation, whom the API server knows, and the rights that RBAC gives.

use anyhow::{Context as _, Result, ensure};
use harness::{World, at, canary, deployment, image, initialized, shared, weight};
use serde_json::{Value, json};
use sidetrack::api::keys;

/// A ServiceAccount with a role in a namespace; returns its user name.
async fn person(world: &World, ns: &str, name: &str, role: &str) -> Result<String> {
    let binding = format!("--clusterrole={role}");
    let account = format!("--serviceaccount={ns}:{name}");
    world.kubectl(&["-n", ns, "create", "serviceaccount", name]).await?;
    world.kubectl(&["-n", ns, "create", "rolebinding", name, &binding, &account]).await?;
    Ok(format!("system:serviceaccount:{ns}:{name}"))
}

/// `kubectl annotate` of Canary `app`; what it says and whether it was done.
async fn annotate(world: &World, user: &str, ns: &str, annotations: &[&str]) -> Result<(bool, String)> {
    let args = [&["-n", ns, "annotate", "--overwrite", "canary", "app"], annotations].concat();
    let output = world.cp.kubectl(&args).env("KUBECONFIG", world.cp.kubeconfig(user)).output().await?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn run_of(canary: &Value) -> Result<&str> {
    at(canary, "/status/run/revision").as_str().context("nothing is being released")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_deploy_and_who_may_approve_are_two_people() -> Result<()> {
    let (world, sidetrack) = shared().await;
    let spec = json!({"analysis": {"interval": "5m"}});
    let ns = initialized("verbs", &spec).await?;
    let operator = person(world, &ns, "operator", "sidetrack-operate").await?;
    let approver = person(world, &ns, "approver", "sidetrack-approve").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;
    let app = world.get(&ns, "canary", "app").await?;
    let revision = run_of(&app)?.get(..10).unwrap_or_default().to_owned();

    let promote = format!("{}=promote {revision} 1 the fix is urgent", keys::REQUEST);
    let (done, said) = annotate(world, &operator, &ns, &[&promote]).await?;
    let sentence = format!(
        "user {operator} may not promote releases of Canary app: that takes the verb promote on canaries.flagger.app in namespace {ns}"
    );
    ensure!(!done && said.contains(&sentence), "{said}");
    let (done, said) = annotate(world, &approver, &ns, &[&format!("{}=promote it", keys::REQUEST)]).await?;
    ensure!(!done && said.contains("a request has at least three words"), "{said}");

    // Pausing is the other one's; the stamp is nobody's.
    let forged = format!("{}=root", keys::REQUESTED_BY);
    let pause = format!("{}=pause {revision} 1", keys::REQUEST);
    ensure!(!annotate(world, &approver, &ns, &[&pause]).await?.0);
    let (done, said) = annotate(world, &operator, &ns, &[&pause, &forged]).await?;
    ensure!(done, "{said}");
    let paused = world
        .until(&ns, "canary", "app", "the pause", |c| at(c, "/status/request/outcome") == "Taken")
        .await?;
    ensure!(at(&paused, "/status/request/by") == operator.as_str(), "{paused:#}");
    ensure!(at(&paused, "/status/run/paused") == true);

    // As Flux does it, at each interval: the manifest knows of no request.
    world.flux(canary(&ns, &spec)).await?;
    let applied = world.get(&ns, "canary", "app").await?;
    for key in [keys::REQUEST, keys::REQUESTED_BY] {
        let pointer = format!("/metadata/annotations/{}", sidetrack::object::escape(key));
        ensure!(at(&applied, &pointer).is_string() && at(&applied, &pointer) == at(&paused, &pointer));
    }
    ensure!(at(&applied, "/status/run/paused") == true);

    let (done, said) = annotate(world, &approver, &ns, &[&promote]).await?;
    ensure!(done, "{said}");
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    let said = format!("{approver} asked to promote revision {revision} of app.{ns}: the fix is urgent");
    world.event(&ns, &said).await?;
    ensure!(sidetrack.logged()?.contains(&said));

    let (done, _) =
        annotate(world, &operator, &ns, &[&format!("{}=abort {revision} 2", keys::REQUEST)]).await?;
    ensure!(done);
    let refused = world
        .until(&ns, "canary", "app", "the refusal", |c| at(c, "/status/request/outcome") == "Refused")
        .await?;
    ensure!(at(&refused, "/status/request/message") == "nothing is being released");
    world.event(&ns, "refused: nothing is being released").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_revision_is_rejected_and_retried_on_request() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("abort", &json!({"analysis": {"interval": "5m"}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;
    let revision = run_of(&world.get(&ns, "canary", "app").await?)?.to_owned();
    let ask = async |verb: &str| {
        let text = format!("{}={verb} {revision} 1 looks wrong", keys::REQUEST);
        annotate(world, "alice", &ns, &[&text]).await
    };
    ask("abort").await?;
    let failed = world.phase(&ns, "Failed").await?;
    let why = failed.pointer("/status/conditions/1/message").and_then(Value::as_str).unwrap_or_default();
    ensure!(why.contains("was rejected (aborted by alice: looks wrong)"), "{failed:#}");
    ask("retry").await?;
    world.until(&ns, "vs", "app", "the first step again", |vs| weight(vs) == Some(25)).await?;
    ask("skip").await?;
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}
