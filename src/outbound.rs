//! An HTTP request to the outside (metrics server, hook, alert receiver) as data.
//!
//! The pure modules build [`HttpRequest`]s and read [`HttpResponse`]s; one executor in
//! [`crate::controller`] sends all of them, with one pool and one concurrency limit.

use std::collections::BTreeMap;
use std::time::Duration;

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// The HTTP method.
    pub method: Method,
    /// The absolute URL, query included.
    pub url: String,
    /// Headers beside those that HTTP itself needs; a name may carry several values.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
    /// Time allowed for one attempt.
    pub timeout: Duration,
    /// Further attempts after a connection error, 429 or 5xx other than 501, with growing pauses of 1 to 30 s.
    pub retries: u32,
    /// Whether the server's certificate is not checked.
    pub insecure: bool,
}

/// Methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The body, at most 1 MiB of it.
    pub body: Vec<u8>,
}

/// No usable answer came: the connection failed or timed out, or every attempt ended in an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TransportError {
    /// Why, with the method and URL, as Go's HTTP client words it: `Post "http://…": …`.
    pub message: String,
}

/// The result of sending a request.
pub type Exchange = Result<HttpResponse, TransportError>;

/// Template variables of `spec.analysis.metrics[].templateVariables` and the like.
pub type Variables = BTreeMap<String, String>;
