//! Each rule on a cluster on which all is well but for one thing.

use super::facts::{Answer, Asked, Facts, Installed, MetricsServer, Probe, Refusal, Reply, SecretUse};
use super::finding::{Finding, Level};
use crate::api::keys;
use crate::install::rights::rights;
use crate::install::{IMAGE, installation};
use crate::object::text;
use crate::router::{DESTINATION_RULE, VIRTUAL_SERVICE};
use crate::tls::issue;
use crate::tls::plan::{Policy, Step};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn bundle(made: Timestamp) -> String {
    let material = issue::take(Step::Create, None, &["a".to_owned()], &Policy::default(), made).unwrap();
    STANDARD.encode(material.bundle)
}

/// What an API server makes of an object of ours.
fn live(wanted: &Value) -> Value {
    let mut live = wanted.clone();
    match text(wanted, "/kind") {
        "CustomResourceDefinition" => {
            live["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
            live["spec"]["conversion"] = json!({"strategy": "None"});
        }
        "Deployment" => live["status"] = json!({"readyReplicas": 2}),
        "MutatingWebhookConfiguration" => {
            let bundle = bundle(NOW);
            for webhook in live.pointer_mut("/webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
                webhook["clientConfig"]["caBundle"] = bundle.clone().into();
            }
        }
        _ => {}
    }
    live
}

fn app(name: &str, replicas: i64) -> Value {
    json!({"kind": "Deployment", "metadata": {"namespace": "test", "name": name}, "spec": {"replicas": replicas}})
}

fn canary(name: &str) -> Value {
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"namespace": "test", "name": name},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
            "service": {"port": 80},
            "analysis": {"interval": "1m", "threshold": 5, "stepWeight": 10, "maxWeight": 50,
                "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99}}]},
        },
    })
}

fn lease(holder: &str, seconds: i64, renewed: Timestamp) -> Value {
    json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": renewed.to_string()}})
}

fn healthy() -> Facts {
    let wanted = installation(IMAGE).unwrap().into_iter().flat_map(|(_, objects)| objects);
    let verbs = rights().into_iter().flat_map(|right| right.verbs.iter().map(move |verb| (right, *verb)));
    let key = |name: &str| ("test".to_owned(), name.to_owned());
    Facts {
        now: NOW,
        version: json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2"}),
        user: Ok("admin".to_owned()),
        installed: wanted.map(|wanted| Installed { live: Ok(Some(live(&wanted))), wanted }).collect(),
        rights: verbs.map(|(right, verb)| Asked { right, verb, allowed: Ok(true) }).collect(),
        lease: Ok(Some(lease("sidetrack-0", 15, NOW))),
        probes: ["deployments.sidetrack.dev", "services.sidetrack.dev", "canaries.sidetrack.dev"]
            .map(|webhook| Probe { webhook, answer: Ok(json!({"metadata": {"labels": {"app": "a"}}})) })
            .into(),
        canaries: Ok(vec![canary("app")]),
        served: BTreeMap::from([VIRTUAL_SERVICE, DESTINATION_RULE].map(|kind| (kind, Ok(true)))),
        deployments: BTreeMap::from([
            (key("app"), Ok(Some(app("app", 0)))),
            (key("app-primary"), Ok(Some(app("app-primary", 2)))),
        ]),
        autoscalers: BTreeMap::from([("test".to_owned(), Ok(Vec::new()))]),
        flaggers: Ok(Vec::new()),
        secrets: Vec::new(),
        templates: Ok(Vec::new()),
        metrics_servers: vec![MetricsServer {
            address: "http://prometheus:9090".to_owned(),
            users: vec!["test/app".to_owned()],
            reply: Reply::Answers,
        }],
        adoptions: Vec::new(),
    }
}

fn complaints(facts: &Facts) -> Vec<Finding> {
    super::findings(facts).into_iter().filter(|finding| finding.level > Level::Ok).collect()
}

/// Asserts that the change makes exactly one complaint, of this level and with these words.
fn one(level: Level, words: &str, change: impl FnOnce(&mut Facts)) {
    let mut facts = healthy();
    change(&mut facts);
    let found = complaints(&facts);
    assert_eq!(found.len(), 1, "{words}: {found:#?}");
    assert_eq!(found[0].level, level, "{found:#?}");
    assert!(found[0].what.contains(words), "{words}: {found:#?}");
    assert!(!found[0].why.is_empty(), "{found:#?}");
}

fn object<'a>(facts: &'a mut Facts, kind: &str, name: &str) -> &'a mut Answer<Option<Value>> {
    let found = facts
        .installed
        .iter_mut()
        .find(|i| text(&i.wanted, "/kind") == kind && text(&i.wanted, "/metadata/name") == name);
    &mut found.unwrap().live
}

fn change(facts: &mut Facts, kind: &str, name: &str, patch: Value) {
    let live = object(facts, kind, name).as_mut().unwrap().as_mut().unwrap();
    json_patch::merge(live, &patch);
}

fn webhook(facts: &mut Facts) -> &mut Value {
    let live = object(facts, "MutatingWebhookConfiguration", "sidetrack").as_mut().unwrap().as_mut().unwrap();
    &mut live["webhooks"][0]
}

fn target(facts: &mut Facts) -> &mut Value {
    let key = ("test".to_owned(), "app".to_owned());
    facts.deployments.get_mut(&key).unwrap().as_mut().unwrap().as_mut().unwrap()
}

#[test]
fn a_metrics_server_that_does_not_answer_is_told_with_who_asks_it() {
    assert_eq!(
        super::metrics_servers::asked(&healthy()),
        BTreeMap::from([("http://prometheus:9090".to_owned(), vec!["test/app".to_owned()])])
    );
    one(Level::Error, "http://prometheus:9090 does not exist", |facts| {
        facts.metrics_servers[0].reply = Reply::Missing("sidetrack-system/prometheus".into());
    });
    one(Level::Warning, "does not answer a query", |facts| {
        facts.metrics_servers[0].reply = Reply::Strange("no endpoints available".into());
    });
    one(Level::Info, "was not asked", |facts| {
        facts.metrics_servers[0].reply = Reply::Unknown("services/proxy is forbidden".into());
    });
    one(Level::Error, "asks a MetricTemplate that does not exist", |facts| {
        let canaries = facts.canaries.as_mut().unwrap();
        canaries[0]["spec"]["analysis"]["metrics"] =
            json!([{"name": "errors", "templateRef": {"name": "t"}, "thresholdRange": {"max": 1}}]);
    });
    let mut facts = healthy();
    facts.metrics_servers[0].reply = Reply::Missing("sidetrack-system/prometheus".into());
    facts.keep_namespace("other");
    assert_eq!(complaints(&facts), []);
}

#[test]
fn healthy_cluster_has_no_complaint() {
    assert_eq!(complaints(&healthy()), []);
}

#[test]
fn old_api_servers_are_refused_and_vendors_pluses_are_not() {
    one(Level::Error, "older than 1.30", |facts| facts.version["minor"] = "29".into());
    let mut facts = healthy();
    facts.version["minor"] = "30+".into();
    assert_eq!(complaints(&facts), []);
}

#[test]
fn each_missing_object_is_named() {
    use Level::{Error, Info, Warning};
    for (level, kind, name) in [
        (Error, "CustomResourceDefinition", "canaries.flagger.app"),
        (Error, "Namespace", "sidetrack-system"),
        (Error, "ServiceAccount", "sidetrack"),
        (Error, "Deployment", "sidetrack"),
        (Error, "Service", "sidetrack"),
        (Error, "MutatingWebhookConfiguration", "sidetrack"),
        (Warning, "PodDisruptionBudget", "sidetrack"),
        (Warning, "ValidatingAdmissionPolicy", "sidetrack"),
        (Warning, "ValidatingAdmissionPolicyBinding", "sidetrack-services"),
        (Error, "ValidatingAdmissionPolicy", "sidetrack-requests"),
        (Error, "ValidatingAdmissionPolicyBinding", "sidetrack-canaries"),
        (Info, "NetworkPolicy", "sidetrack"),
        (Info, "ResourceQuota", "sidetrack"),
    ] {
        one(level, &format!("{kind} {name} is missing"), |facts| *object(facts, kind, name) = Ok(None));
    }
}

#[test]
fn definition_of_another_version_is_an_error_where_it_drops_fields() {
    const CANARIES: &str = "canaries.flagger.app";
    let kind = "CustomResourceDefinition";
    one(Level::Error, "lacks 1 fields, status.run", |facts| {
        let live = object(facts, kind, CANARIES).as_mut().unwrap().as_mut().unwrap();
        let status = &mut live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        status["properties"].as_object_mut().unwrap().remove("run");
    });
    one(Level::Warning, "is not this version's", |facts| {
        let live = object(facts, kind, CANARIES).as_mut().unwrap().as_mut().unwrap();
        live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["more"] =
            json!({"type": "string"});
    });
    one(Level::Error, "is not established", |facts| {
        change(facts, kind, CANARIES, json!({"status": {"conditions": []}}));
    });
}

#[test]
fn replicas_that_are_not_ready_are_told_by_how_bad_it_is() {
    let set = |replicas: i64, ready: i64| {
        move |facts: &mut Facts| {
            let patch = json!({"spec": {"replicas": replicas}, "status": {"readyReplicas": ready}});
            change(facts, "Deployment", "sidetrack", patch);
        }
    };
    one(Level::Error, "has 0 of 2 replicas ready", set(2, 0));
    one(Level::Warning, "has 1 of 2 replicas ready", set(2, 1));
    one(Level::Warning, "has 1 of 1 replicas ready", set(1, 1));
    one(Level::Info, "is version 0.0.1", |facts| {
        let patch = json!({"metadata": {"labels": {"app.kubernetes.io/version": "0.0.1"}}});
        change(facts, "Deployment", "sidetrack", patch);
    });
}

#[test]
fn each_missing_right_is_named() {
    one(Level::Error, "may not patch deployments.apps", |facts| {
        let asked = facts.rights.iter_mut().find(|a| a.right.resource == "deployments" && a.verb == "patch");
        asked.unwrap().allowed = Ok(false);
    });
    one(Level::Error, "may not get, list, watch, update secrets/sidetrack-webhook-tls", |facts| {
        for asked in
            facts.rights.iter_mut().filter(|a| a.right.resource == "secrets" && a.right.name.is_some())
        {
            asked.allowed = Ok(false);
        }
    });
    one(Level::Error, "may not patch deployments.apps/status", |facts| {
        let asked = facts.rights.iter_mut().find(|a| a.right.resource == "deployments/status");
        asked.unwrap().allowed = Ok(false);
    });
    one(Level::Error, "has no right at all", |facts| {
        facts.rights.iter_mut().for_each(|asked| asked.allowed = Ok(false));
    });
    one(Level::Warning, "rights of ServiceAccount sidetrack are not known", |facts| {
        facts.rights[0].allowed = Err(Refusal { code: 403, message: "no".to_owned() });
    });
}

#[test]
fn certificate_rights_are_not_missed_where_certificates_are_mounted() {
    let mut facts = healthy();
    for asked in facts.rights.iter_mut().filter(|a| a.right.resource == "secrets") {
        asked.allowed = Ok(false);
    }
    assert_eq!(complaints(&facts).len(), 2);
    let args =
        json!({"spec": {"template": {"spec": {"containers": [{"args": ["run", "--tls-cert-file=/c"]}]}}}});
    change(&mut facts, "Deployment", "sidetrack", args);
    assert_eq!(complaints(&facts), []);
}

#[test]
fn webhook_that_does_not_protect_is_an_error() {
    one(Level::Error, "failurePolicy Ignore", |facts| webhook(facts)["failurePolicy"] = "Ignore".into());
    one(Level::Error, "no caBundle", |facts| {
        webhook(facts)["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    });
    one(Level::Error, "cannot be read", |facts| webhook(facts)["clientConfig"]["caBundle"] = "?".into());
    one(Level::Error, "without a certificate", |facts| {
        webhook(facts)["clientConfig"]["caBundle"] = STANDARD.encode("text").into();
    });
    let made = |days_left: i64| bundle(NOW - SignedDuration::from_hours(24 * (365 - days_left)));
    one(Level::Error, "expired at", |facts| webhook(facts)["clientConfig"]["caBundle"] = made(-1).into());
    one(Level::Warning, "expires at", |facts| webhook(facts)["clientConfig"]["caBundle"] = made(3).into());
    one(Level::Warning, "operations differs", |facts| {
        webhook(facts)["rules"][0]["operations"] = json!(["CREATE"]);
    });
    one(Level::Warning, "objectSelector.matchExpressions differs", |facts| {
        webhook(facts)["objectSelector"] = json!({"matchLabels": {"a": "b"}});
    });
    one(Level::Error, "webhook deployments.sidetrack.dev is missing", |facts| {
        webhook(facts)["name"] = "other".into();
    });
}

#[test]
fn dry_run_write_tells_whether_the_webhook_answers() {
    let refused = |message: &str| Err(Refusal { code: 500, message: message.to_owned() });
    let labelled = || Ok(json!({"metadata": {"labels": {keys::CANARY: "x"}}}));
    one(Level::Error, "was not asked", |facts| facts.probes[0].answer = labelled());
    one(Level::Error, "was not asked", |facts| {
        facts.probes[2].answer = Ok(json!({"metadata": {"annotations": {keys::REQUEST: "x"}}}));
    });
    one(Level::Error, "x509: unknown authority", |facts| {
        facts.probes[1].answer =
            refused("failed calling webhook \"services.sidetrack.dev\": x509: unknown authority");
    });
    one(Level::Info, "whether it answers is not known", |facts| {
        facts.probes[0].answer = refused("denied the request: no image of that registry");
    });
    one(Level::Info, "whether it answers is not known", |facts| {
        facts.user = Ok(keys::CONTROLLER_USER.to_owned());
        facts.probes[0].answer = labelled();
    });
}

#[test]
fn nobody_who_leads_is_an_error() {
    let ago = |seconds| NOW.checked_sub(SignedDuration::from_secs(seconds)).unwrap();
    one(Level::Error, "nobody leads: there is no Lease", |facts| facts.lease = Ok(None));
    one(
        Level::Error,
        "nobody leads: \"gone\" holds Lease sidetrack for 3600 s and renewed it last at",
        |facts| {
            facts.lease = Ok(Some(lease("gone", 3600, ago(600))));
        },
    );
    one(Level::Error, "nobody leads", |facts| facts.lease = Ok(Some(lease("", 1, ago(3)))));
    let mut facts = healthy();
    facts.lease = Ok(Some(lease("busy", 15, ago(20))));
    assert_eq!(complaints(&facts), []);
}

#[test]
fn policy_that_does_not_hold_is_a_warning() {
    one(Level::Warning, "does not type-check", |facts| {
        let warning = json!({"status": {"typeChecking": {"expressionWarnings": [
            {"fieldRef": "spec.validations[0].expression", "warning": "undefined field"}]}}});
        change(facts, "ValidatingAdmissionPolicy", "sidetrack", warning);
    });
    one(Level::Warning, "spec.validations differs", |facts| {
        change(facts, "ValidatingAdmissionPolicy", "sidetrack", json!({"spec": {"validations": []}}));
    });
    one(Level::Warning, "validationActions[0] differs", |facts| {
        let patch = json!({"spec": {"validationActions": ["Audit"]}});
        change(facts, "ValidatingAdmissionPolicyBinding", "sidetrack", patch);
    });
}

#[test]
fn each_doubt_about_a_canary_is_said() {
    one(Level::Error, "Canary test/app is refused", |facts| {
        facts.canaries.as_mut().unwrap()[0]["spec"]["provider"] = "appmesh".into();
    });
    one(Level::Error, "Canaries app, other in test name one target", |facts| {
        facts.canaries.as_mut().unwrap().push(canary("other"));
    });
    one(
        Level::Error,
        "networking.istio.io/v1beta1 VirtualService, which this cluster does not serve",
        |facts| {
            facts.served.insert(VIRTUAL_SERVICE, Ok(false));
        },
    );
    one(Level::Warning, "Deployment app, which does not exist", |facts| {
        facts.deployments.insert(("test".to_owned(), "app".to_owned()), Ok(None));
    });
    one(Level::Warning, "asked for 0 replicas and its primary has 2", |facts| {
        target(facts)["metadata"]["annotations"] = json!({keys::REQUESTED_REPLICAS: "0"});
    });
    one(Level::Warning, "what Canaries there are is not known", |facts| {
        facts.canaries = Err(Refusal { code: 403, message: "no".to_owned() });
    });
}

#[test]
fn stated_replicas_are_found_in_both_ways_of_applying() {
    one(Level::Info, "states replicas", |facts| {
        let applied = r#"{"spec":{"replicas":3}}"#;
        target(facts)["metadata"]["annotations"] =
            json!({"kubectl.kubernetes.io/last-applied-configuration": applied});
    });
    let entry = |operation: &str| json!([{"manager": "m", "operation": operation, "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
    one(Level::Info, "states replicas", |facts| target(facts)["metadata"]["managedFields"] = entry("Apply"));
    let mut facts = healthy();
    target(&mut facts)["metadata"]["managedFields"] = entry("Update");
    assert_eq!(complaints(&facts), []);
}

#[test]
fn autoscaler_of_the_target_belongs_into_the_canary() {
    let scaler = json!({
        "metadata": {"namespace": "test", "name": "app"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "app"}},
    });
    let mut facts = healthy();
    facts.autoscalers.insert("test".to_owned(), Ok(vec![scaler]));
    let found = complaints(&facts);
    assert!(found[0].what.contains("HorizontalPodAutoscaler test/app scales the target"), "{found:?}");
    facts.canaries.as_mut().unwrap()[0]["spec"]["autoscalerRef"] =
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "app"});
    assert_eq!(complaints(&facts), []);
}

#[test]
fn unreadable_secret_is_said_with_its_user() {
    one(Level::Warning, "MetricTemplate test/q names Secret token", |facts| {
        facts.secrets.push(SecretUse {
            user: "MetricTemplate test/q".to_owned(),
            namespace: "test".to_owned(),
            secret: "token".to_owned(),
            allowed: Ok(false),
        });
    });
}

#[test]
fn running_flagger_is_to_be_stopped_and_its_load_tester_is_not() {
    let deployment = |image: &str, replicas: i64| {
        json!({
            "metadata": {"namespace": "flagger-system", "name": "flagger"},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"image": image}]}}},
        })
    };
    one(Level::Error, "Flagger runs: Deployment flagger-system/flagger", |facts| {
        facts.flaggers = Ok(vec![deployment("example.test/fluxcd/flagger:1.44.0", 1)]);
    });
    let mut facts = healthy();
    facts.flaggers = Ok(vec![deployment("flagger:1", 0), deployment("a.test/flagger-loadtester:1", 1)]);
    assert_eq!(complaints(&facts), []);
}

#[test]
fn what_is_the_same_of_many_is_explained_once() {
    let of = |name: &str| {
        Finding::new(Level::Warning, format!("Canary {name} waits"), "nobody leads", "see the pods")
    };
    let findings = [of("a"), of("b"), Finding::ok("API server"), of("c")];
    let text = super::text(&findings);
    assert_eq!(text.matches("nobody leads").count(), 2, "{text}");
    assert!(
        text.starts_with("warning  Canary a waits\nwarning  Canary b waits\n           why  nobody leads\n"),
        "{text}"
    );
    assert_eq!(
        super::short(&findings),
        "warning  Canary a waits\nwarning  Canary b waits\nwarning  Canary c waits\n"
    );
}

#[test]
fn text_is_aligned_and_counts() {
    let findings = [Finding::ok("a"), Finding::new(Level::Warning, "b", "c", "d")];
    let expected = "\
ok       a
warning  b
           why  c
           do   d

0 error, 1 warning, 0 info, 1 ok
";
    assert_eq!(super::text(&findings), expected);
}
