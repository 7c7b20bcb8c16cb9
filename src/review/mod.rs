//! What a Canary asks for that this version does not serve, and what in it is doubtful.
//!
//! A refusal means that doing less than was asked would change which pods get traffic: the Canary is left alone
//! and says why. A missing notification, or a value that has a safe reading, is a warning.

use crate::api::analysis::{Alert, Analysis, HookType, Metric, Webhook};
use crate::api::canary::CanarySpec;
use crate::api::keys::{LAYOUT, LAYOUT_IN_PLACE};
use crate::api::names::Layout;
use crate::api::service::CanaryService;
use crate::go;
use crate::router::{Traffic, served};
use std::time::Duration;

/// How often a hook may be called again for one question.
const MAX_RETRIES: u32 = 10;
/// How long a hook may take for one question: while it is on its way it takes the place of another.
const LONGEST_HOOK: Duration = Duration::from_secs(60 * 60);

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

/// Reviews a Canary in this layout for a controller with this default provider and this least interval (Flagger: 10 s).
#[must_use]
pub fn review(spec: &CanarySpec, layout: Layout, default_provider: &str, min_interval: Duration) -> Review {
    let mut review = Review::default();
    references(spec, &mut review);
    routing(spec, layout, default_provider, &mut review);
    service(&spec.service, &mut review);
    strategy(&spec.analysis, &mut review);
    weights(&spec.analysis, &mut review);
    pace(spec, min_interval, &mut review);
    spec.analysis.metrics.iter().enumerate().for_each(|(index, metric)| check(index, metric, &mut review));
    spec.analysis.webhooks.iter().enumerate().for_each(|(index, hook)| webhook(index, hook, &mut review));
    alerts(&spec.analysis.alerts, &mut review);
    if spec.analysis.metrics.is_empty() && spec.analysis.webhooks.is_empty() && !spec.skip_analysis {
        review.warn(
            "spec.analysis has neither metrics nor webhooks: whether a revision is good is judged by nothing but the readiness of its \
             pods.",
        );
    }
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

fn routing(spec: &CanarySpec, layout: Layout, default_provider: &str, review: &mut Review) {
    let provider = spec.provider(default_provider);
    let traffic = Traffic::parse(provider);
    if traffic == Ok(Traffic::Replicas) {
        by_replicas(&spec.analysis, layout, review);
    }
    if traffic.is_err() {
        review.refuse(format!(
            "spec.provider is {provider:?}{}: traffic could not be shifted, because this version serves only {}, \
             and \"kubernetes\" in layout {LAYOUT_IN_PLACE:?}; choose one of them.",
            if spec.provider("").is_empty() { " by default" } else { "" },
            served(),
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
        if given && traffic.is_ok() {
            review.warn(format!("spec.{field} is not used by provider {provider:?}."));
        }
    }
}

/// Without a router the share is the ratio of pods, for which the canary's have to stand in the application's Service.
fn by_replicas(analysis: &Analysis, layout: Layout, review: &mut Review) {
    if layout != Layout::InPlace {
        review.refuse(format!(
            "spec.provider is \"kubernetes\": blue/green is not served yet, and without a router weights can be set by \
             the number of pods only, in layout {LAYOUT_IN_PLACE:?}; set annotation {LAYOUT}: {LAYOUT_IN_PLACE}, or choose \
             one of {}.",
            served(),
        ));
    } else if analysis.max_weight() > 50 {
        review.warn(format!(
            "spec.analysis goes up to {} %: by the number of pods it is 50 at most, as many as the application has.",
            analysis.max_weight()
        ));
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
    match go::parse_duration(interval).ok() {
        None => {
            review.warn(format!("spec.analysis.interval is {interval:?}, which is no duration: 60s counts."))
        }
        Some(written) if written < min_interval => {
            review.warn(format!(
                "spec.analysis.interval is {interval:?}: that is too short, and {min_interval:?} is used (the controller's flag --min-interval)."
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
    let (retries, longest) =
        (hook.retries(), hook.timeout().saturating_mul(hook.retries().saturating_add(1)));
    if retries > MAX_RETRIES || longest > LONGEST_HOOK {
        review.refuse(format!(
            "{field} ({name:?}) may take {longest:?}, timeout times attempts, with {retries} retries: one question may be repeated \
             {MAX_RETRIES} times and take an hour in all; let the hook answer at once and be asked again in the next interval."
        ));
    }
    if let Some(written) = hook.timeout.as_deref()
        && go::parse_duration(written).ok() != Some(hook.timeout())
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
mod tests;
