//! The wall clock, for the times in objects.

use jiff::Timestamp;

/// Returns the present time.
#[expect(clippy::disallowed_methods, reason = "the one place where the lab reads the wall clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
