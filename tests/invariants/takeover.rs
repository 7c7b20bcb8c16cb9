//! Moving over from Flagger: the cluster as Flagger leaves it, and Sidetrack looks at it for the first time.

use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::api::revision::Revision;
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::cluster::{Manager, Refused};
use sim::manifests::{NAMESPACE, canary, deployment, template};
use sim::world::revision;
use sim::writers::Webhook;

/// What Flagger has made for Canary `app` (as recorded of Flagger 1.44 on a real API server): the target at 0 with the
/// template `applied`, `app-primary` with the template `promoted`, Services, routes, and its own words in status.
fn flaggers(phase: Phase, applied: &str, promoted: &str) -> World {
    let mut world = World::empty(NAMESPACE, "app", "app", None);
    let mut canary = canary(&[]);
    let hash = "6c6994d68d";
    canary["status"] = json!({
        "phase": phase, "canaryWeight": 0, "failedChecks": 0, "iterations": 0, "trackedConfigs": {},
        "lastAppliedSpec": hash, "lastPromotedSpec": hash, "lastTransitionTime": "2025-12-31T23:00:00Z",
        "conditions": [{"type": "Promoted", "status": "True", "reason": phase,
            "message": "Canary analysis completed successfully, promotion finished.",
            "lastTransitionTime": "2025-12-31T23:00:00Z", "lastUpdateTime": "2025-12-31T23:00:00Z"}],
    });
    let by = Manager::update("flagger");
    let canary = world.cluster.create(canary, by).unwrap();
    let owner = json!([{"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": "app",
        "uid": canary["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true}]);
    let target = world.cluster.create(deployment(applied, None, Some(0)), by).unwrap();
    let at = world.deployment("app");
    world.laws.created(&at, &target);
    world.laws.created(&at, &deployment(promoted, None, None));
    let mut primary = deployment(promoted, None, Some(2));
    primary["metadata"] = json!({"namespace": NAMESPACE, "name": "app-primary",
        "labels": {"app": "app-primary"}, "ownerReferences": owner});
    primary["spec"]["selector"] = json!({"matchLabels": {"app": "app-primary"}});
    primary["spec"]["template"]["metadata"] = json!({"labels": {"app": "app-primary"},
        "annotations": {"flagger-id": "54c07173-7f2c-4486-bee5-2f1d1dcddfd6"}});
    world.cluster.create(primary, by).unwrap();
    let opt_out = json!({"helm.toolkit.fluxcd.io/driftDetection": "disabled",
        "kustomize.toolkit.fluxcd.io/reconcile": "disabled"});
    let metadata = |name: &str| {
        json!({"namespace": NAMESPACE, "name": name, "labels": {"app": name},
        "annotations": opt_out, "ownerReferences": owner})
    };
    for (name, selects) in [("app", "app-primary"), ("app-canary", "app"), ("app-primary", "app-primary")] {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(name),
            "spec": {"type": "ClusterIP", "selector": {"app": selects},
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 9898}]}});
        world.cluster.create(service, by).unwrap();
    }
    let route = |host: &str, weight: i64| json!({"destination": {"host": host}, "weight": weight});
    let routes = json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
        "metadata": metadata("app"), "spec": {"gateways": ["mesh"], "hosts": ["app"],
            "http": [{"route": [route("app-primary", 100), route("app-canary", 0)]}]}});
    world.cluster.create(routes, by).unwrap();
    for host in ["app-canary", "app-primary"] {
        let rule = json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "DestinationRule",
            "metadata": metadata(host), "spec": {"host": host}});
        world.cluster.create(rule, by).unwrap();
    }
    // What Flagger has said is not Sidetrack's to answer for.
    world.statuses = vec![world.status(); 2];
    // Its pods have run for long.
    let kept = world.process.take();
    world.run(5);
    world.process = kept;
    world
}

fn primary(world: &World) -> &Value {
    world.primary().unwrap()
}

fn key<'a>(object: &'a Value, kind: &str, key: &str) -> Option<&'a str> {
    object["metadata"][kind].get(key)?.as_str()
}

/// Whether the webhook, the policies and a deletion know the primary for what it is.
fn guarded(primary: &Value) -> bool {
    let label = |name| key(primary, "labels", name);
    let finalizers = primary["metadata"]["finalizers"].as_array();
    label(keys::CANARY) == Some("app")
        && label(keys::ROLE) == Some(keys::ROLE_GENERATED)
        && label(keys::LAYOUT) == Some(keys::LAYOUT_PRIMARY_COPY)
        && finalizers.is_some_and(|f| f.contains(&keys::TRAFFIC_FINALIZER.into()))
}

/// Somebody changes the template of `app-primary`.
fn hand_edit(world: &mut World) -> Result<(), Refused> {
    let at = world.deployment("app-primary");
    world.edit(&at, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = "app:evil".into())
}

#[test]
fn flaggers_primary_is_guarded_before_anything_is_decided_on_it() {
    for phase in [Phase::Initialized, Phase::Succeeded, Phase::Failed] {
        let mut world = flaggers(phase, "v1", "v1");
        let before = primary(&world).clone();
        world.until("rest", World::at_rest);
        let first = world.written.iter().find(|(w, _)| w.target().unwrap().kind == Kind::Deployment);
        let (write, after) = first.unwrap();
        assert_eq!(write.target(), Some(world.deployment("app-primary")), "{}", world.tail());
        assert!(guarded(after.as_ref().unwrap()));
        let now = primary(&world);
        assert!(guarded(now) && now["spec"] == before["spec"], "{now:#}");
        assert_eq!(key(now, "annotations", keys::PROMOTED), Some(revision("v1").as_str()));
        let written = Revision::of(&now["spec"]["template"]);
        assert_eq!(key(now, "annotations", keys::TEMPLATE), Some(written.as_str()));
        assert_eq!(world.key(keys::PROMOTED), Some(revision("v1").as_str()));
        let status = world.status();
        assert_eq!((status.phase, world.weight(), world.replicas("app")), (phase, 0, 0));
        assert_eq!(status.revisions.primary.as_deref(), Some(revision("v1").as_str()));
        assert!(
            world.ready_message().contains(&format!("he primary runs revision {}", revision("v1")))
                || phase == Phase::Failed,
            "{}",
            world.ready_message()
        );
        assert!(world.fresh_process_has_nothing_to_do());

        // What the webhook says of it, and what is said of it where the webhook is gone.
        assert_eq!(hand_edit(&mut world), Err(Refused(403)), "{phase:?}");
        let mut gone = world.fork();
        gone.webhook = Webhook::Gone;
        hand_edit(&mut gone).unwrap();
        gone.run(30);
        assert!(gone.has_said("InterlockBypassed: the template of app-primary.test was changed by hand"));
        assert_eq!(gone.key(keys::PROMOTED), Some(revision("v1").as_str()), "{}", gone.tail());
        world.update("v2");
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image("app-primary"), "v2");
    }
}

/// A hand edit at the very moment of the move is no promotion.
#[test]
fn an_edit_right_after_the_guard_is_refused() {
    let mut world = flaggers(Phase::Succeeded, "v1", "v1");
    world.after_write(1, |w| assert!(!guarded(primary(w)), "the Canary's own finalizer comes first"));
    world.until("a guarded primary", |w| guarded(primary(w)));
    assert_eq!(hand_edit(&mut world), Err(Refused(403)));
}

#[test]
fn what_flagger_rejected_is_held_and_analysed_again() {
    let mut world = flaggers(Phase::Failed, "v2", "v1");
    world.until("a hold", |w| w.key(keys::HOLD).is_some());
    assert!(guarded(primary(&world)));
    assert_eq!(world.key(keys::HOLD), Some(revision("v2").as_str()));
    assert_eq!(world.key(keys::PROMOTED), Some(revision("v1").as_str()));
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2", "{}", world.tail());
}

/// Labels that went while nobody answered for the webhook come back, during a run too.
#[test]
fn a_primary_that_lost_its_labels_is_guarded_again() {
    let mut world = World::initialised(canary(&[]));
    for during in [false, true] {
        if during {
            world.update("v2");
            world.until_weight(20);
        }
        let at = world.deployment("app-primary");
        world.webhook = Webhook::Gone;
        world
            .edit(&at, |d| {
                d["metadata"]["labels"] = json!({"app": "app-primary"});
                d["metadata"].as_object_mut().unwrap().remove("finalizers");
            })
            .unwrap();
        world.webhook = Webhook::Up;
        world.run(1);
        assert!(guarded(primary(&world)), "{}", world.tail());
    }
    world.until_over(Phase::Succeeded);
    let at = ObjectRef::new(Kind::Deployment, NAMESPACE, "app");
    assert_eq!(world.cluster.get(&at).unwrap()["spec"]["template"], template("v2", None));
}
