//! What is due next for the webhook's certificates, and when.
//!
//! An authority is replaced in three steps, so that at every instant the certificate served is signed by one
//! that the API server trusts: the next authority joins the published bundle; when the API server has had the
//! bundle for the settle time, leaves come from it; when every replica has long taken up such a leaf, the old
//! one leaves the bundle. The state is what one Secret holds, so that a restart goes on where it was.

use jiff::{SignedDuration, Timestamp};

/// Lifetimes and pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Life of an authority.
    pub authority_life: SignedDuration,
    /// Life of a leaf; never past its authority's.
    pub leaf_life: SignedDuration,
    /// How far the beginning of a validity lies in the past, for clocks that are behind.
    pub backdate: SignedDuration,
    /// How long the API server must have had a bundle before a leaf relies on its new part.
    pub settle: SignedDuration,
    /// How long after a leaf was issued no replica can still serve the one before it.
    pub overlap: SignedDuration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            authority_life: SignedDuration::from_hours(365 * 24),
            leaf_life: SignedDuration::from_hours(90 * 24),
            backdate: SignedDuration::from_hours(1),
            settle: SignedDuration::from_mins(2),
            overlap: SignedDuration::from_hours(24),
        }
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub from: Timestamp,
    /// Until then.
    pub until: Timestamp,
}

impl Validity {
    /// Returns the validity of what is issued now.
    #[must_use]
    pub fn starting(now: Timestamp, life: SignedDuration, backdate: SignedDuration) -> Self {
        Self { from: before(now, backdate), until: after(now, life) }
    }

    /// Returns when two thirds of the life are over: time for a successor.
    #[must_use]
    pub fn renewal(&self) -> Timestamp {
        let life = self.until.duration_since(self.from);
        after(self.from, SignedDuration::from_secs(life.as_secs() / 3 * 2))
    }

    /// Returns whether it is over.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.until
    }

    /// Returns whether it has not begun yet. What is issued now has begun some time ago: it was made by a clock that was ahead
    /// by more than that, or ours is behind. In both cases one from now on is good: it begins earlier.
    #[must_use]
    pub fn is_to_come(&self, now: Timestamp) -> bool {
        now < self.from
    }

    /// Returns whether it counts now.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        !self.is_over(now) && !self.is_to_come(now)
    }
}

/// A certificate authority; its subject is unique to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its subject.
    pub subject: String,
    /// When it is valid.
    pub validity: Validity,
}

/// The certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Subject of the authority that signed it.
    pub issuer: String,
    /// When it is valid.
    pub validity: Validity,
    /// Whether it carries every name it should.
    pub covers_names: bool,
}

/// What the Secret holds. The published bundle is `issuer`, `next` and `retired` together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The authority whose key signs.
    pub issuer: Authority,
    /// The authority that will sign.
    pub next: Option<Authority>,
    /// Those whose leaves may still be served; their keys are gone.
    pub retired: Vec<Authority>,
    /// The leaf; `None` when unusable.
    pub leaf: Option<Leaf>,
}

/// A change of the Secret, made in one conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A new authority and a leaf from it, nothing else.
    Create,
    /// A new leaf from the issuer.
    RenewLeaf,
    /// A new authority into the bundle.
    AddAuthority,
    /// The next authority becomes the issuer and signs a new leaf; the one before is retired.
    SwitchAuthority,
    /// Retired authorities leave the bundle.
    DropRetired,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// This, now.
    Now(Step),
    /// Nothing until then, unless the state or the publication changes.
    At(Timestamp),
}

/// Says what is due. `published` is since when the API server is known to have, without a break, exactly the
/// bundle of this state.
#[must_use]
pub fn due(state: Option<&State>, published: Option<Timestamp>, policy: &Policy, now: Timestamp) -> Due {
    let Some(State { issuer, next, retired, leaf }) = state else { return Due::Now(Step::Create) };
    let mut wait = Vec::new();
    let mut passed = |at: Timestamp| {
        wait.push(at);
        now >= at
    };
    match next {
        Some(next) if next.validity.holds(now) => {
            if published.is_some_and(|since| passed(after(since, policy.settle))) {
                return Due::Now(Step::SwitchAuthority);
            }
            // Unpublished to the end of the old one: its leaf is about to be worth nothing, the new one may be.
            if passed(before(issuer.validity.until, policy.settle)) {
                return Due::Now(Step::SwitchAuthority);
            }
        }
        _ => {
            if passed(issuer.validity.until) {
                return Due::Now(Step::Create);
            }
        }
    }
    let Some(leaf) = leaf.as_ref().filter(|l| l.covers_names && l.issuer == issuer.subject) else {
        return Due::Now(Step::RenewLeaf);
    };
    if leaf.validity.is_to_come(now) && !issuer.validity.is_to_come(now) {
        return Due::Now(Step::RenewLeaf);
    }
    // A leaf as long as its authority cannot be prolonged by it.
    if leaf.validity.until < issuer.validity.until && passed(leaf.validity.renewal()) {
        return Due::Now(Step::RenewLeaf);
    }
    if !retired.is_empty() && passed(after(leaf.validity.from, policy.backdate + policy.overlap)) {
        return Due::Now(Step::DropRetired);
    }
    let lacks_next = next.as_ref().is_none_or(|next| !next.validity.holds(now));
    if lacks_next && (issuer.validity.is_to_come(now) || passed(issuer.validity.renewal())) {
        return Due::Now(Step::AddAuthority);
    }
    Due::At(wait.into_iter().min().unwrap_or(issuer.validity.until))
}

fn after(at: Timestamp, pause: SignedDuration) -> Timestamp {
    at.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

fn before(at: Timestamp, pause: SignedDuration) -> Timestamp {
    at.saturating_sub(pause).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn day(n: i32) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + DAY * n
    }

    fn authority(subject: &str, from: i32) -> Authority {
        Authority {
            subject: subject.to_owned(),
            validity: Validity { from: day(from), until: day(from + 365) },
        }
    }

    fn leaf(issuer: &str, from: i32, until: i32) -> Leaf {
        let validity = Validity { from: day(from), until: day(until) };
        Leaf { issuer: issuer.to_owned(), validity, covers_names: true }
    }

    fn fresh() -> State {
        State { issuer: authority("a", 0), next: None, retired: Vec::new(), leaf: Some(leaf("a", 0, 90)) }
    }

    fn check(state: Option<&State>, published: Option<Timestamp>, now: Timestamp, expected: Due) {
        assert_eq!(due(state, published, &Policy::default(), now), expected, "{state:?} at {now}");
    }

    #[test]
    fn nothing_yet_means_create() {
        check(None, None, day(0), Due::Now(Step::Create));
    }

    #[test]
    fn fresh_certificates_wait_for_two_thirds_of_the_leaf() {
        check(Some(&fresh()), Some(day(0)), day(1), Due::At(day(60)));
        check(Some(&fresh()), Some(day(0)), day(60), Due::Now(Step::RenewLeaf));
    }

    #[test]
    fn leaf_without_a_wanted_name_or_from_a_foreign_issuer_is_renewed_at_once() {
        let unusable = State { leaf: None, ..fresh() };
        let misnamed = State { leaf: Some(Leaf { covers_names: false, ..leaf("a", 0, 90) }), ..fresh() };
        let foreign = State { leaf: Some(leaf("x", 0, 90)), ..fresh() };
        for state in [unusable, misnamed, foreign] {
            check(Some(&state), Some(day(0)), day(1), Due::Now(Step::RenewLeaf));
        }
    }

    #[test]
    fn authority_gets_a_successor_at_two_thirds_of_its_life() {
        let state = State { leaf: Some(leaf("a", 200, 290)), ..fresh() };
        let two_thirds = state.issuer.validity.renewal();
        check(Some(&state), Some(day(0)), day(201), Due::At(two_thirds));
        check(Some(&state), Some(day(0)), two_thirds, Due::Now(Step::AddAuthority));
    }

    #[test]
    fn successor_signs_only_when_its_bundle_has_settled() {
        let state = State { next: Some(authority("b", 244)), leaf: Some(leaf("a", 240, 330)), ..fresh() };
        check(Some(&state), None, day(245), Due::At(day(300)));
        let settled = day(245) + Policy::default().settle;
        check(Some(&state), Some(day(245)), day(245), Due::At(settled));
        check(Some(&state), Some(day(245)), settled, Due::Now(Step::SwitchAuthority));
    }

    #[test]
    fn leaf_is_renewed_from_the_old_authority_while_the_bundle_is_unpublished() {
        let state = State { next: Some(authority("b", 244)), leaf: Some(leaf("a", 240, 330)), ..fresh() };
        check(Some(&state), None, day(300), Due::Now(Step::RenewLeaf));
        let longest = State { leaf: Some(leaf("a", 300, 365)), ..state };
        let last = day(365) - Policy::default().settle;
        check(Some(&longest), None, day(364), Due::At(last));
        check(Some(&longest), None, last, Due::Now(Step::SwitchAuthority));
    }

    #[test]
    fn retired_authority_leaves_when_no_replica_can_serve_its_leaf() {
        let retired = vec![authority("a", 0)];
        let state =
            State { issuer: authority("b", 244), next: None, retired, leaf: Some(leaf("b", 245, 335)) };
        let gone = day(246) + Policy::default().backdate;
        check(Some(&state), Some(day(245)), day(246), Due::At(gone));
        check(Some(&state), Some(day(245)), gone, Due::Now(Step::DropRetired));
    }

    #[test]
    fn expired_authority_is_replaced_by_its_successor_or_from_nothing() {
        check(Some(&fresh()), None, day(365), Due::Now(Step::Create));
        let followed = State { next: Some(authority("b", 244)), ..fresh() };
        check(Some(&followed), None, day(400), Due::Now(Step::SwitchAuthority));
        check(Some(&followed), None, day(244 + 365), Due::Now(Step::Create));
    }

    /// A leader whose clock was ahead for a moment: what it has made is worth nothing until then, and would never be looked at.
    #[test]
    fn what_is_valid_later_only_is_made_anew() {
        let mut state = fresh();
        state.leaf = Some(leaf("a", 70, 160));
        check(Some(&state), Some(day(0)), day(1), Due::Now(Step::RenewLeaf));
        let mut state = fresh();
        check(Some(&state), None, day(-10), Due::Now(Step::AddAuthority));
        state.next = Some(authority("b", -5));
        check(Some(&state), Some(day(-20)), day(-10), Due::Now(Step::AddAuthority));
        state.next = Some(authority("b", -11));
        check(Some(&state), Some(day(-20)), day(-10), Due::Now(Step::SwitchAuthority));
    }

    #[test]
    fn a_clock_that_is_a_little_behind_changes_nothing() {
        let mut state = fresh();
        let policy = Policy::default();
        let made = Validity::starting(day(0), policy.authority_life, policy.backdate);
        state.issuer.validity = made;
        state.leaf = Some(Leaf {
            validity: Validity::starting(day(0), DAY * 90, policy.backdate),
            ..leaf("a", 0, 90)
        });
        let renewal = state.leaf.as_ref().unwrap().validity.renewal();
        check(Some(&state), None, before(day(0), SignedDuration::from_mins(59)), Due::At(renewal));
    }
}
