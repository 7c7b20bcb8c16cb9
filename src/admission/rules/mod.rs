//! The rules, one file for each kind of object that they speak of.
pub(super) mod break_glass;
pub(super) mod deployment;
pub(super) mod enrol;
pub(super) mod keyset;
pub(super) mod policy;
pub(super) mod request;
pub(super) mod service;
pub(super) mod strip;

/// The field manager as `applied-by` has it before the user: one word, so that it cannot pass for part of the user's name.
fn applier(request: &crate::admission::review::Request) -> String {
    let words: Vec<&str> = request.field_manager().unwrap_or("-").split_whitespace().collect();
    words.join("_")
}
