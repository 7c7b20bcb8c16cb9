//! A platform team's policies on a real control plane: each scenario has a policy and namespaces of its own.

mod alone;
mod enrolment;
mod people;
mod selection;
mod timing;
