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

/// The Canary with a spec that names what it has taken over, and what its own names instead, a part of a sentence each. `None`
/// where that is the same.
pub(super) fn kept(canary: &Canary, config: &Config) -> Option<(Canary, Vec<String>)> {
    let had = canary.status.as_ref()?.adopted.as_ref()?;
    let now = named(canary, config);
    let same_provider = had.provider == now.provider
        || Traffic::parse(&had.provider)
            .is_ok_and(|parsed| Traffic::parse(&now.provider).as_ref() == Ok(&parsed));
    let changes: Vec<String> = [
        ("spec.targetRef.name", &had.target, &now.target, had.target == now.target),
        ("spec.service.name", &had.service, &now.service, had.service == now.service),
        ("spec.provider", &had.provider, &now.provider, same_provider),
    ]
    .into_iter()
    .filter(|(.., same)| !same)
    .map(|(what, had, now, _)| format!("{what} was {had} and is {now}"))
    .collect();
    if changes.is_empty() {
        return None;
    }
    let mut kept = canary.clone();
    kept.spec.target_ref.name.clone_from(&had.target);
    kept.spec.service.name = Some(had.service.clone());
    kept.spec.provider = Some(had.provider.clone());
    Some((kept, changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_taken_over_is_kept_and_the_change_is_named() {
        let canary: Canary = serde_json::from_value(json!({
            "metadata": {"name": "app"},
            "spec": {"targetRef": {"name": "web"}, "service": {"port": 80}},
            "status": {"adopted": {"target": "app", "service": "app", "provider": "istio"}},
        }))
        .unwrap();
        let (mut canary, changes) = kept(&canary, &Config::default()).unwrap();
        assert_eq!(
            changes,
            ["spec.targetRef.name was app and is web", "spec.service.name was app and is web"]
        );
        assert_eq!((canary.spec.target_ref.name.as_str(), canary.spec.apex_name()), ("app", "app"));
        assert_eq!(kept(&canary, &Config::default()), None, "the same provider is the default here");
        let other = Config { mesh_provider: "gatewayapi:v1".into(), ..Config::default() };
        canary.spec.provider = None;
        let (_, changes) = kept(&canary, &other).unwrap();
        assert_eq!(changes, ["spec.provider was istio and is gatewayapi:v1"]);
    }
}
