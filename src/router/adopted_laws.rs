//! Laws of adopted routes: nothing but what leads to the application is edited, and all of it is undone.

use super::laws::{Store, apply, defaults, live, service};
use super::*;
use crate::api::keys;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;

/// Names of the apex Service.
const HOSTS: [&str; 4] = ["app", "app.test", "app.test.svc", "app.test.svc.cluster.local"];

/// A route that somebody had before there was a Canary, and the Canary's router.
#[derive(Clone, Debug)]
struct Case {
    router: Router,
    at: ObjectRef,
    original: Value,
    /// Where its rules stand.
    rules: Option<&'static str>,
    list: &'static str,
    host: &'static str,
}

impl Case {
    fn rules<'a>(&self, object: &'a mut Value) -> &'a mut [Value] {
        match self.rules {
            Some(key) => object["spec"][key].as_array_mut().unwrap(),
            None => std::slice::from_mut(&mut object["spec"]),
        }
    }

    /// Takes out where rules of the application lead, and what we put on the route.
    fn take_ours(&self, object: &mut Value) -> Vec<Vec<Value>> {
        let is_app = |e: &Value| {
            let host = e.pointer(self.host).and_then(Value::as_str).unwrap();
            (HOSTS.contains(&host) || host == "app-primary" || host == "app-canary")
                && e.get("namespace").is_none_or(|n| n == "test")
                && e.get("group").is_none_or(|g| g == "")
        };
        let mut taken = Vec::new();
        for rule in self.rules(object) {
            if rule.get(self.list).and_then(Value::as_array).is_some_and(|l| l.iter().any(is_app)) {
                taken.push(rule[self.list].take().as_array().unwrap().clone());
            }
        }
        let metadata = object::child(object, "metadata");
        object::unset(metadata, "resourceVersion");
        let annotations = object::child(metadata, "annotations");
        for key in object::FLUX_OPT_OUT.iter().map(|(key, _)| *key).chain([keys::ORIGINAL]) {
            object::unset(annotations, key);
        }
        taken
    }

    fn step(&self, store: &mut Store, writes: Vec<Write>) {
        apply(store, &writes);
        // Not the router's, and not looked at.
        store.retain(|at, _| *at == self.at);
    }

    fn reconcile(&self, store: &mut Store) {
        let writes = self.router.reconcile(&live(store)).unwrap();
        assert_eq!(self.router.refusals(&live(store)), Vec::<String>::new());
        self.step(store, writes);
        let again = self.router.reconcile(&live(store)).unwrap();
        assert!(again.iter().all(|w| w.target().as_ref() != Some(&self.at)), "{again:?}");
    }

    fn set_weights(&self, store: &mut Store, canary: i32) {
        let writes = self.router.set_weights(&live(store), canary).unwrap();
        assert!(writes.len() <= 1);
        self.step(store, writes);
        assert_eq!(self.router.weights(&live(store)), Ok(Some(Weights::of_canary(canary))));
        self.reconcile(store);
        assert_eq!(self.router.set_weights(&live(store), canary), Ok(Vec::new()));
    }

    /// Every rule of the application leads to both sides, by copies of its owner's destination.
    fn check_split(&self, object: &Value, original: &Value, canary: i32) {
        let (mut object, mut original) = (object.clone(), original.clone());
        let (pairs, theirs) = (self.take_ours(&mut object), self.take_ours(&mut original));
        assert_eq!(object, original, "only destinations are edited");
        assert_eq!(pairs.len(), theirs.len());
        for (pair, theirs) in pairs.iter().zip(&theirs) {
            let bare = |entry: &Value| {
                let mut entry = entry.clone();
                entry["weight"] = Value::Null;
                *entry.pointer_mut(self.host).unwrap() = Value::Null;
                entry
            };
            let read = |e: &Value| (e.pointer(self.host).unwrap().clone(), weight_of(&e["weight"]));
            let weights = Weights::of_canary(canary);
            assert_eq!(
                pair.iter().map(read).collect::<Vec<_>>(),
                [(json!("app-primary"), Some(weights.primary)), (json!("app-canary"), Some(weights.canary))]
            );
            assert!(pair.iter().all(|e| bare(e) == bare(&theirs[0])));
        }
    }

    fn check_restored(&self, store: &mut Store, expected: &Value) {
        let writes = self.router.restore(&live(store));
        self.step(store, writes);
        let (mut object, mut expected) = (store[&self.at].clone(), expected.clone());
        for object in [&mut object, &mut expected] {
            object::unset(object::child(object, "metadata"), "resourceVersion");
        }
        assert_eq!(object, expected);
        assert_eq!(self.router.restore(&live(store)), []);
    }
}

fn parts(all: Vec<(&'static str, Value)>) -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let most = all.len();
    subsequence(all, 0..=most)
}

fn with(mut object: Value, fields: Vec<(&'static str, Value)>) -> Value {
    for (field, value) in fields {
        object[field] = value;
    }
    object
}

fn istio_rule() -> impl Strategy<Value = Value> {
    let entry = (
        select(&HOSTS[..]),
        parts(vec![("weight", json!(100)), ("headers", json!({"request": {"set": {"a": "b"}}}))]),
    )
        .prop_map(|(host, fields)| {
            with(json!({"destination": {"host": host, "port": {"number": 80}}}), fields)
        });
    let fields = parts(vec![
        ("name", json!("shop")),
        ("match", json!([{"uri": {"prefix": "/shop"}}])),
        ("timeout", json!("3s")),
        ("fault", json!({"abort": {"httpStatus": 503, "percentage": {"value": 0.1}}})),
        ("mirror", json!({"host": "shadow"})),
        ("mirrorPercentage", json!({"value": 5.0})),
        ("headers", json!({"response": {"remove": ["server"]}})),
    ]);
    let ours = (entry, fields).prop_map(|(entry, fields)| with(json!({"route": [entry]}), fields));
    prop_oneof![3 => ours, 2 => select(vec![
        json!({"route": [{"destination": {"host": "cdn"}}], "match": [{"uri": {"prefix": "/static"}}]}),
        json!({"route": [{"destination": {"host": "a"}, "weight": 20}, {"destination": {"host": "b"}, "weight": 80}]}),
        json!({"redirect": {"uri": "/new"}, "name": "old"}),
        json!({"directResponse": {"status": 404}}),
        json!({"delegate": {"name": "app", "namespace": "other"}}),
        json!({"route": [{"destination": {"host": "app.other.svc"}}]}),
    ])]
}

fn gateway_rule() -> impl Strategy<Value = Value> {
    let entry = parts(vec![
        ("port", json!(80)),
        ("weight", json!(7)),
        ("kind", json!("Service")),
        ("namespace", json!("test")),
        ("filters", json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}])),
    ])
    .prop_map(|fields| with(json!({"name": "app"}), fields));
    let fields = parts(vec![
        ("name", json!("shop")),
        ("matches", json!([{"path": {"type": "PathPrefix", "value": "/shop"}}])),
        ("filters", json!([{"type": "URLRewrite", "urlRewrite": {"hostname": "b"}}])),
        ("timeouts", json!({"request": "3s"})),
        ("sessionPersistence", json!({"sessionName": "s"})),
    ]);
    let ours = (entry, fields).prop_map(|(entry, fields)| with(json!({"backendRefs": [entry]}), fields));
    prop_oneof![3 => ours, 2 => select(vec![
        json!({"backendRefs": [{"name": "cdn", "port": 80}]}),
        json!({"backendRefs": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
        json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "new"}}]}),
        json!({"backendRefs": [{"name": "app", "kind": "ServiceImport", "group": "multicluster.x-k8s.io"}]}),
        json!({"backendRefs": [{"name": "app", "namespace": "other", "port": 80}]}),
    ])]
}

fn metadata() -> impl Strategy<Value = Value> {
    let annotations = parts(vec![
        ("note", json!("mine")),
        ("kustomize.toolkit.fluxcd.io/reconcile", json!("disabled")),
        ("helm.toolkit.fluxcd.io/driftDetection", json!("enabled")),
        (object::LAST_APPLIED, json!("{\"spec\":{\"hosts\":[\"older\"]}}")),
    ]);
    let labels = parts(vec![("team", json!("a")), ("app", json!("theirs"))]);
    (annotations, labels).prop_map(|(annotations, labels)| {
        let mut metadata = json!({"name": "app", "namespace": "test", "resourceVersion": "7"});
        for (field, map) in [("annotations", annotations), ("labels", labels)] {
            if !map.is_empty() {
                metadata[field] = with(json!({}), map);
            }
        }
        metadata
    })
}

prop_compose! {
    fn case()(
        mut service in service(),
        provider in select(vec!["istio", "istio", "gatewayapi:v1", "gatewayapi:v1", "smi:v1alpha1", "smi:v1alpha3"]),
        http in proptest::collection::vec(istio_rule(), 1..5),
        gateway in proptest::collection::vec(gateway_rule(), 1..5),
        rest in parts(vec![("tls", json!([{"route": [{"destination": {"host": "app"}}]}])), ("exportTo", json!(["."]))]),
        split in parts(vec![("canary", json!(0))]),
        metadata in metadata(),
    ) -> Case {
        if provider.starts_with("smi") {
            service.hosts = Vec::new();
        }
        if provider.starts_with("gateway") {
            service.gateway_refs = Vec::new();
        }
        let router = Router {
            provider: Provider::parse(provider).unwrap(),
            names: Names::new("test", "app", "app", None),
            owner: Owner { name: "app".into(), uid: "1".into() },
            service,
            analysis_match: Vec::new(),
            selector_label: "app".into(),
        };
        let at = router.route();
        let protocol = if router.service.is_tcp() { "tcp" } else { "http" };
        let (rules, list, host, spec) = match router.route().kind {
            VIRTUAL_SERVICE => {
                let spec = json!({"hosts": ["shop.example.com"], "gateways": ["infra/public"], protocol: http});
                (Some(protocol), "route", "/destination/host", with(spec, rest))
            }
            HTTP_ROUTE => {
                let spec = json!({"parentRefs": [{"name": "gw", "sectionName": "https"}], "hostnames": ["a"], "rules": gateway});
                (Some("rules"), "backendRefs", "/name", spec)
            }
            _ => {
                let mut backends = vec![json!({"service": "app", "weight": 1, "extra": "a"})];
                backends.extend(split.iter().map(|_| json!({"service": "app-canary", "weight": 0, "extra": "a"})));
                (None, "backends", "/service", json!({"service": "app", "backends": backends, "matches": ["a"]}))
            }
        };
        let mut original = json!({
            "apiVersion": at.kind.api_version(), "kind": at.kind.as_str(), "metadata": metadata, "spec": spec,
        });
        defaults(&mut original);
        Case { router, at, original, rules, list, host }
    }
}

/// Some rule leads to the application, else it is refused.
fn led() -> impl Strategy<Value = Case> {
    case().prop_filter("leads elsewhere", |case| {
        case.router.refusals(&live(&Store::from([(case.at.clone(), case.original.clone())]))).is_empty()
    })
}

/// What an owner changes, of the original or of the edited route.
#[derive(Clone, Debug)]
enum Edit {
    Hosts,
    Annotation,
    Label,
    Timeout(usize),
    First,
    Last,
    Another,
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        Just(Edit::Hosts),
        Just(Edit::Annotation),
        Just(Edit::Label),
        (0..5_usize).prop_map(Edit::Timeout),
        Just(Edit::First),
        Just(Edit::Last),
        Just(Edit::Another),
    ]
}

impl Edit {
    fn make(&self, case: &Case, object: &mut Value) {
        let metadata = |object: &mut Value, field: &str| {
            object::child(object::child(object, "metadata"), field)["edited"] = "by hand".into();
        };
        let rule = |host: &str| {
            let mut entry = json!({"port": 1, "weight": 100, "group": "", "kind": "Service"});
            if case.host == "/name" {
                entry["name"] = host.into()
            } else {
                entry["destination"] = json!({"host": host})
            }
            json!({case.list: [entry], "matches": [{"path": {"type": "Exact", "value": "/"}}]})
        };
        match self {
            Self::Hosts => object["spec"]["hosts"] = json!(["edited"]),
            Self::Annotation => metadata(object, "annotations"),
            Self::Label => metadata(object, "labels"),
            Self::Timeout(i) => {
                let rules = case.rules(object);
                let i = i % rules.len();
                rules[i]["timeouts"] = "edited".into();
            }
            Self::First | Self::Last | Self::Another => {
                let Some(key) = case.rules else { return };
                let rules = object["spec"][key].as_array_mut().unwrap();
                match self {
                    Self::First => rules.insert(0, rule("elsewhere")),
                    Self::Last => rules.push(rule("elsewhere")),
                    _ => rules.push(rule("app")),
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn only_destinations_are_edited_and_all_is_given_back(case in led(), canary in 0..=100_i32) {
        let mut store = Store::from([(case.at.clone(), case.original.clone())]);
        case.reconcile(&mut store);
        case.check_split(&store[&case.at], &case.original, 0);
        case.set_weights(&mut store, canary);
        case.check_split(&store[&case.at], &case.original, canary);
        case.check_restored(&mut store, &case.original);
    }

    #[test]
    fn what_the_owner_changes_meanwhile_is_kept(
        case in led(),
        canary in 0..=100_i32,
        edits in proptest::collection::vec(edit(), 1..4),
        seen: bool,
    ) {
        let mut store = Store::from([(case.at.clone(), case.original.clone())]);
        case.reconcile(&mut store);
        case.set_weights(&mut store, canary);
        let mut expected = case.original.clone();
        for edit in &edits {
            edit.make(&case, store.get_mut(&case.at).unwrap());
            edit.make(&case, &mut expected);
        }
        if seen {
            case.reconcile(&mut store);
            case.check_split(&store[&case.at], &expected, canary);
        }
        case.check_restored(&mut store, &expected);
    }

    #[test]
    fn a_route_that_its_owner_applies_again_is_edited_again(
        case in led(),
        canary in 0..=100_i32,
        edits in proptest::collection::vec(edit(), 0..4),
    ) {
        let mut store = Store::from([(case.at.clone(), case.original.clone())]);
        case.reconcile(&mut store);
        case.set_weights(&mut store, canary);
        let mut newer = case.original.clone();
        edits.iter().for_each(|edit| edit.make(&case, &mut newer));
        store.get_mut(&case.at).unwrap()["spec"] = newer["spec"].clone();
        newer["metadata"] = case.original["metadata"].clone();
        prop_assert_eq!(case.router.restore(&live(&store)).len(), 1);
        case.reconcile(&mut store);
        case.check_split(&store[&case.at], &newer, 0);
        case.set_weights(&mut store, canary);
        case.check_restored(&mut store, &newer);
    }

    #[test]
    fn a_refused_route_is_not_written(mut case in led(), which in 0..5_usize) {
        // The application's share is among others now.
        let is_app = |rule: &&mut Value| rule.get(case.list).is_some_and(|l| l.to_string().contains("app"));
        let mut original = case.original.clone();
        let mut rules: Vec<&mut Value> = case.rules(&mut original).iter_mut().filter(is_app).collect();
        let which = which % rules.len();
        let list = rules[which][case.list].as_array_mut().unwrap();
        let mut other = list[0].clone();
        *other.pointer_mut(case.host).unwrap() = "b".into();
        list.push(other);
        case.original = original;
        let store = Store::from([(case.at.clone(), case.original.clone())]);
        // Not of a rule that leads to another's of the same name.
        prop_assume!(!case.router.refusals(&live(&store)).is_empty());
        let writes = case.router.reconcile(&live(&store)).unwrap();
        prop_assert!(writes.iter().all(|w| w.target().as_ref() != Some(&case.at)));
        prop_assert_eq!(case.router.restore(&live(&store)), vec![]);
        prop_assert_eq!(case.router.warnings(&live(&store)), Vec::<String>::new());
    }
}
