//! Who may let a revision through, and who may pass a policy.

use anyhow::{Context as _, Result, ensure};
use harness::stage::{enforced, message, namespace, phase, runs};
use harness::{World, at, deployment, shared};
use serde_json::{Value, json};
use sidetrack::api::keys;

/// A ServiceAccount with a role in a namespace; returns its user name.
pub(crate) async fn person(world: &World, ns: &str, name: &str, roles: &[&str]) -> Result<String> {
    let account = format!("--serviceaccount={ns}:{name}");
    world.kubectl(&["-n", ns, "create", "serviceaccount", name]).await?;
    for role in roles {
        let binding = format!("--clusterrole={role}");
        world
            .kubectl(&["-n", ns, "create", "rolebinding", &format!("{name}-{role}"), &binding, &account])
            .await?;
    }
    Ok(format!("system:serviceaccount:{ns}:{name}"))
}

async fn asks(world: &World, user: &str, ns: &str, request: &str) -> Result<(bool, String)> {
    let annotation = format!("{}={request}", keys::REQUEST);
    let args = ["-n", ns, "annotate", "--overwrite", "canary", "app", &annotation];
    let output = world.cp.kubectl(&args).env("KUBECONFIG", world.cp.kubeconfig(user)).output().await?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_revision_waits_for_an_approval_by_somebody_else() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "four-eyes", &json!({"approval": {"required": true, "fourEyes": true}})).await?;
    let ns = namespace(world, "four-eyes").await?;
    let alice = person(world, &ns, "alice", &["edit", "sidetrack-approve"]).await?;
    let bob = person(world, &ns, "bob", &["sidetrack-approve"]).await?;
    let carol = person(world, &ns, "carol", &["sidetrack-operate"]).await?;
    world.cp.apply_as(&alice, "kubectl", deployment(&ns, "v1", 2)).await?;
    phase(world, &ns, "app", "Initialized").await?;
    world.cp.apply_as(&alice, "kubectl", deployment(&ns, "v2", 2)).await?;
    let waits = phase(world, &ns, "app", "Waiting").await?;
    ensure!(
        message(&waits, "Ready").ends_with("waits for an approval by somebody other than who applied it."),
        "{waits:#}"
    );
    let revision = at(&waits, "/status/run/revision")
        .as_str()
        .context("no run")?
        .get(..10)
        .unwrap_or_default()
        .to_owned();

    let answered = async |n: u32| {
        world
            .until(&ns, "canary", "app", "an answer", |c| {
                at(c, "/status/request/text").as_str().is_some_and(|text| text.contains(&format!(" {n} ")))
            })
            .await
    };
    for (n, verb) in [(1, "approve"), (2, "promote"), (3, "skip")] {
        let (done, said) = asks(world, &alice, &ns, &format!("{verb} {revision} {n} mine")).await?;
        ensure!(done, "{said}");
        let refused = answered(n).await?;
        ensure!(at(&refused, "/status/request/outcome") == "Refused", "{refused:#}");
        let why = at(&refused, "/status/request/message").as_str().unwrap_or_default();
        ensure!(
            why == format!("{alice} applied this revision, and the policy asks for somebody else"),
            "{why}"
        );
    }
    let (done, said) = asks(world, &carol, &ns, &format!("approve {revision} 4 me")).await?;
    ensure!(!done && said.contains("may not approve releases of Canary app"), "{said}");
    // No spelling passes the right by: what is no verb is refused.
    for request in [
        format!("approve\t{revision}\t4\tme"),
        format!(" approve {revision} 4"),
        format!("approve\u{a0}{revision} 4 x"),
    ] {
        let (done, said) = asks(world, &carol, &ns, &request).await?;
        ensure!(!done && said.contains("write VERB REVISION ID REASON"), "{request:?}: {said}");
    }
    // Who may steer a release may not rewrite what it is judged by, nor lay the Canary aside.
    for patch in [
        json!({"spec": {"skipAnalysis": true}}),
        json!({"metadata": {"labels": {keys::POLICY: null}}}),
        json!({"metadata": {"annotations": {keys::LAYOUT: "primary-copy"}}}),
        json!({"metadata": {"finalizers": []}}),
    ] {
        let patch = patch.to_string();
        let args = ["-n", &ns, "patch", "canary", "app", "--type=merge", "-p", &patch];
        let output = world.cp.kubectl(&args).env("KUBECONFIG", world.cp.kubeconfig(&alice)).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            said.contains("all but a request takes the verb update on canaries.flagger.app"),
            "{patch}: {said}"
        );
    }
    let (done, said) = asks(world, &bob, &ns, &format!("approve {revision} 5 looks good")).await?;
    ensure!(done, "{said}");
    phase(world, &ns, "app", "Succeeded").await?;
    runs(world, &ns, "app", "v2").await?;
    world.event(&ns, &format!("{bob} asked to approve revision {revision} of app.{ns}: looks good")).await?;

    // Nor by making the Deployment anew: who created it has applied what it says.
    let delete = ["-n", &ns, "delete", "deploy", "app", "--wait"];
    let deleted = world.cp.kubectl(&delete).env("KUBECONFIG", world.cp.kubeconfig(&alice)).output().await?;
    ensure!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    world.cp.apply_as(&alice, "kubectl", deployment(&ns, "v3", 2)).await?;
    let waits = world
        .until(&ns, "canary", "app", "v3 waits for an approval", |c| {
            at(c, "/status/phase") == "Waiting"
                && at(c, "/status/run/revision") != at(&waits, "/status/run/revision")
        })
        .await?;
    let revision = at(&waits, "/status/run/revision").as_str().and_then(|r| r.get(..10)).unwrap_or_default();
    let (done, said) = asks(world, &alice, &ns, &format!("approve {revision} 6 mine again")).await?;
    ensure!(done, "{said}");
    let refused = answered(6).await?;
    ensure!(at(&refused, "/status/request/outcome") == "Refused", "{refused:#}");
    let (done, said) = asks(world, &bob, &ns, &format!("approve {revision} 7 fine")).await?;
    ensure!(done, "{said}");
    runs(world, &ns, "app", "v3").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn breaking_the_glass_takes_a_right_of_its_own() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "glass", &json!({})).await?;
    let ns = namespace(world, "glass").await?;
    let dev = person(world, &ns, "dev", &["edit"]).await?;
    let lead = person(world, &ns, "lead", &["edit", "sidetrack-break-glass"]).await?;
    world.cp.apply_as(&dev, "kubectl", deployment(&ns, "v1", 2)).await?;
    phase(world, &ns, "app", "Initialized").await?;
    let glass = |live: &Value, version: &str| {
        let mut fix = deployment(&ns, version, 2);
        let text = format!("{} the shop is down", at(live, "/metadata/generation"));
        json_patch::merge(&mut fix, &json!({"metadata": {"annotations": {keys::BREAK_GLASS: text}}}));
        fix
    };
    let live = world.get(&ns, "deploy", "app").await?;
    let refused = world.cp.apply_as(&dev, "kubectl", glass(&live, "v2")).await;
    let text = format!("{:#}", refused.err().context("anybody may break the glass")?);
    ensure!(text.contains("a break-glass takes the verb break-glass on canaries.flagger.app"), "{text}");
    // Neither by taking the label by which it is selected off in the same write, nor through the status.
    let tier = json!({"selector": {"matchLabels": {"tier": "prod"}}});
    enforced(world, "glass", &tier).await?;
    world.merge(&ns, "deploy", "app", json!({"metadata": {"labels": {"tier": "prod"}}})).await?;
    phase(world, &ns, "app", "Initialized").await?;
    let live = world.get(&ns, "deploy", "app").await?;
    let mut out = glass(&live, "v2");
    json_patch::merge(&mut out, &json!({"metadata": {"labels": {"tier": null}}}));
    let out = out.to_string();
    let patch = ["-n", &ns, "patch", "deploy", "app", "--type=merge", "-p", &out];
    let patched = world.cp.kubectl(&patch).env("KUBECONFIG", world.cp.kubeconfig(&dev)).output().await?;
    let said = String::from_utf8_lossy(&patched.stderr);
    ensure!(!patched.status.success() && said.contains("a break-glass takes the verb break-glass"), "{said}");
    world.cp.apply_as(&lead, "kubectl", glass(&live, "v2")).await?;
    runs(world, &ns, "app", "v2").await?;
    Ok(())
}
