//! Executes [`Write`]s and single reads: one request each, no retry, a time limit.

use super::election::Leadership;
use crate::api::keys::FIELD_MANAGER;
use crate::kubernetes::path;
use crate::object::{Kind, ObjectRef, Write};
use kube::Client;
use serde_json::{Value, json};
use std::time::Duration;

/// Time allowed for one request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused it, or could not be reached.
    #[error("{verb} {object} failed")]
    Request {
        /// `create`, `patch`, …
        verb: &'static str,
        /// What was written to.
        object: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer came in time.
    #[error("{verb} {object} got no answer within {after:?}")]
    Timeout {
        /// `create`, `patch`, …
        verb: &'static str,
        /// What was written to.
        object: String,
        /// The time it was given.
        after: Duration,
    },
    /// The write does not say what it writes to, or cannot be put into a request.
    #[error("malformed write: {0}")]
    Malformed(String),
}

/// How the API server's answer begins when a `test` of a JSON patch has failed, or the patch does not fit
/// (apimachinery, `NewGenericServerResponse` for 422).
const NOT_APPLIED: &str = "the server rejected our request due to an error in our request";

impl WriteError {
    /// Returns the HTTP status code of the answer, if there was one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.answer().map(|(code, _)| code)
    }

    /// Returns the HTTP status code of the answer and the API server's own words, if there was one.
    #[must_use]
    pub fn answer(&self) -> Option<(u16, &str)> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some((status.code, &status.message)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the API server understood the write and says no: by a schema, a quota, a policy, a webhook, or for want of a
    /// right. Nothing that it rests on has changed meanwhile.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let create = matches!(self, Self::Request { verb: "create", .. });
        self.answer().is_some_and(|(code, words)| match code {
            400 | 403 | 405 | 413 => true,
            422 => !words.starts_with(NOT_APPLIED),
            404 => create,
            _ => false,
        })
    }

    /// What was to be done, such as `create Service test/app`.
    #[must_use]
    pub fn attempt(&self) -> String {
        match self {
            Self::Request { verb, object, .. } | Self::Timeout { verb, object, .. } => {
                format!("{verb} {object}")
            }
            Self::Malformed(what) => what.clone(),
        }
    }
}

/// Sends writes to the API server under our own field manager.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    leadership: Leadership,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Makes a writer for a process that writes as long as it leads: none of its writes is waited for longer than its claim
    /// lasts, after which another process may write.
    #[must_use]
    pub const fn new(client: Client, leadership: Leadership) -> Self {
        Self { client, leadership }
    }

    /// Returns the client that it writes with.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Executes a write and returns the object as the API server stored it; for an eviction and a delete, nothing.
    ///
    /// # Errors
    ///
    /// As the API server answers; a failed `test` of a patch is a 422.
    pub async fn write(&self, write: &Write) -> Result<Option<Value>, WriteError> {
        self.request(write, "").await
    }

    /// Has a write admitted, defaulted and validated, but not stored, and returns what would have been stored.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub async fn try_out(&self, write: &Write) -> Result<Option<Value>, WriteError> {
        self.request(write, "&dryRun=All").await
    }

    async fn request(&self, write: &Write, option: &str) -> Result<Option<Value>, WriteError> {
        let malformed = || WriteError::Malformed(format!("{write:?}"));
        let at = write.target().ok_or_else(malformed)?;
        let json =
            |value: &Value| serde_json::to_vec(value).map_err(|e| WriteError::Malformed(e.to_string()));
        let manager = format!("fieldManager={FIELD_MANAGER}{option}");
        let (verb, method, uri, content, body) = match write {
            Write::Create { object, .. } => (
                "create",
                http::Method::POST,
                format!("{}?{manager}", path::collection(at.kind, Some(&at.namespace))),
                "application/json",
                json(object)?,
            ),
            Write::Patch { patch, .. } | Write::PatchStatus { patch, .. } => (
                "patch",
                http::Method::PATCH,
                match write {
                    Write::PatchStatus { .. } => format!("{}/status?{manager}", path::of(&at)),
                    _ => format!("{}?{manager}", path::of(&at)),
                },
                "application/json-patch+json",
                serde_json::to_vec(patch).map_err(|e| WriteError::Malformed(e.to_string()))?,
            ),
            Write::Replace { object } => (
                "update",
                http::Method::PUT,
                format!("{}?{manager}", path::of(&at)),
                "application/json",
                json(object)?,
            ),
            Write::ReplaceStatus { object } => (
                "update",
                http::Method::PUT,
                format!("{}/status?{manager}", path::of(&at)),
                "application/json",
                json(object)?,
            ),
            Write::Evict { uid, .. } => (
                "evict",
                http::Method::POST,
                format!("{}/eviction", path::of(&at)),
                "application/json",
                json(&json!({
                    "apiVersion": "policy/v1", "kind": "Eviction",
                    "metadata": {"namespace": at.namespace, "name": at.name},
                    "deleteOptions": {"preconditions": {"uid": uid}},
                }))?,
            ),
            Write::Delete { uid, .. } => (
                "delete",
                http::Method::DELETE,
                path::of(&at),
                "application/json",
                json(&json!({
                    "apiVersion": "v1", "kind": "DeleteOptions",
                    "propagationPolicy": "Background", "preconditions": {"uid": uid},
                }))?,
            ),
        };
        let answer = self.send(verb, &at, method, uri, content, body).await?;
        Ok(match write {
            Write::Evict { .. } | Write::Delete { .. } => None,
            _ => Some(answer),
        })
    }

    /// Reads one object; `None` when it, or its kind, does not exist.
    ///
    /// # Errors
    ///
    /// As the API server answers.
    pub async fn read(&self, at: &ObjectRef) -> Result<Option<Value>, WriteError> {
        let answer =
            self.send("get", at, http::Method::GET, path::of(at), "application/json", Vec::new()).await;
        match answer {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the objects of a kind in a namespace that have this label, without apiVersion and kind.
    ///
    /// # Errors
    ///
    /// As the API server answers.
    pub async fn list(
        &self,
        kind: Kind,
        namespace: &str,
        (key, value): (&str, &str),
    ) -> Result<Vec<Value>, WriteError> {
        let selector = format!("{key}={value}");
        let selector: String = url::form_urlencoded::byte_serialize(selector.as_bytes()).collect();
        let uri = format!("{}?labelSelector={selector}", path::collection(kind, Some(namespace)));
        let at = ObjectRef::new(kind, namespace, "");
        let mut list = self.send("list", &at, http::Method::GET, uri, "application/json", Vec::new()).await?;
        Ok(list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default())
    }

    async fn send(
        &self,
        verb: &'static str,
        at: &ObjectRef,
        method: http::Method,
        uri: String,
        content: &str,
        body: Vec<u8>,
    ) -> Result<Value, WriteError> {
        let after = match method {
            http::Method::GET => TIMEOUT,
            _ => self.leadership.lasts().map_or(TIMEOUT, |left| left.min(TIMEOUT)),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::CONTENT_TYPE, content)
            .body(body)
            .map_err(|e| WriteError::Malformed(e.to_string()))?;
        let object = || at.to_string();
        match tokio::time::timeout(after, self.client.request::<Value>(request)).await {
            Err(_) => Err(WriteError::Timeout { verb, object: object(), after }),
            Ok(Err(source)) => Err(WriteError::Request { verb, object: object(), source: Box::new(source) }),
            Ok(Ok(answer)) => Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An API server that does not answer: a write is given up when the claim of its process ends, since from then on another
    /// one may write. What only reads waits as ever.
    #[tokio::test]
    async fn no_write_is_waited_for_longer_than_the_claim_lasts() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let client = Client::try_from(kube::Config::new(url)).unwrap();
        let left = Duration::from_millis(50);
        let until = std::time::Instant::now() + left;
        let writer = Writer::new(client, Leadership::until(until));
        let at = ObjectRef::new(Kind::Service, "a", "b");
        let write = Write::Delete { target: at.clone(), uid: "u".into() };
        let Err(WriteError::Timeout { after, .. }) = writer.write(&write).await else { panic!("an answer") };
        assert!(after <= left);
        let read = writer.read(&at);
        tokio::pin!(read);
        assert!(futures::poll!(&mut read).is_pending());
    }
}
