//! Metrics: which query a check asks, how it is sent to Prometheus, and what the answer means.
//!
//! Pure: [`prometheus`] builds requests and reads answers, the caller sends them. A check goes
//! [`judge::checks`] → [`judge::Check::query`] → [`prometheus::Prometheus::request`] → [`prometheus::sample`]
//! → [`judge::Check::verdict`].

pub mod judge;
pub mod observer;
pub mod prometheus;
pub mod render;

#[cfg(test)]
mod replay;
