//! Replays recorded runs: from the same live object and the same Canary, our writes lead to Flagger's
//! objects, but for
//! the deviations listed in [`DEVIATIONS`].

use super::object::{FLAGGERS_ORIGINAL, FLUX_OPT_OUT, same};
use super::ports::discovered_ports;
use super::services::{ApexSelects, Selector, Services};
use super::*;
use crate::api::keys;
use crate::object::Kind;
use recordings::Run;
use serde_json::{Map, json};
use std::collections::BTreeMap;

/// What is compared: the object before, ours and Flagger's after it, and whether the Canary had been deleted.
struct Case<'a> {
    before: Option<&'a Value>,
    ours: &'a mut Value,
    theirs: &'a mut Value,
    is_apex_service: bool,
    leaving: bool,
}

type Adjust = fn(&mut Case<'_>);

/// Where we differ from Flagger on purpose, each with its reason.
const DEVIATIONS: [(&str, Adjust); 8] = [
    ("the audit log shows what the API server defaults or assigns; we leave it to the API server", |case| {
        let assigned = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
        if case.ours["kind"] == "Service" && case.ours["spec"].get("type").is_none() {
            case.ours["spec"]["type"] = "ClusterIP".into();
        }
        // Of a new Service the cluster IP is stated: None for a headless one.
        let assigned = if case.before.is_some() { &assigned[..] } else { &[] };
        for field in ["sessionAffinity", "internalTrafficPolicy"].iter().chain(assigned) {
            remove(case.ours, "/spec", field);
            remove(case.theirs, "/spec", field);
        }
    }),
    ("the order of discovered ports is random in Flagger", |case| {
        for object in [&mut *case.ours, &mut *case.theirs] {
            if let Some(ports) = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut) {
                ports.sort_by_key(|p| p["name"].as_str().unwrap_or_default().to_owned());
            }
        }
    }),
    ("the admission webhook knows an apex Service and its ports by marks of ours", |case| {
        if case.is_apex_service {
            remove(case.ours, "/metadata/labels", keys::CANARY);
            remove(case.ours, "/metadata/annotations", keys::PORTS);
        }
    }),
    ("an adopted apex Service stays with Flux, and a user's own port stays on it", |case| {
        if case.is_apex_service && !is_owned(case.theirs) {
            for (key, _) in FLUX_OPT_OUT {
                remove(case.ours, "/metadata/annotations", key);
                remove(case.theirs, "/metadata/annotations", key);
            }
            let foreign = |p: &Value| p["name"] == "web" && p["port"] == 9898;
            let mine = case.ours.pointer_mut("/spec/ports").and_then(Value::as_array_mut).unwrap();
            assert!(mine.iter().any(foreign), "the user's port is gone");
            mine.retain(|p| !foreign(p));
            case.theirs
                .pointer_mut("/spec/ports")
                .and_then(Value::as_array_mut)
                .unwrap()
                .retain(|p| !foreign(p));
        }
    }),
    (
        "labels and annotations of others stay, what the Canary states is on record; Flagger drops what it does not state",
        |case| {
            remove(case.ours, "/metadata/annotations", keys::CARRIED);
            for field in ["labels", "annotations"] {
                let before =
                    case.before.and_then(|b| b["metadata"][field].as_object()).cloned().unwrap_or_default();
                for key in
                    before.keys().filter(|k| ![FLAGGERS_ORIGINAL, keys::ORIGINAL].contains(&k.as_str()))
                {
                    let at = format!("/metadata/{field}");
                    if case.theirs["metadata"][field].get(key).is_none() {
                        remove(case.ours, &at, key);
                    }
                }
            }
        },
    ),
    (
        "an adopted route is edited, and its original recorded in a key of ours; Flagger builds it anew from the Canary",
        |case| {
            let is_adopted = |b: &&Value| !is_owned(b) && b["kind"] != "Service" && !case.leaving;
            if let Some(before) = case.before.filter(is_adopted) {
                let recorded =
                    |o: &Value| o["metadata"]["annotations"][keys::ORIGINAL].as_str().map(str::to_owned);
                let known = |text: String| serde_json::from_str::<Value>(&text).unwrap()["spec"].clone();
                let original = recorded(before).map_or_else(|| before["spec"].clone(), known);
                assert_eq!(recorded(case.ours).map(known).as_ref(), Some(&original));
                let (rest, shares) = apart(case.ours["spec"].clone());
                assert_eq!(shares, apart(case.theirs["spec"].take()).1);
                assert_eq!(rest, apart(original).0, "only the destinations are ours");
                case.theirs["spec"] = case.ours["spec"].clone();
            }
            for key in [keys::ORIGINAL, FLAGGERS_ORIGINAL] {
                remove(case.ours, "/metadata/annotations", key);
                remove(case.theirs, "/metadata/annotations", key);
            }
        },
    ),
    (
        "the weight of a rule's only destination means nothing; Flagger writes the primary's share there",
        |case| {
            for object in [&mut *case.ours, &mut *case.theirs] {
                let rules = object.pointer_mut("/spec/http").and_then(Value::as_array_mut);
                for rule in rules.into_iter().flatten() {
                    if let Some([only]) =
                        rule.pointer_mut("/route").and_then(Value::as_array_mut).map(Vec::as_mut_slice)
                    {
                        only.as_object_mut().unwrap().remove("weight");
                    }
                }
            }
        },
    ),
    ("a route that is given back is Flux's again", |case| {
        if case.leaving {
            for (key, _) in FLUX_OPT_OUT {
                remove(case.theirs, "/metadata/annotations", key);
                remove(case.ours, "/metadata/annotations", key);
            }
        }
    }),
];

/// Traces that cannot be compared, with the reason.
const LEFT_OUT: [(&str, &str); 4] = [
    ("session-affinity", "no session affinity"),
    ("weighted-mirror", "no traffic mirroring"),
    ("service-target", "no targets of kind Service"),
    ("error-", "nothing is routed, or two Canaries fight"),
];

fn remove(object: &mut Value, at: &str, key: &str) {
    if let Some(map) = object.pointer_mut(at).and_then(Value::as_object_mut) {
        map.remove(key);
    }
}

/// Takes the destinations out of a route's rules: what is left, and where they led, with the weights.
fn apart(mut spec: Value) -> (Value, Vec<(Value, Value)>) {
    let mut shares = Vec::new();
    for (rules, list, host) in [("http", "route", "/destination/host"), ("rules", "backendRefs", "/name")] {
        for rule in spec.get_mut(rules).and_then(Value::as_array_mut).into_iter().flatten() {
            for entry in rule[list].take().as_array().unwrap() {
                shares.push((entry.pointer(host).unwrap().clone(), entry["weight"].clone()));
            }
        }
    }
    (spec, shares)
}

fn is_owned(object: &Value) -> bool {
    object.pointer("/metadata/ownerReferences").is_some()
}

type Store = BTreeMap<(String, String), Value>;

/// A run as it is replayed.
struct Replay<'a> {
    trace: &'a Run,
    store: Store,
    leaving: bool,
    compared: usize,
}

impl Replay<'_> {
    fn act(&mut self, action: &Value) {
        let (Some(kind), Some(name)) = (action["kind"].as_str(), action["name"].as_str()) else { return };
        let key = (kind.to_owned(), name.to_owned());
        match action["do"].as_str().unwrap() {
            "apply" => {
                let object = self.store.entry(key).or_insert(Value::Null);
                json_patch::merge(object, &action["object"]);
                object["metadata"]["namespace"] = self.trace.name().into();
            }
            "merge-patch" => {
                if let Some(object) = self.store.get_mut(&key) {
                    json_patch::merge(object, &action["patch"]);
                }
            }
            "delete" => {
                self.leaving |= kind == "Canary";
                // The Canary itself stays until Flagger has reverted.
                if kind != "Canary" {
                    self.store.remove(&key);
                }
            }
            _ => {}
        }
    }

    fn one(&self, kind: &str) -> &Value {
        self.store.iter().find(|((k, _), _)| k == kind).map(|(_, v)| v).unwrap()
    }

    fn names(&self) -> Names {
        let canary = self.one("Canary");
        Names::new(
            self.trace.name(),
            canary["metadata"]["name"].as_str().unwrap(),
            canary["spec"]["targetRef"]["name"].as_str().unwrap(),
            canary["spec"]["service"]["name"].as_str(),
        )
    }

    fn owner(&self) -> Owner {
        let name = self.one("Canary")["metadata"]["name"].as_str().unwrap();
        Owner { name: name.into(), uid: "<uuid>".into() }
    }

    fn service(&self) -> ServiceSpec {
        serde_json::from_value(self.one("Canary")["spec"]["service"].clone()).unwrap()
    }

    fn target(&self) -> &Value {
        self.one(self.one("Canary")["spec"]["targetRef"]["kind"].as_str().unwrap())
    }

    fn selector(&self) -> Selector {
        let labels = self.target()["spec"]["selector"]["matchLabels"].as_object().unwrap();
        let key = ["app", "name", "app.kubernetes.io/name"]
            .into_iter()
            .chain(self.trace.flag("-selector-labels").unwrap_or_default().split(','))
            .find(|key| labels.contains_key(*key))
            .unwrap();
        Selector::by(key, labels[key].as_str().unwrap())
    }

    fn router(&self) -> Router {
        let analysis = &self.one("Canary")["spec"]["analysis"];
        Router {
            provider: Provider::parse(self.trace.provider().unwrap()).unwrap(),
            names: self.names(),
            owner: self.owner(),
            service: self.service(),
            analysis_match: analysis["match"].as_array().cloned().unwrap_or_default(),
            selector_label: self.selector().key,
        }
    }

    fn services(&self, theirs: &Value) -> Services {
        let selector = self.selector();
        let to_target = theirs["spec"]["selector"].get(&selector.key) == selector.target.get(&selector.key);
        Services {
            names: self.names(),
            owner: self.owner(),
            discovered: discovered_ports(&self.target()["spec"]["template"], &self.service()),
            service: self.service(),
            apex_selects: if to_target { ApexSelects::Target } else { ApexSelects::Primary },
            selector,
        }
    }

    /// Compares one write of Flagger's with what we make of the same situation, and goes on with our result.
    fn compare(&mut self, theirs: &Value) {
        let kind = theirs["kind"].as_str().unwrap();
        let name = theirs["metadata"]["name"].as_str().unwrap();
        let key = (kind.to_owned(), name.to_owned());
        let before = self.store.get(&key).cloned().map(|mut object| {
            object["metadata"]["resourceVersion"] = "1".into();
            object
        });
        let at = address(&self.as_ours(theirs)).unwrap();
        let mut ours = before.clone();
        let step = |ours: &mut Option<Value>, writes: &dyn Fn(&Live<'_>) -> Vec<Write>| {
            let held = ours.clone();
            apply(ours, &at, &writes(&|r| if *r == at { held.as_ref() } else { None }));
        };
        if kind == "Service" {
            let services = self.services(theirs);
            step(&mut ours, &|live| services.reconcile(live));
        } else if self.leaving {
            let router = self.router();
            step(&mut ours, &|live| router.restore(live));
        } else {
            let router = self.router();
            step(&mut ours, &|live| router.reconcile(live).unwrap());
            if at_route(kind) {
                let weights = router.backends(theirs).weights().unwrap();
                assert_eq!(weights.primary + weights.canary, 100);
                step(&mut ours, &|live| router.set_weights(live, weights.canary).unwrap());
            }
        }
        let mut ours = ours.unwrap();
        remove(&mut ours, "/metadata", "resourceVersion");
        self.store.insert(key, ours.clone());
        let mut adjusted = self.as_ours(theirs);
        let mut case = Case {
            before: before.as_ref(),
            ours: &mut ours,
            theirs: &mut adjusted,
            is_apex_service: kind == "Service" && name == self.names().apex,
            leaving: self.leaving,
        };
        for (_, adjust) in DEVIATIONS {
            adjust(&mut case);
        }
        remove(&mut ours, "", "status");
        assert!(
            same(Some(&ours), Some(&adjusted)),
            "{} {kind} {name}\nours:    {ours}\ntheirs:  {adjusted}",
            self.trace.name()
        );
        self.compared += 1;
    }

    /// An HTTPRoute of `v1beta1` is written as `v1`.
    fn as_ours(&self, theirs: &Value) -> Value {
        let mut object = theirs.clone();
        if object["kind"] == "HTTPRoute" {
            object["apiVersion"] = crate::router::HTTP_ROUTE.api_version().into();
        }
        object
    }
}

fn at_route(kind: &str) -> bool {
    kind != "DestinationRule"
}

fn apply(object: &mut Option<Value>, at: &ObjectRef, writes: &[Write]) {
    for write in writes.iter().filter(|w| w.target().as_ref() == Some(at)) {
        match write {
            Write::Create { object: new, .. } => {
                assert!(object.is_none(), "created twice");
                let mut new = new.clone();
                new["metadata"]["resourceVersion"] = "1".into();
                *object = Some(new);
            }
            Write::Patch { patch, .. } => json_patch::patch(object.as_mut().unwrap(), &patch.0).unwrap(),
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Returns Flagger's writes to Services and routes and the driver's actions, in order.
fn story(trace: &Run) -> Vec<(&Value, Option<Value>)> {
    let writes: Vec<&Value> = trace.list("timeline").iter().filter(|e| e["type"] == "write").collect();
    let body = |write: &Value| {
        let source = match write["sameObjectAsWriteAt"].as_f64() {
            None => write,
            Some(t) => writes
                .iter()
                .find(|w| {
                    w["t"].as_f64() == Some(t)
                        && w["name"] == write["name"]
                        && w["resource"] == write["resource"]
                })
                .unwrap(),
        };
        source["object"].clone()
    };
    let ours = ["services", "virtualservices", "destinationrules", "trafficsplits", "httproutes"];
    let mut story: Vec<(&Value, Option<Value>)> = trace.actions().iter().map(|a| (a, None)).collect();
    story.extend(
        writes
            .iter()
            .filter(|w| ours.iter().any(|r| w["resource"] == *r) && w["code"].as_i64().unwrap() < 300)
            .filter(|w| w["verb"] == "create" || w["verb"] == "update")
            .map(|w| (*w, Some(body(w)))),
    );
    story.sort_by(|(a, _), (b, _)| a["t"].as_f64().unwrap().total_cmp(&b["t"].as_f64().unwrap()));
    story
}

fn chosen() -> impl Iterator<Item = &'static Run> {
    recordings::all().iter().filter(|trace| {
        trace.is_weighted()
            && trace.provider().is_some_and(|p| Provider::parse(p).is_ok())
            && !LEFT_OUT.iter().any(|(part, _)| trace.name().contains(part))
    })
}

#[test]
fn writes_lead_to_the_objects_that_flagger_wrote() {
    let (mut traces, mut compared) = (0, 0);
    for trace in chosen() {
        let mut replay = Replay { trace, store: Store::new(), leaving: false, compared: 0 };
        for (entry, body) in story(trace) {
            match body {
                None => replay.act(entry),
                Some(theirs) => replay.compare(&theirs),
            }
        }
        traces += 1;
        compared += replay.compared;
    }
    assert!(traces > 100 && compared > 1000, "only {compared} writes of {traces} traces");
}

/// What the API server added to objects that Flagger wrote is no difference, at any weight.
#[test]
fn live_objects_with_defaults_need_no_write() {
    for provider in ["istio", "gatewayapi", "smi-v1alpha2"] {
        for phase in ["Initialized", "Progressing-weight20", "Promoting", "Succeeded"] {
            let items = recordings::objects(&format!("{provider}-{phase}"));
            let canary = items.iter().find(|o| o["kind"] == "Canary").unwrap();
            let name = canary["metadata"]["name"].as_str().unwrap();
            let namespace = canary["metadata"]["namespace"].as_str().unwrap();
            let live = |r: &ObjectRef| items.iter().find(|o| address(o).as_ref() == Some(r));
            let flag = if provider == "gatewayapi" { "gatewayapi:v1" } else { provider };
            let flag = if flag == "smi-v1alpha2" { "smi:v1alpha2:linkerd" } else { flag };
            let router = Router {
                provider: Provider::parse(flag).unwrap(),
                names: Names::new(namespace, name, "podinfo", None),
                owner: Owner { name: name.into(), uid: canary["metadata"]["uid"].as_str().unwrap().into() },
                service: serde_json::from_value(canary["spec"]["service"].clone()).unwrap(),
                analysis_match: Vec::new(),
                selector_label: "app".into(),
            };
            assert!(router.objects().iter().all(|r| live(r).is_some()));
            assert_eq!(router.reconcile(&live).unwrap(), [], "{provider} {phase}");
            let weights = router.weights(&live).unwrap().unwrap();
            assert_eq!(router.set_weights(&live, weights.canary).unwrap(), []);
            assert_eq!(phase == "Progressing-weight20", weights == Weights::of_canary(20));
            let services = Services {
                names: router.names.clone(),
                owner: router.owner.clone(),
                service: router.service.clone(),
                selector: Selector::by("app", "podinfo"),
                discovered: Vec::new(),
                apex_selects: ApexSelects::Primary,
            };
            // Only the marks on the apex are new to Flagger's Services.
            let writes = services.reconcile(&live);
            let apex = ObjectRef::new(Kind::Service, namespace, "podinfo");
            assert_eq!(
                writes.iter().map(|w| w.target().unwrap()).collect::<Vec<_>>(),
                std::slice::from_ref(&apex)
            );
            let mut object = live(&apex).cloned();
            apply(&mut object, &apex, &writes);
            let object = object.unwrap();
            let mut expected = live(&apex).unwrap().clone();
            expected["metadata"]["labels"][keys::CANARY] = name.into();
            expected["metadata"]["annotations"][keys::PORTS] = "http".into();
            assert_eq!(object, expected);
            assert_eq!(
                services.reconcile(&|r| if *r == apex { Some(&object) } else { live(r) }),
                [],
                "{provider} {phase}"
            );
        }
    }
}

/// What a gateway says of the route, and what Flagger made of it.
#[test]
fn unsettled_routes_are_told_in_flaggers_words() {
    let trace = recordings::named("gatewayapi-route-not-accepted");
    let mut replay = Replay { trace, store: Store::new(), leaving: false, compared: 0 };
    let mut generation = 0;
    let mut said = Vec::new();
    for (entry, body) in story(trace) {
        match body {
            Some(theirs) => {
                generation += i64::from(theirs["kind"] == "HTTPRoute");
                let status =
                    replay.store.get(&("HTTPRoute".into(), "podinfo".into())).map(|o| o["status"].clone());
                replay.compare(&theirs);
                if let (Some(status), Some(route)) =
                    (status, replay.store.get_mut(&("HTTPRoute".into(), "podinfo".into())))
                {
                    route["status"] = status;
                }
            }
            None => {
                replay.act(entry);
                if entry["subresource"] == "/status" {
                    let mut route = replay.store[&("HTTPRoute".to_owned(), "podinfo".to_owned())].clone();
                    route["metadata"]["generation"] = generation.into();
                    said.push(replay.router().settled(&|_| Some(&route)));
                }
            }
        }
    }
    let logged: Map<String, Value> = trace
        .list("log")
        .iter()
        .filter_map(|l| l["msg"].as_str())
        .filter(|m| m.contains("is not ready (status"))
        .map(|m| (m.to_owned(), json!(true)))
        .collect();
    let ours: Vec<_> =
        said.iter().filter_map(|s| if let Settled::No(r) = s { Some(r.clone()) } else { None }).collect();
    assert_eq!(logged.len(), 2);
    assert!(ours.iter().all(|reason| logged.contains_key(reason)), "{ours:?} {logged:?}");
    assert_eq!((ours.len(), said.last()), (2, Some(&Settled::Yes)));
}
