//! What a Canary asks for that this version does not serve, and what in it is doubtful.
//!
//! A refusal means that doing less than was asked would change which pods get traffic: the Canary is left alone
//! and says why. A missing notification, or a value that has a safe reading, is a warning.

use super::analysis::{Alert, Analysis, HookType, Metric, Webhook};
use super::canary::CanarySpec;
use super::duration;
use super::service::CanaryService;
use crate::router::Provider;
use std::time::Duration;

/// The traffic routers that this version serves. The flag may name a mesh after a version: `smi:v1alpha2:linkerd`.
const SERVED: &str =
    "istio, gatewayapi:v1, gatewayapi:v1beta1, smi:v1alpha1, smi:v1alpha2, smi:v1alpha3, linkerd, osm";

/// What is to be said about a Canary, a sentence each, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// Why the Canary is not served; empty if it is.
    pub refusals: Vec<String>,
    /// What is served otherwise than one might expect.
    pub warnings: Vec<String>,
}

impl Review {
    fn refuse(&mut self, sentence: impl Into<String>) {
        self.refusals.push(sentence.into());
    }

    fn warn(&mut self, sentence: impl Into<String>) {
        self.warnings.push(sentence.into());
    }
}

/// Reviews a Canary for a controller with this default provider and this least interval (Flagger: 10 s).
#[must_use]
pub fn review(spec: &CanarySpec, default_provider: &str, min_interval: Duration) -> Review {
    let mut review = Review::default();
    references(spec, &mut review);
    routing(spec, default_provider, &mut review);
    service(&spec.service, &mut review);
    strategy(&spec.analysis, &mut review);
    weights(&spec.analysis, &mut review);
    pace(spec, min_interval, &mut review);
    spec.analysis.metrics.iter().enumerate().for_each(|(index, metric)| check(index, metric, &mut review));
    spec.analysis.webhooks.iter().enumerate().for_each(|(index, hook)| webhook(index, hook, &mut review));
    alerts(&spec.analysis.alerts, &mut review);
    review
}

fn references(spec: &CanarySpec, review: &mut Review) {
    let target = &spec.target_ref;
    if target.kind != "Deployment" {
        review.refuse(format!(
            "spec.targetRef.kind is {:?}: only a Deployment can be released yet; name a Deployment.",
            target.kind
        ));
    }
    if target.name.is_empty() {
        review.refuse("spec.targetRef.name is empty: there is nothing to release; name a Deployment.");
    }
    match &spec.autoscaler_ref {
        Some(scaler) if scaler.kind != "HorizontalPodAutoscaler" => review.refuse(format!(
            "spec.autoscalerRef.kind is {:?}: the primary would run without its autoscaler, because only a \
             HorizontalPodAutoscaler can be copied yet; name one or remove autoscalerRef.",
            scaler.kind
        )),
        _ => {}
    }
}

fn routing(spec: &CanarySpec, default_provider: &str, review: &mut Review) {
    let provider = spec.provider(default_provider);
    let served = Provider::parse(provider).is_ok();
    if !served {
        review.refuse(format!(
            "spec.provider is {provider:?}{}: traffic could not be shifted, because this version serves only {SERVED}; \
             choose one of them.",
            if spec.provider("").is_empty() { " by default" } else { "" }
        ));
    }
    if provider.starts_with("gatewayapi:") && spec.service.gateway_refs.is_empty() {
        review.refuse(format!(
            "spec.service.gatewayRefs is empty: with provider {provider:?} the HTTPRoute would have no parent; \
             name the Gateway, or the Service of a mesh."
        ));
    }
    if spec.service.delegation && provider == "istio" {
        for (field, values) in [("hosts", &spec.service.hosts), ("gateways", &spec.service.gateways)] {
            if !values.is_empty() {
                review.refuse(format!(
                    "spec.service.{field} is {values:?} and spec.service.delegation is true: a VirtualService that \
                     another delegates to has no {field} of its own; remove one of the two."
                ));
            }
        }
    }
    for (field, given) in [
        ("ingressRef", spec.ingress_ref.is_some()),
        ("routeRef", spec.route_ref.is_some()),
        ("upstreamRef", spec.upstream_ref.is_some()),
    ] {
        if given && served {
            review.warn(format!("spec.{field} is not used by provider {provider:?}."));
        }
    }
}

fn service(service: &CanaryService, review: &mut Review) {
    if service.is_unset() {
        review.refuse(
            "spec.service is missing: without Services no traffic can be shifted; set at least spec.service.port.",
        );
    } else if !(1..=65_535).contains(&service.port) {
        review.refuse(format!(
            "spec.service.port is {}: a Service cannot have this port; use one from 1 to 65535.",
            service.port
        ));
    }
}

fn strategy(analysis: &Analysis, review: &mut Review) {
    if !analysis.match_.is_empty() {
        review.refuse(
            "spec.analysis.match is set: A/B testing is not served yet, and without it the canary would get other \
             requests than the chosen ones; remove match and use stepWeight or stepWeights.",
        );
    } else if analysis.iterations() > 0 {
        review.refuse(format!(
            "spec.analysis.iterations is {}: blue/green is not served yet; use stepWeight or stepWeights.",
            analysis.iterations()
        ));
    }
    if analysis.mirror {
        review.refuse(
            "spec.analysis.mirror is true: traffic mirroring is not served yet, and without it the canary would get \
             real requests first; remove mirror.",
        );
    } else if analysis.mirror_weight.is_some() {
        review.warn("spec.analysis.mirrorWeight has no effect without spec.analysis.mirror.");
    }
    if analysis.session_affinity.is_some() {
        review.refuse(
            "spec.analysis.sessionAffinity is set: session affinity is not served yet, and without it a user would \
             change sides between requests; remove sessionAffinity.",
        );
    }
}

fn weights(analysis: &Analysis, review: &mut Review) {
    let steps = &analysis.step_weights;
    let step = analysis.step_weight();
    if step == 0 && steps.is_empty() {
        if analysis.iterations() == 0 {
            review.warn(
                "spec.analysis.stepWeight is 0 and there are no stepWeights: no step is ever taken, so that no \
                 revision is ever promoted.",
            );
        }
        return;
    }
    if step > 0 && !steps.is_empty() {
        review.warn("spec.analysis.stepWeights gives only the final weight, because stepWeight is set too.");
    }
    if !steps.windows(2).all(|pair| matches!(pair, [before, after] if before < after)) {
        review.warn(format!("spec.analysis.stepWeights is {steps:?}: the weights do not increase."));
    }
    if steps.iter().any(|weight| !(1..=100).contains(weight)) {
        review
            .warn(format!("spec.analysis.stepWeights is {steps:?}: a weight is a percentage from 1 to 100."));
    }
    let max = analysis.max_weight();
    match analysis.max_weight {
        Some(written) if !steps.is_empty() && written != max => review.warn(format!(
            "spec.analysis.maxWeight is {written}, but the last of stepWeights, {max}, counts."
        )),
        Some(written) if steps.is_empty() && written != max => review.warn(format!(
            "spec.analysis.maxWeight is {written}, which is no percentage from 1 to 100: {max} counts."
        )),
        _ => {}
    }
    if step > 0 && max > 0 && max % step != 0 {
        let last = max.saturating_add(step - max % step).min(100);
        review.warn(format!(
            "spec.analysis.maxWeight is {max}, no multiple of stepWeight {step}: the canary gets up to {last} % of \
             the traffic."
        ));
    }
}

fn pace(spec: &CanarySpec, min_interval: Duration, review: &mut Review) {
    let analysis = &spec.analysis;
    let interval = analysis.interval.as_deref().unwrap_or_default();
    match duration::parse(interval) {
        None => {
            review.warn(format!("spec.analysis.interval is {interval:?}, which is no duration: 60s counts."))
        }
        Some(written) if written < min_interval => {
            review.warn(format!(
                "spec.analysis.interval is {interval:?}: the least interval, {min_interval:?}, counts."
            ));
        }
        Some(_) => {}
    }
    let threshold = analysis.threshold.unwrap_or_default();
    if threshold < 1 {
        review.warn(format!(
            "spec.analysis.threshold is {threshold}: 1 counts, the first failed check rolls back."
        ));
    }
    for (field, percent) in [
        ("primaryReadyThreshold", analysis.primary_ready_threshold()),
        ("canaryReadyThreshold", analysis.canary_ready_threshold()),
    ] {
        if percent < 1 {
            review.warn(format!(
                "spec.analysis.{field} is {percent}: pods count as ready although none may be."
            ));
        } else if percent > 100 {
            review
                .warn(format!("spec.analysis.{field} is {percent}: more than all pods can never be ready."));
        }
    }
    if let Some(seconds) = spec.progress_deadline_seconds.filter(|seconds| *seconds < 1) {
        review.warn(format!(
            "spec.progressDeadlineSeconds is {seconds}: every rollout is past its deadline at once."
        ));
    }
}

fn check(index: usize, metric: &Metric, review: &mut Review) {
    let Metric { name, .. } = metric;
    let field = format!("spec.analysis.metrics[{index}]");
    let built_in = matches!(name.as_str(), "request-success-rate" | "request-duration");
    let query = metric.query.as_deref().is_some_and(|query| !query.is_empty());
    if !built_in && !query && metric.template_ref.is_none() {
        review.warn(format!(
            "{field} ({name:?}) has neither query nor templateRef and is not built in: this check always fails."
        ));
    }
    match metric.threshold_range {
        Some(range) if matches!((range.min, range.max), (Some(min), Some(max)) if min > max) => review.warn(
            format!("{field}.thresholdRange ({name:?}) has a min above its max: this check always fails."),
        ),
        Some(range) if range.min.is_none() && range.max.is_none() => {
            review.warn(format!("{field}.thresholdRange ({name:?}) has no bound: every value passes."));
        }
        Some(_) => {}
        None if metric.threshold.is_none() && name == "request-success-rate" => {
            review.warn(format!(
                "{field} ({name:?}) has neither thresholdRange nor threshold: every value passes."
            ));
        }
        None if metric.threshold.is_none() => review.warn(format!(
            "{field} ({name:?}) has neither thresholdRange nor threshold: every value above 0 fails."
        )),
        None => {}
    }
}

fn webhook(index: usize, hook: &Webhook, review: &mut Review) {
    let Webhook { name, .. } = hook;
    let field = format!("spec.analysis.webhooks[{index}]");
    match hook.hook_type() {
        Some(HookType::ConfirmTrafficIncrease) => review.refuse(format!(
            "{field}.type ({name:?}) is \"confirm-traffic-increase\": this gate is not served yet, and without it \
             traffic would increase unasked; remove the hook or gate with confirm-rollout and confirm-promotion."
        )),
        Some(HookType::Event) => review.warn(format!(
            "{field}.type ({name:?}) is \"event\": events are not sent to hooks yet; they are on the Canary."
        )),
        None => review.refuse(format!(
            "{field}.type ({name:?}) is {:?}, which is unknown: what it guards would go on unasked; use a known type.",
            hook.type_.as_deref().unwrap_or_default()
        )),
        Some(_) => {}
    }
    if let Some(written) = hook.timeout.as_deref()
        && duration::parse(written) != Some(hook.timeout())
    {
        review.warn(format!(
            "{field}.timeout ({name:?}) is {written:?}, which is no time to wait: 10s counts."
        ));
    }
}

fn alerts(alerts: &[Alert], review: &mut Review) {
    if !alerts.is_empty() {
        review.warn(
            "spec.analysis.alerts is set: alerts are not sent yet; the same is said by events on the Canary.",
        );
    }
    for (index, alert) in alerts.iter().enumerate() {
        if alert.severity.as_deref().unwrap_or_default().is_empty() {
            review.warn(format!(
                "spec.analysis.alerts[{index}].severity ({:?}) is empty: Flagger never sends such an alert either; \
                 use info, warn or error.",
                alert.name
            ));
        }
    }
}

#[cfg(test)]
mod tests {
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
        review(&serde_json::from_value(spec).unwrap(), "istio", FLOOR)
    }

    #[test]
    fn a_sound_canary_has_nothing_to_be_said_about() {
        assert_eq!(with(&[]), Review::default());
        for provider in SERVED.split(", ").chain(["smi:v1alpha3:linkerd"]) {
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
            (("/provider".into(), json!("nginx")), "spec.provider is \"nginx\":", "smi:v1alpha3"),
            (("/provider".into(), json!("kubernetes")), "spec.provider is \"kubernetes\":", "istio"),
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
        let review = review(&spec, "nginx", FLOOR);
        assert!(review.refusals[0].contains("spec.provider is \"nginx\" by default"), "{review:?}");
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
                "spec.analysis.interval is \"5s\": the least interval, 10s, counts",
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
            (
                ("/analysis/webhooks", json!([{"name": "slow", "timeout": "0s"}])),
                "timeout (\"slow\") is \"0s\"",
            ),
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
}
