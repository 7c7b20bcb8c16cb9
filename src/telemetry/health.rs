//! Metrics, liveness and readiness over plain HTTP (Flagger's port and paths: `:8080/metrics`, `/healthz`).

use super::exposition::CONTENT_TYPE;
use super::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;

/// Something that has to be so before requests may come.
#[derive(Clone, Debug)]
pub struct Signal {
    name: &'static str,
    set: Arc<AtomicBool>,
}

impl Signal {
    /// Says whether it is so.
    pub fn set(&self, so: bool) {
        self.set.store(so, Ordering::Release);
    }
}

/// All signals of the process; ready when each is set, until the drain begins.
#[derive(Clone, Debug)]
pub struct Readiness {
    signals: Vec<Signal>,
    drain: CancellationToken,
}

impl Readiness {
    /// Makes one without signals.
    #[must_use]
    pub const fn new(drain: CancellationToken) -> Self {
        Self { signals: Vec::new(), drain }
    }

    /// Adds a signal, not set yet.
    pub fn signal(&mut self, name: &'static str) -> Signal {
        let signal = Signal { name, set: Arc::default() };
        self.signals.push(signal.clone());
        signal
    }

    /// Returns the names of the signals that are not set, and `draining` from the drain on.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let unset = self.signals.iter().filter(|s| !s.set.load(Ordering::Acquire)).map(|s| s.name);
        unset.chain(self.drain.is_cancelled().then_some("draining")).collect()
    }
}

/// Builds the router of the metrics port. The readiness has to have all its signals by then.
pub fn router(metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || "OK"))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.missing();
    if missing.is_empty() {
        return "OK".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}", missing.join(", "))).into_response()
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use http::Request;
    use tower::ServiceExt as _;

    async fn fetch(router: &Router, path: &str) -> (StatusCode, String, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let kind = answer.headers().get(header::CONTENT_TYPE).map_or("", |v| v.to_str().unwrap()).to_owned();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_when_every_signal_is_set_until_the_drain() {
        let drain = CancellationToken::new();
        let mut readiness = Readiness::new(drain.clone());
        let (certificate, caches) = (readiness.signal("certificate"), readiness.signal("caches"));
        let router = router(Arc::new(Metrics::new("1", "istio")), readiness);
        assert_eq!(fetch(&router, "/healthz").await.2, "OK");
        certificate.set(true);
        let (status, _, text) = fetch(&router, "/readyz").await;
        assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not ready: caches"));
        caches.set(true);
        assert_eq!(fetch(&router, "/readyz").await.0, StatusCode::OK);
        certificate.set(false);
        assert_eq!(fetch(&router, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        certificate.set(true);
        drain.cancel();
        assert_eq!(fetch(&router, "/readyz").await.2, "not ready: draining");
        assert_eq!(fetch(&router, "/healthz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_served_as_text_of_the_older_format() {
        let router =
            router(Arc::new(Metrics::new("1.2.3", "istio")), Readiness::new(CancellationToken::new()));
        let (status, kind, text) = fetch(&router, "/metrics").await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, CONTENT_TYPE));
        assert!(text.contains(r#"flagger_info{mesh_provider="istio",version="1.2.3"} 1"#), "{text}");
    }
}
