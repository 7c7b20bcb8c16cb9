//! Every order of a few deeds, crashes, refusals and delays, at every step of a small world: one pod, weights 0, 50 and 100,
//! three revisions. Each state is looked at once, and every law of the simulated cluster in each.
//!
//! `make test` goes as far as time allows there, `make explore` further: `SIDETRACK_STATES` says how many states.

#[cfg(test)]
mod search;
