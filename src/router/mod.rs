//! Routers: how traffic is split between the primary and the canary, one file a provider.
//!
//! Pure: live objects come in as raw JSON, [`Write`]s go out. Every write to an object that exists is a
//! JSON Patch which tests `metadata.resourceVersion`, so a weight that somebody else set in between is never
//! overwritten.
//!
//! Weights have one writer: [`Router::set_weights`]. [`Router::reconcile`] repairs everything else and
//! carries the live
//! weights over, where Flagger resets them to 100/0 in the middle of an analysis.

mod gateway_api;
mod gateway_rules;
mod istio;
mod object;
mod provider;
pub mod replicas;
mod service;
pub mod services;
mod smi;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod replay;
#[cfg(test)]
pub(crate) mod traces;

pub use object::Owner;
pub use provider::{Provider, ProviderError, SmiVersion, Traffic};
pub use service::{Metadata, Rewrite, ServiceSpec, UnmanagedMetadata};

use crate::object::{ObjectRef, Write};
use crate::rollout::naming::Names;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

/// Finds an object as it was last observed; `None` when it does not exist.
pub type Live<'a> = dyn Fn(&ObjectRef) -> Option<&'a Value> + 'a;

/// Shares of the traffic, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// The primary's.
    pub primary: i32,
    /// The canary's.
    pub canary: i32,
}

impl Weights {
    /// All traffic on the primary.
    pub const INITIAL: Self = Self { primary: 100, canary: 0 };

    /// Gives the canary its share, and the primary the rest.
    #[must_use]
    pub fn of_canary(canary: i32) -> Self {
        let canary = canary.clamp(0, 100);
        Self { primary: 100 - canary, canary }
    }
}

/// Whether what reads the route has taken up what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It has, or it does not tell.
    Yes,
    /// It has not, with the reason in Flagger's words.
    No(String),
}

/// A route that cannot be read or built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The route does not exist.
    #[error("{kind} {name}.{namespace} get query error {plural} \"{name}\" not found")]
    Absent {
        /// Its kind.
        kind: &'static str,
        /// Its plural with group.
        plural: String,
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// The route leads neither to the primary nor to the canary.
    #[error("{kind} {name}.{namespace} does not contain routes for {primary} and {canary}")]
    NoRoutes {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
        /// The primary's Service.
        primary: String,
        /// The canary's Service.
        canary: String,
    },
    /// The Canary asks for a delegate that has hosts or gateways.
    #[error("VirtualService {name}.{namespace} cannot have hosts and gateways when delegation enabled")]
    Delegation {
        /// The VirtualService.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// The Canary names no gateway.
    #[error("GatewayRefs must be specified when using Gateway API as a provider.")]
    NoGateways,
    /// A request condition that Gateway API cannot express.
    #[error(
        "Invalid request matching selectors: Gateway API doesn't support the specified {what} matching selector: {selector}"
    )]
    Match {
        /// `path`, `method`, `header` or `query`.
        what: &'static str,
        /// The condition.
        selector: String,
    },
}

/// The routing of one Canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// What splits the traffic.
    pub provider: Provider,
    /// The names of what it splits it between.
    pub names: Names,
    /// The owner of what is made.
    pub owner: Owner,
    /// `spec.service`.
    pub service: ServiceSpec,
    /// `spec.analysis.match`: with conditions, only matching requests are split.
    pub analysis_match: Vec<Value>,
    /// The label key that tells the application's pods (`app`); with `service.apex` it is put on the route
    /// too.
    pub selector_label: String,
}

/// One weighted backend in a live route.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backend {
    /// Where its weight stands, or would stand.
    weight_at: PointerBuf,
    /// Its weight; `None` when it is not stated.
    weight: Option<i32>,
}

/// The two backends in a live route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Backends {
    primary: Option<Backend>,
    canary: Option<Backend>,
}

impl Backends {
    /// Returns the weights, or nothing when there are none, as Flagger judges it: both zero.
    fn weights(&self) -> Option<Weights> {
        let weight = |b: &Option<Backend>| b.as_ref().and_then(|b| b.weight).unwrap_or(0);
        let weights = Weights { primary: weight(&self.primary), canary: weight(&self.canary) };
        (weights.primary != 0 || weights.canary != 0).then_some(weights)
    }
}

impl Router {
    /// Names the objects that the routing consists of, the weighted one first.
    #[must_use]
    pub fn objects(&self) -> Vec<ObjectRef> {
        match &self.provider {
            Provider::Istio => istio::objects(self),
            Provider::Smi { version, .. } => vec![smi::route(self, *version)],
            Provider::GatewayApi => vec![gateway_api::route(self)],
        }
    }

    /// Reads the weights of the live route; `None` when there is no route yet.
    ///
    /// # Errors
    ///
    /// When the route leads neither to the primary nor to the canary.
    pub fn weights(&self, live: &Live<'_>) -> Result<Option<Weights>, RouteError> {
        let route = self.route();
        let Some(object) = live(&route) else { return Ok(None) };
        self.backends(object).weights().map(Some).ok_or_else(|| self.no_routes(&route))
    }

    /// Says whether the data plane has taken up the live route, where the route's status tells (Gateway API).
    #[must_use]
    pub fn settled(&self, live: &Live<'_>) -> Settled {
        match &self.provider {
            Provider::GatewayApi => {
                live(&self.route()).map_or(Settled::Yes, |r| gateway_api::settled(self, r))
            }
            Provider::Istio | Provider::Smi { .. } => Settled::Yes,
        }
    }

    /// Makes what is missing, with all traffic on the primary, and repairs everything but weights in what is
    /// there.
    /// Nothing is returned when nothing differs.
    ///
    /// # Errors
    ///
    /// When the Canary asks for a route that cannot be.
    pub fn reconcile(&self, live: &Live<'_>) -> Result<Vec<Write>, RouteError> {
        match &self.provider {
            Provider::Istio => istio::reconcile(self, live),
            Provider::Smi { version, mesh } => Ok(smi::reconcile(self, *version, mesh.as_deref(), live)),
            Provider::GatewayApi => gateway_api::reconcile(self, live),
        }
    }

    /// Gives the canary its share of the traffic, in percent (clamped to 0–100), and the primary the rest;
    /// changes
    /// nothing else, and writes nothing when it is so already.
    ///
    /// # Errors
    ///
    /// When there is no route, or it does not lead to both.
    pub fn set_weights(&self, live: &Live<'_>, canary: i32) -> Result<Vec<Write>, RouteError> {
        let route = self.route();
        let object = live(&route).ok_or_else(|| self.absent(&route))?;
        let Backends { primary: Some(primary), canary: Some(secondary) } = self.backends(object) else {
            return Err(self.no_routes(&route));
        };
        let wanted = Weights::of_canary(canary);
        let changes = [(primary, wanted.primary), (secondary, wanted.canary)]
            .into_iter()
            .filter(|(backend, weight)| backend.weight != Some(*weight))
            // "add" to a member of an object replaces it when it is there.
            .map(|(backend, weight)| {
                PatchOperation::Add(AddOperation { path: backend.weight_at, value: self.weight(weight) })
            })
            .collect();
        Ok(object::guarded(&route, object, changes).into_iter().collect())
    }

    /// Gives adopted routes their owners' configuration back, where it was recorded; what was made for the
    /// Canary goes with it.
    #[must_use]
    pub fn restore(&self, live: &Live<'_>) -> Vec<Write> {
        let route = self.route();
        live(&route).and_then(|object| self.restored(&route, object)).into_iter().collect()
    }

    fn restored(&self, route: &ObjectRef, object: &Value) -> Option<Write> {
        if self.owner.owns(object) {
            return None;
        }
        let annotations = object.pointer("/metadata/annotations")?;
        let record = |key: &str| serde_json::from_str::<Value>(annotations.get(key)?.as_str()?).ok();
        let spec = record(object::LAST_APPLIED)
            .and_then(|applied| applied.get("spec").cloned())
            .or_else(|| record(object::ORIGINAL))?;
        let mut next = object.clone();
        object::set(&mut next, "spec", spec);
        let kept = object::child(object::child(&mut next, "metadata"), "annotations");
        for key in object::FLUX_OPT_OUT.iter().map(|(key, _)| *key).chain([object::ORIGINAL]) {
            object::unset(kept, key);
        }
        object::update(route, object, &next)
    }

    /// Records the configuration of a route that is being adopted, unless kubectl did, or it is ours already.
    fn record_original(&self, live: &Value, next: &mut Value) {
        let annotated =
            |key: &str| live.pointer("/metadata/annotations").is_some_and(|a| a.get(key).is_some());
        if self.owner.owns(live)
            || annotated(object::ORIGINAL)
            || annotated(object::LAST_APPLIED)
            || self.backends(live).canary.is_some()
        {
            return;
        }
        let original = live.get("spec").cloned().unwrap_or_default().to_string();
        let annotations = object::child(object::child(next, "metadata"), "annotations");
        object::set(annotations, object::ORIGINAL, original.into());
    }

    /// Names the weighted object.
    fn route(&self) -> ObjectRef {
        match &self.provider {
            Provider::Istio => istio::route(self),
            Provider::Smi { version, .. } => smi::route(self, *version),
            Provider::GatewayApi => gateway_api::route(self),
        }
    }

    fn backends(&self, object: &Value) -> Backends {
        match &self.provider {
            Provider::Istio => istio::backends(self, object),
            Provider::Smi { .. } => smi::backends(self, object),
            Provider::GatewayApi => gateway_api::backends(self, object),
        }
    }

    fn weight(&self, weight: i32) -> Value {
        match &self.provider {
            Provider::Smi { version, .. } => smi::weight(*version, weight),
            Provider::Istio | Provider::GatewayApi => weight.into(),
        }
    }

    /// Labels and annotations of an Istio or Gateway API route. Flagger puts the selector label on it only
    /// when
    /// the Canary gives apex metadata.
    fn route_metadata(&self) -> Metadata {
        let apex = self.service.apex.clone().unwrap_or_default();
        let mut labels = apex.labels;
        if self.service.apex.is_some() {
            labels.insert(self.selector_label.clone(), self.names.apex.clone());
        }
        Metadata { labels, annotations: object::with_opt_out(&apex.annotations) }
    }

    fn absent(&self, route: &ObjectRef) -> RouteError {
        let (group, _, kind, plural) = route.kind.names();
        RouteError::Absent {
            kind,
            plural: format!("{plural}.{group}"),
            name: route.name.clone(),
            namespace: route.namespace.clone(),
        }
    }

    fn no_routes(&self, route: &ObjectRef) -> RouteError {
        RouteError::NoRoutes {
            kind: route.kind.as_str(),
            name: route.name.clone(),
            namespace: route.namespace.clone(),
            primary: self.names.apex_primary.clone(),
            canary: self.names.apex_canary.clone(),
        }
    }
}

/// Finds the two backends of a route whose rules (an array at `rules`) hold lists of backends at `list`;
/// `host` tells
/// where a backend goes to. Of several rules that lead to the canary the last is the weighted one: a sticky
/// rule of Flagger's session affinity stands before it.
fn weighted_rule<'a>(
    names: &Names,
    object: &'a Value,
    rules: &[&str],
    list: &str,
    host: impl Fn(&'a Value) -> Option<&'a str>,
) -> Backends {
    let mut found = Backends::default();
    let path = PointerBuf::from_tokens(rules.iter().copied());
    let Some(all) = object.pointer(path.as_str()).and_then(Value::as_array) else { return found };
    for (i, rule) in all.iter().enumerate() {
        let entries = rule.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let named = |name: &str| {
            let j = entries.iter().position(|e| host(e) == Some(name))?;
            let tokens = rules.iter().map(|t| (*t).to_owned()).chain([
                i.to_string(),
                list.to_owned(),
                j.to_string(),
                "weight".to_owned(),
            ]);
            Some(Backend {
                weight_at: PointerBuf::from_tokens(tokens),
                weight: entries.get(j).and_then(|e| e.get("weight")).and_then(weight_of),
            })
        };
        let canary = named(&names.apex_canary);
        if canary.is_some() {
            found = Backends { primary: named(&names.apex_primary), canary };
        }
    }
    found
}

/// Reads a weight, which SMI v1alpha1 writes as a quantity.
fn weight_of(value: &Value) -> Option<i32> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64().and_then(|n| i32::try_from(n).ok()),
    }
}
