//! Sends [`HttpRequest`]s: one pool, limits on how many are on their way, to one host and in all, retries as each request says.

use crate::outbound::{Exchange, HttpRequest, HttpResponse, Method, TransportError};
use prometheus_client::metrics::gauge::Gauge;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Requests that may be on their way at once to one host: hooks that take minutes do not keep others' checks waiting.
const TO_ONE_HOST: usize = 64;
/// Requests that may be on their way at once in all.
const IN_ALL: usize = 512;
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
    /// The limit of each host to which something is on its way.
    hosts: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    waiting: Gauge,
}

/// Counts what waits, for as long as it does.
struct Waits<'a>(&'a Gauge);

impl<'a> Waits<'a> {
    fn on(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Sender {
    /// Makes a sender. `waiting` follows how many requests wait for others to end.
    ///
    /// # Errors
    ///
    /// When the TLS roots of the platform cannot be read.
    pub fn new(waiting: Gauge) -> Result<Self, reqwest::Error> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("sidetrack/", env!("CARGO_PKG_VERSION")))
                .pool_idle_timeout(Duration::from_secs(30))
        };
        Ok(Self {
            strict: builder().build()?,
            insecure: builder().danger_accept_invalid_certs(true).build()?,
            limit: Arc::new(Semaphore::new(IN_ALL)),
            hosts: Arc::default(),
            waiting,
        })
    }

    /// The limit of the host that a request goes to.
    fn host(&self, url: &str) -> Arc<Semaphore> {
        let host = url::Url::parse(url).ok().map_or_else(String::new, |url| url.authority().to_owned());
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|name, limit| *name == host || Arc::strong_count(limit) > 1);
        hosts.entry(host).or_insert_with(|| Arc::new(Semaphore::new(TO_ONE_HOST))).clone()
    }

    /// Sends a request, and again as it allows. Between two attempts it holds nobody up.
    pub async fn send(&self, request: &HttpRequest) -> Exchange {
        let host = self.host(&request.url);
        let mut pause = MIN_PAUSE;
        let mut attempt = 0;
        loop {
            let answer = {
                let waits = Waits::on(&self.waiting);
                // Its host first: what waits for that does not count among all.
                let (Ok(_of_host), Ok(_of_all)) = (host.acquire().await, self.limit.acquire().await) else {
                    return Err(TransportError { message: "shutting down".into() });
                };
                drop(waits);
                self.attempt(request).await
            };
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    fn get(url: String) -> HttpRequest {
        HttpRequest {
            method: Method::Get,
            url,
            headers: Vec::new(),
            body: Vec::new(),
            timeout: Duration::from_secs(60),
            insecure: false,
            retries: 0,
        }
    }

    /// A host that does not answer holds up its own callers, counted, and nobody else's.
    #[tokio::test]
    async fn a_slow_host_does_not_keep_others_waiting() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let quick = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [to_silent, to_quick] =
            [&silent, &quick].map(|l| get(format!("http://{}/", l.local_addr().unwrap())));
        let waiting = Gauge::default();
        let sender = Sender::new(waiting.clone()).unwrap();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..TO_ONE_HOST + 3 {
            let (sender, request) = (sender.clone(), to_silent.clone());
            calls.spawn(async move { sender.send(&request).await });
        }
        let mut open = Vec::new();
        while open.len() < TO_ONE_HOST {
            open.push(silent.accept().await.unwrap().0);
        }
        while waiting.get() != 3 {
            tokio::task::yield_now().await;
        }
        let answer = async {
            let (mut stream, _) = quick.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        };
        let (answered, ()) = tokio::join!(sender.send(&to_quick), answer);
        assert_eq!(answered.unwrap().body, b"ok");
        drop(open);
        calls.abort_all();
        while calls.join_next().await.is_some() {}
        assert_eq!(waiting.get(), 0);
        sender.host("http://other/");
        assert_eq!(sender.hosts.lock().unwrap().len(), 1, "hosts that nobody calls are forgotten");
    }
}
