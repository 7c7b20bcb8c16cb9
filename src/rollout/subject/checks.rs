//! A question to the outside as an HTTP request, and the answer as a verdict.

use super::Subject;
use crate::api::MetricTemplate;
use crate::foreign::cut;
use crate::hooks::HookType;
use crate::metrics::judge::{self, MetricSpec, Source, Verdict};
use crate::metrics::observer::{Observer, metrics_provider, observer};
use crate::metrics::prometheus::{ONLINE_QUERY, Prometheus, online, sample};
use crate::metrics::render::{Model, RenderError};
use crate::object::{Kind, ObjectRef};
use crate::outbound::{Exchange, HttpRequest};
use crate::rollout::model::plan::{Answer, Check, Level, Message};
use base64::Engine as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a question comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// It is sent.
    Send(HttpRequest),
    /// It needs no sending: it fails as it stands.
    Settled(Answer),
}

/// An answer, and the value to export as a metric, where there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The answer.
    pub answer: Answer,
    /// Name of the metric and its value.
    pub exported: Option<(String, f64)>,
}

fn failed(message: Message) -> Answer {
    Answer { passed: false, error: message.text.clone(), messages: vec![message], value: None }
}

/// What was answered comes from outside.
fn border(answer: Answer) -> Answer {
    let messages = answer.messages.into_iter().map(|m| Message { text: cut(&m.text), ..m }).collect();
    Answer { messages, error: cut(&answer.error), ..answer }
}

fn error(text: String) -> Message {
    Message { level: Level::Error, ..Message::normal(text) }
}

impl Subject<'_> {
    /// Names the Secret that a check needs.
    #[must_use]
    pub fn secret_of(&self, check: &Check) -> Option<ObjectRef> {
        let Check::Metric { index } = check else { return None };
        let metrics = self.metrics();
        let checks = judge::checks(&metrics);
        let check = checks.get(*index).filter(|c| c.source == Source::Template)?;
        let (at, template) = self.template_at(check.metric)?;
        let name = template.ok()?.spec.provider.secret_ref?.name;
        Some(ObjectRef::new(Kind::Secret, at.namespace, name))
    }

    /// Builds the request of a check. `secret` is what [`Self::secret_of`] names, or why it cannot be read.
    #[must_use]
    pub fn question(&self, check: &Check, secret: Option<Result<Value, String>>) -> Question {
        match check {
            Check::Hook { index, phase } => {
                let hooks = self.hooks();
                let Some(hook) = hooks.get(*index) else {
                    return Question::Settled(failed(error(format!("webhook {index} is not in the spec"))));
                };
                let checksum = self.checksum();
                let payload = hook.payload(&self.names.canary, &self.names.namespace, phase, &checksum);
                match hook.request(&payload) {
                    Ok(request) => Question::Send(request),
                    Err(e) => Question::Settled(self.hook_answer(hook, Err(e.to_string()))),
                }
            }
            Check::Providers => {
                if let Some(why) = self.missing_template() {
                    return Question::Settled(unavailable(&why));
                }
                match Prometheus::new(self.metrics_server(), &BTreeMap::new(), None, false) {
                    Ok(server) => Question::Send(server.request(ONLINE_QUERY)),
                    Err(e) => Question::Settled(unavailable(&format!("prometheus not avaiable: {e}"))),
                }
            }
            Check::Metric { index } => {
                let metrics = self.metrics();
                let checks = judge::checks(&metrics);
                match checks.get(*index) {
                    Some(check) => self.metric_question(check, secret),
                    None => Question::Settled(failed(error(format!("metric {index} is not in the spec")))),
                }
            }
        }
    }

    fn metric_question(&self, check: &judge::Check<'_>, secret: Option<Result<Value, String>>) -> Question {
        let namespace = &self.names.namespace;
        let settled = |verdict: &Verdict| Question::Settled(judged(verdict, check).answer);
        let mut server = Prometheus::new(self.metrics_server(), &BTreeMap::new(), None, false);
        let mut text = None;
        if check.source == Source::Template {
            let template = match self.template_at(check.metric) {
                Some((_, Ok(template))) => template,
                Some((_, Err(why))) => {
                    return settled(&check.template_failure(namespace, &format!("error: {why}")));
                }
                None => return settled(&check.template_failure(namespace, "error: no reference")),
            };
            let provider = &template.spec.provider;
            let type_ = provider.type_.as_str();
            if type_ != "prometheus" {
                let what = format!("provider {type_} error: this version serves type prometheus only");
                return settled(&check.template_failure(namespace, &what));
            }
            let secret_name = provider.secret_ref.as_ref().map(|r| r.name.clone()).unwrap_or_default();
            let credentials = match secret.transpose() {
                Ok(secret) => secret.as_ref().map(data_of),
                Err(why) => {
                    let what = format!("secret {secret_name} error: {why}");
                    return settled(&check.template_failure(namespace, &what));
                }
            };
            let address = provider.address.clone().unwrap_or_default();
            server = Prometheus::new(
                &address,
                &provider.headers,
                credentials.as_ref(),
                provider.insecure_skip_verify,
            );
            text = Some(template.spec.query.clone());
        }
        let query = check.query(&self.observer(), &self.model(), text.as_deref());
        match (server, query) {
            (_, Err(e)) => settled(&check.unrendered(namespace, &e)),
            (Err(e), _) if check.source == Source::Template => {
                settled(&check.template_failure(namespace, &format!("provider prometheus error: {e}")))
            }
            (Err(e), _) => Question::Settled(failed(error(format!(
                "Error building Prometheus client for {} {e}",
                self.metrics_server()
            )))),
            (Ok(server), Ok(Some(query))) => Question::Send(server.request(&query)),
            (Ok(_), Ok(None)) => {
                let nothing = sample(&Err(crate::outbound::TransportError { message: String::new() }));
                settled(&check.verdict(
                    &self.judged_subject(&self.provider_name()),
                    &self.observer(),
                    &nothing,
                ))
            }
        }
    }

    /// Reads the answer to a check.
    #[must_use]
    pub fn judge(&self, check: &Check, exchange: &Exchange) -> Judged {
        let Judged { answer, exported } = self.judged(check, exchange);
        Judged { answer: border(answer), exported }
    }

    fn judged(&self, check: &Check, exchange: &Exchange) -> Judged {
        let plain = |answer| Judged { answer, exported: None };
        match check {
            Check::Hook { index, .. } => {
                let hooks = self.hooks();
                match hooks.get(*index) {
                    Some(hook) => plain(self.hook_answer(hook, hook.verdict(exchange))),
                    None => plain(failed(error(format!("webhook {index} is not in the spec")))),
                }
            }
            Check::Providers => plain(match online(exchange) {
                Ok(()) => Answer {
                    passed: true,
                    messages: vec![Message::normal("all the metrics providers are available!")],
                    error: String::new(),
                    value: None,
                },
                Err(why) => unavailable(&format!("prometheus not avaiable: {why}")),
            }),
            Check::Metric { index } => {
                let metrics = self.metrics();
                let checks = judge::checks(&metrics);
                let Some(check) = checks.get(*index) else {
                    return plain(failed(error(format!("metric {index} is not in the spec"))));
                };
                let provider = self.provider_name();
                let subject = self.judged_subject(&provider);
                judged(&check.verdict(&subject, &self.observer(), &sample(exchange)), check)
            }
        }
    }

    fn hook_answer(&self, hook: &crate::hooks::Hook, verdict: Result<(), String>) -> Answer {
        let rollback = hook.type_ == HookType::Rollback;
        match verdict {
            Ok(()) => Answer {
                passed: true,
                messages: hook
                    .passed()
                    .map(|text| if rollback { Message::warning(text) } else { Message::normal(text) })
                    .into_iter()
                    .collect(),
                error: String::new(),
                value: None,
            },
            Err(why) => {
                let text = hook.failed(&self.names.canary, &self.names.namespace, &why);
                let message = if rollback { Message::normal(text) } else { Message::warning(text) };
                Answer { passed: false, messages: vec![message], error: why, value: None }
            }
        }
    }

    /// Tells one revision from another in a hook's payload; constant within a run.
    fn checksum(&self) -> String {
        let status = self.canary.status.as_ref();
        status
            .and_then(|s| s.run.as_ref())
            .map(|run| crate::api::revision::Revision::from_key(&run.revision).short().to_owned())
            .or_else(|| status.and_then(|s| s.last_applied_spec.clone()))
            .unwrap_or_default()
    }

    pub(super) fn metrics_server(&self) -> &str {
        let own = self.spec().metrics_server.as_deref().filter(|s| !s.is_empty());
        own.unwrap_or(&self.config.metrics_server)
    }

    fn provider_name(&self) -> String {
        let spec = self.spec();
        metrics_provider(
            &self.config.mesh_provider,
            spec.provider.as_deref(),
            spec.target_ref.kind == Kind::Service.as_str(),
        )
    }

    fn observer(&self) -> Observer {
        observer(&self.provider_name())
    }

    fn judged_subject<'s>(&'s self, provider: &'s str) -> judge::Subject<'s> {
        judge::Subject {
            canary: &self.names.canary,
            namespace: &self.names.namespace,
            target: &self.names.canary_deployment,
            provider,
        }
    }

    fn model(&self) -> Model {
        let spec = self.spec();
        let named = |r: &Option<crate::api::canary::ObjectRef>| {
            r.as_ref().map_or_else(|| self.names.target.clone(), |r| r.name.clone())
        };
        Model {
            name: self.names.canary.clone(),
            namespace: self.names.namespace.clone(),
            target: self.names.canary_deployment.clone(),
            service: self.names.apex.clone(),
            ingress: named(&spec.ingress_ref),
            route: named(&spec.route_ref),
            ..Model::default()
        }
    }

    /// Metrics that this version cannot ask for at all, though Flagger can: each release would be rejected for them.
    pub(super) fn unanswerable(&self) -> Vec<String> {
        let metrics = self.metrics();
        let amiss = |check: &judge::Check<'_>| {
            let template = self.template_at(check.metric);
            let template = template.as_ref().and_then(|(at, template)| Some((at, template.as_ref().ok()?)));
            let (place, text) = match (check.source, template) {
                (Source::Template, Some((at, template))) => (
                    format!("MetricTemplate {}/{}", at.namespace, at.name),
                    Some(template.spec.query.as_str()),
                ),
                _ => (format!("metric {}", check.metric.name), None),
            };
            if let Some(other) =
                template.map(|(_, t)| t.spec.provider.type_.as_str()).filter(|t| *t != "prometheus")
            {
                return Some(format!(
                    "{place} asks a provider of type {other}; this version serves prometheus only: take it out of spec.analysis.metrics, or ask the same of a Prometheus."
                ));
            }
            match check.query(&self.observer(), &self.model(), text) {
                Err(RenderError::Unsupported(expression)) => Some(format!(
                    "the query of {place} has the expression {{{{ {expression} }}}}; only names, variables.NAME, index variables \"NAME\" and text in quotes are served: rewrite it."
                )),
                _ => None,
            }
        };
        judge::checks(&metrics).iter().filter_map(amiss).collect()
    }

    /// The addresses of the metrics servers that are asked.
    #[must_use]
    pub fn metrics_servers(&self) -> BTreeSet<String> {
        let metrics = self.metrics();
        let address = |metric: &MetricSpec| match self.template_at(metric) {
            None => Some(self.metrics_server().to_owned()),
            Some((_, template)) => template.ok()?.spec.provider.address.filter(|address| !address.is_empty()),
        };
        metrics.iter().filter_map(address).collect()
    }

    /// The first MetricTemplate that is named and cannot be read, and why.
    #[must_use]
    pub fn missing_template(&self) -> Option<String> {
        self.metrics().iter().find_map(|metric| {
            let (at, template) = self.template_at(metric)?;
            Some(format!("metric template {}.{} error: {}", at.name, at.namespace, template.err()?))
        })
    }

    /// The MetricTemplate that a metric names, or why it cannot be read.
    pub(super) fn template_at(
        &self,
        metric: &MetricSpec,
    ) -> Option<(ObjectRef, Result<MetricTemplate, String>)> {
        let reference = metric.template_ref.as_ref()?;
        let namespace =
            reference.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&self.names.namespace);
        let at = ObjectRef::new(Kind::MetricTemplate, namespace, &reference.name);
        let template = match self.live(&at) {
            Some(object) => serde_json::from_value(object.clone()).map_err(|e| e.to_string()),
            None => Err(format!("metrictemplate.flagger.app {:?} not found", at.name)),
        };
        Some((at, template))
    }
}

fn unavailable(why: &str) -> Answer {
    failed(error(format!("Error checking metric providers: {why}")))
}

fn judged(verdict: &Verdict, check: &judge::Check<'_>) -> Judged {
    let (mut answer, value) = match verdict {
        Verdict::Passed { exported } => {
            let answer = Answer { passed: true, messages: Vec::new(), error: String::new(), value: None };
            (answer, Some(*exported))
        }
        Verdict::Failed(failure) => {
            let text = failure.message.clone();
            let message = if failure.error { error(text) } else { Message::warning(text) };
            (failed(message), failure.exported)
        }
    };
    answer.value = value.map(|value| check.shown(value));
    Judged { answer, exported: value.map(|value| (check.metric.name.clone(), value)) }
}

fn data_of(secret: &Value) -> BTreeMap<String, Vec<u8>> {
    let decode = |v: &Value| base64::engine::general_purpose::STANDARD.decode(v.as_str()?).ok();
    secret
        .get("data")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), decode(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::object::{Kind, ObjectRef};
    use crate::rollout::subject::testing::subject;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn what_this_version_cannot_ask_for_is_refused_before_a_release_is_rejected_for_it() {
        let mut subject = subject(&json!({"metadata": {"labels": {"app": "app"}}, "spec": {}}));
        let template = |provider: &str, query: &str| json!({"metadata": {"name": "t"}, "spec": {"provider": {"type": provider, "address": "http://p"}, "query": query}});
        let at = ObjectRef::new(Kind::MetricTemplate, "test", "t");
        json_patch::merge(
            Arc::make_mut(&mut subject.object),
            &json!({"spec": {"analysis": {"metrics": [
                {"name": "inline", "query": "up{n=\"{{ name }}\"}"},
                {"name": "errors", "templateRef": {"name": "t"}},
            ]}}}),
        );
        assert_eq!(subject.unanswerable(), [""; 0], "one that is missing may come");
        for (provider, query, why) in [
            ("prometheus", "x{{ index variables \"a-b\" }}", ""),
            ("prometheus", "{{ nobody }}", ""), // Flagger's error, and its failed check
            ("prometheus", "{{ if name }}x{{ end }}", "the expression {{ if name }}"),
            ("datadog", "avg:x", "MetricTemplate test/t asks a provider of type datadog"),
        ] {
            subject.objects.insert(at.clone(), template(provider, query).into());
            let said = subject.unanswerable().join(" ");
            assert!(said.contains(why) && said.is_empty() == why.is_empty(), "{query}: {said}");
        }
    }
}
