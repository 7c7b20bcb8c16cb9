//! The container of a pod: what to run, with which environment, and how to probe it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::Image;

/// Returns name and tag of an image: `registry.example/team/app:v1` is `app` and `v1`.
pub(super) fn name_and_tag(image: &str) -> (&str, &str) {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').unwrap_or((last, "latest"))
}

/// The program, its arguments and its environment, all of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

/// Returns what to run for a container.
pub(super) fn entry(
    pod: &Pod,
    container: &Container,
    image: &Image,
    address: Ipv4Addr,
    kubeconfig: Option<PathBuf>,
) -> Result<Entry> {
    let mut env = vec![
        ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("HOSTNAME".to_owned(), pod.name_any()),
        ("POD_IP".to_owned(), address.to_string()),
        ("IMAGE".to_owned(), container.image.clone().unwrap_or_default()),
    ];
    env.extend(kubeconfig.map(|path| ("KUBECONFIG".to_owned(), path.display().to_string())));
    for variable in container.env.iter().flatten() {
        env.push((variable.name.clone(), value(pod, variable, address)?));
    }
    let mut args = image.before.clone();
    args.extend(container.args.iter().flatten().cloned());
    args.extend(image.after.iter().map(|arg| arg.replace("$(POD_IP)", &address.to_string())));
    Ok(Entry { program: image.program.clone(), args, env })
}

fn value(pod: &Pod, variable: &EnvVar, address: Ipv4Addr) -> Result<String> {
    if let Some(value) = &variable.value {
        return Ok(value.clone());
    }
    let Some(source) = &variable.value_from else { return Ok(String::new()) };
    let field = source.field_ref.as_ref().map(|field| field.field_path.as_str());
    Ok(match field {
        Some("metadata.name") => pod.name_any(),
        Some("metadata.namespace") => pod.namespace().unwrap_or_default(),
        Some("metadata.uid") => pod.uid().unwrap_or_default(),
        Some("status.podIP") => address.to_string(),
        _ => bail!("this kubelet has no value for environment variable {}", variable.name),
    })
}

/// An HTTP probe.
#[derive(Clone, Debug)]
pub(super) struct HttpProbe {
    url: String,
    client: reqwest::Client,
    /// Time between two probes.
    pub(super) period: Duration,
    /// Failures in a row that count as one.
    pub(super) failures: i32,
}

impl HttpProbe {
    /// Returns the probe, or none for a container that has none over HTTP.
    pub(super) fn of(
        probe: Option<&Probe>,
        container: &Container,
        address: Ipv4Addr,
    ) -> Result<Option<Self>> {
        let Some((probe, get)) = probe.and_then(|p| p.http_get.as_ref().map(|get| (p, get))) else {
            return Ok(None);
        };
        let port = match &get.port {
            IntOrString::Int(port) => *port,
            IntOrString::String(name) => {
                container
                    .ports
                    .iter()
                    .flatten()
                    .find(|port| port.name.as_deref() == Some(name))
                    .with_context(|| format!("no port is called {name}"))?
                    .container_port
            }
        };
        let seconds = |value: Option<i32>, or: u64| {
            Duration::from_secs(value.and_then(|v| v.try_into().ok()).unwrap_or(or))
        };
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(seconds(probe.timeout_seconds, 1))
            .pool_max_idle_per_host(0)
            .build()?;
        let path = get.path.as_deref().unwrap_or("/");
        Ok(Some(Self {
            url: format!("http://{address}:{port}{path}"),
            client,
            period: seconds(probe.period_seconds, 10),
            failures: probe.failure_threshold.unwrap_or(3),
        }))
    }

    /// Asks once.
    pub(super) async fn ask(&self) -> bool {
        self.client.get(&self.url).send().await.is_ok_and(|answer| answer.status().as_u16() < 400)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn registry_and_port_are_no_part_of_name_and_tag() {
        assert_eq!(name_and_tag("registry.example:5000/team/app:v1"), ("app", "v1"));
        assert_eq!(name_and_tag("app"), ("app", "latest"));
    }

    #[test]
    fn environment_has_fields_of_the_pod_and_address_stands_in_arguments() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        let container: Container =
            serde_json::from_value(json!({"name": "c", "image": "app:v1", "args": ["run"],
            "env": [{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}))
            .unwrap();
        let image = Image {
            name: "app",
            program: "/bin/app".into(),
            before: vec![],
            after: vec!["--bind=$(POD_IP):1".into()],
            api: false,
        };
        let entry = entry(&pod, &container, &image, Ipv4Addr::new(10, 244, 0, 10), None).unwrap();
        assert_eq!(entry.args, ["run", "--bind=10.244.0.10:1"]);
        assert!(entry.env.contains(&("ME".to_owned(), "p".to_owned())));
    }
}
