//! The interlock's invariants, on sequences of writes, failures and crashes in virtual time.

#[cfg(test)]
mod invariants {
    mod answers;
    mod contest;
    mod crashes;
    mod edits;
    mod guards;
    mod in_place;
    mod judges;
    mod laws;
    mod others;
    mod owners;
    mod policies;
    mod races;
    mod random;
    mod replicas;
    mod restarts;
    mod review;
    mod runs;
    mod skips;
    mod stuck;
    mod takeover;
    mod upgrades;
    mod verbs;
    mod waits;
}
