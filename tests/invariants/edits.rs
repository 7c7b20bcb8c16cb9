//! What people change on a Canary while it serves: its names, its provider, its autoscaler.

use serde_json::{Value, json};
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::manifests::{canary, deployment, in_place, service};
use sim::world::revision;

fn at(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, "test", name)
}

fn adopted(world: &World) -> (String, String, String) {
    let adopted = world.status().adopted.expect("it is in status");
    (adopted.target, adopted.service, adopted.provider)
}

fn named(target: &str, service: &str, provider: &str) -> (String, String, String) {
    (target.into(), service.into(), provider.into())
}

/// A release ends on the route on which it began; then the Canary gives that back and takes over by the new name.
#[test]
fn a_service_that_is_renamed_in_a_run_keeps_its_weight_until_the_run_is_over() {
    for canary in [canary(&[]), in_place(&[])] {
        let in_place = canary["metadata"]["annotations"].is_object();
        let mut world = World::initialised(canary);
        world.update("v2");
        world.until_weight(20);
        world.edit_canary("/spec/service/name", json!("web"));
        world.until_weight(40);
        assert!(world.cluster.get(&at(sidetrack::router::VIRTUAL_SERVICE, "web")).is_none());
        let warned = world.status().warnings.join(" ");
        assert!(warned.contains("spec.service.name was app and is web"), "{warned}");
        world.until("the promotion", |w| w.image(&w.names.primary.clone()) == "v2");
        world.until("it is given back", |w| {
            w.cluster.get(&at(sidetrack::router::VIRTUAL_SERVICE, "app")).is_none()
        });
        assert_eq!(world.image("app"), "v2");
        if !in_place {
            // Whoever calls the old name would reach nobody between releases: that one is to be deleted first.
            world.until("it says so", |w| {
                w.ready_message().contains("Service app selects the pods of Deployment app")
            });
            world.delete(&at(Kind::Service, "app"));
        } else {
            world.apply(named_service("web"));
        }
        world.until("it is taken over", |w| {
            w.status().phase == Phase::Initialized && adopted(w) == named("app", "web", "istio")
        });
        assert!(world.cluster.get(&at(sidetrack::router::VIRTUAL_SERVICE, "web")).is_some());
        let past: Vec<String> = world.status().history.into_iter().map(|past| past.revision).collect();
        assert_eq!(
            past,
            ["v1", "v2"].map(|v| revision(v).as_str().to_owned()),
            "nothing is forgotten or told twice"
        );
    }
}

fn named_service(name: &str) -> Value {
    let mut service = service(&json!({"app": "app"}));
    service["metadata"]["name"] = name.into();
    service
}

#[test]
fn another_provider_is_taken_up_between_releases() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.edit_canary("/spec/provider", json!("smi:v1alpha2"));
    world.until_weight(40);
    assert_eq!(adopted(&world), named("app", "app", "istio"));
    world.until("it is taken over", |w| {
        w.status().phase == Phase::Initialized && adopted(w) == named("app", "app", "smi:v1alpha2")
    });
    assert!(world.cluster.get(&at(sidetrack::router::VIRTUAL_SERVICE, "app")).is_none());
    assert!(world.cluster.get(&at(sidetrack::router::TRAFFIC_SPLIT_V1ALPHA2, "app")).is_some());
    assert_eq!(
        (world.image("app-primary").as_str(), world.status().revisions.primary.is_some()),
        ("v2", true)
    );
}

/// The Deployment that is not the target any more is plain again, and nothing of ours is left on it or beside it.
#[test]
fn a_target_that_is_renamed_is_let_go() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::initialised(canary);
        world.update("v2");
        world.until_over(Phase::Succeeded);
        let mut next = deployment("v9", None, Some(2));
        next["metadata"]["name"] = "next".into();
        for pointer in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
            next.pointer_mut(pointer).unwrap()["app"] = "next".into();
        }
        world.apply(next);
        let mut service = named_service("next");
        service["spec"]["selector"]["app"] = "next".into();
        world.apply(service);
        world.run(5);
        world.edit_canary("/spec/targetRef/name", json!("next"));
        world.edit_canary("/spec/service/name", json!("next"));
        world.until("the old one is let go", |w| {
            let labels = &w.cluster.get(&at(Kind::Deployment, "app")).unwrap()["metadata"]["labels"];
            labels.get("sidetrack.dev/canary").is_none()
                && w.cluster.get(&at(Kind::Deployment, "app-primary")).is_none()
        });
        assert_eq!((world.image("app").as_str(), world.replicas("app")), ("v2", 2));
        world.until("the new one is asked for", |w| {
            w.status().adopted.is_some_and(|adopted| adopted.target == "next")
        });
    }
}

/// The copy of an autoscaler that the Canary names no more does not go on scaling the primary.
#[test]
fn an_autoscaler_that_is_named_no_more_leaves_the_primary_alone() {
    let scaler = |name: &str| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"namespace": "test", "name": name},
            "spec": {"minReplicas": 1, "maxReplicas": 4,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"}}})
    };
    let reference =
        |name: &str| json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": name});
    let mut object = canary(&[]);
    object["spec"]["autoscalerRef"] = reference("one");
    let mut world = World::empty("test", "app", "app", None);
    for object in [scaler("one"), scaler("two"), deployment("v1", None, Some(2)), object] {
        world.apply(object);
    }
    world.until_phase(Phase::Initialized);
    let copy = |name: &str| at(Kind::HorizontalPodAutoscaler, name);
    assert!(world.cluster.get(&copy("one-primary")).is_some());
    world.edit_canary("/spec/autoscalerRef", reference("two"));
    world.until("the other one's copy", |w| {
        w.cluster.get(&copy("one-primary")).is_none() && w.cluster.get(&copy("two-primary")).is_some()
    });
    world.edit_canary("/spec/autoscalerRef", Value::Null);
    world.until("no copy", |w| w.cluster.get(&copy("two-primary")).is_none());
    world.until("status says so", |w| w.status().adopted.unwrap().autoscaler.is_none());
}

/// An autoscaler on the primary that the Canary does not name is answered once an interval, and named.
#[test]
fn who_scales_the_primary_again_and_again_is_answered_once_an_interval() {
    let mut world = World::initialised(canary(&[]));
    let mut scaled = 0;
    let end = world.cluster.now.checked_add(jiff::SignedDuration::from_secs(60)).unwrap();
    while world.cluster.now < end {
        if world.replicas("app-primary") == 2 {
            world.scale("app-primary", 1).unwrap();
            scaled += 1;
        }
        world.run(1);
    }
    assert!((5..=7).contains(&scaled), "{scaled}\n{}", world.tail());
    assert!(world.has_said("an autoscaler belongs into spec.autoscalerRef"), "{}", world.tail());
    world.until("it has its pods again", |w| w.replicas("app-primary") == 2);
}
