//! Which Canary is looked at when: at most one decision for one Canary at a time.

use super::cache::CanaryKey;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// The longest pause after repeated failures.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
const MIN_BACKOFF: Duration = Duration::from_millis(50);

/// The queue. Time comes in as an argument.
#[derive(Debug, Default)]
pub struct Queue {
    /// In the order in which they were marked, each once.
    ready: VecDeque<CanaryKey>,
    marked: HashSet<CanaryKey>,
    later: BTreeMap<(Instant, CanaryKey), ()>,
    wakes: HashMap<CanaryKey, Instant>,
    running: HashSet<CanaryKey>,
    failures: HashMap<CanaryKey, u32>,
}

impl Queue {
    /// Something about a Canary changed: it is looked at as soon as possible.
    pub fn mark(&mut self, key: CanaryKey) {
        if self.marked.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// A Canary is to be looked at no later than this.
    pub fn wake(&mut self, key: &CanaryKey, at: Instant) {
        if self.wakes.get(key).is_some_and(|known| *known <= at) {
            return;
        }
        self.unwake(key);
        self.wakes.insert(key.clone(), at);
        self.later.insert((at, key.clone()), ());
    }

    fn unwake(&mut self, key: &CanaryKey) {
        if let Some(at) = self.wakes.remove(key) {
            self.later.remove(&(at, key.clone()));
        }
    }

    /// Takes the next Canary that is due and not being looked at.
    pub fn take(&mut self, now: Instant) -> Option<CanaryKey> {
        while let Some((at, key)) = self.later.keys().next().cloned().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, key.clone()));
            self.wakes.remove(&key);
            self.mark(key);
        }
        let at = self.ready.iter().position(|key| !self.running.contains(key))?;
        let key = self.ready.remove(at)?;
        self.marked.remove(&key);
        // What was due later is decided anew by the look that begins now.
        self.unwake(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// When the next one is due, if none is now.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.later.keys().next().map(|(at, _)| *at)
    }

    /// A look ended well.
    pub fn done(&mut self, key: &CanaryKey, wake: Option<Instant>) {
        self.running.remove(key);
        self.failures.remove(key);
        if let Some(at) = wake {
            self.wake(key, at);
        }
    }

    /// A look ended badly: it is taken again after a growing pause, or when something changes.
    pub fn failed(&mut self, key: &CanaryKey, now: Instant) {
        self.running.remove(key);
        let failures = self.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let pause = MIN_BACKOFF.saturating_mul(1 << (*failures - 1).min(10)).min(MAX_BACKOFF);
        self.wake(key, now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> CanaryKey {
        ("ns".into(), name.into())
    }

    #[test]
    fn one_canary_is_never_taken_twice_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.mark(key("a"));
        assert_eq!(queue.take(now), Some(key("a")));
        queue.mark(key("a"));
        queue.mark(key("b"));
        assert_eq!(queue.take(now), Some(key("b")));
        assert_eq!(queue.take(now), None);
        queue.done(&key("a"), None);
        assert_eq!(queue.take(now), Some(key("a")), "what changed meanwhile is not lost");
    }

    /// Under load nobody's name decides on who is never looked at.
    #[test]
    fn who_was_marked_first_is_taken_first() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["z", "a", "m", "a"] {
            queue.mark(key(name));
        }
        let taken: Vec<_> = std::iter::from_fn(|| queue.take(now)).map(|(_, name)| name).collect();
        assert_eq!(taken, ["z", "a", "m"]);
    }

    #[test]
    fn the_earlier_wake_counts() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.wake(&key("a"), now + Duration::from_secs(5));
        queue.wake(&key("a"), now + Duration::from_secs(2));
        queue.wake(&key("a"), now + Duration::from_secs(9));
        assert_eq!(queue.next(), Some(now + Duration::from_secs(2)));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.take(now + Duration::from_secs(2)), Some(key("a")));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn failures_are_retried_after_growing_pauses() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            queue.mark(key("a"));
            queue.take(now);
            queue.failed(&key("a"), now);
            pauses.push(queue.next().unwrap() - now);
        }
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&MAX_BACKOFF));
    }
}
