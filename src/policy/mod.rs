//! Cluster-wide policy: which policy governs a Deployment, what is made of it, and whether a release may begin now.
//!
//! [`roster`] keeps the few facts about the cluster that this takes, [`selection`] says what a policy selects, [`plan`]
//! what has to be written for it, [`webhooks`] how the API server itself selects, and [`guard`](roster::Roster::guard)
//! what the core is told about one Canary, [`wave`] what clusters that come before say of a revision. All of it is pure; `controller::policies` does the rest.
pub mod freeze;
pub mod generate;
pub mod plan;
pub mod review;
pub mod roster;
pub mod selection;
#[cfg(test)]
mod tests;
pub mod turns;
pub mod wave;
