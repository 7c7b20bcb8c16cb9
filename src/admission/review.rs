//! AdmissionReview as it goes over the wire (`admission.k8s.io/v1`), as far as we read or write it.
//!
//! Own types: objects stay raw JSON, so that no field is lost which our client library does not
//! know, and a denial carries its code.

use super::Error;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// What the API server asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Names this question; the answer repeats it.
    pub uid: String,
    /// What is done to the object.
    pub operation: Operation,
    /// The kind of the object, in the version that we asked for.
    pub kind: GroupVersionKind,
    /// The resource of the object, in the version that we asked for.
    pub resource: GroupVersionResource,
    /// The subresource, empty for the object itself.
    #[serde(default)]
    pub sub_resource: String,
    /// Name of the object; empty on a CREATE that leaves it to the server.
    #[serde(default)]
    pub name: String,
    /// Namespace of the object.
    #[serde(default)]
    pub namespace: String,
    /// The object as it would be stored; null on DELETE.
    #[serde(default)]
    pub object: Value,
    /// The object as it is stored; null on CREATE.
    #[serde(default)]
    pub old_object: Value,
    /// Who asks.
    pub user_info: UserInfo,
    /// Create, update or delete options.
    #[serde(default)]
    pub options: Option<Options>,
    /// Whether nothing will be stored.
    #[serde(default)]
    pub dry_run: Option<bool>,
}

impl Request {
    /// Returns the field manager that the writer named; `None` for none.
    #[must_use]
    pub fn field_manager(&self) -> Option<&str> {
        self.options.as_ref()?.field_manager.as_deref().filter(|manager| !manager.is_empty())
    }

    /// Returns whether nothing will be stored.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.dry_run.unwrap_or(false)
    }
}

/// What is done to the object under review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed, by whatever kind of write.
    Update,
    /// It is deleted.
    Delete,
    /// Somebody connects to it.
    Connect,
}

impl Operation {
    /// Returns the operation as the API server spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A kind with its group and version.
#[derive(Clone, Debug, Deserialize)]
pub struct GroupVersionKind {
    /// API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// API version.
    pub version: String,
    /// Kind.
    pub kind: String,
}

/// A resource with its group and version.
#[derive(Clone, Debug, Deserialize)]
pub struct GroupVersionResource {
    /// API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
}

/// Who makes the request under review.
#[derive(Clone, Debug, Deserialize)]
pub struct UserInfo {
    /// The user's name, after impersonation.
    #[serde(default)]
    pub username: String,
}

/// Options of the request under review, as far as we read them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Options {
    /// The field manager that the writer named.
    pub field_manager: Option<String>,
}

/// Reads an AdmissionReview.
///
/// # Errors
/// The body is not JSON, not an `admission.k8s.io/v1` AdmissionReview, or asks nothing.
pub fn parse(body: &[u8]) -> Result<Request, Error> {
    let question: Question = serde_json::from_slice(body)?;
    if question.api_version != API_VERSION || question.kind != KIND {
        return Err(Error::Unsupported { api_version: question.api_version, kind: question.kind });
    }
    question.request.filter(|request| !request.uid.is_empty()).ok_or(Error::NoRequest)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: &'a Response,
}

/// Our answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    patch: Option<EncodedPatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'static str, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Status {
    code: u16,
    message: String,
}

/// Patch and patch type: the API server refuses one without the other.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct EncodedPatch {
    patch: String,
    patch_type: &'static str,
}

impl Response {
    /// Allows the request, changed by `patch` unless that is empty.
    ///
    /// # Errors
    /// The patch cannot be written as JSON.
    pub fn allow(uid: &str, patch: &json_patch::Patch) -> Result<Self, Error> {
        use base64::Engine as _;
        let encoded = if patch.is_empty() {
            None
        } else {
            let bytes = serde_json::to_vec(patch).map_err(Error::Answer)?;
            let patch = base64::engine::general_purpose::STANDARD.encode(bytes);
            Some(EncodedPatch { patch, patch_type: "JSONPatch" })
        };
        Ok(Self::new(uid, true, None, encoded))
    }

    /// Denies the request with an HTTP code of the 400s and a sentence for whoever made it.
    #[must_use]
    pub fn deny(uid: &str, code: u16, message: &str) -> Self {
        Self::new(uid, false, Some(Status { code, message: message.to_owned() }), None)
    }

    fn new(uid: &str, allowed: bool, status: Option<Status>, patch: Option<EncodedPatch>) -> Self {
        let (uid, warnings, audit_annotations) = (uid.to_owned(), Vec::new(), BTreeMap::new());
        Self { uid, allowed, status, patch, warnings, audit_annotations }
    }

    /// Adds texts that kubectl shows to whoever made the request.
    #[must_use]
    pub fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// Adds keys that land in the audit log, prefixed there with the webhook's name.
    #[must_use]
    pub fn with_audit_annotations(self, audit_annotations: BTreeMap<&'static str, String>) -> Self {
        Self { audit_annotations, ..self }
    }

    /// Writes the AdmissionReview that carries this answer.
    ///
    /// # Errors
    /// The answer cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(&Answer { api_version: API_VERSION, kind: KIND, response: self })
            .map_err(Error::Answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::recorded;
    use serde_json::json;

    #[test]
    fn every_recorded_review_is_read() {
        let requests = recorded();
        assert_eq!(requests.len(), 40);
        for request in requests {
            assert_eq!(request.resource.resource, "deployments");
            assert_eq!(request.old_object.is_null(), request.operation == Operation::Create);
        }
    }

    #[test]
    fn absent_field_manager_is_none() {
        let undo = recorded().iter().find(|r| r.field_manager().is_none());
        assert!(undo.is_some_and(|r| r.operation == Operation::Update && !r.is_dry_run()));
    }

    #[test]
    fn a_body_that_asks_nothing_is_refused() {
        let review = |request: Value| {
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
                .to_string()
        };
        for (body, category) in [
            (String::new(), "unparsable"),
            ("{}".to_owned(), "unsupported"),
            (
                json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}).to_string(),
                "unsupported",
            ),
            (review(Value::Null), "no-request"),
            (review(json!({"uid": "u"})), "unparsable"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.category(), category, "{body}");
            assert!(error.is_bad_request());
        }
    }

    #[test]
    fn patch_and_type_come_together_or_not_at_all() {
        let plain = Response::allow("u", &json_patch::Patch(vec![])).unwrap().to_bytes().unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&plain).unwrap(),
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                   "response": {"uid": "u", "allowed": true}})
        );
        let patch = serde_json::from_value(json!([{"op": "remove", "path": "/a"}])).unwrap();
        let patched: Value =
            serde_json::from_slice(&Response::allow("u", &patch).unwrap().to_bytes().unwrap()).unwrap();
        assert_eq!(patched["response"]["patchType"], "JSONPatch");
        assert_eq!(patched["response"]["patch"], "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL2EifV0=");
    }

    #[test]
    fn a_denial_carries_code_and_message() {
        let bytes = Response::deny("u", 403, "no").to_bytes().unwrap();
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            answer["response"],
            json!({"uid": "u", "allowed": false, "status": {"code": 403, "message": "no"}})
        );
    }
}
