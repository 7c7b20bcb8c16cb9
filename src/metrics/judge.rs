//! Checks: which ones a Canary's metrics ask for, in which order, and what a sample means for the analysis.
//!
//! Texts are Flagger's events.

use super::observer::{DURATION, Observer, SUCCESS_RATE};
use super::prometheus::SampleError;
use super::render::{Model, RenderError, render};
use crate::go;
use crate::outbound::Variables;
use serde::Deserialize;

/// Interval of built-in and inline checks that state none (Flagger).
const DEFAULT_INTERVAL: &str = "1m";

/// An entry of `spec.analysis.metrics`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSpec {
    /// Its name; two names are built in.
    pub name: String,
    /// The range of the query, such as `1m`.
    pub interval: Option<String>,
    /// The bound where there is no range: the least for a success rate, the most for anything else.
    pub threshold: f64,
    /// The bounds.
    pub threshold_range: Option<ThresholdRange>,
    /// An inline query.
    pub query: Option<String>,
    /// A MetricTemplate.
    pub template_ref: Option<TemplateRef>,
    /// Variables for its query.
    pub template_variables: Variables,
}

/// Bounds of a metric, both inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ThresholdRange {
    /// The least value that passes.
    pub min: Option<f64>,
    /// The greatest value that passes.
    pub max: Option<f64>,
}

/// Names a MetricTemplate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TemplateRef {
    /// Its name.
    pub name: String,
    /// Its namespace; the Canary's if not given.
    pub namespace: Option<String>,
}

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The built-in success rate.
    SuccessRate,
    /// The built-in request duration.
    Duration,
    /// The metric's own query.
    Inline,
    /// The query of a MetricTemplate.
    Template,
    /// Nothing that can be asked; fails.
    Unusable,
}

/// One check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Check<'a> {
    /// What it is about.
    pub source: Source,
    /// The metric.
    pub metric: &'a MetricSpec,
}

/// Whom a check is made for, as its texts name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The Canary.
    pub canary: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The target.
    pub target: &'a str,
    /// The provider that is asked, from [`super::observer::metrics_provider`].
    pub provider: &'a str,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The value is within bounds.
    Passed {
        /// What `flagger_canary_metric_analysis` exports: the value, a duration in seconds.
        exported: f64,
    },
    /// The check failed.
    Failed(Failure),
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The event's text.
    pub message: String,
    /// Whether it could not be made at all: an event of Flagger's error level, else of its warning level.
    pub error: bool,
    /// The value, where there was one; exported as [`Verdict::Passed`]'s is.
    pub exported: Option<f64>,
}

impl Failure {
    fn error(message: String) -> Verdict {
        Verdict::Failed(Self { message, error: true, exported: None })
    }

    fn warning(message: String) -> Verdict {
        Verdict::Failed(Self { message, error: false, exported: None })
    }
}

/// Lists the checks in the order they are made, the first failure being the last (Flagger): built-in and
/// inline ones of all metrics, then templates.
#[must_use]
pub fn checks(metrics: &[MetricSpec]) -> Vec<Check<'_>> {
    let mut first = Vec::new();
    let mut then = Vec::new();
    for metric in metrics {
        let built_in = match metric.name.as_str() {
            SUCCESS_RATE => Some(Source::SuccessRate),
            DURATION => Some(Source::Duration),
            _ => None,
        };
        let inline = metric.query.as_ref().filter(|q| !q.is_empty()).map(|_| Source::Inline);
        first.extend(built_in.into_iter().chain(inline).map(|source| Check { source, metric }));
        if metric.template_ref.is_some() {
            then.push(Check { source: Source::Template, metric });
        } else if built_in.is_none() && inline.is_none() {
            then.push(Check { source: Source::Unusable, metric });
        }
    }
    first.append(&mut then);
    first
}

impl Check<'_> {
    /// Builds the query. `model` gives the names; interval and variables are the metric's. `template` is the
    /// query of
    /// the MetricTemplate, which only [`Source::Template`] reads. `None` for a check that has nothing to ask.
    ///
    /// # Errors
    ///
    /// When a template cannot be rendered; the text of the event is [`Self::unrendered`]'s.
    pub fn query(
        &self,
        observer: &Observer,
        model: &Model,
        template: Option<&str>,
    ) -> Result<Option<String>, RenderError> {
        let stated = self.metric.interval.clone().unwrap_or_default();
        // A template gets the interval as it stands, be it empty.
        let interval = if stated.is_empty() && self.source != Source::Template {
            DEFAULT_INTERVAL.to_owned()
        } else {
            stated
        };
        let model = Model { interval, variables: self.metric.template_variables.clone(), ..model.clone() };
        match self.source {
            Source::SuccessRate => observer.success_rate(&model).map(Some),
            Source::Duration => observer.duration(&model).map(Some),
            Source::Inline => self.metric.query.as_deref().map(|q| render(q, &model)).transpose(),
            Source::Template => template.map(|t| render(t, &model)).transpose(),
            Source::Unusable => Ok(None),
        }
    }

    /// Says that the query could not be rendered.
    #[must_use]
    pub fn unrendered(&self, namespace: &str, error: &RenderError) -> Verdict {
        match self.source {
            Source::Template => self.template_failure(namespace, &format!("query render error: {error}")),
            // Flagger sends an empty query then, and fails on the answer; this names the fault.
            _ => Failure::error(format!("Prometheus query failed for {}: {error}", self.metric.name)),
        }
    }

    /// Says what is wrong with the MetricTemplate itself: `error: …`, `secret NAME error: …`, `provider TYPE
    /// error: …`.
    #[must_use]
    pub fn template_failure(&self, namespace: &str, what: &str) -> Verdict {
        let reference = self.metric.template_ref.clone().unwrap_or_default();
        let namespace = reference.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
        Failure::error(format!("Metric template {}.{namespace} {what}", reference.name))
    }

    /// Returns a value that was exported as people read it, in the unit of the bounds.
    #[must_use]
    pub fn shown(&self, exported: f64) -> String {
        match self.source {
            #[expect(clippy::cast_possible_truncation, reason = "a float beyond i64 saturates")]
            Source::Duration => go::duration((exported * 1000.0).round() as i64),
            Source::SuccessRate => format!("{}%", go::float2(exported)),
            _ => go::float2(exported),
        }
    }

    /// Judges a sample; one for a check that has nothing to ask is ignored.
    #[must_use]
    pub fn verdict(
        &self,
        subject: &Subject<'_>,
        observer: &Observer,
        sample: &Result<f64, SampleError>,
    ) -> Verdict {
        if self.source == Source::Unusable {
            return Failure::error(
                "Metric query failed for no usable metrics template and query were configured".to_owned(),
            );
        }
        match sample {
            Ok(value) => self.bounds(subject, observer, *value),
            Err(error) => self.no_sample(subject, error),
        }
    }

    fn no_sample(&self, subject: &Subject<'_>, error: &SampleError) -> Verdict {
        let name = &self.metric.name;
        let Subject { namespace, target, provider, .. } = subject;
        let quiet = format!(
            "Halt advancement no values found for {provider} metric {name} probably {target}.{namespace} is not receiving traffic"
        );
        match (self.source, error) {
            (Source::SuccessRate, SampleError::NoValues) => {
                Failure::warning(format!("{quiet}: running query failed: {error}"))
            }
            (Source::Duration, SampleError::NoValues) => Failure::warning(quiet),
            (Source::SuccessRate | Source::Duration, _) => {
                Failure::error(format!("Prometheus query failed: running query failed: {error}"))
            }
            (Source::Template, SampleError::NoValues) => Failure::warning(format!(
                "Halt advancement no values found for custom metric: {name}: {error}"
            )),
            (Source::Template, _) => Failure::error(format!("Metric query failed for {name}: {error}")),
            (_, SampleError::NoValues) => {
                Failure::warning(format!("Halt advancement no values found for metric: {name}"))
            }
            (_, _) => Failure::error(format!("Prometheus query failed for {name}: {error}")),
        }
    }

    fn bounds(&self, subject: &Subject<'_>, observer: &Observer, value: f64) -> Verdict {
        let (shown, exported, broken) = match self.source {
            Source::Duration => {
                let ms = observer.milliseconds(value);
                #[expect(clippy::cast_precision_loss, reason = "a duration in seconds needs no 53 bits")]
                let seconds = ms as f64 / 1000.0;
                (go::duration(ms), seconds, self.broken_duration(ms))
            }
            Source::SuccessRate => {
                let broken =
                    self.broken(value, true).map(|(sign, bound)| (sign, format!("{}%", go::float(bound))));
                (format!("{}%", go::float2(value)), value, broken)
            }
            _ => {
                let broken = self.broken(value, false).map(|(sign, bound)| (sign, go::float(bound)));
                (go::float2(value), value, broken)
            }
        };
        let Some((sign, bound)) = broken else { return Verdict::Passed { exported } };
        let what = match self.source {
            Source::SuccessRate => "success rate",
            Source::Duration => "request duration",
            _ => &self.metric.name,
        };
        let message = format!(
            "Halt {}.{} advancement {what} {shown} {sign} {bound}",
            subject.canary, subject.namespace
        );
        Verdict::Failed(Failure { message, error: false, exported: Some(exported) })
    }

    /// Returns the bound that a value breaks. Without a range the threshold is the least (`at_least`) or the
    /// most.
    fn broken(&self, value: f64, at_least: bool) -> Option<(char, f64)> {
        let (min, max) = match (self.metric.threshold_range, at_least) {
            (Some(range), _) => (range.min, range.max),
            (None, true) => (Some(self.metric.threshold), None),
            (None, false) => (None, Some(self.metric.threshold)),
        };
        let low = min.filter(|min| value < *min).map(|min| ('<', min));
        low.or_else(|| max.filter(|max| value > *max).map(|max| ('>', max)))
    }

    /// The same for a duration: bounds are whole milliseconds, fractions cut off (Flagger).
    fn broken_duration(&self, ms: i64) -> Option<(char, String)> {
        #[expect(clippy::cast_possible_truncation, reason = "the cut is meant; a float beyond i64 saturates")]
        let whole = |bound: f64| bound as i64;
        let (min, max) = match self.metric.threshold_range {
            Some(range) => (range.min.map(whole), range.max.map(whole)),
            None => (None, Some(whole(self.metric.threshold))),
        };
        let low = min.filter(|min| ms < *min).map(|min| ('<', go::duration(min)));
        low.or_else(|| max.filter(|max| ms > *max).map(|max| ('>', go::duration(max))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::observer::observer;
    use super::*;

    fn metric(json: &str) -> MetricSpec {
        serde_json::from_str(json).unwrap()
    }

    fn judged(source: Source, json: &str, sample: &Result<f64, SampleError>) -> Verdict {
        let metric = metric(json);
        let subject = Subject { canary: "podinfo", namespace: "test", target: "app", provider: "istio" };
        Check { source, metric: &metric }.verdict(&subject, &observer("istio"), sample)
    }

    fn text(source: Source, json: &str, value: f64) -> String {
        match judged(source, json, &Ok(value)) {
            Verdict::Failed(failure) => failure.message,
            Verdict::Passed { .. } => "passed".to_owned(),
        }
    }

    #[test]
    fn a_value_is_shown_in_the_unit_of_its_bounds() {
        let metric = metric("{}");
        let shown = |source, value| Check { source, metric: &metric }.shown(value);
        assert_eq!(shown(Source::SuccessRate, 99.534), "99.53%");
        assert_eq!(shown(Source::Duration, 0.5), "500ms");
        assert_eq!(shown(Source::Template, 7.0), "7.00");
    }

    #[test]
    fn bounds_are_inclusive_and_named_when_broken() {
        let range = r#"{"name":"request-success-rate","thresholdRange":{"min":99,"max":99.5}}"#;
        assert_eq!(text(Source::SuccessRate, range, 99.0), "passed");
        assert_eq!(text(Source::SuccessRate, range, 99.5), "passed");
        assert_eq!(
            text(Source::SuccessRate, range, 90.5),
            "Halt podinfo.test advancement success rate 90.50% < 99%"
        );
        assert_eq!(
            text(Source::SuccessRate, range, 100.0),
            "Halt podinfo.test advancement success rate 100.00% > 99.5%"
        );
    }

    #[test]
    fn durations_are_compared_in_whole_milliseconds() {
        let range = r#"{"name":"request-duration","thresholdRange":{"min":10,"max":500.9}}"#;
        assert_eq!(text(Source::Duration, range, 500.9), "passed");
        assert_eq!(
            text(Source::Duration, range, 1500.0),
            "Halt podinfo.test advancement request duration 1.5s > 500ms"
        );
        assert_eq!(
            text(Source::Duration, range, 9.9),
            "Halt podinfo.test advancement request duration 9ms < 10ms"
        );
        let passed = judged(Source::Duration, range, &Ok(50.0));
        assert_eq!(passed, Verdict::Passed { exported: 0.05 });
    }

    #[test]
    fn threshold_is_the_least_success_rate_and_the_most_of_anything_else() {
        assert_eq!(
            text(Source::SuccessRate, r#"{"name":"request-success-rate","threshold":99}"#, 98.0),
            "Halt podinfo.test advancement success rate 98.00% < 99%"
        );
        assert_eq!(
            text(Source::Inline, r#"{"name":"inline","threshold":4}"#, 5.0),
            "Halt podinfo.test advancement inline 5.00 > 4"
        );
        assert_eq!(
            text(Source::Duration, r#"{"name":"request-duration"}"#, 1.0),
            "Halt podinfo.test advancement request duration 1ms > 0s"
        );
    }

    #[test]
    fn missing_values_and_failed_queries_fail_the_check() {
        let failure = |source, error: SampleError| match judged(source, r#"{"name":"m"}"#, &Err(error)) {
            Verdict::Failed(failure) => (failure.message, failure.error),
            Verdict::Passed { .. } => panic!("passed"),
        };
        let broken = || SampleError::Failed("x".into());
        let table = [
            (
                Source::SuccessRate,
                SampleError::NoValues,
                "Halt advancement no values found for istio metric m probably app.test is not receiving traffic: running query failed: no values found",
                false,
            ),
            (
                Source::Duration,
                SampleError::NoValues,
                "Halt advancement no values found for istio metric m probably app.test is not receiving traffic",
                false,
            ),
            (Source::Inline, SampleError::NoValues, "Halt advancement no values found for metric: m", false),
            (
                Source::Template,
                SampleError::NoValues,
                "Halt advancement no values found for custom metric: m: no values found",
                false,
            ),
            (
                Source::SuccessRate,
                SampleError::MultipleValues,
                "Prometheus query failed: running query failed: query returned multiple values",
                true,
            ),
            (Source::Duration, broken(), "Prometheus query failed: running query failed: x", true),
            (Source::Inline, broken(), "Prometheus query failed for m: x", true),
            (Source::Template, broken(), "Metric query failed for m: x", true),
            (
                Source::Unusable,
                broken(),
                "Metric query failed for no usable metrics template and query were configured",
                true,
            ),
        ];
        for (source, error, message, level) in table {
            assert_eq!(failure(source, error), (message.to_owned(), level));
        }
    }

    #[test]
    fn templates_come_after_built_in_and_inline_checks() {
        let metrics = [
            metric(r#"{"name":"custom","templateRef":{"name":"t"}}"#),
            metric(r#"{"name":"nothing"}"#),
            metric(r#"{"name":"inline","query":"x"}"#),
            metric(r#"{"name":"request-duration","query":"y"}"#),
        ];
        let order: Vec<_> = checks(&metrics).iter().map(|c| (c.source, c.metric.name.as_str())).collect();
        assert_eq!(
            order,
            [
                (Source::Inline, "inline"),
                (Source::Duration, "request-duration"),
                (Source::Inline, "request-duration"),
                (Source::Template, "custom"),
                (Source::Unusable, "nothing"),
            ]
        );
    }

    #[test]
    fn template_faults_name_the_template() {
        let metric = metric(r#"{"name":"m","templateRef":{"name":"requests","namespace":"flagger"}}"#);
        let check = Check { source: Source::Template, metric: &metric };
        let Verdict::Failed(failure) = check.unrendered("test", &RenderError::NoVariable("x".into())) else {
            panic!("passed")
        };
        assert_eq!(
            failure.message,
            "Metric template requests.flagger query render error: template excution failed: template: tmpl: map has no entry for key \"x\""
        );
    }
}
