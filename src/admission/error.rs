//! What can go wrong with a review: never with the request under review, which is allowed or denied.

/// A review that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not an AdmissionReview.
    #[error("the body is not an AdmissionReview: {0}")]
    Unparsable(#[from] serde_json::Error),
    /// The body is an AdmissionReview of a version that we do not speak.
    #[error("only admission.k8s.io/v1 AdmissionReview is understood, got {api_version} {kind}")]
    Unsupported {
        /// `apiVersion` of the body.
        api_version: String,
        /// `kind` of the body.
        kind: String,
    },
    /// The AdmissionReview asks nothing.
    #[error("the AdmissionReview has no request with a uid")]
    NoRequest,
    /// Our patch does not apply to the object it was made for.
    #[error("the patch does not apply: {0}")]
    Patch(#[from] json_patch::PatchError),
    /// Our patch would change what must stay as written.
    #[error("the patch would change {0}")]
    Untouchable(&'static str),
    /// Our patch leaves the object other than decided.
    #[error("the patch leaves {0} other than decided")]
    Undone(&'static str),
    /// The answer cannot be written as JSON.
    #[error("the answer cannot be written: {0}")]
    Answer(#[source] serde_json::Error),
}

impl Error {
    /// Returns a short name for metric labels.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Unparsable(_) => "unparsable",
            Self::Unsupported { .. } => "unsupported",
            Self::NoRequest => "no-request",
            Self::Patch(_) | Self::Untouchable(_) | Self::Undone(_) => "patch",
            Self::Answer(_) => "answer",
        }
    }

    /// Returns whether the body is to blame rather than we are.
    #[must_use]
    pub const fn is_bad_request(&self) -> bool {
        matches!(self, Self::Unparsable(_) | Self::Unsupported { .. } | Self::NoRequest)
    }
}
