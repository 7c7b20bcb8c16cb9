//! Sends [`HttpRequest`]s: one pool of connections, shares in how many may be on their way ([`super::limits`]), limits on where they
//! may go ([`super::reach`]), retries as each request says.

use super::limits::{Asker, Limits};
use super::reach::{Reach, Resolver};
use crate::outbound::{Exchange, HttpRequest, HttpResponse, Method, TransportError};
use prometheus_client::metrics::gauge::Gauge;
use reqwest::redirect;
use std::sync::Arc;
use std::time::Duration;

/// Redirects that are followed, all on one host.
const MAX_REDIRECTS: usize = 10;
/// Bytes of an answer that are read.
const MAX_BODY: usize = 1 << 20;
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The sender.
#[derive(Clone, Debug)]
pub struct Sender {
    strict: reqwest::Client,
    insecure: reqwest::Client,
    limits: Limits,
    reach: Arc<Reach>,
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
    /// Makes a sender that calls what is in `reach`. `waiting` follows how many requests wait for others to end.
    ///
    /// # Errors
    ///
    /// When the TLS roots of the platform cannot be read.
    pub fn new(waiting: Gauge, reach: Reach) -> Result<Self, reqwest::Error> {
        let reach = Arc::new(reach);
        let builder = || {
            reqwest::Client::builder()
                .redirect(redirect::Policy::custom(stays))
                .dns_resolver(Arc::new(Resolver(reach.clone())))
                .user_agent(concat!("sidetrack/", env!("CARGO_PKG_VERSION")))
                .pool_idle_timeout(Duration::from_secs(30))
        };
        Ok(Self {
            strict: builder().build()?,
            insecure: builder().danger_accept_invalid_certs(true).build()?,
            limits: Limits::new(),
            reach,
            waiting,
        })
    }

    /// Sends a request, and again as it allows. Between two attempts it holds nobody up.
    pub async fn send(&self, request: &HttpRequest, asker: &Asker) -> Exchange {
        if let Some(why) = self.reach.refuses(&request.url) {
            return Err(TransportError { message: format!("{} is not called: {why}", shown(&request.url)) });
        }
        let host =
            url::Url::parse(&request.url).ok().map_or_else(String::new, |url| url.authority().to_owned());
        let mut pause = MIN_PAUSE;
        let mut attempt = 0;
        loop {
            let answer = {
                let waits = Waits::on(&self.waiting);
                let Some(_turn) = self.limits.turn(asker, &host).await else {
                    let why = "too many other questions of its Canary, of its namespace or to its host are on their way";
                    let after = asker.patience;
                    return Err(TransportError { message: format!("not sent within {after:?}: {why}") });
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
            message: format!("{verb} {:?}: {}", shown(&request.url), innermost(error)),
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

/// A redirect is followed on the host that was asked only: where else it leads, the one who named that host would decide.
fn stays(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let asked = attempt.previous().first().and_then(|url| url.host_str().map(str::to_owned));
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("it redirects again and again");
    }
    if attempt.url().host_str() == asked.as_deref() {
        return attempt.follow();
    }
    let why = format!("it redirects to another host, {}", attempt.url().host_str().unwrap_or_default());
    attempt.error(why)
}

/// An address without the query, which is long, and encoded so that nobody reads it: what it asks stands in the Canary.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
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
    use crate::controller::limits::{OF_ONE_CANARY, Pool};
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

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    fn asker(name: &str) -> Asker {
        Asker { canary: ("test".into(), name.into()), pool: Pool::Metrics, patience: Duration::from_secs(60) }
    }

    fn sender() -> (Sender, Gauge) {
        let waiting = Gauge::default();
        let reach = Reach { allowed: vec!["127.0.0.0/8".parse().unwrap()], ..Reach::default() };
        (Sender::new(waiting.clone(), reach).unwrap(), waiting)
    }

    /// Answers one request.
    async fn answer(listener: &TcpListener, text: String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// A host that does not answer holds up its own callers, counted, and nobody else's.
    #[tokio::test]
    async fn a_slow_host_does_not_keep_others_waiting() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let quick = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [to_silent, to_quick] =
            [&silent, &quick].map(|l| get(format!("http://{}/", l.local_addr().unwrap())));
        let (sender, waiting) = sender();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..OF_ONE_CANARY + 3 {
            let (sender, request) = (sender.clone(), to_silent.clone());
            calls.spawn(async move { sender.send(&request, &asker("greedy")).await });
        }
        let mut open = Vec::new();
        while open.len() < OF_ONE_CANARY {
            open.push(silent.accept().await.unwrap().0);
        }
        while waiting.get() != 3 {
            tokio::task::yield_now().await;
        }
        let answers = answer(&quick, OK.into());
        let other = asker("other");
        let (answered, ()) = tokio::join!(sender.send(&to_quick, &other), answers);
        assert_eq!(answered.unwrap().body, b"ok");
        drop(open);
        calls.abort_all();
        while calls.join_next().await.is_some() {}
        assert_eq!(waiting.get(), 0);
    }

    /// Whoever names a server does not get to another one by it.
    #[tokio::test]
    async fn a_redirect_stays_on_its_host() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sender, _) = sender();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let to = |location: &str| {
            format!(
                "HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        };
        let (asker, request) = (asker("app"), get(url.clone()));
        let (said, ()) =
            tokio::join!(sender.send(&request, &asker), answer(&listener, to("http://127.0.0.2/x")));
        assert!(said.unwrap_err().message.ends_with("it redirects to another host, 127.0.0.2"));
        let answers = async {
            answer(&listener, to("/there")).await;
            answer(&listener, OK.into()).await;
        };
        let (followed, ()) = tokio::join!(sender.send(&request, &asker), answers);
        assert_eq!(followed.unwrap().body, b"ok");
        let strict = Sender::new(Gauge::default(), Reach::default()).unwrap();
        let refused = strict.send(&request, &asker).await.unwrap_err().message;
        assert!(refused.contains("is an address of the controller itself"), "{refused}");
    }
}
