//! The loop: observe, decide, act.
pub mod clock;
