//! What the invariants say of the pods that are there, and of the moment.

use crate::cluster::text;
use crate::laws::{PATIENCE, primary_revision};
use crate::world::World;
use sidetrack::api::keys;
use sidetrack::api::revision::Revision;
use std::collections::BTreeSet;

impl World {
    /// Judges the pods that are there now.
    pub fn judge_pods(&mut self) {
        if self.names.in_place() {
            return self.judge_pods_in_place();
        }
        let Some(target) = self.target() else { return };
        let enrolled = target.pointer("/metadata/labels").is_some_and(|l| l.get(keys::CANARY).is_some());
        let running: BTreeSet<Revision> = self.target_pods().revisions().into_iter().cloned().collect();
        let shares = self.shares();
        if running.is_empty() {
            self.laws.leaving.clear();
            self.laws.leaving.extend(self.laws.released.clone());
        }
        if enrolled {
            let primary =
                self.primary().and_then(|p| primary_revision(p, &self.names, self.laws.selector.as_ref()));
            for revision in &running {
                let laws = &self.laws;
                let may = laws.leaving.contains(revision)
                    || primary.as_ref() == Some(revision)
                    || (primary.is_none() && laws.good.contains(revision))
                    || laws.unheld.contains(revision)
                    || laws.by_hand;
                let text = format!("a pod of the target runs {revision}, which was not released");
                self.law("I1", may, &text);
            }
            let mixed = running.len() > 1 && shares.is_some_and(|s| s.canary > 0);
            let allowed = self.laws.foreign_weight || self.laws.unheld.iter().any(|r| running.contains(r));
            self.law("I4", !mixed || allowed, "pods behind the canary's weight change revision");
        }
        let sets = self.primary_pods().sets.iter().filter(|s| !s.pods.is_empty());
        let primary: Vec<Revision> = sets.filter_map(|s| self.back(&s.template)).collect();
        for revision in primary {
            let may = self.laws.good.contains(&revision) || self.laws.primary_edited;
            self.law("I2", may, &format!("a pod of the primary runs {revision}, which did not pass"));
        }
    }

    /// Judges the moment.
    pub fn judge_time(&mut self) {
        let (now, Some(shares)) = (self.cluster.now, self.shares()) else { return };
        let suspended = self.cluster.get(&self.canary).is_none_or(|c| c["spec"]["suspend"] == true);
        let (canary, primary) = (self.canary_pods(), self.primary_pods());
        let (canary_ready, primary_ready) = (canary.ready(now), primary.ready(now));
        let run_by = [&self.laws.released, &self.laws.made_for];
        let good =
            |r: &Revision| run_by.into_iter().flatten().any(|run| run == r) || self.laws.good.contains(r);
        if canary_ready > 0 && primary_ready > 0 {
            self.laws.stranded = None;
            return;
        }
        let canary_fit = canary_ready > 0 && self.canary_revisions().iter().all(good);
        let run = self.cluster.get(&self.canary).and_then(|c| text(c, "/status/run/revision"));
        // A canary that has not had any weight yet gets none because of the primary.
        let stepped = self.laws.step.as_ref().is_some_and(|(r, ..)| Some(r.as_str()) == run);
        let tried = stepped || shares.canary > 0;
        let stranded = (shares.canary > 0 && canary_ready == 0 && primary_ready > 0)
            || (shares.primary > 0 && primary_ready == 0 && canary_fit && run.is_some() && tried);
        // Nobody mends what nobody is shown.
        let exempt = self.laws.dead || suspended || self.lag.is_some() || self.laws.denied.is_some();
        self.laws.stranded = (stranded && !exempt).then(|| self.laws.stranded.unwrap_or(now));
        let long = self.laws.stranded.is_some_and(|since| now > since + PATIENCE);
        self.law("I3", !long, "weight stays on a backend without ready pods while the other one has some");
    }
}
