//! The rules, one file for each kind of object that they speak of.
pub(super) mod break_glass;
pub(super) mod deployment;
pub(super) mod enrol;
pub(super) mod keyset;
pub(super) mod policy;
pub(super) mod request;
pub(super) mod service;
pub(super) mod strip;
