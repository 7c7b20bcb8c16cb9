//! Flagger's arguments, and what stands for each of them here.

use crate::install::settings;
use serde_json::Value;

/// What becomes of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The flag of this name has the same meaning.
    Same,
    /// Nothing stands for it, and this is lost.
    Lost(&'static str),
}

/// Flagger's arguments (1.44, cmd/flagger/main.go) that change what it does; the others are about its own process.
const ARGUMENTS: [(&str, Fate); 14] = [
    ("mesh-provider", Fate::Same),
    ("metrics-server", Fate::Same),
    ("namespace", Fate::Same),
    ("include-label-prefix", Fate::Same),
    ("no-cross-namespace-refs", Fate::Same),
    ("slack-url", Fate::Lost("alerts are not sent yet")),
    ("slack-channel", Fate::Lost("alerts are not sent yet")),
    ("slack-user", Fate::Lost("alerts are not sent yet")),
    ("slack-proxy-url", Fate::Lost("alerts are not sent yet")),
    ("msteams-url", Fate::Lost("alerts are not sent yet")),
    ("event-webhook", Fate::Lost("events are not sent to hooks yet; they are on the Canary")),
    ("selector-labels", Fate::Lost("selectors have label app, name or app.kubernetes.io/name")),
    ("ingress-annotations-prefix", Fate::Lost("ingress providers are not served yet")),
    ("ingress-class", Fate::Lost("ingress providers are not served yet")),
];

/// The labels by which Flagger finds pods where nobody says otherwise, as ours; its chart states them.
const SELECTOR_LABELS: &str = "app,name,app.kubernetes.io/name";

/// What Flagger was started with, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    /// Its provider for Canaries that name none.
    pub(super) mesh_provider: Option<String>,
    /// Flags of Sidetrack that say the same.
    pub(super) carried: Vec<String>,
    /// What is lost, a sentence each.
    pub(super) lost: Vec<String>,
}

impl Arguments {
    /// Reads them from Flagger's Deployment.
    pub(super) fn of(deployment: &Value) -> Self {
        let mut found =
            Self { mesh_provider: settings::flag(deployment, "mesh-provider"), ..Self::default() };
        for (name, fate) in ARGUMENTS {
            let stated = |value: &String| !value.is_empty() && value != SELECTOR_LABELS;
            let Some(value) = settings::flag(deployment, name).filter(stated) else { continue };
            match fate {
                Fate::Same => found.carried.push(format!("--{name}={value}")),
                Fate::Lost(what) => found.lost.push(format!("-{name}: {what}")),
            }
        }
        found
    }

    /// Those of [`Self::carried`] that an installed controller says nothing of; all, where there is none.
    pub(super) fn unset(&self, controller: Option<&Value>) -> Vec<String> {
        let name = |flag: &str| flag.trim_start_matches('-').split('=').next().unwrap_or_default().to_owned();
        let states = |flag: &str| controller.is_some_and(|d| settings::flag(d, &name(flag)).is_some());
        self.carried.iter().filter(|flag| !states(flag)).cloned().collect()
    }

    /// Adds them to the controller's Deployment, where an object of an installation is that.
    pub(super) fn add_to(&self, object: &mut Value) {
        let args = object.pointer_mut("/spec/template/spec/containers/0/args");
        if let Some(args) = args.and_then(Value::as_array_mut) {
            args.extend(self.carried.iter().map(|flag| Value::from(flag.as_str())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::installation;
    use serde_json::json;

    #[test]
    fn what_is_carried_over_and_what_is_lost_is_told_apart() {
        let args = json!([
            "-log-level=info",
            "-mesh-provider=nginx",
            "--metrics-server",
            "http://prometheus:9090",
            "-slack-url=https://hooks.example.com",
            "-event-webhook=",
            "-selector-labels=app,name,app.kubernetes.io/name"
        ]);
        let flagger = json!({"spec": {"template": {"spec": {"containers": [{"args": args}]}}}});
        let found = Arguments::of(&flagger);
        assert_eq!(found.mesh_provider.as_deref(), Some("nginx"));
        assert_eq!(found.carried, ["--mesh-provider=nginx", "--metrics-server=http://prometheus:9090"]);
        assert_eq!(found.lost, ["-slack-url: alerts are not sent yet"]);

        let objects =
            || installation("registry/sidetrack:1").unwrap().into_iter().flat_map(|(_, objects)| objects);
        let mut controller = objects().find(|o| o["kind"] == "Deployment").unwrap();
        assert_eq!(found.unset(Some(&controller)), found.carried);
        found.add_to(&mut controller);
        assert_eq!(settings::of(&controller).metrics_server, "http://prometheus:9090");
        assert_eq!(found.unset(Some(&controller)), Vec::<String>::new());
        assert_eq!(found.unset(None), found.carried);
        for mut other in objects().filter(|o| o["kind"] != "Deployment") {
            let before = other.clone();
            found.add_to(&mut other);
            assert_eq!(other, before);
        }
    }
}
