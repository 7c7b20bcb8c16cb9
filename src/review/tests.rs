use super::*;
use serde_json::{Value, json};

const FLOOR: Duration = Duration::from_secs(10);

fn sound() -> Value {
    json!({
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
        "service": {"port": 80},
        "analysis": {
            "interval": "30s", "threshold": 3, "stepWeight": 10, "maxWeight": 50,
            "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99}}],
            "webhooks": [{"name": "gate", "type": "confirm-rollout", "url": "http://gate", "timeout": "5s"}],
        },
    })
}

/// Reviews the sound spec with these fields put in place of its own; null takes one away.
fn with(changes: &[(&str, Value)]) -> Review {
    let mut spec = sound();
    for (path, value) in changes {
        let (parent, field) = path.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    review(&serde_json::from_value(spec).unwrap(), Layout::default(), "istio", FLOOR)
}

#[test]
fn a_sound_canary_has_nothing_to_be_said_about() {
    assert_eq!(with(&[]), Review::default());
    for provider in served().split(", ").chain(["smi:v1alpha3:linkerd"]) {
        let gateways = json!([{"name": "public"}]);
        let review = with(&[("/provider", json!(provider)), ("/service/gatewayRefs", gateways)]);
        assert_eq!(review, Review::default(), "{provider}");
    }
}

#[test]
fn refuses_what_is_not_served_naming_field_value_and_remedy() {
    let analysis = |field: &'static str, value| (format!("/analysis/{field}"), value);
    let cases = [
        (
            ("/targetRef/kind".into(), json!("DaemonSet")),
            "spec.targetRef.kind is \"DaemonSet\"",
            "name a Deployment",
        ),
        (
            ("/targetRef/kind".into(), json!("Service")),
            "spec.targetRef.kind is \"Service\"",
            "name a Deployment",
        ),
        (("/targetRef/name".into(), json!("")), "spec.targetRef.name is empty", "name a Deployment"),
        (
            ("/autoscalerRef".into(), json!({"kind": "ScaledObject", "name": "a"})),
            "spec.autoscalerRef.kind is \"ScaledObject\"",
            "HorizontalPodAutoscaler",
        ),
        (("/provider".into(), json!("appmesh")), "spec.provider is \"appmesh\":", "smi:v1alpha3"),
        (("/provider".into(), json!("kubernetes")), "spec.provider is \"kubernetes\":", "in-place"),
        (
            ("/provider".into(), json!("gatewayapi:v1")),
            "spec.service.gatewayRefs is empty",
            "name the Gateway",
        ),
        (("/service".into(), json!(null)), "spec.service is missing", "spec.service.port"),
        (("/service/port".into(), json!(70_000)), "spec.service.port is 70000", "65535"),
        (analysis("match", json!([{"headers": {}}])), "spec.analysis.match", "stepWeight"),
        (analysis("iterations", json!(10)), "spec.analysis.iterations is 10", "stepWeight"),
        (analysis("mirror", json!(true)), "spec.analysis.mirror is true", "remove mirror"),
        (
            analysis("sessionAffinity", json!({"cookieName": "side"})),
            "spec.analysis.sessionAffinity",
            "remove sessionAffinity",
        ),
        (
            analysis("webhooks", json!([{"name": "more", "type": "confirm-traffic-increase"}])),
            "spec.analysis.webhooks[0].type (\"more\")",
            "remove the hook",
        ),
        (analysis("webhooks", json!([{"name": "x", "type": "later"}])), "\"later\"", "use a known type"),
        (
            analysis("webhooks", json!([{"name": "slow", "timeout": "1440m"}])),
            "spec.analysis.webhooks[0] (\"slow\") may take 86400s",
            "be asked again in the next interval",
        ),
        (
            analysis("webhooks", json!([{"name": "slow", "timeout": "30m", "retries": 2}])),
            "may take 5400s, timeout times attempts, with 2 retries",
            "be asked again in the next interval",
        ),
        (
            analysis("webhooks", json!([{"name": "eager", "retries": 11}])),
            "with 11 retries",
            "be asked again in the next interval",
        ),
    ];
    for ((path, value), names, remedy) in cases {
        let review = with(&[(path.as_str(), value.clone())]);
        let [refusal] = review.refusals.as_slice() else {
            panic!("{path} = {value}: {review:?}");
        };
        assert!(refusal.contains(names) && refusal.contains(remedy), "{path} = {value}: {refusal}");
        assert!(review.warnings.is_empty(), "{path} = {value}: {review:?}");
    }
}

#[test]
fn says_when_a_refused_provider_is_the_default() {
    let spec = serde_json::from_value(sound()).unwrap();
    let review = review(&spec, Layout::default(), "appmesh", FLOOR);
    assert!(review.refusals[0].contains("spec.provider is \"appmesh\" by default"), "{review:?}");
}

#[test]
fn shares_by_the_number_of_pods_end_at_half() {
    let mut spec = sound();
    spec["provider"] = "kubernetes".into();
    let mut warnings = |max: i32| {
        spec["analysis"]["maxWeight"] = max.into();
        review(&serde_json::from_value(spec.clone()).unwrap(), Layout::InPlace, "istio", FLOOR)
    };
    assert_eq!(warnings(50), Review::default());
    assert!(warnings(80).warnings[0].contains("up to 80 %"), "{:?}", warnings(80));
    assert!(warnings(80).refusals.is_empty());
}

#[test]
fn refuses_delegation_with_hosts_or_gateways_for_istio_only() {
    let changes = |provider| {
        [
            ("/provider", json!(provider)),
            ("/service/delegation", json!(true)),
            ("/service/hosts", json!(["app.example.com"])),
            ("/service/gateways", json!(["public"])),
        ]
    };
    let refusals = with(&changes("istio")).refusals;
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(refusals[0].starts_with("spec.service.hosts is [\"app.example.com\"]"), "{refusals:?}");
    assert!(refusals[1].starts_with("spec.service.gateways is [\"public\"]"), "{refusals:?}");
    assert_eq!(with(&changes("smi:v1alpha2")).refusals, [""; 0]);
    assert_eq!(with(&[("/service/delegation", json!(true))]).refusals, [""; 0]);
}

#[test]
fn warns_of_what_is_doubtful() {
    let metric = |metric: Value| ("/analysis/metrics", json!([metric]));
    let cases = [
        (("/ingressRef", json!({"name": "app"})), "spec.ingressRef is not used by provider \"istio\""),
        (
            ("/analysis", json!({"interval": "30s", "threshold": 3, "stepWeight": 10, "maxWeight": 50})),
            "neither metrics nor webhooks",
        ),
        (("/analysis/mirrorWeight", json!(10)), "spec.analysis.mirrorWeight has no effect"),
        (("/analysis/stepWeight", json!(0)), "no step is ever taken"),
        (("/analysis/stepWeight", json!(20)), "no multiple of stepWeight 20: the canary gets up to 60 %"),
        (
            ("/analysis/maxWeight", json!(0)),
            "maxWeight is 0, which is no percentage from 1 to 100: 100 counts",
        ),
        (
            ("/analysis/maxWeight", json!(120)),
            "maxWeight is 120, which is no percentage from 1 to 100: 100 counts",
        ),
        (("/analysis/interval", json!("10sx")), "which is no duration: 60s counts"),
        (
            ("/analysis/interval", json!("5s")),
            "spec.analysis.interval is \"5s\": that is too short, and 10s is used",
        ),
        (("/analysis/threshold", json!(0)), "spec.analysis.threshold is 0: 1 counts"),
        (("/analysis/primaryReadyThreshold", json!(0)), "none may be"),
        (("/analysis/canaryReadyThreshold", json!(101)), "can never be ready"),
        (("/progressDeadlineSeconds", json!(0)), "spec.progressDeadlineSeconds is 0"),
        (
            metric(json!({"name": "own", "threshold": 1})),
            "metrics[0] (\"own\") has neither query nor templateRef",
        ),
        (metric(json!({"name": "request-duration"})), "every value above 0 fails"),
        (metric(json!({"name": "request-success-rate"})), "every value passes"),
        (metric(json!({"name": "request-duration", "thresholdRange": {}})), "has no bound"),
        (
            metric(json!({"name": "request-duration", "thresholdRange": {"min": 2, "max": 1}})),
            "min above its max",
        ),
        (
            ("/analysis/webhooks", json!([{"name": "log", "type": "event", "url": "http://log"}])),
            "spec.analysis.webhooks[0].type (\"log\") is \"event\"",
        ),
        (("/analysis/webhooks", json!([{"name": "slow", "timeout": "0s"}])), "timeout (\"slow\") is \"0s\""),
        (("/analysis/alerts", json!([{"name": "chat", "severity": "info"}])), "alerts are not sent yet"),
    ];
    for ((path, value), says) in cases {
        let review = with(&[(path, value.clone())]);
        let [warning] = review.warnings.as_slice() else { panic!("{path} = {value}: {review:?}") };
        assert!(warning.contains(says), "{path} = {value}: {warning}");
        assert!(review.refusals.is_empty(), "{path} = {value}: {review:?}");
    }
}

#[test]
fn warns_of_step_weights_that_do_not_lead_upwards() {
    let steps = |weights: Value, max: Value| {
        with(&[
            ("/analysis/stepWeight", json!(null)),
            ("/analysis/stepWeights", weights),
            ("/analysis/maxWeight", max),
        ])
        .warnings
    };
    assert_eq!(steps(json!([5, 20, 60]), json!(null)), [""; 0]);
    assert_eq!(steps(json!([5, 20, 60]), json!(60)), [""; 0]);
    assert!(steps(json!([20, 20]), json!(null))[0].contains("[20, 20]: the weights do not increase"));
    assert!(steps(json!([50, 120]), json!(null))[0].contains("from 1 to 100"));
    assert!(steps(json!([0, 50]), json!(null))[0].contains("from 1 to 100"));
    assert!(steps(json!([5, 60]), json!(80))[0].contains("the last of stepWeights, 60, counts"));
}

#[test]
fn warns_that_an_alert_without_severity_is_never_sent() {
    let review = with(&[("/analysis/alerts", json!([{"name": "chat"}]))]);
    assert_eq!(review.warnings.len(), 2, "{review:?}");
    assert!(review.warnings[1].contains("alerts[0].severity (\"chat\") is empty"), "{review:?}");
}
