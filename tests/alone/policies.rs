//! The second lock, demand by demand: what each refuses, what passes, and that none of them is there in vain. Every write
//! is a dry run by an administrator, with the webhook configuration deleted and no process running.

use anyhow::{Context as _, Result, bail, ensure};
use ground::SIDETRACK;
use harness::{World, at, eventually};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PropagationPolicy};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use sidetrack::admission::second_lock;
use sidetrack::api::keys;
use sidetrack::api::revision::RESTARTED_AT;

/// Every demand, by a part of its message, in the order of the policies.
const DEMANDS: [&str; 13] =
    [NEW, HELD, LABELS, KEYS, FINALIZER, DELETION, ORPHAN, SELECTOR, SERVICE, RECORD, PORTS, SET, MARKS];
const NEW: &str = "a new pod template must be held";
const HELD: &str = "its held pod template stays paused";
const LABELS: &str = "its sidetrack.dev labels cannot be changed";
const KEYS: &str = "its sidetrack.dev annotations are written by sidetrack alone";
const FINALIZER: &str = "its sidetrack.dev finalizer stays";
const DELETION: &str = "foreground deletion would cut off";
const ORPHAN: &str = "a Deployment made anew over its orphaned pods";
const SELECTOR: &str = "its selector decides where traffic goes";
const SERVICE: &str = "its sidetrack.dev labels and annotations cannot be changed";
const RECORD: &str = "the record of what it was before its adoption";
const PORTS: &str = "the ports that the Canary defines";
const SET: &str = "its pod template cannot be changed, because pods of it would run unanalysed";
const MARKS: &str = "its sidetrack.dev annotations cannot be changed; delete";
/// May do all that ClusterRole `edit` lets do, in the namespace of the cases.
const DEV: &str = "dev";
/// As [`DEV`], and may break the glass.
const LEAD: &str = "lead";

#[derive(Clone, Debug)]
enum Deed {
    Merge(Value),
    Status(Value),
    Delete(Option<PropagationPolicy>),
}

/// A write, and the demand that refuses it, if one does.
#[derive(Clone, Debug)]
struct Case {
    user: &'static str,
    object: &'static str,
    deed: Deed,
    refused: Option<&'static str>,
}

fn case(object: &'static str, patch: Value, refused: impl Into<Option<&'static str>>) -> Case {
    Case { user: "admin", object, deed: Deed::Merge(patch), refused: refused.into() }
}

fn key(key: &str, value: Option<&str>) -> Value {
    let mut map = serde_json::Map::new();
    map.insert(key.into(), value.map_or(Value::Null, Into::into));
    json!({"metadata": {"annotations": map}})
}

fn label(name: &str, value: Option<&str>) -> Value {
    let mut map = serde_json::Map::new();
    map.insert(name.into(), value.map_or(Value::Null, Into::into));
    json!({"metadata": {"labels": map}})
}

/// Patches in one.
fn all<const N: usize>(parts: [Value; N]) -> Value {
    fn join(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (name, value) in from {
                    join(into.entry(name).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }
    parts.into_iter().fold(json!({}), |mut whole, part| {
        join(&mut whole, part);
        whole
    })
}

fn image(tag: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": format!("app:{tag}")}]}}}})
}

fn template_metadata(of: Value) -> Value {
    json!({"spec": {"template": {"metadata": of}}})
}

fn paused(is: Option<bool>) -> Value {
    json!({"spec": {"paused": is}})
}

fn finalizers(of: &[&str]) -> Value {
    json!({"metadata": {"finalizers": of}})
}

/// A hold on a new template, as the webhook writes it.
fn hold() -> Value {
    all([paused(Some(true)), key(keys::HOLD, Some("new")), key(keys::APPLIED_BY, Some("kubectl me"))])
}

/// A break-glass that counts: every object is at its first generation.
fn glass() -> Value {
    key(keys::BREAK_GLASS, Some("1 fire"))
}

/// Everything of ours off.
fn unenrolled() -> Value {
    let labels = keys::LABELS.iter().map(|name| label(name, None));
    let keys = keys::ANNOTATIONS.iter().filter(|k| **k != keys::BREAK_GLASS).map(|k| key(k, None));
    labels.chain(keys).fold(finalizers(&[]), |whole, part| all([whole, part]))
}

fn templates() -> Vec<Case> {
    let restarted = template_metadata(json!({"annotations": {RESTARTED_AT: "now"}}));
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"});
    vec![
        case("free", image("v3"), NEW),
        case("free", template_metadata(json!({"labels": {"x": "y"}})), NEW),
        case("free", template_metadata(json!({"annotations": {"x": "y"}})), NEW),
        case("free", template_metadata(json!({"annotations": {"note": null}})), NEW),
        case("free", template_metadata(json!({"name": "x"})), NEW),
        case("free", template_metadata(json!({"generateName": "x"})), NEW),
        case("free", template_metadata(json!({"namespace": "x"})), NEW),
        case("free", template_metadata(json!({"finalizers": ["example.com/x"]})), NEW),
        case("free", template_metadata(json!({"ownerReferences": [owner]})), NEW),
        case("free", restarted.clone(), None),
        case("free", template_metadata(json!({"annotations": {RESTARTED_AT: null}})), None),
        case("free", all([image("v3"), hold()]), None),
        case("free", all([image("v3"), key(keys::HOLD, Some("new"))]), NEW),
        case("free", all([image("v3"), paused(Some(true))]), NEW),
        case("held", image("v3"), NEW),
        case("held", all([image("v3"), hold()]), None),
        case("generated", all([image("v3"), hold()]), NEW),
        case("generated", restarted, None),
        case("generated", all([image("v3"), glass()]), None),
        case("free", all([image("v3"), glass(), key(keys::GLASSED, Some("new"))]), None),
        case("free", all([image("v3"), key(keys::BREAK_GLASS, Some("2 fire"))]), NEW),
        case("free", all([image("v3"), key(keys::BREAK_GLASS, Some("11 fire"))]), NEW),
        // Its break-glass names the present generation, but is not of this write.
        case("glassed", image("v3"), NEW),
        case(
            "in-place-held",
            all([image("v1"), key(keys::REVERTED, Some("p")), key(keys::HOLD, None), paused(None)]),
            None,
        ),
        case("in-place-held", all([image("v1"), key(keys::REVERTED, Some("q"))]), NEW),
        case("in-place-reverted", image("v3"), NEW),
        // What takes `reverted` away says nothing, even where nothing is promoted.
        case("in-place-lost", all([image("v3"), key(keys::REVERTED, None)]), NEW),
        case("held", all([image("v1"), key(keys::REVERTED, Some("p"))]), NEW),
        case("in-place-generated", all([image("v1"), key(keys::REVERTED, Some("p"))]), NEW),
    ]
}

fn holds() -> Vec<Case> {
    let status = |patch| Case { deed: Deed::Status(patch), ..case("held", json!({}), HELD) };
    vec![
        case("held", paused(Some(false)), HELD),
        case("held", paused(None), HELD),
        case("held", key(keys::HOLD, None), HELD),
        case("in-place-held", all([key(keys::REVERTED, Some("p")), paused(None)]), HELD),
        case("held", all([paused(None), glass_again()]), None),
        case("held", json!({"spec": {"replicas": 3}}), None),
        status(key(keys::HOLD, None)),
        // Nothing is said through the status: no break-glass, and what people may take away or set elsewhere neither.
        Case { refused: Some(KEYS), ..status(glass_again()) },
        Case { refused: Some(KEYS), ..status(all([glass_again(), key(keys::GLASSED, Some("h"))])) },
        Case { refused: Some(KEYS), ..status(key(keys::FAILED, None)) },
        Case { refused: Some(KEYS), ..status(key(keys::REQUESTED_REPLICAS, Some("5"))) },
        Case {
            object: "in-place-reverted",
            refused: Some(KEYS),
            ..status(all([label(keys::CANARY, None), glass()]))
        },
        Case { refused: Some(KEYS), ..status(key(keys::PROMOTED, Some("forged"))) },
        Case { refused: None, ..status(key("example.com/foo", Some("bar"))) },
    ]
}

/// As [`glass`], where one has been used.
fn glass_again() -> Value {
    key(keys::BREAK_GLASS, Some("1 again"))
}

fn labels() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in keys::LABELS {
        cases.push(case("free", label(name, None), LABELS));
        cases.push(case("free", label(name, Some("other")), LABELS));
        cases.push(case("in-place-reverted", label(name, None), LABELS));
    }
    let leaves = || all([unenrolled(), glass(), paused(None)]);
    cases.extend([
        case("in-place-held", leaves(), None),
        case("in-place-held", all([unenrolled(), paused(None)]), HELD),
        case("in-place-generated", leaves(), LABELS),
        case("free", leaves(), LABELS),
        case("in-place-reverted", all([glass(), label(keys::ROLE, Some("other"))]), LABELS),
        case("in-place-reverted", all([glass(), key(keys::PROMOTED, Some("forged"))]), KEYS),
        case("in-place-held", all([glass(), finalizers(&[])]), FINALIZER),
    ]);
    cases
}

fn annotated() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in keys::ANNOTATIONS {
        cases.push(case("free", key(name, Some("forged")), KEYS));
        let taken = [keys::FAILED, keys::PAUSED_BEFORE, keys::BREAK_GLASS].contains(&name);
        let refused = if name == keys::HOLD { HELD } else { KEYS };
        cases.push(case("held", key(name, None), (!taken).then_some(refused)));
    }
    // With a new template some move along, the others do not.
    for name in [
        keys::PROMOTED,
        keys::CANARY_NAME,
        keys::TEMPLATE,
        keys::POLICY,
        keys::FAILED,
        keys::GLASSED,
        keys::BREAK_GLASS,
        keys::REQUESTED_REPLICAS,
    ] {
        cases.push(case("held", all([image("v3"), hold(), key(name, Some("forged"))]), KEYS));
    }
    let gone = [keys::FAILED, keys::GLASSED, keys::REVERTED].map(|name| key(name, None));
    cases.push(case("held", all([image("v3"), hold(), all(gone)]), None));
    cases.push(case("free", all([image("v3"), hold(), key(keys::PAUSED_BEFORE, Some("true"))]), None));
    let replicas = |n| key(keys::REQUESTED_REPLICAS, Some(n));
    cases.extend([
        case("free", replicas("5"), None),
        case("free", replicas("-1"), KEYS),
        case("free", replicas("1234567890"), KEYS),
        case("free", replicas("5 or so"), KEYS),
        case("generated", replicas("5"), KEYS),
        case("in-place-reverted", replicas("5"), KEYS),
        case("free", all([glass(), key(keys::GLASSED, Some("this"))]), None),
        case("free", key("example.com/foo", Some("bar")), None),
        case("free", finalizers(&[]), FINALIZER),
        case("free", finalizers(&["example.com/own", keys::TRAFFIC_FINALIZER]), None),
        case("in-place-reverted", finalizers(&[keys::TRAFFIC_FINALIZER]), FINALIZER),
    ]);
    cases
}

fn services() -> Vec<Case> {
    let of = |patch, refused| case("service", patch, refused);
    let port = |name: &str, port: u16, to: u16| json!({"name": name, "port": port, "targetPort": to, "protocol": "TCP"});
    let ports = |of: Value| json!({"spec": {"ports": of}});
    let mut cases = vec![
        of(json!({"spec": {"selector": {"app": "other"}}}), Some(SELECTOR)),
        of(json!({"spec": {"selector": null}}), Some(SELECTOR)),
        of(ports(json!([port("http", 80, 1), port("admin", 81, 81), port("own", 82, 82)])), Some(PORTS)),
        of(ports(json!([port("http", 80, 80), port("admin", 81, 1), port("own", 82, 82)])), Some(PORTS)),
        of(ports(json!([port("http", 80, 80), port("own", 82, 82)])), Some(PORTS)),
        of(ports(json!([port("http", 80, 80), port("admin", 81, 81), port("own", 83, 83)])), None),
        of(key("example.com/foo", Some("bar")), None),
    ];
    for name in keys::LABELS {
        cases.push(of(label(name, Some("other")), Some(SERVICE)));
    }
    cases.push(of(label(keys::CANARY, None), Some(SERVICE)));
    for name in keys::ANNOTATIONS.into_iter().chain([keys::PORTS]) {
        cases.push(of(key(name, Some("forged")), Some(SERVICE)));
    }
    cases.push(of(key(keys::PORTS, None), Some(SERVICE)));
    cases.push(of(key(keys::ORIGINAL, None), Some(RECORD)));
    cases.push(of(key(keys::ORIGINAL, Some("{}")), None));
    let status = |patch, why| Case { deed: Deed::Status(patch), ..of(json!({}), Some(why)) };
    cases.push(status(label(keys::CANARY, None), SERVICE));
    cases.push(status(key(keys::ORIGINAL, None), RECORD));
    cases
}

/// The ReplicaSets of an enrolled Deployment and of another one.
fn replica_sets() -> Vec<Case> {
    let other = image("v9");
    vec![
        case("set", other.clone(), SET),
        case("set", key(keys::PROMOTED, None), MARKS),
        case("set", json!({"spec": {"replicas": 2}}), None),
        case("set", key("example.com/foo", Some("bar")), None),
        case("strange-set", other.clone(), None),
        Case { user: "system:kube-controller-manager", ..case("set", other, None) },
    ]
}

fn deletions() -> Vec<Case> {
    use PropagationPolicy::{Background, Foreground, Orphan};
    let of =
        |object, policy, refused| Case { deed: Deed::Delete(policy), ..case(object, json!({}), refused) };
    vec![
        of("free", Some(Foreground), Some(DELETION)),
        of("free", Some(Background), None),
        of("free", Some(Orphan), None),
        of("free", None, None),
        of("doomed", None, Some(DELETION)),
        of("doomed", Some(Background), None),
        Case { user: DEV, ..of("in-place-held", Some(Orphan), Some(ORPHAN)) },
        Case { user: DEV, ..of("in-place-orphaned", None, Some(ORPHAN)) },
        Case { user: DEV, ..of("in-place-orphaned", Some(Background), None) },
        Case { user: DEV, ..of("in-place-held", Some(Background), None) },
        Case { user: DEV, ..of("in-place-generated", Some(Orphan), None) },
        Case { user: DEV, ..of("free", Some(Orphan), None) },
        Case { user: DEV, ..of("stranger", Some(Orphan), None) },
        Case { user: LEAD, ..of("in-place-held", Some(Orphan), None) },
        of("in-place-reverted", Some(Foreground), None),
        of("stranger", Some(Foreground), None),
    ]
}

/// Whom no demand concerns.
fn exempt() -> Vec<Case> {
    let ours = |object, patch| Case { user: SIDETRACK, ..case(object, patch, None) };
    let enrols = keys::LABELS.iter().map(|l| label(l, Some("x"))).fold(hold(), |a, b| all([a, b]));
    vec![
        ours("free", image("v3")),
        ours("held", all([unenrolled(), paused(None)])),
        ours("service", json!({"spec": {"selector": {"app": "other"}}})),
        case("stranger", all([image("v3"), finalizers(&[])]), None),
        case("stranger", all([image("v3"), enrols]), None),
        case(
            "strange-service",
            all([label(keys::CANARY, Some("x")), json!({"spec": {"selector": null}})]),
            None,
        ),
    ]
}

fn cases() -> Vec<Case> {
    [templates(), holds(), labels(), annotated(), services(), replica_sets(), deletions(), exempt()].concat()
}

struct Lock {
    world: World,
    ns: String,
}

impl Lock {
    async fn new() -> Result<Self> {
        let world = World::start(false).await?;
        world.kubectl(&["delete", "mutatingwebhookconfiguration", "sidetrack"]).await?;
        let ns = world.cp.namespace("policies").await?;
        let lock = Self { world, ns };
        for (name, roles) in [(DEV, &["edit"][..]), (LEAD, &["edit", "sidetrack-break-glass"])] {
            lock.world.kubectl(&["-n", &lock.ns, "create", "serviceaccount", name]).await?;
            for role in roles {
                let [binding, role] = [format!("{name}-{role}"), format!("--clusterrole={role}")];
                let account = format!("--serviceaccount={}:{name}", lock.ns);
                lock.world
                    .kubectl(&["-n", &lock.ns, "create", "rolebinding", &binding, &role, &account])
                    .await?;
            }
        }
        let held = json!({keys::HOLD: "h", keys::PROMOTED: "p", keys::APPLIED_BY: "me", keys::FAILED: "h"});
        let more = json!({keys::PAUSED_BEFORE: "true", keys::REQUESTED_REPLICAS: "2", keys::GLASSED: "g",
            keys::BREAK_GLASS: "1 old", keys::CANARY_NAME: "app", keys::TEMPLATE: "t", keys::REVERTED: "r",
            keys::REVISION: "v", keys::POLICY: "shop", keys::SHARE: "10 1", keys::CARRIED: "{}"});
        let promoted = json!({keys::PROMOTED: "p"});
        let traffic = keys::TRAFFIC_FINALIZER;
        let (copy, in_place) = (keys::LAYOUT_PRIMARY_COPY, keys::LAYOUT_IN_PLACE);
        let (target, generated) = (keys::ROLE_TARGET, keys::ROLE_GENERATED);
        lock.deployment("free", Some((copy, target)), &promoted, &[traffic]).await?;
        let everything = all([held.clone(), more]);
        lock.deployment("held", Some((copy, target)), &everything, &[traffic]).await?;
        let used = json!({keys::BREAK_GLASS: "1 fire", keys::PROMOTED: "p"});
        lock.deployment("glassed", Some((copy, target)), &used, &[]).await?;
        lock.deployment("generated", Some((copy, generated)), &promoted, &[traffic]).await?;
        lock.deployment("in-place-held", Some((in_place, target)), &held, &[traffic]).await?;
        let reverted = json!({keys::PROMOTED: "p", keys::REVERTED: "p"});
        lock.deployment("in-place-reverted", Some((in_place, target)), &reverted, &[]).await?;
        let lost = json!({keys::REVERTED: "r"});
        lock.deployment("in-place-lost", Some((in_place, target)), &lost, &[]).await?;
        lock.deployment("in-place-generated", Some((in_place, generated)), &promoted, &[]).await?;
        lock.deployment("doomed", Some((copy, generated)), &promoted, &[traffic, "foregroundDeletion"])
            .await?;
        lock.deployment("in-place-orphaned", Some((in_place, target)), &promoted, &["orphan"]).await?;
        lock.deployment("stranger", None, &json!({}), &[traffic]).await?;
        for (name, annotations) in [("set", promoted.clone()), ("strange-set", json!({}))] {
            let object = json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": {"name": name, "namespace": lock.ns, "annotations": annotations},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": [{"name": "app", "image": "app:v1"}]},
                    },
                },
            });
            lock.world.create(&lock.ns, "rs", object).await?;
        }
        for (name, labels) in [("service", json!({keys::CANARY: "app"})), ("strange-service", json!({}))] {
            let port = |name: &str, port: u16| json!({"name": name, "port": port});
            let object = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": lock.ns, "labels": labels,
                    "annotations": {keys::PORTS: "http, admin", keys::ORIGINAL: r#"{"selector":{"app":"app"}}"#}},
                "spec": {"selector": {"app": "app"}, "ports": [port("http", 80), port("admin", 81), port("own", 82)]},
            });
            lock.world.create(&lock.ns, "svc", object).await?;
        }
        Ok(lock)
    }

    async fn deployment(
        &self,
        name: &str,
        enrolled: Option<(&str, &str)>,
        annotations: &Value,
        finalizers: &[&str],
    ) -> Result<()> {
        let labels = enrolled.map_or(
            json!({}),
            |(layout, role)| json!({keys::CANARY: "app", keys::LAYOUT: layout, keys::ROLE: role}),
        );
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": self.ns, "labels": labels, "annotations": annotations,
                "finalizers": finalizers},
            "spec": {
                "replicas": 0,
                "paused": annotations.get(keys::HOLD).is_some(),
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}, "annotations": {"note": "a", RESTARTED_AT: "before"}},
                    "spec": {"containers": [{"name": "app", "image": "app:v2"}]},
                },
            },
        });
        self.world.create(&self.ns, "deploy", object).await
    }

    /// Tries a write. `None` when it passes, else what is said.
    async fn tried(&self, case: &Case) -> Result<Option<String>> {
        let (group, kind, plural) = match case.object {
            "service" | "strange-service" => ("", "Service", "services"),
            "set" | "strange-set" => ("apps", "ReplicaSet", "replicasets"),
            _ => ("apps", "Deployment", "deployments"),
        };
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
        let client = match case.user {
            DEV | LEAD => {
                self.world.cp.client_as(&format!("system:serviceaccount:{}:{}", self.ns, case.user))
            }
            user => self.world.cp.client_as(user),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(client, &self.ns, &resource);
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let result = match &case.deed {
            Deed::Merge(patch) => api.patch(case.object, &params, &Patch::Merge(patch)).await.map(drop),
            Deed::Status(patch) => {
                api.patch_status(case.object, &params, &Patch::Merge(patch)).await.map(drop)
            }
            Deed::Delete(policy) => {
                let params = DeleteParams {
                    dry_run: true,
                    propagation_policy: policy.clone(),
                    ..DeleteParams::default()
                };
                api.delete(case.object, &params).await.map(drop)
            }
        };
        match result {
            Ok(()) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(Some(status.message.clone())),
            Err(error) => Err(error).with_context(|| format!("{case:?}")),
        }
    }

    /// Whether a write comes out as its case says.
    async fn holds(&self, case: &Case) -> Result<bool> {
        let said = self.tried(case).await?;
        Ok(match (case.refused, said) {
            (None, None) => true,
            (Some(why), Some(said)) => {
                let whose =
                    if case.object == "set" { "a Deployment with a Canary: " } else { "Canary app: " };
                said.contains(why) && said.contains(&format!("belongs to {whose}"))
            }
            _ => false,
        })
    }
}

/// The policies without one demand, and its message.
fn without(demand: usize) -> Result<(Vec<Value>, String)> {
    let mut policies = second_lock::policies(SIDETRACK);
    let mut validations = policies
        .iter_mut()
        .filter_map(|p| p.pointer_mut("/spec/validations").and_then(Value::as_array_mut))
        .flatten();
    let Some(validation) = validations.nth(demand) else { bail!("no demand {demand}") };
    let message = at(validation, "/messageExpression").to_string();
    if let Some(expression) = validation.pointer_mut("/expression") {
        *expression = "true".into();
    }
    Ok((policies, message))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_demand_of_the_policies_refuses_what_nothing_else_refuses() -> Result<()> {
    for (demand, part) in DEMANDS.iter().enumerate() {
        ensure!(without(demand)?.1.contains(part), "demand {demand} is not {part:?}");
    }
    ensure!(without(DEMANDS.len()).is_err(), "a demand has no case");

    let lock = Lock::new().await?;
    let cases = cases();
    eventually("the policies speak", async || {
        for demand in DEMANDS {
            let case = cases.iter().find(|c| c.refused == Some(demand)).context(demand)?;
            if lock.tried(case).await?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    let mut wrong = Vec::new();
    for case in &cases {
        if !lock.holds(case).await? {
            wrong.push(format!("{case:?}: {:?}", lock.tried(case).await?));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    for (demand, part) in DEMANDS.into_iter().enumerate() {
        for policy in without(demand)?.0 {
            lock.world.cp.apply(policy).await?;
        }
        let its = cases.iter().filter(|c| c.refused == Some(part));
        let its: Vec<&Case> = its.collect();
        eventually(&format!("without {part:?} something passes"), async || {
            for case in &its {
                if lock.tried(case).await?.is_none() {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await?;
    }
    Ok(())
}
