//! Pauses between tries of a watch.

use kube::runtime::utils::Backoff;
use std::time::Duration;

/// Doubling and short. kube's own go up to half a minute and start over only after two quiet ones: a restart of the API
/// server, which costs several tries (refused, not yet authorised, too old), would leave us blind long after it is back.
#[derive(Clone, Debug)]
pub struct Pauses(Duration);

impl Pauses {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(2);
}

impl Default for Pauses {
    fn default() -> Self {
        Self(Self::SHORTEST)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.0;
        self.0 = (now * 2).min(Self::LONGEST);
        Some(now)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_stay_short_and_start_over_with_success() {
        let mut pauses = Pauses::default();
        let first: Vec<u128> = pauses.by_ref().take(7).map(|p| p.as_millis()).collect();
        assert_eq!(first, [100, 200, 400, 800, 1600, 2000, 2000]);
        pauses.reset();
        assert_eq!(pauses.next(), Some(Duration::from_millis(100)));
    }
}
