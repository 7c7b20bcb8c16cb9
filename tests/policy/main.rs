//! A platform team's policies on a real control plane: each scenario has a policy and namespaces of its own.

#[path = "../harness/mod.rs"]
mod harness;

mod alone;
mod enrolment;
mod people;
mod selection;
mod stage;
mod timing;
