//! Which weight comes next.

/// The weights of a run (`spec.analysis`), in percent of traffic on the canary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// `stepWeight`; 0 when `stepWeights` is used.
    pub step: i32,
    /// `stepWeights`.
    pub list: Vec<i32>,
    /// The weight at which the analysis ends.
    pub max: i32,
    /// `stepWeightPromotion`; 0 moves all traffic back at once.
    pub promotion: i32,
}

impl Steps {
    /// Returns the weight after `weight`, or `None` when the analysis has reached its end. After a weight that is not in the
    /// list (it was edited meanwhile) comes the first listed one above it; Flagger jumps to 100 there (its `nextStepWeight`).
    #[must_use]
    pub fn next(&self, weight: i32) -> Option<i32> {
        if weight >= self.max {
            return None;
        }
        let next = if self.step > 0 {
            weight + self.step
        } else if weight == 0 {
            self.list.first().copied()?
        } else {
            match self.list.iter().position(|w| *w == weight) {
                Some(at) => self.list.get(at + 1).copied().unwrap_or(100),
                None => self.list.iter().copied().find(|w| *w > weight).unwrap_or(100),
            }
        };
        Some(next.clamp(0, 100))
    }

    /// Returns the canary's weight after one step of traffic back to the primary.
    #[must_use]
    pub fn back(&self, weight: i32) -> i32 {
        if self.promotion <= 0 { 0 } else { (weight - self.promotion).max(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(steps: &Steps) -> Vec<i32> {
        std::iter::successors(Some(0), |w| steps.next(*w)).skip(1).collect()
    }

    #[test]
    fn linear_steps_may_overshoot_the_maximum() {
        assert_eq!(walk(&Steps { step: 20, max: 50, ..Steps::default() }), [20, 40, 60]);
        assert_eq!(walk(&Steps { step: 30, max: 100, ..Steps::default() }), [30, 60, 90, 100]);
    }

    #[test]
    fn listed_steps_are_taken_in_order() {
        assert_eq!(walk(&Steps { list: vec![1, 10, 80], max: 80, ..Steps::default() }), [1, 10, 80]);
        let steps = Steps { list: vec![10, 20], max: 20, ..Steps::default() };
        // The list was edited meanwhile.
        assert_eq!((steps.next(5), steps.next(15)), (Some(10), Some(20)));
    }

    #[test]
    fn without_steps_nothing_happens() {
        assert_eq!(Steps { max: 100, ..Steps::default() }.next(0), None.or(Steps::default().next(0)));
    }

    #[test]
    fn traffic_returns_in_steps_or_at_once() {
        assert_eq!(Steps { promotion: 30, ..Steps::default() }.back(50), 20);
        assert_eq!(Steps { promotion: 30, ..Steps::default() }.back(20), 0);
        assert_eq!(Steps::default().back(50), 0);
    }
}
