//! The split without a router (`provider: kubernetes`): the canary's pods stand in the application's own Service, and the
//! share of the traffic is their part of all pods that are ready there.

use crate::api::keys;
use serde_json::Value;

/// How many pods the canary has at a weight, beside `primary` pods of the primary: as many as do not exceed the weight, but at
/// least one, and never more than the primary has, so that the share is half at most.
#[must_use]
pub fn count(weight: i32, primary: i32) -> i32 {
    let (weight, primary) = (i64::from(weight.clamp(0, 100)), i64::from(primary.max(1)));
    if weight == 0 {
        return 0;
    }
    let pods = if weight < 50 { weight * primary / (100 - weight) } else { primary };
    i32::try_from(pods.clamp(1, primary)).unwrap_or(i32::MAX)
}

/// The share in percent, rounded down; without any pods there is none.
#[must_use]
pub fn percent(canary: i32, primary: i32) -> i32 {
    let (canary, all) = (i64::from(canary.max(0)), i64::from(canary.max(0)) + i64::from(primary.max(0)));
    i32::try_from((canary * 100).checked_div(all).unwrap_or(0)).unwrap_or(0)
}

/// What the controller has set, in [`keys::SHARE`] on the canary's Deployment. Without it the canary's pods are not in
/// the application's Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// The weight that was meant.
    pub weight: i32,
    /// The number of pods that was written for it.
    pub count: i32,
}

impl Set {
    /// Reads it from the canary's Deployment.
    #[must_use]
    pub fn of(deployment: &Value) -> Option<Self> {
        let text = deployment.pointer("/metadata/annotations")?.get(keys::SHARE)?.as_str()?;
        let (weight, count) = text.split_once(' ')?;
        Some(Self { weight: weight.parse().ok()?, count: count.parse().ok()? })
    }

    /// Returns the annotation's value.
    #[must_use]
    pub fn text(self) -> String {
        format!("{} {}", self.weight, self.count)
    }

    /// Whether the primary has come to have another number of pods than this count was made for. More of them count when
    /// they are ready, so that the share does not exceed the weight meanwhile; without any ready one nothing is taken away.
    #[must_use]
    pub fn is_outdated(self, primary: i32, available: i32) -> bool {
        let least = count(self.weight, available.min(primary));
        available > 0 && (self.count < least || self.count > count(self.weight, primary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_share_is_what_whole_pods_allow() {
        for (weight, primary, pods, share) in [
            (0, 10, 0, 0),
            (10, 2, 1, 33),
            (10, 9, 1, 10),
            (10, 18, 2, 10),
            (20, 10, 2, 16),
            (33, 4, 1, 20),
            (50, 3, 3, 50),
            (60, 3, 3, 50),
            (100, 1, 1, 50),
            (10, 0, 1, 100),
        ] {
            assert_eq!(count(weight, primary), pods, "{weight} % of {primary}");
            assert_eq!(percent(pods, primary), share, "{weight} % of {primary}");
        }
        assert_eq!(percent(0, 0), 0);
    }

    #[test]
    fn a_count_is_kept_until_ready_pods_ask_for_another() {
        let set = Set { weight: 20, count: 2 };
        assert!(!set.is_outdated(8, 8) && !set.is_outdated(8, 3), "pods that are not ready for a while");
        assert!(!set.is_outdated(16, 8), "pods that are still to come");
        assert!(set.is_outdated(16, 16) && set.is_outdated(2, 2));
        assert!(!set.is_outdated(0, 0), "the only pods that serve");
    }

    #[test]
    fn what_is_set_is_read_back_and_nothing_else() {
        let with = |text: &str| json!({"metadata": {"annotations": {keys::SHARE: text}}});
        let set = Set { weight: 20, count: 3 };
        assert_eq!(Set::of(&with(&set.text())), Some(set));
        for text in ["", "20", "20 x", "a 3"] {
            assert_eq!(Set::of(&with(text)), None, "{text}");
        }
        assert_eq!(Set::of(&json!({})), None);
    }

    proptest! {
        #[test]
        fn never_above_the_weight_but_for_one_pod(weight in 0..=100, primary in 0..2000) {
            let pods = count(weight, primary);
            prop_assert!(pods <= primary.max(1));
            prop_assert!(weight == 0 || pods >= 1);
            prop_assert!(pods <= 1 || percent(pods, primary) <= weight.min(50));
            let set = Set { weight, count: pods };
            prop_assert!(!set.is_outdated(primary, primary));
        }
    }
}
