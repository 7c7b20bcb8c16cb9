//! Whose turn it is where releases are limited: whoever has stood in line longest, unless its policy is full.

use jiff::Timestamp;
use std::collections::BTreeMap;

/// A release that stands in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting<K> {
    /// Whose it is.
    pub key: K,
    /// Since when.
    pub since: Timestamp,
    /// The policy that governs it.
    pub policy: Option<String>,
}

/// How many releases may run at once, and how many do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// In the whole cluster; no limit where `None`.
    pub cluster: Option<usize>,
    /// By policy; no limit where none stands.
    pub policies: BTreeMap<String, usize>,
    /// Running ones by policy.
    pub running: BTreeMap<Option<String>, usize>,
}

/// Sorts those that wait into the order in which they go: by time, then by name.
pub fn order<K: Ord + Clone>(waiting: &mut [Waiting<K>]) {
    waiting.sort_by(|a, b| a.since.cmp(&b.since).then_with(|| a.key.cmp(&b.key)));
}

/// Returns those whose turn it is, of all that wait in order. One whose policy is full does not hold up others.
#[must_use]
pub fn granted<'w, K>(waiting: &'w [Waiting<K>], room: &Room) -> Vec<&'w K> {
    let mut running = room.running.clone();
    let mut total: usize = running.values().sum();
    let mut granted = Vec::new();
    for next in waiting {
        let of_policy = running.entry(next.policy.clone()).or_default();
        let limit = next.policy.as_ref().and_then(|policy| room.policies.get(policy));
        if room.cluster.is_none_or(|limit| total < limit) && limit.is_none_or(|limit| *of_policy < *limit) {
            *of_policy += 1;
            total += 1;
            granted.push(&next.key);
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(key: u32, since: i64, policy: Option<&str>) -> Waiting<u32> {
        Waiting { key, since: Timestamp::from_second(since).unwrap(), policy: policy.map(str::to_owned) }
    }

    #[test]
    fn the_longest_in_line_goes_first_and_a_full_policy_holds_up_no_other() {
        let mut line = vec![
            waiting(1, 30, Some("a")),
            waiting(2, 10, Some("a")),
            waiting(3, 20, Some("a")),
            waiting(4, 40, Some("b")),
            waiting(5, 50, None),
        ];
        order(&mut line);
        let mut room = Room {
            cluster: Some(4),
            policies: [("a".into(), 2)].into(),
            running: [(Some("a".into()), 1)].into(),
        };
        assert_eq!(granted(&line, &room), [&2, &4, &5]);
        room.cluster = Some(2);
        assert_eq!(granted(&line, &room), [&2]);
        room.running.insert(Some("a".into()), 2);
        assert_eq!(granted(&line, &room), [&0; 0]);
    }

    proptest! {
        /// Never more than the room, and a place in line is never lost to a later one of the same policy.
        #[test]
        fn limits_hold_and_the_order_is_kept(
            line in proptest::collection::vec((0i64..50, 0u8..3), 0..30), limit in 1usize..4, cluster in 1usize..6,
            running in 0usize..3,
        ) {
            let name = |n: u8| (n > 0).then(|| n.to_string());
            let mut line: Vec<_> = line.iter().enumerate()
                .map(|(k, (since, policy))| waiting(u32::try_from(k).unwrap(), *since, name(*policy).as_deref()))
                .collect();
            order(&mut line);
            let room = Room {
                cluster: Some(cluster), policies: [("1".into(), limit)].into(), running: [(name(1), running)].into(),
            };
            let granted: Vec<u32> = granted(&line, &room).into_iter().copied().collect();
            prop_assert!(granted.is_empty() || running + granted.len() <= cluster);
            let of_one = line.iter().filter(|w| w.policy == name(1)).collect::<Vec<_>>();
            let got = of_one.iter().filter(|w| granted.contains(&w.key)).count();
            prop_assert!(got == 0 || running + got <= limit);
            prop_assert!(of_one.iter().take(got).all(|w| granted.contains(&w.key)));
        }
    }
}
