//! Sends [`HttpRequest`]s: one pool, one limit on how many are on their way, retries as each request says.

use crate::outbound::{Exchange, HttpRequest, HttpResponse, Method, TransportError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Requests that may be on their way at once, over all Canaries.
const LIMIT: usize = 64;
/// Bytes of an answer that are read.
const MAX_BODY: usize = 1 << 20;
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The sender.
#[derive(Clone, Debug)]
pub struct Sender {
    strict: reqwest::Client,
    insecure: reqwest::Client,
    limit: Arc<Semaphore>,
}

impl Sender {
    /// Makes a sender.
    ///
    /// # Errors
    ///
    /// When the TLS roots of the platform cannot be read.
    pub fn new() -> Result<Self, reqwest::Error> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("sidetrack/", env!("CARGO_PKG_VERSION")))
                .pool_idle_timeout(Duration::from_secs(30))
        };
        Ok(Self {
            strict: builder().build()?,
            insecure: builder().danger_accept_invalid_certs(true).build()?,
            limit: Arc::new(Semaphore::new(LIMIT)),
        })
    }

    /// Sends a request, and again as it allows.
    pub async fn send(&self, request: &HttpRequest) -> Exchange {
        let Ok(_permit) = self.limit.acquire().await else {
            return Err(TransportError { message: "shutting down".into() });
        };
        let mut pause = MIN_PAUSE;
        let mut attempt = 0;
        loop {
            let answer = self.attempt(request).await;
            let again = match &answer {
                Ok(response) => response.status == 429 || (response.status >= 500 && response.status != 501),
                Err(_) => true,
            };
            if !again || attempt >= request.retries {
                return answer;
            }
            attempt += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn attempt(&self, request: &HttpRequest) -> Exchange {
        let client = if request.insecure { &self.insecure } else { &self.strict };
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
        };
        let verb = match request.method {
            Method::Get => "Get",
            Method::Post => "Post",
        };
        let failed = |error: &reqwest::Error| TransportError {
            message: format!("{verb} {:?}: {}", request.url, innermost(error)),
        };
        let mut call = client.request(method, &request.url).timeout(request.timeout);
        for (name, value) in &request.headers {
            call = call.header(name, value);
        }
        if !request.body.is_empty() {
            call = call.body(request.body.clone());
        }
        let mut response = call.send().await.map_err(|e| failed(&e))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| failed(&e))? {
            body.extend_from_slice(&chunk);
            if body.len() >= MAX_BODY {
                body.truncate(MAX_BODY);
                break;
            }
        }
        Ok(HttpResponse { status, body })
    }
}

fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "context deadline exceeded".into();
    }
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    source.to_string()
}
