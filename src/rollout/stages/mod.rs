//! A release from its beginning to its end, a file a stage; each answers with the steps to take now.

pub(super) mod analysis;
pub(super) mod checks;
pub(super) mod idle;
pub(super) mod in_place;
pub(super) mod initialise;
pub(super) mod leave;
pub(super) mod promotion;
pub(super) mod release;
pub(super) mod rollback;
pub(super) mod share;
