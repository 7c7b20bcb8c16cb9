//! One Canary with the objects that belong to it, as raw JSON: what the core sees of them, and what a step writes.
//!
//! This is the only place that knows which object plays which role. It is pure: the controller fills it from its cache,
//! the simulated cluster of the tests from its own.

mod adopted;
mod bounds;
mod checks;
mod dependants;
mod eviction;
mod failing;
mod fitting;
mod generated;
mod history;
mod kept;
mod layout;
mod observe;
mod ownership;
mod rebaseline;
mod share;
mod target;
#[cfg(test)]
mod testing;
mod writes;

pub use checks::{Judged, Question};
pub use eviction::Older;
pub use writes::{Impossible, logged};

use crate::api::names::{Layout, Names, label_value};
use crate::api::revision::Revision;
use crate::api::{Canary, CanarySpec, keys};
use crate::metrics::judge::{self, MetricSpec};
use crate::object::{Kind, ObjectRef, Objects};
use crate::review::{Review, review};
use crate::rollout::model::gates::Guard;
use crate::rollout::model::neighbours::Neighbours;
use crate::rollout::model::settings::{Autoscaler, Hook, HookKind, Policy};
use crate::rollout::model::weights::Steps;
use crate::rollout::objects::{self, Label};
use crate::router::ports::discovered_ports;
use crate::router::services::{ApexSelects, Selector, Services};
use crate::router::{Owner, Router, ServiceSpec, Traffic};
use jiff::SignedDuration;
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Settings of the process, from its flags.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Provider of a Canary that names none (`--mesh-provider`).
    pub mesh_provider: String,
    /// Prometheus of a Canary that names none (`--metrics-server`).
    pub metrics_server: String,
    /// The shortest analysis interval (`--min-interval`).
    pub min_interval: Duration,
    /// Time between a route that leaves a backend and the backend's end (`--drain-delay`).
    pub drain_delay: Duration,
    /// Prefixes of the target's labels that its generated Deployment has too (`--include-label-prefix`); `*` for all.
    pub label_prefixes: Vec<String>,
    /// Releases that may run at once in the whole cluster (`--max-concurrent-releases`); no limit where `None`.
    pub max_releases: Option<usize>,
    /// The metrics servers beside that which may be named, as `host` or `host:port` (`--metrics-servers`); any where empty.
    pub metrics_servers: Vec<String>,
    /// A Canary names nothing of another namespace (`--no-cross-namespace-refs`).
    pub no_cross_namespace_refs: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mesh_provider: "istio".into(),
            metrics_server: "http://prometheus:9090".into(),
            min_interval: Duration::from_secs(10),
            drain_delay: Duration::from_secs(5),
            label_prefixes: Vec::new(),
            max_releases: None,
            metrics_servers: Vec::new(),
            no_cross_namespace_refs: false,
        }
    }
}

/// A stored template, as its metadata shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its `metadata.creationTimestamp`.
    pub created: String,
}

/// A Canary and what belongs to it.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The Canary as stored.
    pub object: Arc<Value>,
    /// The same, typed.
    pub canary: Canary,
    /// The names.
    pub names: Names,
    /// What the spec asks for that is not served, and what is doubtful.
    pub review: Review,
    /// The objects that exist.
    pub objects: Objects,
    /// The stored templates by name.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Templates at hand.
    pub templates: &'a BTreeMap<Revision, Value>,
    /// What the policy that governs the target says; the controller fills it in.
    pub guard: Guard,
    /// What else is in the namespace, once somebody has looked; the controller fills it in.
    pub neighbours: Option<Arc<Neighbours>>,
    /// Settings.
    pub config: &'a Config,
    /// What the spec names instead of what the Canary has taken over, which is what [`Self::canary`] names.
    changes: Vec<String>,
}

impl<'a> Subject<'a> {
    /// Reads a Canary.
    ///
    /// # Errors
    ///
    /// When it cannot be read at all, with serde's words; the API server's schema lets no such object in.
    pub fn new(
        object: impl Into<Arc<Value>>,
        objects: Objects,
        snapshots: BTreeMap<String, Snapshot>,
        templates: &'a BTreeMap<Revision, Value>,
        config: &'a Config,
    ) -> Result<Self, serde_json::Error> {
        let object = object.into();
        let asked = Canary::deserialize(&*object)?;
        let kept = adopted::kept(&asked, config);
        let mut of_layout = Review::default();
        let served = kept.as_ref().map_or(&asked, |(kept, _)| kept);
        let names = layout::choose(names_of(served), &object, &objects, &mut of_layout);
        let mut review = review(&asked.spec, names.layout, &config.mesh_provider, config.min_interval);
        review.refusals.append(&mut of_layout.refusals);
        review.warnings.append(&mut of_layout.warnings);
        // What cannot be read is not taken for nothing: a gate would be passed unasked.
        review.refusals.extend(unreadable::<crate::hooks::Hook>(&object, "webhooks"));
        review.refusals.extend(unreadable::<MetricSpec>(&object, "metrics"));
        if let Err(error) =
            serde_json::to_value(&asked.spec.service).and_then(serde_json::from_value::<ServiceSpec>)
        {
            review.refusals.push(format!("spec.service cannot be read: {error}; correct it."));
        }
        let (canary, changes) = kept.unwrap_or((asked, Vec::new()));
        let guard = Guard::default();
        Ok(Self {
            object,
            canary,
            names,
            review,
            objects,
            snapshots,
            templates,
            guard,
            neighbours: None,
            config,
            changes,
        })
    }

    /// Names the objects that a Canary's decisions depend on, the Canary itself aside.
    #[must_use]
    pub fn references(canary: &Canary, config: &Config) -> Vec<ObjectRef> {
        let kept = adopted::kept(canary, config);
        let canary = kept.as_ref().map_or(canary, |(kept, _)| kept);
        let names = names_of(canary);
        let at = |kind, name: &str| ObjectRef::new(kind, &names.namespace, name);
        let mut all = vec![at(Kind::Deployment, &names.target)];
        // Of both layouts: the target's label decides, and it may not be known yet.
        for layout in [Layout::PrimaryCopy, Layout::InPlace] {
            all.push(at(Kind::Deployment, names.clone().in_layout(layout).generated()));
        }
        for name in [&names.apex, &names.apex_primary, &names.apex_canary] {
            all.push(at(Kind::Service, name));
        }
        let scaler =
            canary.spec.autoscaler_ref.as_ref().filter(|r| r.kind == Kind::HorizontalPodAutoscaler.as_str());
        let had = canary.status.as_ref().and_then(|status| status.adopted.as_ref()?.autoscaler.as_ref());
        for name in scaler.map(|scaler| &scaler.name).into_iter().chain(had).collect::<BTreeSet<_>>() {
            all.push(at(Kind::HorizontalPodAutoscaler, name));
            all.push(at(Kind::HorizontalPodAutoscaler, &format!("{name}-primary")));
        }
        if let Some(router) = router_of(canary, &names, config, String::new()) {
            all.extend(router.objects());
        }
        for metric in &canary.spec.analysis.metrics {
            if let Some(template) = &metric.template_ref {
                let namespace =
                    template.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&names.namespace);
                all.push(ObjectRef::new(Kind::MetricTemplate, namespace, &template.name));
            }
        }
        all
    }

    /// The spec.
    #[must_use]
    pub const fn spec(&self) -> &CanarySpec {
        &self.canary.spec
    }

    /// `metadata.uid` of the Canary.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.canary.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The metric checks, in the order in which they are made.
    #[must_use]
    pub fn metrics(&self) -> Vec<MetricSpec> {
        let metrics = self.object.pointer("/spec/analysis/metrics").cloned().unwrap_or_default();
        serde_json::from_value(metrics).unwrap_or_default()
    }

    /// The hooks, in order.
    #[must_use]
    pub fn hooks(&self) -> Vec<crate::hooks::Hook> {
        let hooks = self.object.pointer("/spec/analysis/webhooks").cloned().unwrap_or_default();
        serde_json::from_value(hooks).unwrap_or_default()
    }

    fn live(&self, at: &ObjectRef) -> Option<&Value> {
        self.objects.get(at).map(AsRef::as_ref)
    }

    fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.live(&ObjectRef::new(kind, &self.names.namespace, name))
    }

    fn target(&self) -> Option<&Value> {
        self.get(Kind::Deployment, &self.names.target)
    }

    /// The target's live template.
    #[must_use]
    pub fn target_template(&self) -> Option<&Value> {
        self.target()?.pointer("/spec/template")
    }

    /// The revision that would be released: the one that is held, or whatever the target's template is.
    #[must_use]
    pub fn held_revision(&self) -> Option<Revision> {
        let hold = self.target()?.pointer("/metadata/annotations").and_then(|a| a.get(keys::HOLD)?.as_str());
        hold.map(Revision::from_key).or_else(|| self.target_template().map(Revision::of))
    }

    fn primary(&self) -> Option<&Value> {
        if self.names.in_place() { self.target() } else { self.generated() }
    }

    /// The Deployment of the canary's pods.
    fn canary_deployment(&self) -> Option<&Value> {
        if self.names.in_place() { self.generated() } else { self.target() }
    }

    /// The generated Deployment: one of its name that somebody else has made is none.
    fn generated(&self) -> Option<&Value> {
        self.own(Kind::Deployment, self.names.generated())
    }

    /// The label by which the target's pods are selected.
    #[must_use]
    pub fn label(&self) -> Option<Label> {
        let pods = self.by_replicas().then(|| label_value(&self.names.canary));
        Some(Label { pods, ..Label::of(self.target()?)? })
    }

    /// Whether the share of the traffic is the ratio of pods; routes split it otherwise.
    fn by_replicas(&self) -> bool {
        self.names.in_place() && traffic_of(&self.canary, self.config) == Some(Traffic::Replicas)
    }

    fn owner(&self) -> Owner {
        Owner { name: self.names.canary.clone(), uid: self.uid().to_owned() }
    }

    fn router(&self) -> Option<Router> {
        let label = self.label().map(|l| l.key).unwrap_or_default();
        let mut router = router_of(&self.canary, &self.names, self.config, label)?;
        router.owner = self.owner();
        Some(router)
    }

    /// The Services of a Canary whose target is gone: what an adopted one had is on its own record.
    fn services_alone(&self) -> Services {
        let none = serde_json::Map::new;
        Services {
            names: self.names.clone(),
            owner: self.owner(),
            discovered: Vec::new(),
            service: service_of(&self.canary),
            selector: Selector { key: String::new(), target: none(), generated: none(), pods: None },
            apex_selects: ApexSelects::Target,
        }
    }

    fn services(&self, apex_selects: ApexSelects) -> Option<Services> {
        let (label, object) = self.label().zip(self.target())?;
        let service = service_of(&self.canary);
        let template = object.pointer("/spec/template")?;
        let [target, generated] = objects::pod_labels(object, &label, &self.names);
        Some(Services {
            names: self.names.clone(),
            owner: self.owner(),
            discovered: discovered_ports(template, &service),
            service,
            selector: Selector { key: label.key, target, generated, pods: label.pods },
            apex_selects,
        })
    }

    fn policy(&self) -> Policy {
        let spec = self.spec();
        let analysis = &spec.analysis;
        let span = |d: Duration| SignedDuration::try_from(d).unwrap_or(SignedDuration::MAX);
        let kind = |hook: &crate::hooks::Hook| {
            use crate::hooks::HookType as T;
            match hook.type_ {
                T::ConfirmRollout => HookKind::ConfirmRollout,
                T::PreRollout => HookKind::PreRollout,
                T::Rollout => HookKind::Rollout,
                T::ConfirmPromotion => HookKind::ConfirmPromotion,
                T::PostRollout => HookKind::PostRollout,
                T::Rollback => HookKind::Rollback,
                T::Event | T::ConfirmTrafficIncrease => HookKind::Other,
            }
        };
        Policy {
            interval: span(analysis.interval(self.config.min_interval)),
            threshold: analysis.threshold(),
            steps: Steps {
                step: analysis.step_weight(),
                list: analysis.step_weights.clone(),
                max: analysis.max_weight(),
                promotion: analysis.step_weight_promotion(),
            },
            canary_ready: analysis.canary_ready_threshold(),
            primary_ready: analysis.primary_ready_threshold(),
            deadline: span(spec.progress_deadline()),
            by_replicas: self.by_replicas(),
            skip_analysis: spec.skip_analysis,
            suspend: spec.suspend,
            autoscaler: spec.autoscaler_ref.as_ref().map(|r| Autoscaler {
                name: r.name.clone(),
                min: self
                    .get(Kind::HorizontalPodAutoscaler, &r.name)
                    .and_then(|h| h.pointer("/spec/minReplicas")?.as_i64())
                    .and_then(|n| i32::try_from(n).ok()),
            }),
            hooks: self.hooks().iter().map(|h| Hook { name: h.name.clone(), kind: kind(h) }).collect(),
            metrics: judge::checks(&self.metrics()).iter().map(|check| check.metric.name.clone()).collect(),
        }
    }
}

/// What of a list of the analysis cannot be read, with serde's words.
fn unreadable<T: serde::de::DeserializeOwned>(canary: &Value, list: &str) -> Vec<String> {
    let all = canary.pointer(&format!("/spec/analysis/{list}")).and_then(Value::as_array);
    let amiss = |(index, one): (usize, &Value)| {
        let error = serde_json::from_value::<T>(one.clone()).err()?;
        Some(format!("spec.analysis.{list}[{index}] cannot be read: {error}; correct it."))
    };
    all.into_iter().flatten().enumerate().filter_map(amiss).collect()
}

fn names_of(canary: &Canary) -> Names {
    Names::new(
        canary.metadata.namespace.clone().unwrap_or_default(),
        canary.metadata.name.clone().unwrap_or_default(),
        canary.spec.target_ref.name.clone(),
        Some(canary.spec.apex_name()),
    )
}

fn service_of(canary: &Canary) -> ServiceSpec {
    // Both types describe the same JSON; the router's keeps what only passes through as it is.
    serde_json::to_value(&canary.spec.service).and_then(serde_json::from_value).unwrap_or_default()
}

fn traffic_of(canary: &Canary, config: &Config) -> Option<Traffic> {
    Traffic::parse(canary.spec.provider(&config.mesh_provider)).ok()
}

fn router_of(canary: &Canary, names: &Names, config: &Config, selector_label: String) -> Option<Router> {
    let Some(Traffic::Routes(provider)) = traffic_of(canary, config) else { return None };
    Some(Router {
        provider,
        names: names.clone(),
        owner: Owner { name: names.canary.clone(), uid: String::new() },
        service: service_of(canary),
        analysis_match: Vec::new(),
        selector_label,
    })
}
