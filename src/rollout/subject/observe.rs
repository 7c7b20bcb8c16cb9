//! From raw objects to what the core reads.

use super::{Subject, adopted};
use crate::api::keys;
use crate::api::revision::Revision;
use crate::api::status::Adopted;
use crate::object::{Kind, Write};
use crate::rollout::model::observed::{Asked, Backend, Observed, Routes, Services, Settings};
use crate::rollout::model::workload::Workload;
use crate::rollout::objects;
use crate::router::services::ApexSelects;
use crate::router::{RouteError, Settled};
use jiff::SignedDuration;
use serde_json::Value;

/// Snapshots kept where the target does not say (`spec.revisionHistoryLimit`; Kubernetes' default).
const HISTORY: usize = 10;

impl Subject<'_> {
    /// Returns what the core decides on.
    #[must_use]
    pub fn observe(&self) -> Observed {
        let target = self.target().and_then(Workload::parse);
        let primary = self.primary().and_then(Workload::parse);
        let canary = self.canary_deployment().and_then(Workload::parse);
        let metadata = &self.canary.metadata;
        let mut refusals = self.review.refusals.clone();
        if self.target().is_some() && self.label().is_none() {
            refusals.push(format!(
                "getSelectorLabel failed: deployment {}.{} spec.selector.matchLabels must contain one of [{}]",
                self.names.target,
                self.names.namespace,
                objects::SELECTOR_LABELS.join(" ")
            ));
        }
        let running = self.canary.status.as_ref().is_some_and(|s| s.run.is_some());
        let dependants = self.dependants();
        if !running {
            refusals.extend(self.too_long());
            refusals.extend(self.out_of_bounds());
            refusals.extend(self.unanswerable());
            refusals.extend(self.foreign());
            if self.names.in_place() {
                let lacks = || self.apex_lacks_canary().or_else(|| self.apex_leads_elsewhere());
                refusals.extend(self.apex_meets_canary().or_else(lacks));
            }
            refusals.extend(dependants.iter().flat_map(|review| review.refusals.clone()));
        }
        let mut warnings = self.review.warnings.clone();
        warnings.extend(self.share_warnings());
        warnings.extend(self.unwritten());
        if running {
            warnings.extend(self.apex_lacks_canary());
        }
        let moves = (!self.changes.is_empty()).then(|| {
            format!(
                "{}: when no release runs, the Canary gives back what it has taken over, and takes over anew.",
                self.changes.join(", ")
            )
        });
        warnings.extend(moves.clone());
        let mut snapshots: Vec<(&String, &str)> =
            self.snapshots.iter().map(|(name, s)| (name, s.created.as_str())).collect();
        snapshots.sort_by(|a, b| a.1.cmp(b.1).then(a.0.cmp(b.0)));
        Observed {
            names: self.names.clone(),
            generation: metadata.generation.unwrap_or(0),
            deleting: metadata.deletion_timestamp.is_some(),
            guarded: metadata
                .finalizers
                .as_ref()
                .is_some_and(|f| f.iter().any(|f| f == keys::CANARY_FINALIZER)),
            status: self.canary.status.clone().unwrap_or_default(),
            policy: self.policy(),
            refusals,
            warnings,
            adopted: self.adopted(),
            moves,
            surveyed: self.neighbours.is_some(),
            dependants: dependants.map(|review| review.warnings),
            primary_revision: self.primary_revision(),
            primary_drifted: !self.names.in_place() && drifted(self.primary()),
            primary_restorable: !self.names.in_place() && self.primary_restorable(),
            primary_unguarded: !self.names.in_place() && self.primary().is_some_and(|p| !self.guarded(p)),
            canary_revision: self.canary_revision(),
            target,
            primary,
            canary,
            services: self.observed_services(),
            routes: if self.by_replicas() { self.observed_share() } else { self.observed_routes() },
            pods: self.counted(),
            autoscaler_gone: self.autoscaler_left().is_some()
                || matches!(self.autoscaler_write(), Some(Write::Create { .. })),
            autoscaler_stale: self.autoscaler_write().is_some(),
            autoscaler_missing: self.autoscaler_missing(),
            snapshots: snapshots.into_iter().map(|(name, _)| name.clone()).collect(),
            history: self
                .target()
                .and_then(|t| t.pointer("/spec/revisionHistoryLimit")?.as_u64())
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(HISTORY),
            request: self.request(),
            guard: self.guard.clone(),
            settings: Settings {
                drain: SignedDuration::try_from(self.config.drain_delay).unwrap_or_default(),
            },
        }
    }

    /// What is taken over; an autoscaler whose copy is still there is the one before.
    fn adopted(&self) -> Adopted {
        let mut named = adopted::named(&self.canary, self.config);
        if self.autoscaler_left().is_some() {
            named.autoscaler = self.autoscaler_before().map(str::to_owned);
        }
        named
    }

    fn request(&self) -> Option<Asked> {
        let annotations = self.canary.metadata.annotations.as_ref()?;
        let by = annotations.get(keys::REQUESTED_BY).cloned();
        Some(Asked { text: annotations.get(keys::REQUEST)?.clone(), by })
    }

    /// Whether a generated Deployment stays what it is: nobody but us changes its template, and its deletion waits. One that
    /// terminates takes no finalizer any more.
    fn guarded(&self, generated: &Value) -> bool {
        let has = |key, value: &String| label(generated, key) == Some(value);
        let labelled =
            objects::labels(&self.names, keys::ROLE_GENERATED).iter().all(|(key, value)| has(key, value));
        Workload::parse(generated).is_none_or(|w| w.terminating || labelled && w.finalizer)
    }

    /// The revision that the primary was written from: it says so itself; one that we have not made is turned back.
    /// `in-place` it is the one that is let run.
    fn primary_revision(&self) -> Option<Revision> {
        let primary = self.primary()?;
        let said = annotation(primary, keys::PROMOTED).map(Revision::from_key);
        if self.names.in_place() {
            let held = annotation(primary, keys::HOLD).is_some();
            return said.filter(|_| held).or_else(|| primary.pointer("/spec/template").map(Revision::of));
        }
        said.or_else(|| Some(Revision::of(&objects::target_template(primary, &self.label()?, &self.names))))
    }

    /// Asked only where the stored template of the promoted revision is missing: it takes a hash of the whole template.
    fn primary_restorable(&self) -> bool {
        let promoted = self.target().and_then(|target| annotation(target, keys::PROMOTED));
        let stored =
            |promoted| self.snapshots.contains_key(&self.names.snapshot(&Revision::from_key(promoted)));
        if promoted.is_none_or(stored) {
            return false;
        }
        self.primary().zip(self.label()).is_some_and(|(primary, label)| {
            let turned = Revision::of(&objects::target_template(primary, &label, &self.names));
            annotation(primary, keys::PROMOTED) == Some(turned.as_str())
        })
    }

    /// The target's own, or what the generated canary was made from, as long as nobody edited it and its pods are told from
    /// the primary's as the provider needs it (the Canary may have had another one).
    fn canary_revision(&self) -> Option<Revision> {
        if !self.names.in_place() {
            return self.target_template().map(Revision::of);
        }
        let own = |canary: &Value| canary.pointer("/spec/selector/matchLabels")?.get(keys::PODS).cloned();
        let fits = |canary: &Value| own(canary).is_some() == self.by_replicas();
        let canary = self.generated().filter(|canary| !drifted(Some(canary)) && fits(canary))?;
        annotation(canary, keys::REVISION).map(Revision::from_key)
    }

    /// `in-place`, the owner's Service stays as it is: it must not select the canary's pods.
    fn apex_meets_canary(&self) -> Option<String> {
        let (label, template) = self.label().zip(self.target_template())?;
        let apex = self.get(Kind::Service, &self.names.apex)?;
        let selector = apex.pointer("/spec/selector")?.as_object().filter(|s| !s.is_empty())?;
        let canary = objects::generated_template(template, &label, &self.names);
        let labels = canary.pointer("/metadata/labels")?;
        selector.iter().all(|(key, value)| labels.get(key) == Some(value)).then(|| {
            format!(
                "Service {} selects the canary's pods as well, which would get traffic beside any weight: \
                 add {}: {} to its selector.",
                self.names.apex, label.key, label.value
            )
        })
    }

    fn observed_services(&self) -> Services {
        if self.names.in_place() {
            // The apex is the user's, and selects the primary's pods already.
            let stale = !self.service_writes(ApexSelects::Target).is_empty();
            return Services { stale, apex_stale: false, apex: Some(Backend::Primary) };
        }
        let [apex, primary, canary] = [&self.names.apex, &self.names.apex_primary, &self.names.apex_canary];
        let selected = self.get(Kind::Service, apex).and_then(|s| s.pointer("/spec/selector"));
        let backend = selected.zip(self.label()).map(|(selector, label)| {
            let value = selector.get(&label.key).and_then(Value::as_str);
            if value == Some(format!("{}-primary", label.value).as_str()) {
                Backend::Primary
            } else {
                Backend::Target
            }
        });
        let wanted =
            if backend == Some(Backend::Primary) { ApexSelects::Primary } else { ApexSelects::Target };
        let writes = self.service_writes(wanted);
        let touches = |name: &str| writes.iter().any(|w| w.target().is_some_and(|t| t.name == name));
        Services {
            stale: touches(primary) || touches(canary),
            apex_stale: touches(apex) || backend.is_none(),
            apex: backend,
        }
    }

    fn observed_routes(&self) -> Routes {
        let Some(router) = self.router() else { return Routes::default() };
        let live = |at: &crate::object::ObjectRef| self.live(at);
        let weight = router.weights(&live);
        let repairs = router.reconcile(&live);
        let error = match (&weight, &repairs) {
            (Err(error), _) | (_, Err(error)) => Some(RouteError::to_string(error)),
            _ => None,
        };
        Routes {
            weight: weight.ok().flatten().map(|w| w.canary),
            unsettled: match router.settled(&live) {
                Settled::Yes => None,
                Settled::No(why) => Some(why),
            },
            stale: repairs.is_ok_and(|writes| !writes.is_empty()),
            error,
        }
    }

    fn autoscaler_missing(&self) -> Option<String> {
        let scaler = self.spec().autoscaler_ref.as_ref()?;
        if self.get(Kind::HorizontalPodAutoscaler, &scaler.name).is_some() {
            return None;
        }
        Some(format!(
            "HorizontalPodAutoscaler {}.{} get query error: horizontalpodautoscalers.autoscaling {:?} not found",
            scaler.name, self.names.namespace, scaler.name
        ))
    }
}

pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(key)?.as_str()
}

/// Whether a generated Deployment's template is another one than was written to it.
fn drifted(generated: Option<&Value>) -> bool {
    generated.is_some_and(|object| {
        annotation(object, keys::TEMPLATE).is_some_and(|written| {
            object.pointer("/spec/template").is_some_and(|live| Revision::of(live).as_str() != written)
        })
    })
}
