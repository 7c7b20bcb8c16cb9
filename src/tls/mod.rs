//! Certificates of the webhook: made and rotated by ourselves, or read from files.
//!
//! [`plan`] says what is due, [`issue`] makes it, [`store`] keeps it in one Secret that all replicas share,
//! [`inject`] tells the API server whom to trust, and [`keep`] drives them. [`files`] serves certificates that
//! somebody else makes. Either way [`resolver`] hands the present one to each new handshake.
pub mod files;
pub mod inject;
pub mod issue;
pub mod keep;
pub mod plan;
pub mod resolver;
pub mod store;

use jiff::Timestamp;

/// Until when the certificates in use are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The certificate that is served.
    pub leaf: Timestamp,
    /// The authority that signed it; `None` when it is not ours.
    pub authority: Option<Timestamp>,
}

#[cfg(test)]
mod simulation;
