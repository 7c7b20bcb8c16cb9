//! What comes between the stages: people, other writers, lost objects, refused writes, and the policy that governs a target.

pub(super) mod bypass;
pub(super) mod gates;
pub(super) mod ownership;
pub(super) mod rebaseline;
pub(super) mod refused;
pub(super) mod repair;
pub(super) mod requests;
pub(super) mod restart;
pub(super) mod unreleased;
pub(super) mod writers;
