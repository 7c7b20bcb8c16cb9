//! Prometheus: an instant query as a request, and the one number in its answer.

use crate::outbound::{Exchange, HttpRequest, Method};
use base64::Engine as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use url::Url;

/// Asks whether the server answers at all; it must say 1 (Flagger's check at initialisation).
pub const ONLINE_QUERY: &str = "vector(1)";
/// Time allowed for a query.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A Prometheus server and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus {
    base: Url,
    headers: Vec<(String, String)>,
    insecure: bool,
}

/// A server that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// The address is missing or no URL.
    #[error("prometheus address {0} is not a valid URL")]
    Address(String),
    /// The Secret has neither `token` nor this key.
    #[error("prometheus credentials does not contain a {0}")]
    Credentials(&'static str),
}

/// No number came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The query matched nothing, or the answer is not a number.
    #[error("no values found")]
    NoValues,
    /// The query is a range: a series has several values.
    #[error("query returned multiple values")]
    MultipleValues,
    /// Anything else, worded as Flagger does.
    #[error("{0}")]
    Failed(String),
}

impl Prometheus {
    /// Takes a server address, extra headers (several values a name) and the data of the Secret that
    /// `secretRef` names,
    /// if it names one: `token`, else `username` and `password`.
    ///
    /// # Errors
    ///
    /// When the address is no URL, or the Secret lacks a key.
    pub fn new(
        address: &str,
        headers: &BTreeMap<String, Vec<String>>,
        credentials: Option<&BTreeMap<String, Vec<u8>>>,
        insecure: bool,
    ) -> Result<Self, ServerError> {
        let base = Url::parse(address)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| ServerError::Address(address.to_owned()))?;
        let mut all: Vec<(String, String)> = headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |v| (name.clone(), v.clone())))
            .collect();
        if let Some(secret) = credentials {
            all.push(("Authorization".to_owned(), authorization(secret)?));
        }
        Ok(Self { base, headers: all, insecure })
    }

    /// Builds the request for a query; runs of white space become one space, as Flagger sends it.
    #[must_use]
    pub fn request(&self, query: &str) -> HttpRequest {
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1", "query"]);
        }
        url.query_pairs_mut().append_pair("query", &collapse(query));
        HttpRequest {
            method: Method::Get,
            url: url.into(),
            headers: self.headers.clone(),
            body: Vec::new(),
            timeout: TIMEOUT,
            retries: 0,
            insecure: self.insecure,
        }
    }
}

fn authorization(secret: &BTreeMap<String, Vec<u8>>) -> Result<String, ServerError> {
    let text = |key: &'static str| {
        secret.get(key).map(|v| String::from_utf8_lossy(v).into_owned()).ok_or(ServerError::Credentials(key))
    };
    if let Ok(token) = text("token") {
        return Ok(format!("Bearer {token}"));
    }
    let pair = format!("{}:{}", text("username")?, text("password")?);
    Ok(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

/// Replaces each run of white space (as Go's regular expressions know it) by one space.
fn collapse(query: &str) -> String {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c');
    let mut out = String::with_capacity(query.len());
    for c in query.chars() {
        if !is_space(c) {
            out.push(c);
        } else if !out.ends_with(' ') {
            out.push(' ');
        }
    }
    out
}

/// Reads the number from an answer: the value of the last series, or of the scalar that a query such as `scalar(…)` has.
///
/// # Errors
///
/// When there is none, several, or no usable answer.
pub fn sample(exchange: &Exchange) -> Result<f64, SampleError> {
    let failed = |text: String| Err(SampleError::Failed(text));
    let response = match exchange {
        Ok(response) => response,
        Err(error) => return failed(format!("request failed: {error}")),
    };
    let body = String::from_utf8_lossy(&response.body);
    if response.status >= 400 {
        let reason = http::StatusCode::from_u16(response.status)
            .ok()
            .and_then(|s| s.canonical_reason())
            .unwrap_or_default();
        return failed(format!("error response: Status {} {reason}: {body}", response.status));
    }
    let answer: Value = match serde_json::from_slice(&response.body) {
        Ok(answer) => answer,
        Err(error) => return failed(format!("error unmarshaling result: {error}, '{body}'")),
    };
    let scalar = answer.pointer("/data/resultType").is_some_and(|kind| kind == "scalar");
    if let Some(text) = answer.pointer("/data/result/1").and_then(Value::as_str).filter(|_| scalar) {
        let Ok(value) = text.parse::<f64>() else {
            return failed(format!("strconv.ParseFloat: parsing {text:?}: invalid syntax"));
        };
        return Some(value).filter(|v| !v.is_nan()).ok_or(SampleError::NoValues);
    }
    let empty = Vec::new();
    let series = match answer.pointer("/data/result") {
        None | Some(Value::Null) => &empty,
        Some(Value::Array(series)) if series.iter().all(Value::is_object) => series,
        Some(_) => return failed(format!("error unmarshaling result: data.result is no vector, '{body}'")),
    };
    let mut last = None;
    for one in series {
        if one.get("values").is_some_and(|v| !v.is_null()) {
            return Err(SampleError::MultipleValues);
        }
        if let Some(text) = one.pointer("/value/1").and_then(Value::as_str) {
            match text.parse::<f64>() {
                Ok(value) => last = Some(value),
                Err(_) => return failed(format!("strconv.ParseFloat: parsing {text:?}: invalid syntax")),
            }
        }
    }
    last.filter(|v| !v.is_nan()).ok_or(SampleError::NoValues)
}

/// Judges the answer to [`ONLINE_QUERY`].
///
/// # Errors
///
/// Why the server is not usable, in Flagger's words.
pub fn online(exchange: &Exchange) -> Result<(), String> {
    match sample(exchange) {
        Ok(1.0) => Ok(()),
        Ok(_) => Err(format!("value is not 1 for query: {ONLINE_QUERY}")),
        Err(error) => Err(format!("running query failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::{HttpResponse, TransportError};

    fn answer(status: u16, body: &str) -> Exchange {
        Ok(HttpResponse { status, body: body.as_bytes().to_vec() })
    }

    fn vector(values: &[&str]) -> Exchange {
        let series: Vec<Value> =
            values.iter().map(|v| serde_json::json!({"metric": {}, "value": [1.5, v]})).collect();
        answer(200, &serde_json::json!({"status": "success", "data": {"result": series}}).to_string())
    }

    fn server(address: &str) -> Prometheus {
        Prometheus::new(address, &BTreeMap::new(), None, false).unwrap()
    }

    #[test]
    fn request_keeps_the_servers_path() {
        let url = |address: &str| server(address).request("vector(1)").url;
        assert_eq!(url("http://prometheus:9090"), "http://prometheus:9090/api/v1/query?query=vector%281%29");
        assert_eq!(url("http://p:9090/select/0/"), "http://p:9090/select/0/api/v1/query?query=vector%281%29");
        assert_eq!(url("https://p/x?y=z"), "https://p/x/api/v1/query?query=vector%281%29");
    }

    #[test]
    fn white_space_is_collapsed_and_the_query_survives_encoding() {
        let query = "\n\tsum(\n  rate(x{a=~\"b+c&d\"}[1m]) )";
        let url = Url::parse(&server("http://p").request(query).url).unwrap();
        let sent = url.query_pairs().find(|(k, _)| k == "query").unwrap().1.into_owned();
        assert_eq!(sent, " sum( rate(x{a=~\"b+c&d\"}[1m]) )");
    }

    #[test]
    fn secret_gives_bearer_or_basic_authorization() {
        let secret = |pairs: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect()
        };
        let headers = |s| {
            let org = BTreeMap::from([("X-Scope-OrgID".to_owned(), vec!["a".to_owned()])]);
            Prometheus::new("http://p", &org, Some(&s), false).map(|p| p.request("x").headers)
        };
        let org = ("X-Scope-OrgID".to_owned(), "a".to_owned());
        assert_eq!(
            headers(secret(&[("token", "t")])).unwrap(),
            [org.clone(), ("Authorization".into(), "Bearer t".into())]
        );
        assert_eq!(
            headers(secret(&[("username", "u"), ("password", "p")])).unwrap(),
            [org, ("Authorization".into(), "Basic dTpw".into())]
        );
        assert_eq!(headers(secret(&[("username", "u")])), Err(ServerError::Credentials("password")));
        assert_eq!(headers(secret(&[])), Err(ServerError::Credentials("username")));
    }

    #[test]
    fn address_must_be_a_url() {
        for address in ["", "prometheus:9090", "not a url"] {
            let error = Prometheus::new(address, &BTreeMap::new(), None, false).unwrap_err();
            assert_eq!(error.to_string(), format!("prometheus address {address} is not a valid URL"));
        }
    }

    #[test]
    fn last_series_counts() {
        assert_eq!(sample(&vector(&["5", "50"])), Ok(50.0));
        assert_eq!(sample(&vector(&["+Inf"])), Ok(f64::INFINITY));
    }

    #[test]
    fn nothing_and_nan_are_no_values() {
        assert_eq!(sample(&vector(&[])), Err(SampleError::NoValues));
        assert_eq!(sample(&vector(&["NaN"])), Err(SampleError::NoValues));
        assert_eq!(sample(&answer(200, "{}")), Err(SampleError::NoValues));
    }

    #[test]
    fn matrix_is_refused() {
        let body = r#"{"data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"],[2,"2"]]}]}}"#;
        assert_eq!(sample(&answer(200, body)), Err(SampleError::MultipleValues));
    }

    #[test]
    fn a_scalar_is_a_value() {
        let body = |value: &str| format!(r#"{{"data":{{"resultType":"scalar","result":[1.5,"{value}"]}}}}"#);
        assert_eq!(sample(&answer(200, &body("100"))), Ok(100.0));
        assert_eq!(sample(&answer(200, &body("NaN"))), Err(SampleError::NoValues));
    }

    #[test]
    fn errors_carry_the_answer() {
        let text = |e: Exchange| sample(&e).unwrap_err().to_string();
        assert_eq!(text(answer(503, "no")), "error response: Status 503 Service Unavailable: no");
        assert!(text(answer(200, "<html>")).starts_with("error unmarshaling result: "));
        assert!(
            text(answer(200, r#"{"data":{"result":[1,"1"]}}"#)).starts_with("error unmarshaling result: ")
        );
        assert_eq!(
            text(Err(TransportError { message: "Get \"http://p\": EOF".into() })),
            "request failed: Get \"http://p\": EOF"
        );
    }

    #[test]
    fn server_is_online_when_it_says_one() {
        assert_eq!(online(&vector(&["1"])), Ok(()));
        assert_eq!(online(&vector(&["2"])), Err("value is not 1 for query: vector(1)".into()));
        assert_eq!(online(&vector(&[])), Err("running query failed: no values found".into()));
    }
}
