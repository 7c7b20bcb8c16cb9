//! The world outside the cluster: a server on loopback that stands in for hooks and for Prometheus, says what a scenario
//! tells it to, and remembers what it was asked.

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One request that came in.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Path and query, decoded.
    pub address: String,
    /// The body, `Null` when it is not JSON.
    pub body: Value,
    /// The header `authorization`.
    pub authorization: Option<String>,
    /// When it came.
    pub at: Instant,
    /// Whether the answer is on its way for a while.
    pub late: bool,
    /// Whether it is answered 200.
    pub passes: bool,
}

/// What is answered.
#[derive(Clone, Debug)]
enum Answer {
    /// A status and a body.
    Says(u16, String),
    /// The same as [`Answer::Says`] 200, after so many milliseconds.
    Late(u64),
    /// Nothing, ever.
    Silence,
}

/// The server. It ends with the runtime of the test that started it.
#[derive(Clone)]
pub struct Outside {
    port: u16,
    state: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    answers: Vec<(String, Answer)>,
    heard: Vec<Heard>,
}

impl Outside {
    /// Starts a server that answers 200 to everything, with a Prometheus answer of 1.
    pub async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let outside = Self { port: listener.local_addr()?.port(), state: Arc::default() };
        outside.says("", 200, &sample("1"));
        let app = Router::new().fallback(answer).with_state(outside.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(outside)
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// From now on, what has `fragment` in its path or query is answered so.
    pub fn says(&self, fragment: &str, status: u16, body: &str) {
        self.told().answers.insert(0, (fragment.into(), Answer::Says(status, body.into())));
    }

    /// From now on, what has `fragment` in its path or query is answered 200, so many milliseconds later.
    pub fn is_late(&self, fragment: &str, milliseconds: u64) {
        self.told().answers.insert(0, (fragment.into(), Answer::Late(milliseconds)));
    }

    /// From now on, what has `fragment` in its path or query is never answered.
    pub fn is_silent(&self, fragment: &str) {
        self.told().answers.insert(0, (fragment.into(), Answer::Silence));
    }

    /// The requests so far that have `fragment` in their path or query.
    pub fn heard(&self, fragment: &str) -> Vec<Heard> {
        self.told().heard.iter().filter(|h| h.address.contains(fragment)).cloned().collect()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(
    State(outside): State<Outside>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let mut address = uri.path().to_owned();
    if let Ok(url) = url::Url::parse(&outside.url(&uri.to_string())) {
        for (key, value) in url.query_pairs() {
            address = format!("{address} {key}={value}");
        }
    }
    let found = {
        let mut told = outside.told();
        let found =
            told.answers.iter().find(|(fragment, _)| address.contains(fragment)).map(|(_, a)| a.clone());
        told.heard.push(Heard {
            address: address.clone(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            authorization: headers.get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned),
            at: Instant::now(),
            late: matches!(found, Some(Answer::Late(_))),
            passes: matches!(found, Some(Answer::Says(200, _) | Answer::Late(_))),
        });
        found
    };
    match found {
        Some(Answer::Says(status, body)) => {
            (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body)
        }
        Some(Answer::Late(milliseconds)) => {
            tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
            (StatusCode::OK, String::new())
        }
        Some(Answer::Silence) | None => std::future::pending().await,
    }
}

/// Prometheus' answer of one value.
pub fn sample(value: &str) -> String {
    answered(&json!([{"metric": {}, "value": [1_700_000_000, value]}]))
}

/// Prometheus' answer of no value.
pub fn no_sample() -> String {
    answered(&json!([]))
}

fn answered(result: &Value) -> String {
    json!({"status": "success", "data": {"resultType": "vector", "result": result}}).to_string()
}
