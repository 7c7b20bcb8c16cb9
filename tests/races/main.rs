//! The race suite: what happens when somebody writes at the worst moment, each state of routes, pods, Deployments and
//! status recorded by watches and judged by an oracle that knows nothing of how Sidetrack works.
//!
//! `make races` prints a line a scenario. Each is also run against a controller that does what its guards forbid
//! ([`naive`]), to show that the oracle can see the fault.

#[cfg(test)]
mod naive;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod promotions;
#[cfg(test)]
mod race;
#[cfg(test)]
mod repairs;
#[cfg(test)]
mod updates;
