//! Which version this is, and which one the cluster runs.

use super::connection::Connection;
use super::{DONE, Out};
use crate::api::keys;
use crate::install::workload;
use crate::object::{list, text};
use serde_json::Value;

/// What is written on the Deployment of an installation.
const VERSION: &str = "/metadata/labels/app.kubernetes.io~1version";

pub(crate) async fn run(at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
    out.line(&format!("plugin      {}", env!("CARGO_PKG_VERSION")))?;
    let uri = format!("/apis/apps/v1/namespaces/{}/deployments/{}", keys::NAMESPACE, workload::NAME);
    let controller = match at.read(&uri).await {
        Ok(Some(deployment)) => of(&deployment),
        Ok(None) => format!("not installed in namespace {}", keys::NAMESPACE),
        Err(error) => format!("unknown: {}", error.root_cause()),
    };
    out.line(&format!("controller  {controller}"))?;
    Ok(DONE)
}

fn of(deployment: &Value) -> String {
    let images = list(deployment, "/spec/template/spec/containers").iter().map(|c| text(c, "/image"));
    let images: Vec<&str> = images.collect();
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    format!(
        "{} ({}), {} of {} replicas ready",
        text(deployment, VERSION),
        images.join(", "),
        number("/status/readyReplicas"),
        number("/spec/replicas")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::installation;
    use serde_json::json;

    #[test]
    fn an_installation_says_its_version_and_its_image() {
        let objects =
            installation("registry/sidetrack:1").unwrap().into_iter().flat_map(|(_, objects)| objects);
        let mut deployment = objects.into_iter().find(|object| object["kind"] == "Deployment").unwrap();
        deployment["status"] = json!({"readyReplicas": 1});
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(of(&deployment), format!("{version} (registry/sidetrack:1), 1 of 2 replicas ready"));
    }
}
