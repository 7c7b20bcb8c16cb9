//! Schemas of what the controller hands on to objects of Istio and Gateway API without reading it.
//!
//! They accept and prune exactly what Flagger's CRD (1.44) accepts and prunes, so that a Canary means the
//! same to both. What a field means is said by the API that it is handed to.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};

/// A DNS subdomain, or the empty string for the core group.
const GROUP: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KIND: &str = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

type Schema = JSONSchemaProps;

/// One element of `service.match`: Istio's HTTPMatchRequest.
pub(super) fn route_match() -> Schema {
    let values = |doc| map(doc, string_match(""));
    object(
        "A request matches if all conditions of one element match it.",
        [
            ("authority", string_match("Host of the request.")),
            ("gateways", list("Gateways at which the conditions count.", text(""))),
            ("headers", values("Headers of the request.")),
            ("ignoreUriCase", boolean("Compare the path without regard to case.")),
            ("method", string_match("HTTP method of the request.")),
            ("name", text("Name of the element, for access logs.")),
            ("port", integer("Port on which the request arrived.")),
            ("queryParams", values("Query parameters of the request.")),
            ("scheme", string_match("URI scheme of the request.")),
            ("sourceLabels", map("Labels of the workload that sends the request.", text(""))),
            ("sourceNamespace", text("Namespace of the workload that sends the request.")),
            ("uri", string_match("Path of the request.")),
            ("withoutHeaders", values("Headers that the request must not have.")),
        ],
    )
}

/// One element of `analysis.match`.
pub(super) fn analysis_match() -> Schema {
    let names = ["exact", "prefix", "suffix", "regex"];
    let header = Schema { one_of: Some(exactly_one(&names)), ..comparisons("", &names) };
    object(
        "A request goes to the canary if all conditions of one element match it.",
        [
            ("headers", map("Headers of the request.", header)),
            ("queryParams", map("Query parameters of the request.", string_match(""))),
            ("sourceLabels", map("Labels of the workload that sends the request.", text(""))),
        ],
    )
}

/// `service.retries`: Istio's HTTPRetry.
pub(super) fn retries() -> Schema {
    object(
        "",
        [
            ("attempts", int32("How often a request is tried again.")),
            ("perTryTimeout", text("Time for one attempt, such as `2s`.")),
            ("retryOn", text("Failures after which a request is tried again, comma-separated.")),
        ],
    )
}

/// `service.headers`: Istio's Headers.
pub(super) fn headers() -> Schema {
    let operations = |doc| {
        object(
            doc,
            [
                ("add", map("Headers to add, beside those of the same name.", text(""))),
                ("remove", list("Headers to remove.", text(""))),
                ("set", map("Headers to set, in place of those of the same name.", text(""))),
            ],
        )
    };
    object(
        "",
        [
            ("request", operations("Headers of the request.")),
            ("response", operations("Headers of the answer.")),
        ],
    )
}

/// One element of `service.mirror`: Gateway API's HTTPRequestMirrorFilter.
pub(super) fn mirror() -> Schema {
    let kind = Schema { default: Some(JSON("Service".into())), ..kind("Kind of the backend.") };
    let group = Schema {
        default: Some(JSON("".into())),
        ..group("API group of the backend; empty for the core group.")
    };
    let rule = ValidationRule {
        rule: "(size(self.group) == 0 && self.kind == 'Service') ? has(self.port) : true".into(),
        message: Some("mirror backendRef must have a port where it refers to a Service".into()),
        ..ValidationRule::default()
    };
    let backend = Schema {
        required: strings(&["name"]),
        x_kubernetes_validations: Some(vec![rule]),
        ..object(
            "The backend that gets the copies.",
            [
                ("group", group),
                ("kind", kind),
                ("name", sized(text("Name of the backend."), 253)),
                ("namespace", namespace("Namespace of the backend; that of the Canary where empty.")),
                ("port", port("Port of the backend; required for a Service.")),
            ],
        )
    };
    object("A backend that gets a copy of each request.", [("backendRef", backend)])
}

/// One element of `service.gatewayRefs`: Gateway API's ParentReference.
pub(super) fn gateway_ref() -> Schema {
    let kind = Schema { default: Some(JSON("Gateway".into())), ..kind("Kind of the parent.") };
    let group = Schema {
        default: Some(JSON("gateway.networking.k8s.io".into())),
        ..group("API group of the parent; empty for the core group.")
    };
    let section = Schema {
        pattern: Some(SUBDOMAIN.into()),
        ..sized(text("Listener of the parent; all of them where empty."), 253)
    };
    Schema {
        required: strings(&["name"]),
        ..object(
            "A parent of the HTTPRoute.",
            [
                ("group", group),
                ("kind", kind),
                ("name", sized(text("Name of the parent."), 253)),
                ("namespace", namespace("Namespace of the parent; that of the Canary where empty.")),
                ("sectionName", section),
                ("port", port("Port of the parent; all of them where empty.")),
            ],
        )
    }
}

/// `service.corsPolicy`: Istio's CorsPolicy.
pub(super) fn cors_policy() -> Schema {
    let names = ["exact", "prefix", "regex"];
    let origin = Schema { one_of: Some(exactly_one(&names)), ..comparisons("", &names) };
    object(
        "",
        [
            ("allowCredentials", boolean("Allow requests with credentials.")),
            ("allowHeaders", list("Headers that a request may have.", text(""))),
            ("allowMethods", list("Methods that a request may have.", text(""))),
            ("allowOrigin", list("Origins that are allowed, literally.", text(""))),
            ("allowOrigins", list("Origins that are allowed, by comparison (Istio).", origin)),
            ("exposeHeaders", list("Headers of the answer that a script may read.", text(""))),
            ("maxAge", text("Time for which a preflight answer may be kept, such as `24h`.")),
        ],
    )
}

/// `service.trafficPolicy`: Istio's TrafficPolicy, as far as Flagger's CRD knows it.
pub(super) fn traffic_policy() -> Schema {
    let outlier_detection = object(
        "When a backend is left out for a time because of errors.",
        [
            ("baseEjectionTime", text("Least time for which it is left out, such as `30s`.")),
            ("consecutive5xxErrors", integer("5xx answers in a row.")),
            ("consecutiveErrors", int32("Errors in a row.")),
            ("consecutiveGatewayErrors", int32("502, 503 and 504 answers in a row.")),
            ("consecutiveLocalOriginFailures", int32("Failed connections in a row.")),
            ("interval", text("Time between two looks, such as `10s`.")),
            ("maxEjectionPercent", int32("Most backends left out, in percent.")),
            ("minHealthPercent", int32("Healthy backends, in percent, below which none is left out.")),
            ("splitExternalLocalOriginErrors", boolean("Count failed connections apart from 5xx answers.")),
        ],
    );
    let tls = object(
        "TLS towards the backend.",
        [
            ("caCertificates", text("File with the authorities that the backend is checked against.")),
            ("clientCertificate", text("File with the client certificate.")),
            ("mode", one_of("Kind of TLS.", &["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"])),
            ("privateKey", text("File with the key of the client certificate.")),
            ("sni", text("Server name to ask for.")),
            ("subjectAltNames", list("Names of which the backend's certificate must have one.", text(""))),
        ],
    );
    object(
        "",
        [
            ("connectionPool", object("Limits of connections.", [("http", http_pool())])),
            ("loadBalancer", load_balancer()),
            ("outlierDetection", outlier_detection),
            ("tls", tls),
        ],
    )
}

fn http_pool() -> Schema {
    object(
        "Limits of HTTP connections.",
        [
            (
                "h2UpgradePolicy",
                one_of("Upgrade of HTTP/1.1 to HTTP/2.", &["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]),
            ),
            ("http1MaxPendingRequests", int32("Most requests that wait for a connection.")),
            ("http2MaxRequests", int32("Most requests at one time.")),
            ("idleTimeout", text("Time after which an idle connection is closed, such as `1h`.")),
            ("maxRequestsPerConnection", int32("Most requests over one connection.")),
            ("maxRetries", int32("Most retries at one time.")),
        ],
    )
}

fn load_balancer() -> Schema {
    let hash_names = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"];
    let hash_chosen = Schema { one_of: Some(exactly_one(&hash_names)), ..Schema::default() };
    let hashed = Schema {
        properties: Some([("consistentHash".to_owned(), hash_chosen)].into()),
        ..requires(&["consistentHash"])
    };
    let cookie = object(
        "A cookie that is made where a request has none.",
        [
            ("name", text("Name of the cookie.")),
            ("path", text("Path of the cookie.")),
            ("ttl", text("Lifetime of the cookie, such as `1h`.")),
        ],
    );
    let consistent_hash = object(
        "Requests with the same hash go to the same backend.",
        [
            ("httpCookie", cookie),
            ("httpHeaderName", text("Header that is hashed.")),
            ("httpQueryParameterName", text("Query parameter that is hashed.")),
            ("minimumRingSize", integer("Least number of virtual nodes in the hash ring.")),
            ("useSourceIp", boolean("Hash the client's address.")),
        ],
    );
    let from = || text("Locality that the traffic comes from.");
    let distribute = object(
        "",
        [("from", from()), ("to", map("Shares of traffic, in percent, by locality.", integer("")))],
    );
    let failover =
        object("", [("from", from()), ("to", text("Locality that takes over where all backends fail."))]);
    let locality = object(
        "Traffic by locality.",
        [
            ("distribute", list("Shares of traffic by locality.", distribute)),
            ("enabled", boolean("Whether localities count.")),
            ("failover", list("Localities that take over.", failover)),
        ],
    );
    let simple = ["ROUND_ROBIN", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "LEAST_REQUEST"];
    Schema {
        one_of: Some(vec![requires(&["simple"]), hashed]),
        ..object(
            "How a backend is chosen.",
            [
                ("consistentHash", consistent_hash),
                ("localityLbSetting", locality),
                ("simple", one_of("A choice without state.", &simple)),
                ("warmupDurationSecs", text("Time in which a new backend's share grows, such as `30s`.")),
            ],
        )
    }
}

/// Returns one alternative a name: that name must be there, and then no other alternative holds.
fn exactly_one(names: &[&str]) -> Vec<Schema> {
    names.iter().map(|name| requires(&[name])).collect()
}

/// Returns a schema that says nothing but that the fields must be there.
pub(super) fn requires(names: &[&str]) -> Schema {
    Schema { required: strings(names), ..Schema::default() }
}

pub(super) fn strings(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}

/// Istio's StringMatch: at most one comparison.
fn string_match(doc: &str) -> Schema {
    let names = ["exact", "prefix", "regex"];
    let any = Schema { any_of: Some(exactly_one(&names)), ..Schema::default() };
    let none = Schema { not: Some(Box::new(any)), ..Schema::default() };
    let alternatives = std::iter::once(none).chain(exactly_one(&names)).collect();
    Schema { one_of: Some(alternatives), ..comparisons(doc, &names) }
}

fn comparisons(doc: &str, names: &[&'static str]) -> Schema {
    object(
        doc,
        names.iter().map(|name| {
            let doc = match *name {
                "exact" => "The value itself.",
                "prefix" => "What the value begins with.",
                "suffix" => "What the value ends with.",
                _ => "An RE2 expression for the whole value.",
            };
            (*name, text(doc))
        }),
    )
}

fn typed(type_: &str, doc: &str) -> Schema {
    let description = (!doc.is_empty()).then(|| doc.to_owned());
    Schema { type_: Some(type_.to_owned()), description, ..Schema::default() }
}

fn object(doc: &str, properties: impl IntoIterator<Item = (&'static str, Schema)>) -> Schema {
    let properties = properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    Schema { properties: Some(properties), ..typed("object", doc) }
}

fn map(doc: &str, values: Schema) -> Schema {
    let values = JSONSchemaPropsOrBool::Schema(Box::new(values));
    Schema { additional_properties: Some(values), ..typed("object", doc) }
}

fn list(doc: &str, items: Schema) -> Schema {
    Schema { items: Some(JSONSchemaPropsOrArray::Schema(Box::new(items))), ..typed("array", doc) }
}

fn text(doc: &str) -> Schema {
    typed("string", doc)
}

fn boolean(doc: &str) -> Schema {
    typed("boolean", doc)
}

fn integer(doc: &str) -> Schema {
    typed("integer", doc)
}

fn int32(doc: &str) -> Schema {
    Schema { format: Some("int32".into()), ..integer(doc) }
}

fn one_of(doc: &str, values: &[&str]) -> Schema {
    Schema { enum_: Some(values.iter().map(|value| JSON((*value).into())).collect()), ..text(doc) }
}

fn sized(schema: Schema, most: i64) -> Schema {
    Schema { min_length: Some(1), max_length: Some(most), ..schema }
}

fn group(doc: &str) -> Schema {
    Schema { max_length: Some(253), pattern: Some(GROUP.into()), ..text(doc) }
}

fn kind(doc: &str) -> Schema {
    Schema { pattern: Some(KIND.into()), ..sized(text(doc), 63) }
}

fn namespace(doc: &str) -> Schema {
    Schema { pattern: Some(LABEL.into()), ..sized(text(doc), 63) }
}

fn port(doc: &str) -> Schema {
    Schema { minimum: Some(1.0), maximum: Some(65_535.0), ..int32(doc) }
}
