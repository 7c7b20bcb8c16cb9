//! The settings of the installed controller, read from the flags of its Deployment.

use crate::go;
use crate::object::list;
use crate::rollout::subject::Config;
use serde_json::Value;

/// Returns the settings that a Deployment of the controller gives it.
#[must_use]
pub fn of(deployment: &Value) -> Config {
    let mut config = Config::default();
    if let Some(provider) = flag(deployment, "mesh-provider") {
        config.mesh_provider = provider;
    }
    if let Some(interval) =
        flag(deployment, "min-interval").as_deref().and_then(|text| go::parse_duration(text).ok())
    {
        config.min_interval = interval;
    }
    if let Some(servers) = flag(deployment, "metrics-servers") {
        config.metrics_servers = servers.split(',').map(str::to_owned).collect();
    }
    if let Some(server) = flag(deployment, "metrics-server") {
        config.metrics_server = server;
    }
    config
}

/// Returns the value of a flag, written as `--name=value` or `--name value`, with one dash or two.
#[must_use]
pub fn flag(deployment: &Value, name: &str) -> Option<String> {
    let containers = list(deployment, "/spec/template/spec/containers");
    containers.iter().find_map(|container| {
        let mut words =
            ["/command", "/args"].into_iter().flat_map(|p| list(container, p)).filter_map(Value::as_str);
        while let Some(word) = words.next() {
            let Some(rest) = word.strip_prefix('-').map(|w| w.trim_start_matches('-')) else { continue };
            match rest.split_once('=') {
                Some((flag, value)) if flag == name => return Some(value.to_owned()),
                None if rest == name => return words.next().map(str::to_owned),
                _ => {}
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flags_are_found_in_each_way_of_writing_them() {
        for args in [
            json!(["run", "--mesh-provider=smi:v1alpha2", "--port=1"]),
            json!(["run", "-mesh-provider", "smi:v1alpha2"]),
        ] {
            let deployment = json!({"spec": {"template": {"spec": {"containers": [{"args": args}]}}}});
            assert_eq!(flag(&deployment, "mesh-provider").as_deref(), Some("smi:v1alpha2"));
            assert_eq!(flag(&deployment, "provider"), None);
        }
    }
}
