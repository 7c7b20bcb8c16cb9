//! Questions to hooks and metrics servers: asked once a tick, their answers kept until it ends.

use crate::api::status::Phase;
use crate::rollout::case::Case;
use crate::rollout::model::plan::{Answer, Check, Message, Plan, Step};
use crate::rollout::model::settings::HookKind;
use jiff::Timestamp;

/// The outcome of asking.
pub(in crate::rollout) enum Asked {
    /// The answer is on its way; the plan asks for it if that has not been done yet.
    Pending(Plan),
    /// It is here.
    Here(Answer),
}

/// What the hooks of one kind said.
pub(in crate::rollout) enum Round {
    /// All passed.
    Passed(Vec<Message>),
    /// This one did not.
    Refused {
        /// Its name.
        name: String,
        /// What it said.
        answer: Answer,
    },
}

impl Case<'_> {
    /// Asks, unless the answer of this tick is here.
    pub(in crate::rollout) fn ask(&mut self, check: Check) -> Asked {
        if self.m.void {
            return Asked::Pending(Plan::default());
        }
        if let Some(answer) = self.m.answers.get(&check) {
            return Asked::Here(answer.clone());
        }
        if self.m.asked.contains(&check) {
            return Asked::Pending(Plan::default());
        }
        self.m.asked.push(check.clone());
        Asked::Pending(Step::Ask(check).into())
    }

    /// Asks the hooks of one kind in order and returns what to say when all have passed; the first that fails ends the
    /// round and is returned with its answer. `Err` is the plan that asks.
    pub(in crate::rollout) fn hooks(&mut self, kind: HookKind, phase: Phase) -> Result<Round, Plan> {
        let hooks: Vec<_> = self.o.policy.hooks_of(kind).map(|(i, h)| (i, h.name.clone())).collect();
        let mut said = Vec::new();
        for (index, name) in hooks {
            match self.ask(Check::Hook { index, phase: phase.as_str() }) {
                Asked::Pending(plan) => return Err(plan),
                Asked::Here(answer) if answer.passed => said.extend(answer.messages),
                Asked::Here(answer) => return Ok(Round::Refused { name, answer }),
            }
        }
        Ok(Round::Passed(said))
    }

    /// Begins a tick if one is due (`last` is when the last one ended); `Err` says when to look again.
    pub(in crate::rollout) fn tick(&mut self, last: Option<Timestamp>) -> Result<(), Plan> {
        let due = last.and_then(|at| at.saturating_add(self.o.policy.interval).ok());
        if let Some(due) = due.filter(|due| self.now < *due) {
            return Err(Plan::default().wake(due));
        }
        if self.m.tick.is_none() {
            self.m.begin_tick(self.now);
        }
        Ok(())
    }

    /// Ends a tick.
    pub(in crate::rollout) const fn end_tick(&mut self) {
        self.m.tick = None;
    }
}
