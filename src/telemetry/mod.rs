//! What the process tells about itself, and how its tasks live and end.
pub mod exposition;
pub mod health;
pub mod log;
pub mod metrics;
pub mod supervise;
