//! Scenarios that change what a whole cluster shares (webhook configuration, certificates, the one process), each on a
//! control plane of its own.

mod certificates;
mod leaving;
mod policies;
mod questions;
mod second_lock;
mod selection;
mod upgrades;
