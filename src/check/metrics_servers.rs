//! Findings about what Canaries ask: their metrics servers, and the MetricTemplates that they name. A server that is a Service of
//! the cluster is asked by way of the API server, as the person who looks may.

use super::facts::{Answer, Facts, MetricsServer, Refusal, Reply};
use super::finding::Finding;
use super::finding::Level::{Error, Info, Warning};
use crate::api::keys;
use crate::rollout::subject::Subject;
use serde_json::Value;
use std::collections::BTreeMap;
use url::Url;

/// Canaries that are named; of more the number is said.
const NAMED: usize = 3;

/// What a query for a constant is asked with.
pub(super) const QUERY: &str = "api/v1/query?query=vector(1)";

/// Returns the addresses that Canaries ask, each with the Canaries that do.
pub(super) fn asked(facts: &Facts) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    each(facts, |canary, subject| {
        for address in subject.metrics_servers() {
            found.entry(address).or_default().push(canary.to_owned());
        }
    });
    found
}

/// Calls with every Canary that is served, and its name.
fn each(facts: &Facts, mut see: impl FnMut(&str, &Subject<'_>)) {
    let config = facts.config();
    let templates = facts.templates();
    for object in facts.canaries.iter().flatten() {
        let (snapshots, stored) = Default::default();
        let Ok(subject) = Subject::new(object.clone(), templates.clone(), snapshots, &stored, &config) else {
            continue;
        };
        if subject.review.refusals.is_empty() {
            see(&format!("{}/{}", subject.names.namespace, subject.names.canary), &subject);
        }
    }
}

/// The Service that an address names, as the controller resolves it: namespace, name and port.
pub(super) fn service(address: &Url) -> Option<(String, String, u16)> {
    let host = address.host_str()?;
    let port = address.port_or_known_default()?;
    let mut parts = host.trim_end_matches('.').split('.');
    let name = parts.next()?;
    let namespace = parts.next().unwrap_or(keys::NAMESPACE);
    let rest: Vec<&str> = parts.collect();
    let of_cluster = matches!(rest.as_slice(), [] | ["svc"] | ["svc", "cluster", "local"]);
    let is_name = !name.is_empty() && name.parse::<u8>().is_err();
    (of_cluster && is_name).then(|| (namespace.to_owned(), name.to_owned(), port))
}

/// What an answer of a Service amounts to.
pub(super) fn reply(answer: Answer<Value>) -> Reply {
    match answer {
        Ok(answer) if answer.get("status").is_some_and(|status| status == "success") => Reply::Answers,
        Ok(_) => Reply::Strange("it answers, and not as Prometheus does".to_owned()),
        Err(Refusal { code: 403, message }) => Reply::Unknown(message),
        Err(Refusal { message, .. }) => Reply::Strange(message),
    }
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found: Vec<Finding> = facts.metrics_servers.iter().filter_map(server).collect();
    if let Err(refusal) = &facts.templates {
        found.push(Finding::unknown("what MetricTemplates there are is", refusal));
        return found;
    }
    each(facts, |canary, subject| {
        if let Some(why) = subject.missing_template() {
            let what = format!("Canary {canary} asks a MetricTemplate that does not exist");
            found.push(Finding::new(
                Error,
                what,
                format!("{why}: every release is rejected"),
                "create it, or take it out of spec.analysis.metrics",
            ));
        }
    });
    found
}

fn server(server: &MetricsServer) -> Option<Finding> {
    let MetricsServer { address, users, reply } = server;
    let others = users.len().saturating_sub(NAMED);
    let mut names = users.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if others > 0 {
        names = format!("{names} and {others} more");
    }
    let rejects = |why: &str| format!("{why}: every release of {names} is rejected");
    let flag = "name another one: flag --metrics-server of the controller (docs/configure.md), spec.metricsServer, or the address of the MetricTemplate";
    Some(match reply {
        Reply::Answers | Reply::Elsewhere => return None,
        Reply::Missing(service) => Finding::new(
            Error,
            format!("metrics server {address} does not exist"),
            rejects(&format!("there is no Service {service}")),
            flag,
        ),
        Reply::Strange(why) => Finding::new(
            Warning,
            format!("metrics server {address} does not answer a query"),
            rejects(&format!(
                "through the API server it says: {why}. Where the controller gets the same answer"
            )),
            flag,
        ),
        Reply::Unknown(why) => Finding::new(
            Info,
            format!("metrics server {address} was not asked"),
            why.clone(),
            "look as somebody who may get services/proxy",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_told_from_a_server_elsewhere() {
        let of = |address: &str| {
            service(&Url::parse(address).unwrap()).map(|(ns, name, port)| format!("{ns}/{name}:{port}"))
        };
        assert_eq!(of("http://prometheus:9090").as_deref(), Some("sidetrack-system/prometheus:9090"));
        assert_eq!(of("http://prom.monitoring/select/0").as_deref(), Some("monitoring/prom:80"));
        assert_eq!(of("https://prom.monitoring.svc.cluster.local").as_deref(), Some("monitoring/prom:443"));
        assert_eq!(of("https://prometheus.example.com"), None);
        assert_eq!(of("http://10.0.0.1:9090"), None);
    }
}
