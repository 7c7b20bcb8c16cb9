//! The one place that reads the wall clock.

use jiff::Timestamp;

/// Returns the present moment by the wall clock.
#[must_use]
pub fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "everything else gets the time as an argument")]
    Timestamp::now()
}
