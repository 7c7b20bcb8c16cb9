//! HTTP around the decision: an axum router that any listener can serve.
//!
//! Our own trouble is an HTTP error, never an answer: the API server then does what the failure
//! policy says and counts it. Beyond the limit of reviews at once, and of the bytes that they may have together, the answer
//! is 503. Large ones are read beside the runtime, which has the lease to renew.

use super::budget::{Budget, ONE_PARSED, estimate};
use super::decide::{Entrance, Settings, decide_at};
use super::metrics::Metrics;
use super::outcome::{Outcome, Verdict};
use super::review::{Request as Review, Response as Answer, parse};
use super::{Error, patch};
use crate::api::names::Layout;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

/// Most bytes of a review: object and old object may have 3 MiB each.
const BODY_LIMIT: usize = 8 << 20;
/// The API server gives up after two seconds, so no body is worth a longer wait.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// Reviews at once beyond which the answer is 503; the API server itself has 200 writes in flight.
pub const DEFAULT_LIMIT: usize = 256;
/// A body up to this size is read at once: handing it to another thread would take longer.
const SMALL: usize = 64 << 10;

/// What the handlers share.
#[derive(Clone)]
pub struct AdmissionState(Arc<Shared>);

struct Shared {
    settings: Settings,
    metrics: Metrics,
    permits: Semaphore,
    budget: Budget,
}

impl AdmissionState {
    /// Makes the state of a server that answers `limit` reviews at once.
    #[must_use]
    pub fn new(settings: Settings, metrics: Metrics, limit: usize) -> Self {
        Self(Arc::new(Shared {
            settings,
            metrics,
            permits: Semaphore::new(limit),
            budget: Budget::default(),
        }))
    }
}

/// Returns the routes: POST `/mutate`, `/enrol/{layout}/{policy}` and `/audit/{policy}`. Health is asked on the port of the
/// metrics: whoever reaches this one gets nothing else.
pub fn router(state: AdmissionState) -> Router {
    let metrics = state.0.metrics.clone();
    let panicked = move |panic: Box<dyn Any + Send + 'static>| {
        metrics.failed("panic");
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        tracing::error!(panic = text, "admission handler panicked");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    };
    Router::new()
        .route("/mutate", post(mutate))
        .route("/enrol/{layout}/{policy}", post(enrol))
        .route("/audit/{policy}", post(audit))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(state)
}

async fn mutate(State(state): State<AdmissionState>, request: Request) -> Response {
    review(&state, &Entrance::Enrolled, request).await
}

async fn enrol(
    State(state): State<AdmissionState>,
    Path((layout, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    if Layout::parse(&layout).is_none() {
        return StatusCode::NOT_FOUND.into_response();
    }
    review(&state, &Entrance::Policy { name, layout }, request).await
}

async fn audit(State(state): State<AdmissionState>, Path(name): Path<String>, request: Request) -> Response {
    review(&state, &Entrance::Audit { name }, request).await
}

async fn review(state: &AdmissionState, entrance: &Entrance, request: Request) -> Response {
    let shared = &state.0;
    let _in_flight = shared.metrics.enter();
    let Ok(_permit) = shared.permits.try_acquire() else {
        return refuse(shared, Refusal::Overload);
    };
    let started = Instant::now();
    match work(shared, entrance, request, started).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(refusal) => refuse(shared, refusal),
    }
}

/// Reads the body and answers it, within the budget.
async fn work(
    shared: &Arc<Shared>,
    entrance: &Entrance,
    request: Request,
    started: Instant,
) -> Result<Vec<u8>, Refusal> {
    // The API server states the length; whoever does not may send as much as anybody may.
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(BODY_LIMIT);
    let _bytes = shared.budget.body(length.min(BODY_LIMIT)).ok_or(Refusal::Overload)?;
    let body = read(request).await?;
    let memory = estimate(&body);
    if memory > ONE_PARSED {
        return Err(Refusal::TooMany);
    }
    let room = tokio::time::timeout(BODY_TIMEOUT, shared.budget.parsed(memory)).await;
    let _memory = room.ok().flatten().ok_or(Refusal::Overload)?;
    if body.len() <= SMALL {
        return answer(shared, entrance, &body, started);
    }
    let (shared, entrance) = (shared.clone(), entrance.clone());
    match tokio::task::spawn_blocking(move || answer(&shared, &entrance, &body, started)).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Refusal::Overload),
        },
    }
}

/// Why a review gets an HTTP error for an answer.
enum Refusal {
    Overload,
    TooMany,
    ContentType,
    TooLarge,
    Slow,
    Failed(Error),
}

fn refuse(shared: &Shared, refusal: Refusal) -> Response {
    let (status, reason, text) = match refusal {
        Refusal::Overload => {
            (StatusCode::SERVICE_UNAVAILABLE, "overload", "too many reviews at once".to_owned())
        }
        Refusal::TooMany => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-many-values",
            format!("a review may take {ONE_PARSED} bytes when it is read: it has too many small values"),
        ),
        Refusal::ContentType => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "Content-Type must be application/json".to_owned(),
        ),
        Refusal::TooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, "too-large", format!("a review has at most {BODY_LIMIT} bytes"))
        }
        Refusal::Slow => (StatusCode::REQUEST_TIMEOUT, "slow-body", "the body did not arrive".to_owned()),
        Refusal::Failed(error) => {
            let status = if error.is_bad_request() {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            };
            (status, error.category(), error.to_string())
        }
    };
    shared.metrics.failed(reason);
    tracing::warn!(status = status.as_u16(), reason, error = text, "admission review refused");
    (status, text).into_response()
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split_once(';').map_or(value, |(essence, _)| essence);
    essence.trim().eq_ignore_ascii_case("application/json")
}

async fn read(request: Request<Body>) -> Result<Bytes, Refusal> {
    if !is_json(request.headers()) {
        return Err(Refusal::ContentType);
    }
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), BODY_LIMIT)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(Refusal::TooLarge),
        Err(_) => Err(Refusal::Slow),
    }
}

fn answer(shared: &Shared, entrance: &Entrance, body: &[u8], started: Instant) -> Result<Vec<u8>, Refusal> {
    let request = parse(body).map_err(Refusal::Failed)?;
    let outcome = decide_at(entrance, &request, &shared.settings);
    let bytes = respond(&request, &outcome).and_then(|answer| answer.to_bytes()).map_err(Refusal::Failed)?;
    shared.metrics.answered(&request, &outcome, started.elapsed());
    log(&request, &outcome);
    Ok(bytes)
}

/// Puts an outcome into the words of the protocol.
///
/// # Errors
/// The decided changes cannot be made into a patch.
pub fn respond(request: &Review, outcome: &Outcome) -> Result<Answer, Error> {
    let answer = match &outcome.verdict {
        Verdict::Deny(denial) => Answer::deny(&request.uid, denial.reason.code(), &denial.message),
        verdict => Answer::allow(&request.uid, &patch::build(&request.object, verdict)?)?,
    };
    Ok(answer.with_warnings(outcome.warnings.clone()).with_audit_annotations(outcome.audit_annotations()))
}

fn log(request: &Review, outcome: &Outcome) {
    let decision = outcome.decision();
    if decision == "pass" {
        return;
    }
    let denied = match &outcome.verdict {
        Verdict::Deny(denial) => denial.message.as_str(),
        _ => "",
    };
    tracing::info!(
        uid = request.uid,
        kind = request.kind.kind,
        namespace = request.namespace,
        name = request.name,
        user = request.user_info.username,
        dry_run = request.is_dry_run(),
        decision,
        revision = outcome.revision.as_ref().map(tracing::field::display),
        denied,
        "admission decided"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Write;
    use axum::http::Method;
    use prometheus_client::registry::Registry;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    fn server(limit: usize) -> (AdmissionState, Registry) {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        (AdmissionState::new(Settings::default(), metrics, limit), registry)
    }

    async fn call(
        state: &AdmissionState,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: impl Into<Body>,
    ) -> (StatusCode, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let response = router(state.clone()).oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    async fn review(state: &AdmissionState, body: &Value) -> (StatusCode, Value) {
        let (status, bytes) =
            call(state, Method::POST, "/mutate?timeout=2s", Some("application/json"), body.to_string()).await;
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn exposition(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[tokio::test]
    async fn answers_a_review_with_patch_warnings_and_audit_annotations() {
        let (state, registry) = server(1);
        let (status, answer) = review(&state, &Write::in_place().template("v2").review()).await;
        let response = &answer["response"];
        assert_eq!(status, StatusCode::OK);
        assert_eq!(response["uid"], "uid-1");
        assert_eq!(response["allowed"], true);
        assert_eq!(response["patchType"], "JSONPatch");
        assert_eq!(response["auditAnnotations"]["decision"], "hold");
        assert_eq!(response["warnings"].as_array().unwrap().len(), 1);
        let text = exposition(&registry);
        assert!(
            text.contains(
                r#"admission_requests_total{operation="UPDATE",decision="hold",dry_run="false"} 1"#
            ),
            "{text}"
        );
        assert!(text.contains("admission_duration_seconds_count 1"), "{text}");
        assert!(text.contains("admission_in_flight 0"), "{text}");
    }

    #[tokio::test]
    async fn a_denial_is_an_answer_with_403() {
        let (state, _) = server(1);
        let (status, answer) = review(&state, &Write::generated().template("v2").review()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["response"]["allowed"], false);
        assert_eq!(answer["response"]["status"]["code"], 403);
        assert!(answer["response"].get("patch").is_none());
    }

    #[tokio::test]
    async fn bad_requests_get_their_own_status() {
        let (state, registry) = server(1);
        let json_type = Some("application/json");
        for (method, path, content_type, body, expected) in [
            (Method::POST, "/mutate", json_type, "{", StatusCode::BAD_REQUEST),
            (Method::POST, "/mutate", None, "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            (Method::POST, "/mutate", Some("text/plain"), "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            (Method::POST, "/mutate", Some("Application/JSON; charset=utf-8"), "{}", StatusCode::BAD_REQUEST),
            (Method::GET, "/mutate", json_type, "", StatusCode::METHOD_NOT_ALLOWED),
            (Method::POST, "/other", json_type, "{}", StatusCode::NOT_FOUND),
            (Method::GET, "/healthz", None, "", StatusCode::NOT_FOUND),
        ] {
            let (status, _) = call(&state, method.clone(), path, content_type, body).await;
            assert_eq!(status, expected, "{method} {path} {content_type:?} {body}");
        }
        assert!(exposition(&registry).contains(r#"admission_errors_total{reason="content-type"} 2"#));
    }

    #[tokio::test]
    async fn bodies_up_to_8_mib_are_read() {
        let (state, _) = server(1);
        let big = vec![b' '; BODY_LIMIT];
        let (status, _) = call(&state, Method::POST, "/mutate", Some("application/json"), big).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let bigger = vec![b' '; BODY_LIMIT + 1];
        let (status, _) = call(&state, Method::POST, "/mutate", Some("application/json"), bigger).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn overload_is_503_at_once() {
        let (state, registry) = server(0);
        let (status, _) = review(&state, &Write::in_place().template("v2").review()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(exposition(&registry).contains(r#"admission_errors_total{reason="overload"} 1"#));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_gives_its_place_back() {
        let (state, _) = server(1);
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let (status, _) = call(&state, Method::POST, "/mutate", Some("application/json"), endless).await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        let (status, _) = review(&state, &Write::in_place().template("v2").review()).await;
        assert_eq!(status, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_panic_is_500_and_counted() {
        let (state, registry) = server(1);
        let metrics = state.0.metrics.clone();
        let body = Body::from_stream(futures::stream::poll_fn(
            move |_| -> std::task::Poll<Option<Result<Bytes, std::io::Error>>> {
                let _ = &metrics;
                panic!("in the middle of it")
            },
        ));
        let (status, _) = call(&state, Method::POST, "/mutate", Some("application/json"), body).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        let text = exposition(&registry);
        assert!(text.contains(r#"admission_errors_total{reason="panic"} 1"#), "{text}");
        assert!(text.contains("admission_in_flight 0"), "{text}");
    }

    #[tokio::test]
    async fn many_small_values_are_not_read() {
        let (state, registry) = server(1);
        let body = format!("[{}{{}}]", r#"{"":0},"#.repeat(BODY_LIMIT / 8));
        let (status, said) = call(&state, Method::POST, "/mutate", Some("application/json"), body).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{said}");
        assert!(said.contains("too many small values"), "{said}");
        assert!(exposition(&registry).contains(r#"admission_errors_total{reason="too-many-values"} 1"#));
    }

    #[tokio::test]
    async fn a_large_review_is_answered_as_a_small_one() {
        let (state, _) = server(1);
        let mut write = Write::in_place().template("v2").review();
        write["request"]["object"]["metadata"]["annotations"]["note"] = "x".repeat(2 * SMALL).into();
        let (status, answer) = review(&state, &write).await;
        assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)), "{answer}");
    }

    #[tokio::test]
    async fn a_review_of_the_controller_passes_without_a_word() {
        let (state, _) = server(1);
        let review_body = Write::in_place().template("v2").by(crate::api::keys::CONTROLLER_USER).review();
        let (_, answer) = review(&state, &review_body).await;
        assert_eq!(answer["response"], json!({"uid": "uid-1", "allowed": true}));
    }
}
