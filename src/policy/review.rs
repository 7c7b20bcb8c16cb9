//! What is wrong with a policy, each with its field: said at apply by the webhook, and in status by the controller.

use super::{freeze, generate, selection};
use crate::api::canary_policy::{CanaryPolicySpec, Wave};
use crate::api::names::Layout;
use crate::{go, review};
use std::time::Duration;

/// Most characters of the name: it stands in a label value.
const NAME_LENGTH: usize = 63;

/// Returns what is wrong, a sentence each. The provider that Canaries get where the policy names none is not known here.
#[must_use]
pub fn review(name: &str, spec: &CanaryPolicySpec, default_provider: &str) -> Vec<String> {
    let mut found = Vec::new();
    if name.len() > NAME_LENGTH {
        found.push(format!("metadata.name: it has {} characters, more than {NAME_LENGTH}", name.len()));
    }
    found.extend(selection::problems("spec.namespaceSelector", &spec.namespace_selector));
    found.extend(selection::problems("spec.selector", &spec.selector));
    for (field, number) in
        [("maxTargets", spec.max_targets), ("maxConcurrentReleases", spec.max_concurrent_releases)]
    {
        if let Some(number) = number.filter(|number| *number < 1) {
            found.push(format!("spec.{field}: {number} is less than 1"));
        }
    }
    for (index, window) in spec.freeze.iter().enumerate() {
        found.extend(freeze::problems(&format!("spec.freeze[{index}]"), window));
    }
    if spec.approval.is_some_and(|approval| approval.four_eyes && !approval.required) {
        found.push(
            "spec.approval.fourEyes: it is true while spec.approval.required is not; without an approval only promote and \
             skip would be limited: set required, or remove fourEyes"
                .to_owned(),
        );
    }
    found.extend(spec.wave.iter().flat_map(wave));
    found.extend(canary(spec, default_provider));
    found
}

fn wave(wave: &Wave) -> Vec<String> {
    let mut found = Vec::new();
    if wave.after.is_empty() {
        found.push("spec.wave.after: it names no cluster".to_owned());
    }
    for (index, name) in wave.after.iter().enumerate() {
        if name.is_empty() || wave.after.iter().take(index).any(|before| before == name) {
            found.push(format!("spec.wave.after[{index}]: {name:?} is empty or named before"));
        }
    }
    let clusters = i32::try_from(wave.after.len()).unwrap_or(i32::MAX);
    if let Some(passed) = wave.passed.filter(|passed| !(1..=clusters.max(1)).contains(passed)) {
        found.push(format!(
            "spec.wave.passed: {passed} is not between 1 and the {clusters} clusters of after"
        ));
    }
    if let Some(soak) = wave.soak.as_deref().filter(|soak| go::parse_duration(soak).is_err()) {
        found.push(format!("spec.wave.soak: {soak:?} is no duration; write one such as \"1h\""));
    }
    found
}

/// What a Canary that says the same would be refused for.
fn canary(spec: &CanaryPolicySpec, default_provider: &str) -> Vec<String> {
    let sample = generate::spec(spec, "app", Some(generate::Port::default()));
    let analysis = &sample.analysis;
    let mut found = Vec::new();
    if analysis.step_weight() == 0 && analysis.step_weights.is_empty() && !sample.skip_analysis {
        found.push(
            "spec.canary.analysis: neither stepWeight nor stepWeights is set, so that no revision would ever be promoted"
                .to_owned(),
        );
    }
    if analysis.interval.as_deref().and_then(|text| go::parse_duration(text).ok()).is_none() {
        found.push(format!(
            "spec.canary.analysis.interval: {:?} is no duration; write one such as \"1m\"",
            analysis.interval.as_deref().unwrap_or_default()
        ));
    }
    let layout = Layout::parse(spec.layout.as_str()).unwrap_or_default();
    let refused = review::review(&sample, layout, default_provider, Duration::ZERO).refusals;
    found.extend(refused.into_iter().map(|text| text.replace("spec.", "spec.canary.")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(change: &Value) -> CanaryPolicySpec {
        let mut spec = json!({"canary": {"analysis": {"interval": "10s", "threshold": 2, "stepWeight": 20}}});
        json_patch::merge(&mut spec, change);
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_good_policy_has_nothing_wrong() {
        let good = spec(&json!({
            "freeze": [{"schedule": "0 18 * * FRI", "timeZone": "Europe/Berlin", "duration": "62h", "reason": "weekend"}],
            "approval": {"required": true, "fourEyes": true}, "maxConcurrentReleases": 2,
            "wave": {"after": ["a", "b"], "passed": 1, "soak": "1h"},
        }));
        assert_eq!(review("shop", &good, "istio"), [""; 0]);
    }

    #[test]
    fn each_mistake_is_named_with_its_field() {
        for (change, field) in [
            (
                json!({"namespaceSelector": {"matchLabels": {"a b": "c"}}}),
                "spec.namespaceSelector.matchLabels",
            ),
            (
                json!({"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
                "spec.selector.matchExpressions[0]",
            ),
            (json!({"maxTargets": 0}), "spec.maxTargets"),
            (json!({"maxConcurrentReleases": -1}), "spec.maxConcurrentReleases"),
            (
                json!({"freeze": [{"schedule": "x", "duration": "1h", "reason": "y"}]}),
                "spec.freeze[0].schedule",
            ),
            (json!({"approval": {"fourEyes": true}}), "spec.approval.fourEyes"),
            (json!({"wave": {"after": []}}), "spec.wave.after"),
            (json!({"wave": {"after": ["a", "a"]}}), "spec.wave.after[1]"),
            (json!({"wave": {"after": ["a"], "passed": 2}}), "spec.wave.passed"),
            (json!({"wave": {"after": ["a"], "soak": "soon"}}), "spec.wave.soak"),
            (json!({"canary": {"provider": "appmesh"}}), "spec.canary.provider"),
            (json!({"canary": {"analysis": {"stepWeight": null}}}), "spec.canary.analysis: neither"),
            (json!({"canary": {"analysis": {"interval": "often"}}}), "spec.canary.analysis.interval"),
            (json!({"canary": {"analysis": {"mirror": true}}}), "spec.canary.analysis.mirror"),
        ] {
            let found = review("shop", &spec(&change), "istio");
            assert!(found.iter().any(|problem| problem.starts_with(field)), "{change}: {found:?}");
        }
        assert_eq!(review(&"n".repeat(64), &spec(&json!({})), "istio").len(), 1);
    }
}
