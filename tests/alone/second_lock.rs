//! The second lock: what the API server refuses by itself while nobody answers for the webhook, and what heals.

use anyhow::{Context as _, Result, ensure};
use harness::{Sidetrack, World, at, canary, deployment, image};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

const CONFIGURATION: [&str; 2] = ["mutatingwebhookconfiguration", "sidetrack"];

/// One Canary whose gate stays closed, in a world where the webhook may be missing.
struct Lock {
    world: World,
    ns: String,
}

impl Lock {
    async fn new() -> Result<(Self, Sidetrack)> {
        let world = World::start(false).await?;
        let sidetrack = world.run(&[])?;
        world.wait_for_webhook().await?;
        let lock = Self { ns: world.cp.namespace("lock").await?, world };
        lock.world.flux(deployment(&lock.ns, "v1", 1)).await?;
        let gate = json!([{"name": "gate", "type": "confirm-rollout", "url": "http://127.0.0.1:1/"}]);
        lock.world.cp.apply(canary(&lock.ns, &json!({"analysis": {"webhooks": gate}}))).await?;
        lock.world.phase(&lock.ns, "Initialized").await?;
        Ok((lock, sidetrack))
    }

    async fn target(&self) -> Result<Value> {
        self.world.get(&self.ns, "deploy", "app").await
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.world.kubectl(&[&["-n", &self.ns], args].concat()).await
    }

    /// Holds a new version.
    async fn hold(&self, version: &str) -> Result<Value> {
        self.world.flux(deployment(&self.ns, version, 1)).await?;
        self.world.phase(&self.ns, "Waiting").await?;
        let held = self.target().await?;
        ensure!(at(&held, "/spec/paused") == true && image(&held) == format!("app:{version}"));
        Ok(held)
    }

    /// Makes a write that must be refused for that reason, and change nothing.
    async fn refused(&self, args: &[&str], reason: &str) -> Result<()> {
        let before = spec_and_keys(&self.world.get(&self.ns, "deploy", "app").await?);
        let said = match self.kubectl(args).await {
            Ok(said) => anyhow::bail!("{args:?} passed: {said}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(said.contains(reason), "{args:?} was refused otherwise: {said}");
        ensure!(spec_and_keys(&self.target().await?) == before, "{args:?}");
        Ok(())
    }

    /// Writes through a subresource that kubectl's annotate does not reach.
    async fn status_patch(&self, patch: &Value) -> kube::Result<Deployment> {
        let api: Api<Deployment> = Api::namespaced(self.world.cp.client(), &self.ns);
        api.patch_status("app", &PatchParams::default(), &Patch::Merge(patch)).await
    }

    async fn caught(&self) -> Result<()> {
        harness::eventually("the bundle is injected", async || {
            let text = self.kubectl(&["get", CONFIGURATION[0], CONFIGURATION[1], "-o", "json"]).await?;
            let configuration: Value = serde_json::from_str(&text)?;
            let hooks = at(&configuration, "/webhooks").as_array();
            let injected = |hook: &Value| at(hook, "/clientConfig/caBundle").is_string();
            Ok(hooks.is_some_and(|h| h.len() == 4 && h.iter().all(injected)).then_some(()))
        })
        .await?;
        self.world.wait_for_webhook().await
    }
}

fn spec_and_keys(object: &Value) -> Value {
    json!([at(object, "/spec"), at(object, "/metadata/labels"), at(object, "/metadata/annotations")])
}

const HELD: &str = "its held pod template stays paused until the Canary releases it";
const NEW: &str = "a new pod template must be held by the sidetrack webhook";
const LABELS: &str = "its sidetrack.dev labels cannot be changed";
const KEYS: &str = "its sidetrack.dev annotations are written by sidetrack alone";

#[tokio::test(flavor = "multi_thread")]
async fn the_policies_alone_let_no_revision_through() -> Result<()> {
    let (lock, sidetrack) = Lock::new().await?;
    let held = lock.hold("v2").await?;

    // Hole f, with the webhook there: it is not asked about the status, whose writes may change annotations.
    for keys in [json!({"sidetrack.dev/hold": null}), json!({"sidetrack.dev/promoted": "0"})] {
        let error = lock.status_patch(&json!({"metadata": {"annotations": keys}})).await.err();
        let said = error.map(|e| e.to_string()).unwrap_or_default();
        ensure!(said.contains(HELD) || said.contains(KEYS), "{keys} through the status: {said}");
    }
    lock.status_patch(&json!({"metadata": {"annotations": {"example.com/foo": "bar"}}})).await?;

    lock.kubectl(&["delete", CONFIGURATION[0], CONFIGURATION[1]]).await?;
    // The API server forgets it a moment later; what the webhook would have mended is refused from then on.
    harness::eventually("the webhook is not asked any more", async || {
        let said = lock.world.kubectl_says(&["-n", &lock.ns, "rollout", "resume", "deploy/app"]).await?;
        Ok(said.contains(HELD).then_some(()))
    })
    .await?;
    let generation = at(&lock.target().await?, "/metadata/generation").as_i64().context("no generation")?;
    let hold = at(&held, "/metadata/annotations/sidetrack.dev~1hold").as_str().context("no hold")?;
    let template = |image: &str| json!({"spec": {"containers": [{"name": "app", "image": image}]}});
    let patch = |annotations: Value, labels: Value, spec: Value| {
        json!({"metadata": {"annotations": annotations, "labels": labels}, "spec": spec}).to_string()
    };
    let none = json!({});
    for (what, patch, reason) in [
        ("a: unpaused", patch(none.clone(), none.clone(), json!({"paused": false})), HELD),
        (
            "the old hold over a new template",
            patch(none.clone(), none.clone(), json!({"template": template("app:v3")})),
            NEW,
        ),
        (
            "b: `reverted` over a new template",
            patch(
                json!({"sidetrack.dev/reverted": hold}),
                none.clone(),
                json!({"paused": null, "template": template("app:v3")}),
            ),
            NEW,
        ),
        (
            "c: an old break-glass",
            patch(
                json!({"sidetrack.dev/break-glass": format!("{} fire", generation - 1)}),
                none.clone(),
                json!({"paused": null, "template": template("app:v3")}),
            ),
            NEW,
        ),
        (
            "d: the label off, and the template with it",
            patch(
                none.clone(),
                json!({"sidetrack.dev/canary": null}),
                json!({"template": template("app:v3")}),
            ),
            NEW,
        ),
        (
            "d: the label off",
            patch(none.clone(), json!({"sidetrack.dev/canary": null}), none.clone()),
            LABELS,
        ),
        (
            "the role changed",
            patch(none.clone(), json!({"sidetrack.dev/role": "generated"}), none.clone()),
            LABELS,
        ),
        ("the hold off", patch(json!({"sidetrack.dev/hold": null}), none.clone(), none.clone()), HELD),
        (
            "`promoted` forged",
            patch(json!({"sidetrack.dev/promoted": hold}), none.clone(), none.clone()),
            KEYS,
        ),
        ("`glassed` forged", patch(json!({"sidetrack.dev/glassed": hold}), none.clone(), none.clone()), KEYS),
        (
            "a hold that is another's",
            patch(json!({"sidetrack.dev/hold": "0"}), none.clone(), none.clone()),
            KEYS,
        ),
    ] {
        lock.refused(&["patch", "deploy/app", "-p", &patch], reason)
            .await
            .with_context(|| what.to_owned())?;
    }
    lock.refused(&["set", "image", "deploy/app", "app=app:v3"], NEW).await?;
    let refused = lock.world.flux(deployment(&lock.ns, "v4", 0)).await.err().map(|e| format!("{e:#}"));
    ensure!(refused.as_ref().is_some_and(|said| said.contains(NEW)), "{refused:?}");
    // e: the generated primary takes no template, hold and pause or not.
    let evil = patch(
        json!({"sidetrack.dev/hold": "0"}),
        none.clone(),
        json!({"paused": true, "template": template("evil")}),
    );
    lock.refused(&["patch", "deploy/app-primary", "-p", &evil], NEW).await?;
    ensure!(image(&lock.world.get(&lock.ns, "deploy", "app-primary").await?) == "app:v1");

    // What does no harm passes.
    lock.kubectl(&["annotate", "deploy/app", "example.com/bar=baz"]).await?;
    lock.kubectl(&["scale", "deploy/app-primary", "--replicas=2"]).await?;
    lock.kubectl(&["rollout", "restart", "deploy/app-primary"]).await?;
    lock.kubectl(&["annotate", "deploy/app", "sidetrack.dev/requested-replicas=2", "--overwrite"]).await?;

    // B-11: a hold of the right shape over a template that it does not name is seen and put right by the controller.
    let shaped = patch(
        json!({"sidetrack.dev/hold": "0123456789abcdef"}),
        none,
        json!({"paused": true, "template": template("app:v5")}),
    );
    lock.kubectl(&["patch", "deploy/app", "-p", &shaped]).await?;
    let mended = lock
        .world
        .until(&lock.ns, "deploy", "app", "the controller writes the right hold", |d| {
            let hold = at(d, "/metadata/annotations/sidetrack.dev~1hold");
            hold.as_str().is_some_and(|hold| hold.len() == 64)
                && *hold != *at(&held, "/metadata/annotations/sidetrack.dev~1hold")
        })
        .await?;
    ensure!(
        image(&mended) == "app:v5"
            && at(&mended, "/spec/paused") == true
            && at(&mended, "/spec/replicas") == 0
    );

    // B-5: nobody notes that a break-glass counts, but the policy has checked its number: the closed gate is passed by.
    let generation = at(&lock.target().await?, "/metadata/generation").as_i64().context("no generation")?;
    let glass = json!({"sidetrack.dev/break-glass": format!("{generation} fire")});
    let outage = patch(glass, json!({}), json!({"paused": null, "template": template("app:v5b")}));
    lock.kubectl(&["patch", "deploy/app", "-p", &outage]).await?;
    lock.world
        .until(&lock.ns, "deploy", "app-primary", "the emergency is promoted", |d| image(d) == "app:v5b")
        .await?;
    lock.world.phase(&lock.ns, "Succeeded").await?;
    let logged = sidetrack.logged()?;
    ensure!(logged.contains("Break-glass counts") && !logged.contains("InterlockBypassed"), "{logged}");

    // Made again, it is given its bundle, and writers heal by trying again.
    lock.world.install_webhook().await?;
    lock.caught().await?;
    lock.hold("v6").await?;

    // The process dies: what concerns it waits, the rest goes on.
    sidetrack.kill();
    let said = lock.world.kubectl_says(&["-n", &lock.ns, "set", "image", "deploy/app", "app=app:v7"]).await?;
    ensure!(said.contains("failed calling webhook"), "{said}");
    lock.kubectl(&["annotate", "deploy/app", "example.com/foo=qux", "--overwrite"]).await?;
    lock.kubectl(&["scale", "deploy/app-primary", "--replicas=1"]).await?;
    ensure!(image(&lock.target().await?) == "app:v6");
    let _second = lock.world.run(&[])?;
    lock.world.wait_for_webhook().await?;
    lock.hold("v7").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policies_guard_services_and_deletions() -> Result<()> {
    let (lock, sidetrack) = Lock::new().await?;
    // Without the process nothing is put right behind the test's back.
    sidetrack.kill();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "app", "namespace": lock.ns},
        "spec": {"selector": {"app": "app"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    let labelled = lock.world.get(&lock.ns, "svc", "app").await?;
    ensure!(
        at(&labelled, "/metadata/labels/sidetrack.dev~1canary") == "app",
        "the apex is enrolled: {labelled:#}"
    );
    lock.kubectl(&["delete", CONFIGURATION[0], CONFIGURATION[1]]).await?;
    harness::eventually("the second lock speaks for Services", async || {
        let error = lock.world.flux(service.clone()).await.err();
        Ok(error.filter(|e| format!("{e:#}").contains("its selector decides where traffic goes")))
    })
    .await?;
    // B-10: a port of the owner's own arrives; the Canary's stays.
    let more = r#"{"spec":{"ports":[{"name":"extra","port":81,"targetPort":8081}]}}"#;
    lock.kubectl(&["patch", "svc/app", "-p", more]).await?;
    let moved = r#"[{"op":"replace","path":"/spec/ports/0/targetPort","value":1}]"#;
    let ports = lock.world.get(&lock.ns, "svc", "app").await?;
    let first =
        if at(&ports, "/spec/ports/0/port") == 80 { moved.to_owned() } else { moved.replace("/0/", "/1/") };
    let said =
        lock.world.kubectl_says(&["-n", &lock.ns, "patch", "svc/app", "--type=json", "-p", &first]).await?;
    ensure!(said.contains("the ports that the Canary defines cannot be changed"), "{said}");

    // B-8: foreground deletion, asked for in one step or in two, while traffic depends on the pods.
    let finalizer = r#"{"metadata":{"finalizers":["sidetrack.dev/traffic","foregroundDeletion"]}}"#;
    let guarded = lock.world.get(&lock.ns, "deploy", "app-primary").await?;
    ensure!(
        at(&guarded, "/metadata/finalizers").to_string().contains("sidetrack.dev/traffic"),
        "{guarded:#}"
    );
    let why = "its pods carry traffic, which foreground deletion would cut off";
    let foreground = ["delete", "deploy/app-primary", "--cascade=foreground", "--wait=false"];
    lock.refused(&foreground, why).await?;
    lock.kubectl(&["patch", "deploy/app-primary", "--type=merge", "-p", finalizer]).await?;
    let raw = format!("/apis/apps/v1/namespaces/{}/deployments/app-primary", lock.ns);
    lock.refused(&["delete", "--raw", &raw], why).await?;
    let primary = lock.world.get(&lock.ns, "deploy", "app-primary").await?;
    ensure!(
        at(&primary, "/status/readyReplicas") == 1 && at(&primary, "/metadata/deletionTimestamp").is_null()
    );
    Ok(())
}

/// The definition of CanaryPolicy is gone (a prune, a restore, an uninstall that was cut short) and the API server starts: it
/// cannot read the parameters of our policy, and says so before it looks at any condition. Nobody's write is refused for that.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_kind_of_the_policies_an_api_server_that_starts_refuses_nobody() -> Result<()> {
    let (lock, sidetrack) = Lock::new().await?;
    let other = lock.world.cp.namespace("strangers").await?;
    lock.world.flux(deployment(&other, "v1", 1)).await?;
    sidetrack.kill();
    lock.kubectl(&["delete", "crd", "canarypolicies.sidetrack.dev"]).await?;
    lock.kubectl(&["delete", CONFIGURATION[0], CONFIGURATION[1]]).await?;
    lock.world.cp.crash_api_server();
    lock.world.cp.restart_api_server().await?;
    // Its other policies are compiled a moment after it is ready; by then it has looked at this one too.
    harness::eventually("the second lock speaks", async || {
        lock.world.kubectl(&["-n", &other, "set", "image", "deploy/app", "app=app:v2"]).await?;
        lock.world.kubectl(&["-n", &other, "set", "image", "deploy/app", "app=app:v3"]).await?;
        let said =
            lock.world.kubectl_says(&["-n", &lock.ns, "set", "image", "deploy/app", "app=app:v2"]).await?;
        Ok(said.contains(NEW).then_some(()))
    })
    .await?;
    ensure!(image(&lock.target().await?) == "app:v1");
    Ok(())
}

/// With the webhook's configuration deleted nobody can tell a revert of an in-place Deployment from another template that claims to
/// be one: the second lock, which cannot hash, lets both through. The controller sees it, and takes the pods back.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_claims_to_be_the_promoted_one_is_taken_back() -> Result<()> {
    let world = World::start(false).await?;
    let sidetrack = world.run(&[])?;
    world.wait_for_webhook().await?;
    let ns = world.cp.namespace("claims").await?;
    world.flux(harness::service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(harness::in_place(&ns, &json!({"analysis": {"stepWeight": 5, "maxWeight": 100}}))).await?;
    world.phase(&ns, "Initialized").await?;
    world.kubectl(&["delete", CONFIGURATION[0], CONFIGURATION[1]]).await?;
    let live = world.get(&ns, "deploy", "app").await?;
    let promoted = at(&live, "/metadata/annotations/sidetrack.dev~1promoted").clone();
    let claim = json!({
        "metadata": {"annotations": {"sidetrack.dev/reverted": promoted}},
        "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "app:v9"}]}}},
    })
    .to_string();
    harness::eventually("the claim passes when nobody is asked any more", async || {
        world.kubectl(&["-n", &ns, "patch", "deploy", "app", "-p", &claim]).await?;
        Ok((image(&world.get(&ns, "deploy", "app").await?) == "app:v9").then_some(()))
    })
    .await?;
    harness::eventually("the promoted revision has its pods, the other one is held", async || {
        let pods = world.list(&ns, "pod", "app=app").await?;
        let live = pods.iter().filter(|pod| at(pod, "/metadata/deletionTimestamp").is_null());
        let live: Vec<&str> = live.map(harness::objects::pod_image).collect();
        let target = world.get(&ns, "deploy", "app").await?;
        let held = image(&target) == "app:v9" && at(&target, "/spec/paused") == true;
        Ok((live == ["app:v1"; 2] && held).then_some(()))
    })
    .await?;
    ensure!(sidetrack.logged()?.contains("InterlockBypassed"));
    Ok(())
}
