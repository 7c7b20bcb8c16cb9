//! The API server's audit log: which requests were made, by whom, since when.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::users::AUDITOR;

/// What `--audit-policy-file` says: one line a request, written when it is answered.
pub(crate) const POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
  "omitStages": ["RequestReceived", "ResponseStarted"],
  "rules": [{ "level": "Metadata" }]
}"#;

/// A moment in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// One request that the API server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRequest {
    /// The verb: get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: String,
    /// The plural of the kind; empty for requests that are not of an object, such as discovery.
    pub resource: String,
    /// The subresource, empty without one.
    pub subresource: String,
    /// The API group, empty for the core group.
    pub group: String,
    /// The namespace, empty for objects of the cluster and lists of all namespaces.
    pub namespace: String,
    /// The name, empty for lists, watches and creations.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// The user, the impersonated one if there is one.
    pub user: String,
    /// When the request arrived.
    pub at: Timestamp,
    /// The client's User-Agent, empty without one.
    pub user_agent: String,
    /// The path and query.
    pub uri: String,
}

impl AuditRequest {
    /// Returns whether the request could change something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// Reads the audit log of one control plane.
///
/// Complete for every request whose answer was received before the call: the API server writes the line of a request
/// before it ends its answer, and each call here makes a request of its own (left out of what is returned) and reads up
/// to its line. A watch is in the log once it has ended.
#[derive(Clone)]
pub struct Audit {
    pub(crate) log: Option<PathBuf>,
    pub(crate) client: Client,
}

impl Audit {
    /// Returns the present moment.
    ///
    /// # Errors
    /// When the control plane was started without audit, or the log cannot be read.
    pub async fn mark(&self) -> Result<Mark> {
        let before = tokio::fs::metadata(self.log()?).await.map_or(0, |data| data.len());
        let name = self.marker().await?;
        let (_, end) = self.read_to_marker(Mark(before), &name).await?;
        Ok(Mark(end))
    }

    /// Returns what `user` requested after `since`, in the order of the answers.
    ///
    /// # Errors
    /// As [`mark`](Self::mark).
    pub async fn requests_since(&self, since: Mark, user: &str) -> Result<Vec<AuditRequest>> {
        let mut requests = self.all_since(since).await?;
        requests.retain(|request| request.user == user);
        Ok(requests)
    }

    /// Returns what anybody requested after `since`, in the order of the answers.
    ///
    /// # Errors
    /// As [`mark`](Self::mark).
    pub async fn all_since(&self, since: Mark) -> Result<Vec<AuditRequest>> {
        let name = self.marker().await?;
        let (text, _) = self.read_to_marker(since, &name).await?;
        let mut requests = Vec::new();
        for line in text.lines() {
            let request = parse(line).with_context(|| format!("reading the audit log's line {line}"))?;
            if request.user != AUDITOR {
                requests.push(request);
            }
        }
        Ok(requests)
    }

    /// Asks for an object that does not exist and returns its name.
    async fn marker(&self) -> Result<String> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("audit-marker-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Api::<Namespace>::all(self.client.clone())
            .get_opt(&name)
            .await
            .context("writing to the audit log")?;
        Ok(name)
    }

    fn log(&self) -> Result<&Path> {
        self.log.as_deref().context("the control plane was started without audit")
    }

    /// Returns the text from `since` to the end of the marker's line, and that end.
    async fn read_to_marker(&self, since: Mark, marker: &str) -> Result<(String, u64)> {
        let log = self.log()?;
        let quoted = format!("/{marker}\"");
        let start = Instant::now();
        let mut file = File::open(log).await.with_context(|| format!("opening {}", log.display()))?;
        file.seek(std::io::SeekFrom::Start(since.0)).await?;
        let mut bytes = Vec::new();
        let mut looked_at = 0;
        loop {
            file.read_to_end(&mut bytes).await?;
            for line in bytes.get(looked_at..).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
                if !line.ends_with(b"\n") {
                    break;
                }
                looked_at += line.len();
                if String::from_utf8_lossy(line).contains(&quoted) {
                    bytes.truncate(looked_at);
                    return Ok((String::from_utf8_lossy(&bytes).into_owned(), since.0 + looked_at as u64));
                }
            }
            if start.elapsed() > Duration::from_secs(20) {
                bail!("{} does not show a request made 20 s ago", log.display());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    #[serde(rename = "requestURI")]
    uri: String,
    user: EventUser,
    impersonated_user: Option<EventUser>,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Status,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct EventUser {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

fn parse(line: &str) -> Result<AuditRequest> {
    let event: Event = serde_json::from_str(line)?;
    Ok(AuditRequest {
        verb: event.verb,
        resource: event.object_ref.resource,
        subresource: event.object_ref.subresource,
        group: event.object_ref.api_group,
        namespace: event.object_ref.namespace,
        name: event.object_ref.name,
        code: event.response_status.code,
        user: event.impersonated_user.unwrap_or(event.user).username,
        at: event.request_received_timestamp,
        user_agent: event.user_agent,
        uri: event.uri,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"x",
        "stage":"ResponseComplete","requestURI":"/apis/apps/v1/namespaces/n/deployments/d/status","verb":"patch",
        "user":{"username":"admin"},"impersonatedUser":{"username":"flux"},"userAgent":"kubectl/v1",
        "objectRef":{"resource":"deployments","namespace":"n","name":"d","apiGroup":"apps","subresource":"status"},
        "responseStatus":{"metadata":{},"code":409},"requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z"}"#;

    #[test]
    fn impersonated_user_is_the_user() {
        let request = parse(LINE).unwrap();
        assert_eq!(request.user, "flux");
        assert_eq!((request.verb.as_str(), request.code), ("patch", 409));
        assert_eq!((request.resource.as_str(), request.subresource.as_str()), ("deployments", "status"));
        assert!(request.is_write());
    }

    #[test]
    fn request_without_object_is_read_too() {
        let line = r#"{"verb":"get","requestURI":"/readyz","user":{"username":"admin"},"responseStatus":{"code":200},
            "requestReceivedTimestamp":"2026-01-02T03:04:05Z"}"#;
        let request = parse(line).unwrap();
        assert_eq!((request.resource.as_str(), request.uri.as_str()), ("", "/readyz"));
        assert!(!request.is_write());
    }
}
