//! What metrics servers and hooks answer, from tables, and what they were asked.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sidetrack::outbound::{Exchange, HttpRequest, HttpResponse, Method, TransportError};
use std::collections::BTreeMap;

/// Time that an answer takes.
const QUICK: SignedDuration = SignedDuration::from_millis(20);

/// What a hook answers.
#[derive(Clone, Debug)]
pub struct HookAnswer {
    pub code: u16,
    pub body: String,
    pub delay: SignedDuration,
}

/// A request to a hook.
#[derive(Clone, Debug)]
pub struct HookCall {
    pub at: Timestamp,
    pub to: String,
    pub body: Value,
}

#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Query substring and answer; the first match counts, none is an empty answer.
    pub metrics: Vec<(String, Value)>,
    /// Answers by endpoint: the last part of the hook's path. An endpoint that is not named says 200.
    pub hooks: BTreeMap<String, HookAnswer>,
    pub calls: Vec<HookCall>,
    pub queries: Vec<String>,
    /// Metrics servers at this address do not answer.
    pub dead: Option<String>,
}

impl Answers {
    pub fn healthy() -> Self {
        let metrics = vec![("histogram_quantile".into(), json!("50")), (String::new(), json!("100"))];
        Self { metrics, ..Self::default() }
    }

    /// What is going to be answered.
    pub fn sketch(&self) -> String {
        let hooks: Vec<_> = self.hooks.iter().map(|(name, answer)| (name, answer.code)).collect();
        format!("{:?}{hooks:?}", self.metrics)
    }

    pub fn hook(&mut self, name: &str, code: u16) {
        let (body, delay) = (if code == 200 { "{}" } else { "no" }.to_owned(), QUICK);
        self.hooks.insert(name.into(), HookAnswer { code, body, delay });
    }

    /// Sets the success rate in percent.
    pub fn success_rate(&mut self, rate: &str) {
        self.metrics = vec![("histogram_quantile".into(), json!("50")), (String::new(), json!(rate))];
    }

    /// Answers one request, and says how long that takes.
    pub fn exchange(&mut self, request: &HttpRequest, now: Timestamp) -> (Exchange, SignedDuration) {
        let url = url::Url::parse(&request.url).unwrap();
        if request.method == Method::Get {
            let query = url.query_pairs().find(|(k, _)| k == "query").unwrap().1.into_owned();
            if self.dead.as_ref().is_some_and(|dead| request.url.starts_with(dead)) {
                let message = format!(
                    "Get {:?}: dial tcp {}: connect: connection refused",
                    request.url,
                    url.authority()
                );
                return (Err(TransportError { message }), QUICK);
            }
            self.queries.push(query.clone());
            return (Ok(self.sample(&query)), QUICK);
        }
        let to = url.path_segments().and_then(|mut s| s.next_back()).unwrap_or_default().to_owned();
        let answer = self.hooks.get(&to).cloned();
        let answer = answer.unwrap_or(HookAnswer { code: 200, body: "{}".into(), delay: QUICK });
        let retried = answer.code == 429 || (answer.code >= 500 && answer.code != 501);
        for _ in 0..=(if retried { request.retries } else { 0 }) {
            let body = serde_json::from_slice(&request.body).unwrap();
            self.calls.push(HookCall { at: now, to: to.clone(), body });
        }
        (Ok(HttpResponse { status: answer.code, body: answer.body.into_bytes() }), answer.delay)
    }

    fn sample(&self, query: &str) -> HttpResponse {
        let answer = if query == "vector(1)" {
            json!("1")
        } else {
            self.metrics.iter().find(|(part, _)| query.contains(part)).map_or(Value::Null, |(_, a)| a.clone())
        };
        let series = |value: &Value| json!({"metric": {}, "value": [1.0, value]});
        let result = match &answer {
            Value::Null => json!([]),
            Value::Array(all) => all.iter().map(series).collect(),
            Value::Object(error) => {
                let status = u16::try_from(error["code"].as_u64().unwrap()).unwrap();
                let body = error["body"].as_str().unwrap_or_default().as_bytes().to_vec();
                return HttpResponse { status, body };
            }
            one => json!([series(one)]),
        };
        let body = json!({"status": "success", "data": {"resultType": "vector", "result": result}});
        HttpResponse { status: 200, body: body.to_string().into_bytes() }
    }
}
