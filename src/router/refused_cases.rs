//! Routes that cannot be adopted, and what an adopted one does not get, case by case.

use super::adopted_cases::{gateway, http, istio, object, pair, reconcile, router, store, to};
use super::laws::{Store, live};
use super::*;
use serde_json::json;

#[test]
fn what_cannot_be_kept_is_refused_and_names_the_rule() {
    let gateway_rule = |names: &[&str]| {
        let refs: Vec<Value> = names.iter().map(|n| json!({"name": n, "port": 80})).collect();
        json!({"backendRefs": refs})
    };
    let split = || router("smi:v1alpha2", json!({"port": 80, "hosts": ["root"]}));
    let table = [
        (
            istio(),
            http(json!([{"route": [to("cdn")]}, {"route": [to("app"), to("app-v2"), to("b")]}])),
            "Rule http[1] of VirtualService app.test splits the traffic between app, app-v2 and b: there is no telling the \
             canary's share of it. Make app its only destination, or choose a spec.service.name other than app.",
        ),
        (
            istio(),
            http(json!([{"name": "shop", "route": [to("app-primary"), to("app-canary"), to("b")]}])),
            "Rule \"shop\" of VirtualService app.test splits the traffic between app-primary, app-canary and b: there is no \
             telling the canary's share of it. Make app its only destination, or choose a spec.service.name other than app.",
        ),
        (
            istio(),
            http(
                json!([{"name": "shop", "route": [{"destination": {"host": "app.test.svc", "subset": "v1"}}]}]),
            ),
            "Rule \"shop\" of VirtualService app.test leads to subset \"v1\" of app.test.svc; the Services that the traffic is \
             split between have no subsets. Take the subset out, or choose a spec.service.name other than app.",
        ),
        (
            istio(),
            json!({"hosts": ["a"], "tls": [{"match": [{"sniHosts": ["a"]}], "route": [to("app")]}]}),
            "VirtualService app.test has no rule under http that leads to Service app, so that none of its traffic can be led \
             to the canary. Let a rule lead to app, or choose a spec.service.name other than app.",
        ),
        (
            istio(),
            http(json!([{"route": [to("app.other")]}, {"redirect": {"uri": "/"}}])),
            "VirtualService app.test has no rule under http that leads to Service app, so that none of its traffic can be led \
             to the canary. Let a rule lead to app, or choose a spec.service.name other than app.",
        ),
        (
            gateway(),
            json!({"rules": [gateway_rule(&["cdn"]), gateway_rule(&["app", "b"])]}),
            "Rule rules[1] of HTTPRoute app.test splits the traffic between app and b: there is no telling the canary's share \
             of it. Make app its only destination, or choose a spec.service.name other than app.",
        ),
        (
            gateway(),
            json!({"rules": [gateway_rule(&["cdn"])]}),
            "HTTPRoute app.test has no rule under rules that leads to Service app, so that none of its traffic can be led to \
             the canary. Let a rule lead to app, or choose a spec.service.name other than app.",
        ),
        (
            gateway(),
            json!({"rules": [{"filters": [{"type": "RequestRedirect"}]}]}),
            "HTTPRoute app.test has no rule under rules that leads to Service app, so that none of its traffic can be led to \
             the canary. Let a rule lead to app, or choose a spec.service.name other than app.",
        ),
        (
            split(),
            json!({"service": "root", "backends": [{"service": "app", "weight": 1}, {"service": "v2", "weight": 1}]}),
            "TrafficSplit app.test splits the traffic of \"root\" between app and v2, not that of app between app, app-primary \
             and app-canary. Change or delete it, or choose a spec.service.name other than app.",
        ),
        (
            split(),
            json!({"service": "web", "backends": [{"service": "app", "weight": 1}]}),
            "TrafficSplit app.test splits the traffic of \"web\" between app, not that of app between app, app-primary and \
             app-canary. Change or delete it, or choose a spec.service.name other than app.",
        ),
        (
            Router { analysis_match: vec![json!({"headers": {"x": {"exact": "1"}}})], ..istio() },
            http(json!([{"route": [to("app")]}])),
            "VirtualService app.test is its owner's, and spec.analysis.match needs a rule of its own in it. Take the conditions \
             out, or choose a spec.service.name other than app.",
        ),
    ];
    for (router, spec, why) in table {
        let store = store(&router, &spec);
        assert_eq!(router.refusals(&live(&store)), [why]);
        let at = router.route();
        assert!(router.reconcile(&live(&store)).unwrap().iter().all(|w| w.target().as_ref() != Some(&at)));
        assert_eq!(router.warnings(&live(&store)), Vec::<String>::new());
    }
}

#[test]
fn what_others_control_is_never_written() {
    let way_out = "Delete it or give it another name, or choose a spec.service.name other than app.";
    let other = json!([{"kind": "Canary", "name": "shop", "uid": "2", "controller": true}]);
    for router in [istio(), gateway(), router("smi:v1alpha3", json!({"port": 80}))] {
        let at = router.route();
        let spec = json!({"service": "app", "http": [{"route": pair(50, 50)}],
            "rules": [{"backendRefs": [{"name": "app-primary", "weight": 50}, {"name": "app-canary", "weight": 50}]}],
            "backends": [{"service": "app-primary", "weight": 50}, {"service": "app-canary", "weight": 50}]});
        let mut theirs = store(&router, &spec);
        theirs.get_mut(&at).unwrap()["metadata"]["ownerReferences"] = other.clone();
        let kind = at.kind.as_str();
        let refusal = format!("{kind} app.test belongs to Canary shop; it is not overwritten. {way_out}");
        assert_eq!(router.refusals(&live(&theirs)), [refusal]);
        assert!(router.reconcile(&live(&theirs)).unwrap().iter().all(|w| w.target().as_ref() != Some(&at)));
        assert_eq!(router.restore(&live(&theirs)), []);
        assert_eq!(
            router.set_weights(&live(&theirs), 0).unwrap_err().to_string(),
            format!("{kind} app.test belongs to Canary shop")
        );
    }
    let router = istio();
    let mut theirs = Store::new();
    for (name, owners) in [("app-primary", json!([])), ("app-canary", other)] {
        let at = ObjectRef::new(crate::router::DESTINATION_RULE, "test", name);
        let mut rule = object(&at, &json!({"host": name, "trafficPolicy": {"tls": {"mode": "DISABLE"}}}));
        rule["metadata"]["ownerReferences"] = owners;
        theirs.insert(at, rule);
    }
    assert_eq!(
        router.refusals(&live(&theirs)),
        [
            format!(
                "DestinationRule app-primary.test exists and was not made for this Canary; it is not overwritten. {way_out}"
            ),
            format!(
                "DestinationRule app-canary.test belongs to Canary shop; it is not overwritten. {way_out}"
            ),
        ]
    );
    let writes = router.reconcile(&live(&theirs)).unwrap();
    assert_eq!(writes.iter().map(|w| w.target().unwrap()).collect::<Vec<_>>(), [router.route()]);
}

#[test]
fn what_an_adopted_route_has_already_is_no_warning() {
    let istio = router("istio", json!({"port": 80, "hosts": ["shop.example.com"], "timeout": "5s"}));
    let spec = http(json!([{"timeout": "5s", "route": [to("app")]}]));
    assert_eq!(istio.warnings(&live(&store(&istio, &spec))), Vec::<String>::new());
    let split = router("smi:v1alpha2", json!({"port": 80, "hosts": ["root"]}));
    let spec = json!({"service": "app", "backends": [{"service": "app", "weight": 1}]});
    assert_eq!(split.warnings(&live(&store(&split, &spec))).len(), 1);
    // None of it is of a route that was made for the Canary, or is not there.
    assert_eq!(istio.warnings(&live(&Store::new())), Vec::<String>::new());
    let mut own = Store::new();
    reconcile(&istio, &mut own);
    own.get_mut(&istio.route()).unwrap()["spec"]["hosts"] = json!(["drifted"]);
    assert_eq!((istio.warnings(&live(&own)), istio.refusals(&live(&own))), (Vec::new(), Vec::new()));
}
