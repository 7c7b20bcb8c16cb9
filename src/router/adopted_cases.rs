//! Adopted routes, case by case: what is edited, and how it is undone.

use super::laws::{Store, apply, live};
use super::object::{FLAGGERS_ORIGINAL, FLUX_OPT_OUT, LAST_APPLIED};
use super::*;
use crate::api::keys;
use serde_json::json;

pub(super) fn router(provider: &str, service: Value) -> Router {
    Router {
        provider: Provider::parse(provider).unwrap(),
        names: Names::new("test", "app", "app", None),
        owner: Owner { name: "app".into(), uid: "1".into() },
        service: serde_json::from_value(service).unwrap(),
        analysis_match: Vec::new(),
        selector_label: "app".into(),
    }
}

pub(super) fn istio() -> Router {
    router("istio", json!({"port": 80}))
}

pub(super) fn gateway() -> Router {
    router("gatewayapi:v1", json!({"port": 80}))
}

pub(super) fn object(at: &ObjectRef, spec: &Value) -> Value {
    json!({
        "apiVersion": at.kind.api_version(), "kind": at.kind.as_str(),
        "metadata": {"name": at.name, "namespace": at.namespace, "resourceVersion": "1"}, "spec": spec,
    })
}

/// The route of a router, with this `spec`.
pub(super) fn store(router: &Router, spec: &Value) -> Store {
    let at = router.route();
    Store::from([(at.clone(), object(&at, spec))])
}

pub(super) fn reconcile(router: &Router, store: &mut Store) {
    let writes = router.reconcile(&live(store)).unwrap();
    apply(store, &writes);
    assert_eq!(router.reconcile(&live(store)), Ok(Vec::new()));
}

fn restore(router: &Router, store: &mut Store) -> Value {
    let writes = router.restore(&live(store));
    apply(store, &writes);
    assert_eq!(router.restore(&live(store)), []);
    store[&router.route()].clone()
}

pub(super) fn http(rules: Value) -> Value {
    json!({"hosts": ["shop.example.com"], "http": rules})
}

pub(super) fn to(host: &str) -> Value {
    json!({"destination": {"host": host}})
}

pub(super) fn pair(primary: i32, canary: i32) -> Value {
    json!([{"destination": {"host": "app-primary"}, "weight": primary},
        {"destination": {"host": "app-canary"}, "weight": canary}])
}

#[test]
fn only_the_applications_rule_of_a_virtual_service_is_edited() {
    let spec = json!({
        "hosts": ["shop.example.com"], "gateways": ["istio-system/public"],
        "http": [
            {"match": [{"uri": {"prefix": "/static"}}], "route": [to("cdn")]},
            {"match": [{"uri": {"exact": "/old"}}], "redirect": {"uri": "/"}},
            {"name": "app", "timeout": "5s", "fault": {"delay": {"fixedDelay": "1s", "percentage": {"value": 0.5}}},
             "route": [{"destination": {"host": "app", "port": {"number": 8080}}, "headers": {"request": {"set": {"x": "1"}}}}]},
        ],
    });
    let router = router(
        "istio",
        json!({"port": 80, "hosts": ["app.example.com"], "gateways": ["mesh"], "timeout": "1s", "retries": {"attempts": 3},
            "apex": {"labels": {"a": "b"}}}),
    );
    let mut store = store(&router, &spec);
    reconcile(&router, &mut store);
    let mut expected = spec.clone();
    let entry = |host: &str, weight: i32| {
        json!({"destination": {"host": host, "port": {"number": 8080}}, "headers": {"request": {"set": {"x": "1"}}},
            "weight": weight})
    };
    expected["http"][2]["route"] = json!([entry("app-primary", 100), entry("app-canary", 0)]);
    let at = router.route();
    assert_eq!(store[&at]["spec"], expected);
    assert!(store[&at]["metadata"].get("labels").is_none());
    let annotations = store[&at]["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations.len(), 3);
    assert!(FLUX_OPT_OUT.iter().all(|(key, value)| annotations[*key] == *value));
    assert_eq!(
        serde_json::from_str::<Value>(annotations[keys::ORIGINAL].as_str().unwrap()).unwrap(),
        json!({"spec": spec, "annotations": {}})
    );
    let writes = router.set_weights(&live(&store), 30).unwrap();
    apply(&mut store, &writes);
    expected["http"][2]["route"] = json!([entry("app-primary", 70), entry("app-canary", 30)]);
    assert_eq!(store[&at]["spec"], expected);
    assert_eq!(
        router.warnings(&live(&store)),
        [
            "VirtualService app.test is its owner's and is edited only where it leads to app; it differs from spec.service in \
          hosts, gateways, timeout, retries and apex, which are not written to it."
        ]
    );
    let mut given_back = restore(&router, &mut store);
    given_back["metadata"]["resourceVersion"] = "1".into();
    assert_eq!(given_back, object(&at, &spec));
}

#[test]
fn only_the_applications_rule_of_an_http_route_is_edited() {
    let entry = json!({"group": "", "kind": "Service", "name": "app", "port": 8080, "weight": 1,
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}]});
    let spec = json!({
        "parentRefs": [{"name": "public", "namespace": "infra", "sectionName": "https"}],
        "hostnames": ["shop.example.com"],
        "rules": [
            {"matches": [{"path": {"type": "Exact", "value": "/old"}}],
             "filters": [{"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/"}}}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "timeouts": {"request": "5s"},
             "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "app.internal"}}],
             "backendRefs": [entry]},
        ],
    });
    let router = router(
        "gatewayapi:v1",
        json!({"port": 80, "gatewayRefs": [{"name": "other"}], "timeout": "5s", "rewrite": {"uri": "/v2"},
            "match": [{"headers": {"x": {"prefix": "y"}}}]}),
    );
    let mut store = store(&router, &spec);
    reconcile(&router, &mut store);
    let at = router.route();
    let mut expected = spec.clone();
    let refs = expected["rules"][1]["backendRefs"].as_array_mut().unwrap();
    refs.push(entry);
    (refs[0]["name"], refs[0]["weight"]) = ("app-primary".into(), 100.into());
    (refs[1]["name"], refs[1]["weight"]) = ("app-canary".into(), 0.into());
    assert_eq!(store[&at]["spec"], expected);
    assert_eq!(
        router.warnings(&live(&store)),
        [
            "HTTPRoute app.test is its owner's and is edited only where it leads to app; it differs from spec.service in \
          gatewayRefs, match and rewrite, which are not written to it."
        ]
    );
    assert_eq!(restore(&router, &mut store)["spec"], spec);
}

#[test]
fn every_rule_of_the_application_gets_the_weights() {
    let rules = |of: &dyn Fn(&str) -> Value| {
        http(json!([{"match": [{"uri": {"prefix": "/a"}}], "route": of("app.test.svc.cluster.local")},
            {"route": [to("cdn")]}, {"name": "b", "route": of("app.test")}, {"route": of("app")}]))
    };
    let (router, spec) = (istio(), rules(&|host| json!([to(host)])));
    let mut store = store(&router, &spec);
    reconcile(&router, &mut store);
    let at = router.route();
    assert_eq!(store[&at]["spec"], rules(&|_| pair(100, 0)));
    let writes = router.set_weights(&live(&store), 25).unwrap();
    assert_eq!(writes.len(), 1);
    apply(&mut store, &writes);
    assert_eq!(store[&at]["spec"], rules(&|_| pair(75, 25)));
    // One that somebody set otherwise follows the last.
    store.get_mut(&at).unwrap()["spec"]["http"][0]["route"] = pair(1, 99);
    reconcile(&router, &mut store);
    assert_eq!(store[&at]["spec"], rules(&|_| pair(75, 25)));
    // With a rule less the others still get their own hosts back.
    store.get_mut(&at).unwrap()["spec"]["http"].as_array_mut().unwrap().remove(0);
    let given_back = restore(&router, &mut store);
    let mut expected = spec;
    expected["http"].as_array_mut().unwrap().remove(0);
    // Two rules without a name cannot be told apart.
    let hosts = |spec: &Value| {
        spec["http"].as_array().unwrap().iter().map(|r| r["route"][0].clone()).collect::<Vec<_>>()
    };
    assert_eq!(hosts(&given_back["spec"])[..2], hosts(&expected)[..2]);
    assert_eq!(given_back["spec"]["http"][2]["route"].as_array().unwrap().len(), 1);
}

#[test]
fn a_tcp_application_has_its_tcp_rules_edited() {
    let router = router("istio", json!({"port": 80, "appProtocol": "TCP"}));
    let spec =
        json!({"http": [{"route": [to("app")]}], "tcp": [{"match": [{"port": 80}], "route": [to("app")]}]});
    let mut store = store(&router, &spec);
    reconcile(&router, &mut store);
    let mut expected = spec.clone();
    expected["tcp"][0]["route"] = pair(100, 0);
    let at = router.route();
    assert_eq!(store[&at]["spec"], expected);
    // The application speaks HTTP now.
    let router = istio();
    reconcile(&router, &mut store);
    let mut expected = spec.clone();
    expected["http"][0]["route"] = pair(100, 0);
    assert_eq!(store[&at]["spec"], expected);
    assert_eq!(restore(&router, &mut store)["spec"], spec);
}

#[test]
fn a_route_without_rules_gets_ours_and_loses_them() {
    for (provider, spec, key) in [
        ("istio", json!({"hosts": ["shop.example.com"], "http": []}), "http"),
        ("istio", json!({"hosts": ["shop.example.com"]}), "http"),
        (
            "gatewayapi:v1",
            json!({"parentRefs": [{"name": "gw"}], "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]}),
            "rules",
        ),
        ("gatewayapi:v1", json!({"parentRefs": [{"name": "gw"}]}), "rules"),
        ("smi:v1alpha2", json!({"service": "app", "backends": []}), "backends"),
    ] {
        let mut router = router(provider, json!({"port": 80, "timeout": "1s"}));
        let mut store = store(&router, &spec);
        assert_eq!(router.refusals(&live(&store)), Vec::<String>::new(), "{provider}");
        reconcile(&router, &mut store);
        let at = router.route();
        assert_eq!(store[&at]["spec"][key], router.spec(Weights::INITIAL).unwrap()[key]);
        let before = store.clone();
        assert_eq!(restore(&router, &mut store)["spec"], spec, "{provider}");
        // Ours follow the Canary, and a rule that the owner adds stays.
        let mut store = before;
        router.service.timeout = Some("2s".into());
        reconcile(&router, &mut store);
        let writes = router.set_weights(&live(&store), 10).unwrap();
        apply(&mut store, &writes);
        assert_eq!(store[&at]["spec"][key], router.spec(Weights::of_canary(10)).unwrap()[key], "{provider}");
        if provider.starts_with("smi") {
            continue;
        }
        let added = json!({"route": [to("cdn")], "matches": [{"path": {"type": "Exact", "value": "/"}}],
            "backendRefs": [{"group": "", "kind": "Service", "name": "cdn", "port": 80, "weight": 1}]});
        store.get_mut(&at).unwrap()["spec"][key].as_array_mut().unwrap().push(added.clone());
        assert_eq!(router.reconcile(&live(&store)), Ok(Vec::new()), "{provider}");
        assert_eq!(restore(&router, &mut store)["spec"][key], json!([added]), "{provider}");
    }
}

/// Our rule goes when the owner has one.
#[test]
fn an_owners_first_rule_takes_the_place_of_ours() {
    let router = istio();
    let mut store = store(&router, &json!({"hosts": ["a"]}));
    reconcile(&router, &mut store);
    let at = router.route();
    let rules = store.get_mut(&at).unwrap()["spec"]["http"].as_array_mut().unwrap();
    rules.push(json!({"name": "mine", "route": [to("app")]}));
    reconcile(&router, &mut store);
    assert_eq!(store[&at]["spec"]["http"], json!([{"name": "mine", "route": pair(100, 0)}]));
    assert_eq!(
        restore(&router, &mut store)["spec"],
        json!({"hosts": ["a"], "http": [{"name": "mine", "route": [to("app")]}]})
    );
}

#[test]
fn a_pair_that_is_there_is_kept_and_completed() {
    let table = [
        (pair(60, 40), pair(60, 40)),
        (json!([to("app-primary")]), pair(100, 0)),
        (json!([{"destination": {"host": "app-canary"}, "weight": 100}]), pair(0, 100)),
        (json!([to("app-canary")]), pair(100, 0)),
    ];
    let router = istio();
    for (before, after) in table {
        let mirrored =
            json!({"route": before, "mirror": {"host": "app-canary"}, "mirrorPercentage": {"value": 100}});
        let mut store = store(&router, &http(json!([mirrored])));
        assert_eq!(router.refusals(&live(&store)), Vec::<String>::new());
        reconcile(&router, &mut store);
        let route = &store[&router.route()];
        assert_eq!(route["spec"], http(json!([{"route": after}])));
        assert!(
            route["metadata"]["annotations"].get(keys::ORIGINAL).is_none(),
            "it is not what its owner had"
        );
        // Nobody recorded what there was.
        assert_eq!(restore(&router, &mut store)["spec"], http(json!([{"route": [to("app")]}])));
    }
}

/// Routes that Flagger adopted are given back as it would have.
#[test]
fn flaggers_record_is_kept_and_used() {
    let router = istio();
    let owners = http(json!([{"route": [to("app")], "fault": {}}, {"redirect": {"uri": "/"}}]));
    let (opt_out, ours) = FLUX_OPT_OUT[0];
    let applied = json!({"spec": owners, "metadata": {"annotations": {opt_out: ours}}}).to_string();
    let pairs = json!({"spec": http(json!([{"route": pair(1, 99)}]))}).to_string();
    let table = [
        (json!({FLAGGERS_ORIGINAL: owners.to_string(), "note": "mine"}), &owners, json!({"note": "mine"})),
        (json!({LAST_APPLIED: applied}), &owners, json!({LAST_APPLIED: applied, opt_out: ours})),
        (json!({LAST_APPLIED: pairs}), &http(json!([{"route": [to("app")]}])), json!({LAST_APPLIED: pairs})),
        (
            json!({FLAGGERS_ORIGINAL: "not JSON", keys::ORIGINAL: "{}"}),
            &http(json!([{"route": [to("app")]}])),
            Value::Null,
        ),
    ];
    for (annotations, spec, left) in table {
        let mut store = store(&router, &http(json!([{"route": pair(80, 20)}])));
        let route = store.get_mut(&router.route()).unwrap();
        route["metadata"]["annotations"] = annotations.clone();
        reconcile(&router, &mut store);
        let taken_over = &store[&router.route()];
        for (key, value) in annotations.as_object().unwrap() {
            assert_eq!(&taken_over["metadata"]["annotations"][key], value);
        }
        assert_eq!(taken_over["spec"]["http"][0]["route"], pair(80, 20));
        let given_back = restore(&router, &mut store);
        assert_eq!((&given_back["spec"], &given_back["metadata"]["annotations"]), (spec, &left));
    }
}

/// What its owner has applied since Flagger adopted it counts.
#[test]
fn a_route_that_was_applied_over_flaggers_is_given_back_as_applied() {
    let router = istio();
    let newer = http(json!([{"route": [to("app")], "timeout": "1s"}]));
    let mut store = store(&router, &newer);
    let annotations = json!({FLAGGERS_ORIGINAL: http(json!([])).to_string(), FLUX_OPT_OUT[0].0: "disabled"});
    store.get_mut(&router.route()).unwrap()["metadata"]["annotations"] = annotations;
    let mut unseen = store.clone();
    reconcile(&router, &mut store);
    for store in [&mut store, &mut unseen] {
        let given_back = restore(&router, store);
        assert_eq!(given_back["spec"], newer);
        assert!(given_back["metadata"].get("annotations").is_none());
    }
}

/// Only what was edited is given back.
#[test]
fn a_route_that_was_not_edited_is_left_alone() {
    let router = istio();
    let mut store = store(&router, &http(json!([{"route": [to("app"), to("b")]}])));
    let route = store.get_mut(&router.route()).unwrap();
    route["metadata"]["annotations"] = json!({LAST_APPLIED: "{\"spec\":{}}", FLUX_OPT_OUT[0].0: "disabled"});
    assert_eq!(router.restore(&live(&store)), []);
    let mut own = Store::new();
    reconcile(&router, &mut own);
    assert_eq!(router.restore(&live(&own)), []);
    // Somebody's own split between Services that are not the Canary's.
    let mut theirs = self::store(&router, &http(json!([{"route": pair(90, 10)}])));
    let at = ObjectRef::new(crate::object::Kind::Service, "test", "app-canary");
    theirs.insert(at.clone(), object(&at, &json!({})));
    assert_eq!(router.restore(&live(&theirs)), []);
}

/// A destination beside others keeps the share that the pair had.
#[test]
fn a_rule_that_its_owner_split_further_is_turned_back_too() {
    let router = istio();
    let mut store = store(&router, &http(json!([{"route": [to("app")]}])));
    reconcile(&router, &mut store);
    let route = store.get_mut(&router.route()).unwrap();
    let weighted = |host: &str, weight: i32| json!({"destination": {"host": host}, "weight": weight});
    route["spec"]["http"][0]["route"] =
        json!([weighted("b", 30), weighted("app-primary", 50), weighted("app-canary", 20)]);
    assert_eq!(router.refusals(&live(&store)).len(), 1);
    // Traffic is taken off the canary all the same.
    let writes = router.set_weights(&live(&store), 0).unwrap();
    assert_eq!(writes.len(), 1);
    assert_eq!(
        restore(&router, &mut store)["spec"],
        http(json!([{"route": [weighted("b", 30), weighted("app", 70)]}]))
    );
    let split = self::router("smi:v1alpha1", json!({"port": 80}));
    let mut store = self::store(
        &split,
        &json!({"service": "app", "backends": [{"service": "app-primary", "weight": "90"}, {"service": "app-canary", "weight": "10"}]}),
    );
    assert_eq!(
        restore(&split, &mut store)["spec"],
        json!({"service": "app", "backends": [{"service": "app", "weight": "100"}]})
    );
}

#[test]
fn a_traffic_split_that_names_the_apex_begins_at_the_primary() {
    let router = router("smi:v1alpha2", json!({"port": 80}));
    let spec = json!({"service": "app", "backends": [{"service": "app", "weight": 80}, {"service": "app-canary", "weight": 20}]});
    let mut store = store(&router, &spec);
    reconcile(&router, &mut store);
    assert_eq!(
        store[&router.route()]["spec"]["backends"],
        json!([{"service": "app-primary", "weight": 100}, {"service": "app-canary", "weight": 0}])
    );
    assert_eq!(restore(&router, &mut store)["spec"], spec);
}
