//! Laws that hold for every provider and every Canary.

use super::ports::DiscoveredPort;
use super::routing::Routing;
use super::services::{ApexSelects, Selector, Services};
use super::*;
use crate::object::Kind;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

pub(super) type Store = BTreeMap<ObjectRef, Value>;

/// Applies writes as the API server does, with its defaults for Services and HTTPRoutes.
pub(super) fn apply(store: &mut Store, writes: &[Write]) {
    for write in writes {
        let at = write.target().unwrap();
        match write {
            Write::Create { object, .. } => {
                assert!(!store.contains_key(&at), "{at} exists");
                store.insert(at.clone(), object.clone());
            }
            Write::Patch { patch, .. } => json_patch::patch(store.get_mut(&at).unwrap(), &patch.0).unwrap(),
            other => panic!("unexpected {other:?}"),
        }
        let object = store.get_mut(&at).unwrap();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or("0").parse::<u64>().unwrap();
        object["metadata"]["resourceVersion"] = (version + 1).to_string().into();
        defaults(object);
    }
}

pub(super) fn defaults(object: &mut Value) {
    if object["kind"] == "Service" {
        let spec = object["spec"].as_object_mut().unwrap();
        for (field, value) in [
            ("type", json!("ClusterIP")),
            ("sessionAffinity", json!("None")),
            ("internalTrafficPolicy", json!("Cluster")),
            ("clusterIP", json!("10.0.0.1")),
        ] {
            spec.entry(field).or_insert(value);
        }
    }
    if object["kind"] == "HTTPRoute" {
        for rule in object["spec"].get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
            for backend in rule.get_mut("backendRefs").and_then(Value::as_array_mut).into_iter().flatten() {
                let backend = backend.as_object_mut().unwrap();
                backend.entry("weight").or_insert(json!(1));
                backend.entry("group").or_insert(json!(""));
                backend.entry("kind").or_insert(json!("Service"));
            }
            rule.as_object_mut()
                .unwrap()
                .entry("matches")
                .or_insert(json!([{"path": {"type": "PathPrefix", "value": "/"}}]));
            for condition in rule["matches"].as_array_mut().into_iter().flatten() {
                condition
                    .as_object_mut()
                    .unwrap()
                    .entry("path")
                    .or_insert(json!({"type": "PathPrefix", "value": "/"}));
            }
            for filter in rule.get_mut("filters").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(cors) = filter.get_mut("cors") {
                    cors.as_object_mut().unwrap().entry("maxAge").or_insert(json!(5));
                }
            }
        }
    }
}

pub(super) fn live<'a>(store: &'a Store) -> impl Fn(&ObjectRef) -> Option<&'a Value> {
    |r| store.get(r)
}

/// Removes every weight, wherever it is; of a TraefikService the canary's entry too, which is there only with a weight.
fn weightless(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(k, _)| *k != "weight").map(|(k, v)| (k.clone(), weightless(v))).collect()
        }
        Value::Array(list) => {
            let weight = |entry: &Value| entry["name"] == "app-canary" && entry["namespace"] == "test";
            list.iter().filter(|entry| !weight(entry)).map(weightless).collect()
        }
        other => other.clone(),
    }
}

prop_compose! {
    pub(super) fn service()(
        port in 1..9999_i32,
        hosts in proptest::sample::subsequence(vec!["a.example", "app", "*"], 0..=2),
        gateways in proptest::sample::subsequence(vec!["mesh", "ns/gw"], 0..=2),
        timeout in proptest::option::of("[1-9]s"),
        discovery: bool,
        delegation: bool,
        tcp in proptest::bool::weighted(0.2),
        parts in proptest::sample::subsequence(vec![
            ("match", json!([{"uri": {"prefix": "/api"}, "headers": {"x-b": {"exact": "1"}, "x-a": {"regex": "."}}, "port": 80}])),
            ("rewrite", json!({"uri": "/", "authority": "b"})),
            ("retries", json!({"attempts": 3, "perTryTimeout": ""})),
            ("headers", json!({"request": {"add": {"x": "1", "a": "2"}}, "response": {"remove": ["s"]}})),
            ("corsPolicy", json!({"allowOrigin": ["a"], "allowCredentials": false})),
            ("trafficPolicy", json!({"tls": {"mode": "ISTIO_MUTUAL"}})),
            ("mirror", json!([{"backendRef": {"name": "m", "port": 1}}])),
            ("apex", json!({"labels": {"l": "1"}, "annotations": {"a": "1", "x.toolkit.fluxcd.io/y": "no"}})),
            ("backendTimeout", json!("2s")),
        ], 0..=9),
    ) -> ServiceSpec {
        let mut spec = json!({
            "port": port, "timeout": timeout, "portDiscovery": discovery, "delegation": delegation,
            "gatewayRefs": [{"name": "gw", "namespace": "infra"}],
        });
        if !delegation {
            spec["hosts"] = json!(hosts);
            spec["gateways"] = json!(gateways);
        }
        if tcp {
            spec["appProtocol"] = "TCP".into();
        }
        for (field, value) in parts {
            spec[field] = value;
        }
        serde_json::from_value(spec).unwrap()
    }
}

/// Every name of every provider, with a mesh where one may follow.
fn providers() -> Vec<String> {
    let of = |provider: &&dyn Routing| -> Vec<String> {
        let meshes =
            provider.prefixes().iter().flat_map(|name| [(*name).to_owned(), format!("{name}:istio")]);
        provider.names().iter().map(|name| (*name).to_owned()).chain(meshes).collect()
    };
    providers::ALL.iter().flat_map(of).collect()
}

prop_compose! {
    fn router()(
        service in service(),
        provider in proptest::sample::select(providers()),
        split_all in proptest::bool::weighted(0.8),
    ) -> Router {
        let condition = json!({"headers": {"x-canary": {"exact": "1"}}});
        Router {
            provider: Provider::parse(&provider).unwrap(),
            names: Names::new("test", "app", "app", None),
            owner: Owner { name: "app".into(), uid: "1".into() },
            service,
            analysis_match: if split_all { Vec::new() } else { vec![condition] },
            selector_label: "app".into(),
        }
    }
}

fn initial(router: &Router) -> Store {
    let mut store = Store::new();
    let writes = router.reconcile(&live(&store)).unwrap();
    apply(&mut store, &writes);
    store
}

proptest! {
    #[test]
    fn new_routes_send_everything_to_the_primary(router in router()) {
        let store = initial(&router);
        prop_assert_eq!(router.weights(&live(&store)), Ok(Some(Weights::INITIAL)));
        prop_assert!(router.objects().iter().all(|r| store.contains_key(r)));
        prop_assert!(store.values().all(|o| router.owner.owns(o)));
    }

    #[test]
    fn weights_that_were_set_are_read(router in router(), canary in -5..110_i32) {
        let mut store = initial(&router);
        let writes = router.set_weights(&live(&store), canary).unwrap();
        apply(&mut store, &writes);
        prop_assert_eq!(router.weights(&live(&store)), Ok(Some(Weights::of_canary(canary))));
        prop_assert_eq!(router.set_weights(&live(&store), canary).unwrap(), vec![]);
    }

    #[test]
    fn setting_weights_changes_weights_only(router in router(), canary in 0..=100_i32) {
        let before = initial(&router);
        let mut after = before.clone();
        let writes = router.set_weights(&live(&before), canary).unwrap();
        apply(&mut after, &writes);
        for (at, object) in &mut after {
            object["metadata"]["resourceVersion"] = before[at]["metadata"]["resourceVersion"].clone();
            prop_assert_eq!(weightless(object), weightless(&before[at]));
        }
    }

    #[test]
    fn nothing_is_left_to_reconcile(router in router(), canary in 0..=100_i32) {
        let mut store = initial(&router);
        prop_assert_eq!(router.reconcile(&live(&store)).unwrap(), vec![]);
        let writes = router.set_weights(&live(&store), canary).unwrap();
        apply(&mut store, &writes);
        prop_assert_eq!(router.reconcile(&live(&store)).unwrap(), vec![]);
    }

    #[test]
    fn a_changed_canary_changes_routes_but_no_weight(mut router in router(), service in service(), canary in 0..=100_i32) {
        let mut store = initial(&router);
        let writes = router.set_weights(&live(&store), canary).unwrap();
        apply(&mut store, &writes);
        // A route of HTTP rules cannot become one of TCP rules without being made anew.
        prop_assume!(service.is_tcp() == router.service.is_tcp());
        router.service = service;
        let writes = router.reconcile(&live(&store)).unwrap();
        apply(&mut store, &writes);
        prop_assert_eq!(router.weights(&live(&store)), Ok(Some(Weights::of_canary(canary))));
        prop_assert_eq!(router.reconcile(&live(&store)).unwrap(), vec![]);
        let fresh = initial(&router);
        let at = router.route();
        let spec = |object: &Value| {
            let mut spec = weightless(&object["spec"]);
            spec.as_object_mut().unwrap().retain(|_, v| *v != json!([]));
            spec
        };
        prop_assert!(object::same(Some(&spec(&store[&at])), Some(&spec(&fresh[&at]))), "{} {}", store[&at], fresh[&at]);
    }

    #[test]
    fn foreign_fields_stay(router in router(), canary in 0..=100_i32) {
        let mut store = initial(&router);
        let writes = router.set_weights(&live(&store), canary).unwrap();
        apply(&mut store, &writes);
        let at = router.route();
        let route = store.get_mut(&at).unwrap();
        object::child(object::child(route, "metadata"), "annotations")["note"] = "mine".into();
        route["spec"]["foreign"] = json!({"a": 1});
        for list in ["http", "tcp", "rules", "routes"] {
            if route["spec"].get(list).is_some() {
                route["spec"][list][0]["foreign"] = json!(["a"]);
            }
        }
        let expected = route.clone();
        prop_assert_eq!(router.reconcile(&live(&store)).unwrap(), vec![]);
        // And they stay when something else is repaired.
        let route = store.get_mut(&at).unwrap();
        let ours = ["/spec/hostnames", "/spec/hosts", "/spec/service", "/spec/weighted/services/0/port", "/spec/parentRefs"];
        let ours = ours.into_iter().find(|pointer| route.pointer(pointer).is_some());
        *route.pointer_mut(ours.expect("a field of a new provider, besides weights")).unwrap() = json!("drifted");
        let writes = router.reconcile(&live(&store)).unwrap();
        prop_assert_eq!(writes.len(), 1);
        apply(&mut store, &writes);
        let mut repaired = store[&at].clone();
        repaired["metadata"]["resourceVersion"] = expected["metadata"]["resourceVersion"].clone();
        prop_assert!(object::same(Some(&repaired), Some(&expected)));
    }

    #[test]
    fn services_settle_in_one_step(
        service in service(),
        ports in proptest::collection::btree_map("[a-z]{3}", 10_000..20_000_i32, 0..3),
        adopted: bool,
        to_target: bool,
    ) {
        let services = Services {
            names: Names::new("test", "app", "app", None),
            owner: Owner { name: "app".into(), uid: "1".into() },
            service,
            selector: Selector::by("app", "app"),
            discovered: ports.into_iter().map(|(name, port)| DiscoveredPort { name, port, protocol: "TCP".into() }).collect(),
            apex_selects: if to_target { ApexSelects::Target } else { ApexSelects::Primary },
        };
        let [apex, ..] = services.objects();
        let mut store = Store::new();
        if adopted {
            store.insert(apex.clone(), json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "app", "namespace": "test", "resourceVersion": "3"},
                "spec": {"type": "NodePort", "clusterIP": "10.0.0.9", "selector": {"app": "app", "tier": "web"},
                    "ports": [
                        {"name": "http", "port": 1, "protocol": "TCP", "targetPort": 2, "nodePort": 30001},
                        {"name": "mine", "port": 22222, "protocol": "TCP", "targetPort": 2, "nodePort": 30002},
                    ]},
            }));
        }
        let writes = services.reconcile(&live(&store));
        apply(&mut store, &writes);
        prop_assert_eq!(services.reconcile(&live(&store)), vec![]);
        if adopted {
            let spec = &store[&apex]["spec"];
            prop_assert_eq!((&spec["type"], &spec["clusterIP"]), (&json!("NodePort"), &json!("10.0.0.9")));
            let ports = spec["ports"].as_array().unwrap();
            prop_assert_eq!(&ports[0]["nodePort"], 30001);
            prop_assert_eq!(&ports[1]["nodePort"], 30002);
            prop_assert!(ports.iter().any(|port| port["port"] == services.service.port));
            let selector = if to_target { json!({"app": "app", "tier": "web"}) } else { json!({"app": "app-primary"}) };
            prop_assert_eq!(&spec["selector"], &selector);
            let annotations = store[&apex]["metadata"]["annotations"].as_object().unwrap();
            prop_assert!(object::FLUX_OPT_OUT.iter().all(|(key, _)| !annotations.contains_key(*key)));
        }
    }
}

#[test]
fn a_former_port_of_the_canary_goes_and_a_foreign_one_stays_and_gets_a_name() {
    let mut services = Services {
        names: Names::new("test", "app", "app", None),
        owner: Owner { name: "app".into(), uid: "1".into() },
        service: serde_json::from_value(json!({"port": 80, "portName": "web"})).unwrap(),
        selector: Selector::by("app", "app"),
        discovered: Vec::new(),
        apex_selects: ApexSelects::Primary,
    };
    let [apex, ..] = services.objects();
    let mut store = Store::from([(
        apex.clone(),
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "app", "namespace": "test", "resourceVersion": "3"},
            "spec": {"selector": {"app": "app"}, "ports": [{"port": 99, "protocol": "TCP"}]}}),
    )]);
    let writes = services.reconcile(&live(&store));
    apply(&mut store, &writes);
    services.service = serde_json::from_value(json!({"port": 8080})).unwrap();
    let writes = services.reconcile(&live(&store));
    apply(&mut store, &writes);
    let names: Vec<_> = store[&apex]["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["tcp-99", "http"]);
    assert_eq!(services.reconcile(&live(&store)), []);
}

/// Cloud controllers write on Services, and would again at once: only what the Canary states, or stated, is ours.
#[test]
fn what_others_write_on_a_service_of_ours_stays() {
    let stated = |metadata: Value| -> ServiceSpec {
        serde_json::from_value(json!({"port": 80, "apex": metadata, "canary": metadata})).unwrap()
    };
    let mut services = Services {
        names: Names::new("test", "app", "app", None),
        owner: Owner { name: "app".into(), uid: "1".into() },
        service: stated(json!({"labels": {"team": "a"}, "annotations": {"note": "x", "other": "y"}})),
        selector: Selector::by("app", "app"),
        discovered: Vec::new(),
        apex_selects: ApexSelects::Primary,
    };
    let mut store = Store::new();
    let writes = services.reconcile(&live(&store));
    apply(&mut store, &writes);
    for service in store.values_mut() {
        service["metadata"]["annotations"]["cloud.example.com/neg-status"] = "{}".into();
        service["metadata"]["labels"]["seen-by"] = "billing".into();
    }
    assert_eq!(services.reconcile(&live(&store)), [], "no word against theirs");
    services.service = stated(json!({"annotations": {"note": "z"}}));
    let writes = services.reconcile(&live(&store));
    apply(&mut store, &writes);
    assert_eq!(services.reconcile(&live(&store)), []);
    for name in ["app", "app-canary"] {
        let metadata = &store[&ObjectRef::new(Kind::Service, "test", name)]["metadata"];
        let (labels, annotations) = (&metadata["labels"], &metadata["annotations"]);
        assert_eq!((labels.get("team"), annotations.get("other")), (None, None), "{metadata}");
        assert_eq!((&annotations["note"], &labels["seen-by"]), (&json!("z"), &json!("billing")));
        assert_eq!(annotations["cloud.example.com/neg-status"], "{}");
    }
}

#[test]
fn what_cannot_be_routed_is_said_in_flaggers_words() {
    use super::adopted_cases::router;

    let nothing = Store::new();
    let text = |e: RouteError| e.to_string();
    assert_eq!(
        text(router("gatewayapi:v1", json!({"port": 80})).reconcile(&live(&nothing)).unwrap_err()),
        "GatewayRefs must be specified when using Gateway API as a provider."
    );
    let delegate = router("istio", json!({"port": 80, "delegation": true, "hosts": ["a"]}));
    assert_eq!(
        text(delegate.reconcile(&live(&nothing)).unwrap_err()),
        "VirtualService app.test cannot have hosts and gateways when delegation enabled"
    );
    let istio = router("istio", json!({"port": 80}));
    assert_eq!(istio.weights(&live(&nothing)), Ok(None));
    assert_eq!(
        text(istio.set_weights(&live(&nothing), 10).unwrap_err()),
        "VirtualService app.test get query error virtualservices.networking.istio.io \"app\" not found"
    );
    let theirs = json!({"metadata": {"name": "app"}, "spec": {"http": [{"route": [{"destination": {"host": "app"}}]}]}});
    let theirs = Store::from([(istio.route(), theirs)]);
    assert_eq!(
        text(istio.weights(&live(&theirs)).unwrap_err()),
        "VirtualService app.test does not contain routes for app-primary and app-canary"
    );
}

#[test]
fn apex_goes_back_to_the_target_and_only_an_adopted_one_keeps_its_own_selector() {
    let services = |apex_selects| Services {
        names: Names::new("test", "app", "app", None),
        owner: Owner { name: "app".into(), uid: "1".into() },
        service: serde_json::from_value(json!({"port": 80})).unwrap(),
        selector: Selector::by("app", "v"),
        discovered: Vec::new(),
        apex_selects,
    };
    let [apex, ..] = services(ApexSelects::Target).objects();
    let [made, ..] = services(ApexSelects::Primary).desired(&[]);
    let mut adopted = made.clone();
    object::unset(object::child(&mut adopted, "metadata"), "ownerReferences");
    let (own, target, primary) =
        (json!({"app": "v", "tier": "web"}), json!({"app": "v"}), json!({"app": "v-primary"}));
    let table = [
        (&made, &own, ApexSelects::Target, &target),
        (&made, &primary, ApexSelects::Target, &target),
        (&adopted, &own, ApexSelects::Target, &own),
        (&adopted, &primary, ApexSelects::Target, &target),
        (&adopted, &own, ApexSelects::Primary, &primary),
    ];
    for (object, before, selects, after) in table {
        let mut object = object.clone();
        object["spec"]["selector"] = before.clone();
        object["metadata"]["resourceVersion"] = "1".into();
        let mut store = Store::from([(apex.clone(), object)]);
        let writes = services(selects).reconcile(&live(&store));
        apply(&mut store, &writes);
        assert_eq!(&store[&apex]["spec"]["selector"], after);
    }
}
