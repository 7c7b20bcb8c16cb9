//! The interlock's webhook: holds every new pod template that somebody else writes.
//!
//! [`review::parse`] reads what the API server asks, [`decide::decide`] answers it from the request
//! alone, [`patch`] turns the answer into JSON Patch and proves it on a copy, [`server`] puts HTTP
//! around the three. [`configuration`] and [`second_lock`] are the objects that make the API server
//! ask, and that stand in when it does not; [`requests`] is the policy that says who may ask what of a release.
mod budget;
pub mod configuration;
pub mod decide;
mod error;
pub mod metrics;
pub mod outcome;
pub mod patch;
pub mod policy_lock;
pub mod policy_webhooks;
pub mod requests;
pub mod review;
mod rules;
pub mod second_lock;
pub mod server;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod view;

pub use error::Error;
