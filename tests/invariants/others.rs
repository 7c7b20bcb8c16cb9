//! Other people's objects, whatever they are called and labelled: adopt, release, reject, leave, and nothing of them is changed
//! but what adoption states, which is given back.

use proptest::prelude::*;
use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::laws_of_others::bare;
use sim::manifests::{NAMESPACE, canary, deployment};

/// A namespace as somebody may have it.
#[derive(Clone, Debug)]
struct Namespace {
    layout: &'static str,
    provider: &'static str,
    /// What stands under names that Sidetrack would use.
    taken: Vec<usize>,
    /// Other workloads, by how their labels are.
    workloads: Vec<usize>,
    /// Other Services, by what they select.
    services: Vec<usize>,
    /// The application's own Service, by how it is.
    apex: usize,
    /// A route that is there, by how it is.
    route: usize,
    second_label: bool,
    portdiscovery: bool,
    rejects: bool,
    /// The owner applies his manifests again in the middle of it.
    reapplies: bool,
}

fn namespace() -> impl Strategy<Value = Namespace> {
    let few = |of: usize, most: usize| proptest::collection::vec(0..of, 0..=most);
    let rarely = prop_oneof![3 => Just(Vec::new()), 1 => few(7, 2)];
    (
        (prop_oneof![Just("in-place"), Just("primary-copy")], prop_oneof![
            3 => Just("istio"), 2 => Just("gatewayapi:v1"), 1 => Just("smi:v1alpha2"), 1 => Just("kubernetes")]),
        rarely,
        few(5, 2),
        few(5, 1),
        (0usize..5, 0usize..6),
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(|((layout, provider), taken, workloads, services, (apex, route), flags)| Namespace {
            layout: if provider == "kubernetes" { "in-place" } else { layout },
            provider,
            taken,
            workloads,
            services,
            apex,
            route,
            second_label: flags.0,
            portdiscovery: flags.1,
            rejects: flags.2,
            reapplies: flags.3,
        })
}

fn named(api: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"team": "theirs"}}, "spec": spec})
}

fn workload(name: &str, labels: &Value) -> Value {
    named(
        "apps/v1",
        "Deployment",
        name,
        json!({"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "theirs:1"}]}}}),
    )
}

fn service(name: &str, selector: &Value) -> Value {
    named(
        "v1",
        "Service",
        name,
        json!({"selector": selector, "ports": [{"name": "theirs", "port": 5432, "protocol": "TCP", "targetPort": 5432}]}),
    )
}

impl Namespace {
    fn labels(&self) -> Value {
        if self.second_label { json!({"app": "app", "component": "api"}) } else { json!({"app": "app"}) }
    }

    fn target(&self, image: &str) -> Value {
        let mut target = deployment(image, None, Some(2));
        target["spec"]["selector"]["matchLabels"] = self.labels();
        target["spec"]["template"]["metadata"]["labels"] = self.labels();
        target
    }

    fn apex(&self) -> Option<Value> {
        let ports = json!([
            [{"name": "web", "port": 80, "protocol": "TCP", "targetPort": 9898, "nodePort": 31090}],
            [{"port": 80, "protocol": "TCP", "targetPort": 9898}],
            [{"port": 8080, "protocol": "TCP", "targetPort": 9898}],
            [{"name": "http", "port": 81, "protocol": "TCP", "targetPort": 9898},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53}],
        ]);
        let mut apex = service("app", &self.labels());
        apex["spec"]["ports"] = ports.get(self.apex)?.clone();
        apex["metadata"]["annotations"] = json!({"mail": "theirs"});
        Some(apex)
    }

    fn route(&self) -> Option<Value> {
        let lead = |host: &str| json!({"route": [{"destination": {"host": host}}]});
        let back = |name: &str| json!({"backendRefs": [{"group": "", "kind": "Service", "name": name, "port": 80, "weight": 1}]});
        let ours = (self.provider, self.route);
        let mut route = match ours {
            ("istio", 0) => {
                json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService", "spec": {"hosts": ["shop"],
                "http": [lead("cdn"), {"name": "mine", "timeout": "3s", "route": lead("app.test")["route"]}, {"redirect": {"uri": "/x"}}]}})
            }
            ("istio", 1) => {
                json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService", "spec": {"hosts": ["app"], "http": [lead("app"), lead("app")],
                "tls": [{"route": [{"destination": {"host": "app"}}]}]}})
            }
            ("istio", 2) => {
                json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService", "spec": {"hosts": ["app"], "http": [lead("other")]}})
            }
            ("gatewayapi:v1", 0) => {
                json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": {"parentRefs": [{"name": "g"}],
                "rules": [{"filters": [{"type": "RequestRedirect", "requestRedirect": {"port": 443}}]}, back("app"), back("cdn")]}})
            }
            ("gatewayapi:v1", 1) => {
                json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": {"parentRefs": [{"name": "g"}], "rules": [back("app")]}})
            }
            ("smi:v1alpha2", 0 | 1) => {
                json!({"apiVersion": "split.smi-spec.io/v1alpha2", "kind": "TrafficSplit", "spec": {"service": "app",
                "backends": [{"service": "app", "weight": 100}]}})
            }
            _ => return None,
        };
        route["metadata"] = json!({"namespace": NAMESPACE, "name": "app", "annotations": {"mail": "theirs"}});
        Some(route)
    }

    fn others(&self) -> Vec<Value> {
        let db = json!({"app": "postgres"});
        let taken = |which: usize| match which {
            0 => workload("app-primary", &db),
            1 => workload("app-canary", &db),
            2 => service("app-primary", &db),
            3 => service("app-canary", &db),
            4 => {
                named("networking.istio.io/v1beta1", "DestinationRule", "app-primary", json!({"host": "db"}))
            }
            5 => named("networking.istio.io/v1beta1", "DestinationRule", "app-canary", json!({"host": "db"})),
            _ => named(
                "autoscaling/v2",
                "HorizontalPodAutoscaler",
                "app-primary",
                json!({"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "db"}}),
            ),
        };
        let labels = [
            db.clone(),
            json!({"app": "app", "component": "worker"}),
            json!({"app": "app-primary"}),
            json!({"app": "app-canary", "component": "api"}),
            json!({"app": "other", "component": "api"}),
        ];
        let mut objects: Vec<Value> = self.taken.iter().map(|which| taken(*which)).collect();
        for (n, which) in self.workloads.iter().enumerate() {
            objects.push(workload(&format!("other-{n}"), &labels[*which]));
        }
        let selectors = [
            db,
            json!({"app": "app"}),
            json!({"component": "api"}),
            json!({"app": "app-primary"}),
            json!({"team": "x"}),
        ];
        for (n, which) in self.services.iter().enumerate() {
            objects.push(service(&format!("other-{n}"), &selectors[*which]));
        }
        objects.extend(self.apex());
        objects.extend(self.route());
        let mut seen = std::collections::BTreeSet::new();
        objects.retain(|object| seen.insert(sidetrack::router::address(object).unwrap()));
        objects
    }

    fn canary(&self) -> Value {
        let mut canary = canary(&[]);
        canary["metadata"]["annotations"] = json!({keys::LAYOUT: self.layout});
        canary["spec"]["provider"] = self.provider.into();
        canary["spec"]["service"]["portDiscovery"] = self.portdiscovery.into();
        if self.provider.starts_with("gateway") {
            canary["spec"]["service"]["gatewayRefs"] = json!([{"name": "g"}]);
        }
        canary
    }
}

fn stalled(world: &World) -> Option<String> {
    let status = world.status();
    let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled" && c.reason == "Refused")?;
    Some(stalled.message.clone())
}

/// Plays a namespace; whether its application was adopted.
fn play(namespace: &Namespace) -> bool {
    let mut world = World::empty(NAMESPACE, "app", "app", None);
    world.names = world.names.in_layout(sidetrack::api::names::Layout::parse(namespace.layout).unwrap());
    world.by_replicas = namespace.provider == "kubernetes";
    world.apply(namespace.target("v1"));
    for object in namespace.others() {
        world.apply(object);
    }
    world.run(5);
    world.note_others();
    let target = bare(world.target().unwrap());
    world.apply(namespace.canary());
    world.until("adopted or refused", |w| w.status().phase == Phase::Initialized || stalled(w).is_some());
    if let Some(why) = stalled(&world) {
        world.run(60);
        assert_eq!(bare(world.target().unwrap()), target, "refused ({why}), and touched\n{}", world.tail());
        let canary = world.canary.clone();
        world.delete(&canary);
        world.until("the Canary to go", |w| w.cluster.get(&canary).is_none());
        assert_eq!(
            bare(world.target().unwrap()),
            target,
            "refused ({why}), and touched by leaving\n{}",
            world.tail()
        );
        world.all_is_given_back();
        return false;
    }
    if namespace.rejects {
        world.answers.success_rate("50");
    }
    let image = |world: &mut World, image: &str| world.apply(namespace.target(image));
    image(&mut world, "v2");
    world.until("a step", |w| w.weight() > 0);
    if namespace.reapplies {
        for object in [namespace.apex(), namespace.route()].into_iter().flatten() {
            world.apply(object);
        }
    }
    let end = if namespace.rejects { Phase::Failed } else { Phase::Succeeded };
    world.until_over(end);
    image(&mut world, "v3");
    world.run(25);
    let canary = world.canary.clone();
    world.delete(&canary);
    world.until("the Canary to go", |w| w.cluster.get(&canary).is_none());
    world.run(60);
    world.all_is_given_back();
    let left: Vec<String> = world
        .cluster
        .objects
        .iter()
        .filter(|(at, object)| {
            let mine = object["metadata"].to_string().contains("sidetrack.dev");
            mine || at.kind != Kind::Service
                && at.name.starts_with("app-")
                && object["metadata"]["labels"]["team"] != "theirs"
        })
        .map(|(at, object)| format!("{at}: {}", object["metadata"]))
        .collect();
    assert!(left.is_empty(), "{left:#?}\n{}", world.tail());
    true
}

#[test]
fn whatever_others_have_stays_theirs_and_what_is_adopted_is_given_back() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 80,
        failure_persistence: None,
        rng_seed: super::random::seed(),
        ..ProptestConfig::default()
    });
    let adopted = std::cell::Cell::new(0);
    let played = runner.run(&namespace(), |namespace| {
        adopted.set(adopted.get() + usize::from(play(&namespace)));
        Ok(())
    });
    if let Err(error) = played {
        panic!("{error}");
    }
    assert!(adopted.get() > 15, "hardly any namespace let itself be adopted: {}", adopted.get());
}

/// The law sees what it is for.
#[test]
fn a_write_to_what_is_somebody_elses_does_not_pass() {
    let database = workload("db", &json!({"app": "postgres"}));
    let at = ObjectRef::of(&database).unwrap();
    let stories: [fn(&mut World, &ObjectRef); 3] = [
        |world, at| world.cluster.objects.get_mut(at).unwrap()["spec"]["replicas"] = 0.into(),
        |world, at| {
            world.cluster.objects.get_mut(at).unwrap()["metadata"]["labels"][keys::CANARY] = "app".into()
        },
        |world, at| drop(world.cluster.objects.remove(at)),
    ];
    for story in stories {
        let seen = std::panic::catch_unwind(|| {
            let mut world = World::initialised(canary(&[]));
            world.apply(database.clone());
            world.run(5);
            world.note_others();
            let before = world.cluster.get(&at).cloned();
            story(&mut world, &at);
            world.judge_write(&at, before.as_ref(), true);
        });
        let why = seen.expect_err("it passed");
        assert!(why.downcast_ref::<String>().is_some_and(|why| why.contains("I10 is broken")));
    }
}
