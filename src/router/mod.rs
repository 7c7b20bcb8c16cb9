//! Routers: how traffic is split between the primary and the canary, one file a provider in `providers/`; what a provider
//! has to know is the trait `Routing`.
//!
//! Pure: live objects come in as raw JSON, [`Write`]s go out. Every write to an object that exists is a
//! JSON Patch which tests `metadata.resourceVersion`, so a weight that somebody else set in between is never
//! overwritten.
//!
//! Weights have one writer: [`Router::set_weights`]. [`Router::reconcile`] repairs everything else and carries the live
//! weights over, where Flagger resets them to 100/0 in the middle of an analysis.
//!
//! A route that was there before the Canary stays its owner's: it is edited where it leads to the application, and
//! [`Router::restore`] undoes that. What cannot be edited so is refused, in words ([`Router::refusals`]).

mod adopted;
mod object;
pub mod ports;
mod providers;
mod record;
mod refused;
pub mod replicas;
mod routing;
mod service;
pub mod services;

#[cfg(test)]
mod adopted_cases;
#[cfg(test)]
mod adopted_laws;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod refused_cases;
#[cfg(test)]
mod replay;

pub use object::Owner;
pub use providers::*;
pub use service::{Metadata, Rewrite, ServiceSpec, UnmanagedMetadata};

use crate::api::names::Names;
use crate::object::{ObjectRef, Write};
use adopted::Shape;
use json_patch::jsonptr::PointerBuf;
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
    /// The route is another controller's.
    #[error("{kind} {name}.{namespace} belongs to {other}")]
    Controlled {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
        /// Kind and name of its controller.
        other: String,
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
        self.provider.routing.objects(self)
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
        live(&self.route()).map_or(Settled::Yes, |route| self.provider.routing.settled(self, route))
    }

    /// Makes what is missing, with all traffic on the primary, and repairs everything but weights in what is
    /// there; an adopted route is edited, its pairs brought to the weights of the last.
    /// Nothing is returned when nothing differs, and nothing for an object that is refused.
    ///
    /// # Errors
    ///
    /// When the Canary asks for a route that cannot be.
    pub fn reconcile(&self, live: &Live<'_>) -> Result<Vec<Write>, RouteError> {
        self.provider.routing.reconcile(self, live)
    }

    /// Says why objects that were there before cannot be used: what, why, and the way out, a sentence or two each. Nothing
    /// is written to them.
    #[must_use]
    pub fn refusals(&self, live: &Live<'_>) -> Vec<String> {
        refused::refusals(self, live)
    }

    /// Names what the Canary states in `spec.service` and an adopted route does not get, since it is its owner's.
    #[must_use]
    pub fn warnings(&self, live: &Live<'_>) -> Vec<String> {
        refused::warnings(self, live)
    }

    /// Gives the canary its share of the traffic, in percent (clamped to 0–100), and the primary the rest; changes nothing
    /// else, and writes nothing when it is so already. In an adopted route every pair gets the weights.
    ///
    /// # Errors
    ///
    /// When there is no route, or it does not lead to both, or it is another controller's.
    pub fn set_weights(&self, live: &Live<'_>, canary: i32) -> Result<Vec<Write>, RouteError> {
        let route = self.route();
        let object = live(&route).ok_or_else(|| self.absent(&route))?;
        if let Some(other) = self.owner.foreign_controller(object) {
            let (kind, ObjectRef { name, namespace, .. }) = (route.kind.as_str(), route);
            return Err(RouteError::Controlled { kind, name, namespace, other });
        }
        let write = self.provider.routing.set_weights(self, object, Weights::of_canary(canary))?;
        Ok(write.into_iter().collect())
    }

    /// Gives an adopted route back to its owner: as it was, or with the owner's changes since and our edits undone. What was
    /// made for the Canary goes with it, and what others control is theirs.
    #[must_use]
    pub fn restore(&self, live: &Live<'_>) -> Vec<Write> {
        record::restored(self, &self.route(), live).into_iter().collect()
    }

    /// Whether what is routed is what clients send to the apex Service; else they come through a gateway, by other names.
    #[must_use]
    pub fn called_by_service(&self) -> bool {
        self.provider.routing.called_by_service(&self.names.apex, &self.service)
    }

    /// Names the weighted object.
    #[must_use]
    pub fn route(&self) -> ObjectRef {
        self.provider.routing.route(self)
    }

    /// Finds the pair whose weights are read.
    fn backends(&self, object: &Value) -> Backends {
        self.pairs(object).pop().unwrap_or_default()
    }

    fn pairs(&self, object: &Value) -> Vec<Backends> {
        self.provider.routing.pairs(self, object)
    }

    fn shape(&self) -> Option<Shape> {
        self.provider.routing.shape(self)
    }

    fn former_shape(&self) -> Option<Shape> {
        self.provider.routing.former_shape(self)
    }

    fn shapes(&self) -> impl Iterator<Item = Shape> {
        [self.shape(), self.former_shape()].into_iter().flatten()
    }

    fn spec(&self, weights: Weights) -> Result<Value, RouteError> {
        self.provider.routing.spec(self, weights)
    }

    fn merged_rule(&self, live: Value, wanted: Value) -> Value {
        self.provider.routing.merged_rule(self, live, wanted)
    }

    fn weight(&self, weight: i32) -> Value {
        self.provider.routing.weight(weight)
    }

    /// Labels and annotations of a route that is made for the Canary. Flagger puts the selector label on it only when the Canary
    /// gives apex metadata.
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

/// Finds the two backends of each rule that leads to the canary; the rules are an array at `rules`, hold lists of backends
/// at `list`, and `host` tells where a backend goes to. The last one counts: a sticky rule of Flagger's session affinity
/// stands before it.
fn weighted_rules<'a>(
    names: &Names,
    object: &'a Value,
    rules: &[&str],
    list: &str,
    host: impl Fn(&'a Value) -> Option<&'a str>,
) -> Vec<Backends> {
    let path = PointerBuf::from_tokens(rules.iter().copied());
    let Some(all) = object.pointer(path.as_str()).and_then(Value::as_array) else { return Vec::new() };
    let backends = |(i, rule): (usize, &'a Value)| {
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
        let canary = named(&names.apex_canary)?;
        Some(Backends { primary: named(&names.apex_primary), canary: Some(canary) })
    };
    all.iter().enumerate().filter_map(backends).collect()
}

/// Reads a weight, which SMI v1alpha1 writes as a quantity.
fn weight_of(value: &Value) -> Option<i32> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64().and_then(|n| i32::try_from(n).ok()),
    }
}
