//! The fuzz targets of `make fuzz`; the same functions run a little in `tests/fuzz.rs`.

mod targets;
pub use targets::{TARGETS, answered, rendered, requested, reviewed};
