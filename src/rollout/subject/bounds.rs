//! What the one who runs the controller does not let Canaries name.

use super::Subject;
use url::Url;

impl Subject<'_> {
    /// Says what the Canary names beyond `--no-cross-namespace-refs` and `--metrics-servers`: what would be asked there it
    /// would see by the controller's eyes.
    pub(super) fn out_of_bounds(&self) -> Vec<String> {
        let mut found = Vec::new();
        let (own, analysis) = (&self.names.namespace, &self.spec().analysis);
        let templates = analysis.metrics.iter().filter_map(|metric| metric.template_ref.as_ref());
        let providers = analysis.alerts.iter().map(|alert| &alert.provider_ref);
        let named = templates.map(|r| ("metric template", r)).chain(providers.map(|r| ("alert provider", r)));
        if self.config.no_cross_namespace_refs {
            found.extend(named.filter_map(|(what, r)| {
                let other = r.namespace.as_deref().filter(|n| !n.is_empty() && n != own)?;
                let name = &r.name;
                Some(format!(
                    "can't access {what} {name}.{other}, cross-namespace references are blocked: copy it into namespace {own}."
                ))
            }));
        }
        let metrics = self.metrics();
        let addresses = metrics.iter().filter_map(|metric| {
            let (at, template) = self.template_at(metric)?;
            let place = format!("MetricTemplate {}/{}", at.namespace, at.name);
            Some((place, template.ok()?.spec.provider.address.unwrap_or_default()))
        });
        let own_server = ("spec.metricsServer".to_owned(), self.metrics_server().to_owned());
        found.extend([own_server].into_iter().chain(addresses).filter_map(|(place, address)| {
            (!self.may_ask(&address)).then(|| {
                let allowed = self.config.metrics_servers.join(", ");
                format!("{place} names {address}, which is none of the metrics servers that may be asked here ({allowed}).")
            })
        }));
        found
    }

    /// Says what of the spec, and of the MetricTemplates that it names, is not served, whatever else there is.
    #[must_use]
    pub fn not_served(&self) -> Vec<String> {
        let parts = [self.review.refusals.clone(), self.out_of_bounds(), self.unanswerable()];
        parts.into_iter().flatten().collect()
    }

    /// Whether a metrics server may be asked.
    fn may_ask(&self, address: &str) -> bool {
        let allowed = &self.config.metrics_servers;
        if allowed.is_empty() || address.is_empty() || address == self.config.metrics_server {
            return true;
        }
        let Ok(url) = Url::parse(address) else { return true };
        let host = url.host_str().unwrap_or_default();
        let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        allowed.iter().any(|one| one == host || *one == with_port)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::testing::subject_of;
    use serde_json::json;

    #[test]
    fn only_metrics_servers_that_may_be_asked_are_named() {
        let config =
            Config { metrics_servers: vec!["thanos".into(), "10.0.0.1:9090".into()], ..Config::default() };
        for (server, fine) in [
            ("http://prometheus:9090", true),
            ("http://thanos:10902/a", true),
            ("https://thanos", true),
            ("http://10.0.0.1:9090", true),
            ("http://10.0.0.1", false),
            ("http://evil.example.com@other/", false),
            ("http://thanos.example.com", false),
        ] {
            let subject = subject_of(&json!({"metricsServer": server}), &config);
            assert_eq!(subject.out_of_bounds().is_empty(), fine, "{server}: {:?}", subject.out_of_bounds());
        }
    }

    #[test]
    fn nothing_of_another_namespace_is_named_where_that_is_blocked() {
        let spec = |namespace: &str| {
            json!({"analysis": {
                "metrics": [{"name": "m", "templateRef": {"name": "t", "namespace": namespace}}],
                "alerts": [{"name": "a", "severity": "info", "providerRef": {"name": "p", "namespace": namespace}}],
            }})
        };
        let blocked = Config { no_cross_namespace_refs: true, ..Config::default() };
        assert_eq!(subject_of(&spec("other"), &Config::default()).out_of_bounds(), [""; 0]);
        assert_eq!(subject_of(&spec("test"), &blocked).out_of_bounds(), [""; 0]);
        let said = subject_of(&spec("other"), &blocked).out_of_bounds().join(" ");
        assert!(said.contains("metric template t.other, cross-namespace references are blocked"), "{said}");
        assert!(said.contains("alert provider p.other, cross-namespace references are blocked"), "{said}");
    }
}
