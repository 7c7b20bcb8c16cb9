//! Built-in checks: the queries behind `request-success-rate` and `request-duration`, by provider.
//!
//! The queries are Flagger's to the character (docs.flagger.app, "Metrics analysis"), white space collapsed
//! as it is
//! before sending: recording rules, caches and tests are written against them.

use super::render::{Model, RenderError, render};

/// Name of the built-in success rate, in percent.
pub const SUCCESS_RATE: &str = "request-success-rate";
/// Name of the built-in request duration, compared in milliseconds.
pub const DURATION: &str = "request-duration";

/// The queries of one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observer {
    /// The counter whose rates are divided.
    requests: &'static str,
    /// Conditions on it for all requests.
    selector: &'static str,
    /// What tells a request that did not fail.
    success: &'static str,
    /// Further conditions, after that; with the comma before them.
    further: &'static str,
    /// What ends the conditions on all requests: some of Flagger's queries have a comma there.
    tail: &'static str,
    /// Whether the queries are written without spaces.
    compact: bool,
    /// The latency query.
    latency: Latency,
}

/// How latency is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Latency {
    /// The 99th percentile of a histogram.
    Quantile {
        /// The buckets.
        bucket: &'static str,
        /// Conditions on them.
        selector: &'static str,
        /// What makes milliseconds of it.
        unit: Unit,
    },
    /// The mean: a sum divided by a count, in seconds, times 1000.
    Mean {
        /// The sum.
        sum: &'static str,
        /// The count.
        count: &'static str,
    },
}

/// The unit of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// Seconds, made milliseconds by the query.
    SecondsInQuery,
    /// Seconds, made milliseconds after the query.
    Seconds,
}

/// What most have in common.
const PLAIN: Observer = Observer {
    requests: "",
    selector: "",
    success: "",
    further: "",
    tail: "",
    compact: false,
    latency: Latency::Mean { sum: "", count: "" },
};

const ISTIO: Observer = Observer {
    requests: "istio_requests_total",
    selector: r#"reporter="destination", destination_workload_namespace="{{ namespace }}", destination_workload=~"{{ target }}""#,
    success: r#"response_code!~"5.*""#,
    latency: Latency::Quantile {
        bucket: "istio_request_duration_milliseconds_bucket",
        selector: r#"reporter="destination", destination_workload_namespace="{{ namespace }}", destination_workload=~"{{ target }}""#,
        unit: Unit::Milliseconds,
    },
    ..PLAIN
};

const LINKERD: Observer = Observer {
    requests: "response_total",
    selector: r#"namespace="{{ namespace }}", deployment=~"{{ target }}""#,
    success: r#"classification!="failure""#,
    further: r#", direction="inbound""#,
    latency: Latency::Quantile {
        bucket: "response_latency_ms_bucket",
        selector: r#"namespace="{{ namespace }}", deployment=~"{{ target }}", direction="inbound""#,
        unit: Unit::Milliseconds,
    },
    ..PLAIN
};

const PODS: &str = r#"kubernetes_namespace="{{ namespace }}", kubernetes_pod_name=~"{{ target }}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)""#;

/// The application's own metrics, for providers without any.
const HTTP: Observer = Observer {
    requests: "http_request_duration_seconds_count",
    selector: PODS,
    success: r#"status!~"5.*""#,
    latency: Latency::Quantile {
        bucket: "http_request_duration_seconds_bucket",
        selector: PODS,
        unit: Unit::Seconds,
    },
    ..PLAIN
};

const APPMESH: Observer = Observer {
    requests: "envoy_cluster_upstream_rq",
    selector: PODS,
    success: r#"envoy_response_code!~"5.*""#,
    latency: Latency::Quantile {
        bucket: "envoy_cluster_upstream_rq_time_bucket",
        selector: PODS,
        unit: Unit::Milliseconds,
    },
    ..PLAIN
};

const CONTOUR: Observer =
    envoy(r#"envoy_cluster_name=~"{{ namespace }}_{{ service }}-canary_[0-9a-zA-Z-]+""#);
const GLOO: Observer =
    envoy(r#"envoy_cluster_name=~"{{ namespace }}-{{ target }}-canaryupstream-[0-9a-zA-Z-]+_[0-9a-zA-Z-]+""#);
const KUMA: Observer = envoy(r#"service=~"{{ target }}-canary_{{ namespace }}_svc_[0-9a-zA-Z-]+""#);
const KNATIVE: Observer = envoy(r#"envoy_cluster_name=~"{{ namespace }}/{{ route }}""#);

/// Envoy's counters under one selector.
const fn envoy(selector: &'static str) -> Observer {
    Observer {
        requests: "envoy_cluster_upstream_rq",
        selector,
        success: r#"envoy_response_code!~"5.*""#,
        tail: ",",
        latency: Latency::Quantile {
            bucket: "envoy_cluster_upstream_rq_time_bucket",
            selector,
            unit: Unit::Milliseconds,
        },
        ..PLAIN
    }
}

const NGINX: Observer = Observer {
    requests: "nginx_ingress_controller_requests",
    selector: r#"namespace="{{ namespace }}", ingress="{{ ingress }}", canary!="""#,
    success: r#"status!~"5.*""#,
    latency: Latency::Mean {
        sum: "nginx_ingress_controller_response_duration_seconds_sum",
        count: "nginx_ingress_controller_response_duration_seconds_count",
    },
    ..PLAIN
};

const TRAEFIK_SERVICE: &str = r#"service=~"{{ namespace }}-{{ target }}-canary-[0-9a-zA-Z-]+@kubernetescrd""#;
const TRAEFIK: Observer = Observer {
    requests: "traefik_service_request_duration_seconds_bucket",
    selector: TRAEFIK_SERVICE,
    success: r#"code!~"5..""#,
    further: r#", le="+Inf""#,
    latency: Latency::Quantile {
        bucket: "traefik_service_request_duration_seconds_bucket",
        selector: TRAEFIK_SERVICE,
        unit: Unit::SecondsInQuery,
    },
    ..PLAIN
};

const SKIPPER: Observer = Observer {
    requests: "skipper_response_duration_seconds_bucket",
    selector: r#"route=~"kube(ew)?_{{ namespace }}__{{ ingress }}_canary__.*__{{ service }}_canary(_[0-9]+)?""#,
    success: r#"code!~"5..""#,
    further: r#",le="+Inf""#,
    compact: true,
    latency: Latency::Mean {
        sum: "skipper_serve_route_duration_seconds_sum",
        count: "skipper_serve_route_duration_seconds_count",
    },
    ..PLAIN
};

const APISIX: Observer = Observer {
    requests: "apisix_http_status",
    selector: r#"route=~"{{ namespace }}_{{ route }}-{{ target }}-canary_.+""#,
    success: r#"code!~"5..""#,
    latency: Latency::Quantile {
        bucket: "apisix_http_latency_bucket",
        selector: r#"type=~"request", route=~"{{ namespace }}_{{ route }}-{{ target }}-canary_.+""#,
        unit: Unit::Milliseconds,
    },
    ..PLAIN
};

const OSM_DESTINATION: &str = r#"destination_namespace="{{ namespace }}", destination_kind="Deployment", destination_name="{{ target }}""#;
const OSM: Observer = Observer {
    requests: "osm_request_total",
    selector: OSM_DESTINATION,
    success: r#"response_code!~"5.*""#,
    latency: Latency::Quantile {
        bucket: "osm_request_duration_ms_bucket",
        selector: OSM_DESTINATION,
        unit: Unit::Milliseconds,
    },
    ..PLAIN
};

/// Returns the provider whose queries are asked: the Canary's own, else the flag's; but a Linkerd
/// installation
/// asks Linkerd whatever the Canary routes with. A Canary of a plain Service (not Knative's) is told by a
/// suffix.
#[must_use]
pub fn metrics_provider(flag: &str, of_canary: Option<&str>, targets_service: bool) -> String {
    let name = match of_canary.filter(|p| !p.is_empty()) {
        None if flag.contains("crossover") => "crossover",
        None => flag,
        Some(_) if flag.contains("linkerd") => "linkerd",
        Some(own) => own,
    };
    if targets_service { format!("{name}:service") } else { name.to_owned() }
}

/// Returns the queries of a provider; those of Istio for a name that has none of its own.
#[must_use]
pub fn observer(provider: &str) -> Observer {
    match provider {
        "linkerd" => LINKERD,
        "kubernetes" => HTTP,
        "contour" => CONTOUR,
        "kuma" => KUMA,
        "knative" => KNATIVE,
        "nginx" => NGINX,
        "traefik" => TRAEFIK,
        "skipper" => SKIPPER,
        "apisix" => APISIX,
        "osm" => OSM,
        p if p.starts_with("gatewayapi") => HTTP,
        p if p.starts_with("appmesh") => APPMESH,
        p if p.starts_with("gloo") => GLOO,
        _ => ISTIO,
    }
}

impl Observer {
    /// Renders the success rate query.
    ///
    /// # Errors
    ///
    /// Never with the queries at hand; their templates name only what the model has.
    pub fn success_rate(&self, model: &Model) -> Result<String, RenderError> {
        let Self { requests, selector, success, further, tail, .. } = self;
        let comma = if self.compact { "," } else { ", " };
        let good = self.rate(requests, &format!("{selector}{comma}{success}{further}"));
        let all = self.rate(requests, &format!("{selector}{further}{tail}"));
        self.render(&format!(" {good} / {all} * 100"), model)
    }

    /// Renders the duration query.
    ///
    /// # Errors
    ///
    /// Never with the queries at hand; their templates name only what the model has.
    pub fn duration(&self, model: &Model) -> Result<String, RenderError> {
        let template = match self.latency {
            Latency::Quantile { bucket, selector, unit } => {
                let rate =
                    format!("sum( rate( {bucket}{{ {selector}{} }}[{{{{ interval }}}}] ) )", self.tail);
                let scale = if unit == Unit::SecondsInQuery { " * 1000" } else { "" };
                format!(" histogram_quantile( 0.99, {rate} by (le) ){scale}")
            }
            Latency::Mean { sum, count } => {
                let (sum, count) = (self.rate(sum, self.selector), self.rate(count, self.selector));
                format!(" {sum} / {count} * 1000")
            }
        };
        self.render(&template, model)
    }

    /// Writes the summed rate of a counter.
    fn rate(&self, counter: &str, conditions: &str) -> String {
        if self.compact {
            format!("sum(rate({counter}{{{conditions}}}[{{{{ interval }}}}]))")
        } else {
            format!("sum( rate( {counter}{{ {conditions} }}[{{{{ interval }}}}] ) )")
        }
    }

    fn render(&self, template: &str, model: &Model) -> Result<String, RenderError> {
        if *self == SKIPPER { render(template, &words_only(model)) } else { render(template, model) }
    }

    /// Makes whole milliseconds of a duration query's answer; fractions are cut off, as Flagger does.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the cut is meant; a float beyond i64 saturates")]
    pub fn milliseconds(&self, value: f64) -> i64 {
        match self.latency {
            Latency::Quantile { unit: Unit::Seconds, .. } => (value * 1000.0) as i64,
            _ => value as i64,
        }
    }
}

/// Skipper's route names have underscores for everything but letters, digits and underscores.
fn words_only(model: &Model) -> Model {
    let word = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
    };
    Model {
        namespace: word(&model.namespace),
        ingress: word(&model.ingress),
        service: word(&model.service),
        ..model.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linkerd_installation_asks_linkerd() {
        assert_eq!(metrics_provider("linkerd", Some("gatewayapi:v1"), false), "linkerd");
        assert_eq!(metrics_provider("kubernetes", Some("istio"), false), "istio");
        assert_eq!(metrics_provider("smi:v1alpha2:linkerd", None, false), "smi:v1alpha2:linkerd");
        assert_eq!(metrics_provider("istio", None, true), "istio:service");
    }

    #[test]
    fn seconds_become_milliseconds_where_the_query_does_not() {
        assert_eq!(observer("gatewayapi:v1").milliseconds(0.0509), 50);
        assert_eq!(observer("istio").milliseconds(50.9), 50);
        assert_eq!(observer("traefik").milliseconds(50.0), 50);
    }
}
