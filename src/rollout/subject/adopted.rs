//! What a Canary has taken over is what it serves until it has given it back, whatever its spec has come to say.

use super::Config;
use crate::api::Canary;
use crate::api::status::Adopted;
use crate::router::Traffic;

/// What the spec names.
pub(super) fn named(canary: &Canary, config: &Config) -> Adopted {
    let spec = &canary.spec;
    Adopted {
        target: spec.target_ref.name.clone(),
        service: spec.apex_name().to_owned(),
        provider: spec.provider(&config.mesh_provider).to_owned(),
        autoscaler: spec.autoscaler_ref.as_ref().map(|scaler| scaler.name.clone()),
    }
}

/// Lets the spec name what the Canary has taken over. Returns what it names instead, a part of a sentence each.
pub(super) fn keep(canary: &mut Canary, config: &Config) -> Vec<String> {
    let Some(had) = canary.status.as_ref().and_then(|status| status.adopted.clone()) else {
        return Vec::new();
    };
    let now = named(canary, config);
    let is_same = |one: &str, other: &str| {
        one == other || Traffic::parse(one).is_ok_and(|parsed| Traffic::parse(other).as_ref() == Ok(&parsed))
    };
    let mut changes = Vec::new();
    let mut compare = |what: &str, had: &str, now: &str, same: bool| {
        if !same {
            changes.push(format!("{what} was {had} and is {now}"));
        }
    };
    compare("spec.targetRef.name", &had.target, &now.target, had.target == now.target);
    compare("spec.service.name", &had.service, &now.service, had.service == now.service);
    compare("spec.provider", &had.provider, &now.provider, is_same(&had.provider, &now.provider));
    if !changes.is_empty() {
        canary.spec.target_ref.name = had.target;
        canary.spec.service.name = Some(had.service);
        canary.spec.provider = Some(had.provider);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_taken_over_is_kept_and_the_change_is_named() {
        let mut canary: Canary = serde_json::from_value(json!({
            "metadata": {"name": "app"},
            "spec": {"targetRef": {"name": "web"}, "service": {"port": 80}},
            "status": {"adopted": {"target": "app", "service": "app", "provider": "istio"}},
        }))
        .unwrap();
        assert_eq!(
            keep(&mut canary, &Config::default()),
            ["spec.targetRef.name was app and is web", "spec.service.name was app and is web"]
        );
        assert_eq!((canary.spec.target_ref.name.as_str(), canary.spec.apex_name()), ("app", "app"));
        assert_eq!(keep(&mut canary, &Config::default()), [""; 0], "the same provider is the default here");
        let other = Config { mesh_provider: "gatewayapi:v1".into(), ..Config::default() };
        canary.spec.provider = None;
        assert_eq!(keep(&mut canary, &other), ["spec.provider was istio and is gatewayapi:v1"]);
    }
}
