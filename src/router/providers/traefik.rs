//! Traefik: a TraefikService that splits; an IngressRoute of the application's owner leads to it by name.

use crate::api::names::Names;
use crate::object::{Kind, RouteKind, Write};
use crate::router::adopted::{Shape, elements};
use crate::router::object::{self, set, settle};
use crate::router::routing::Routing;
use crate::router::{Backend, Backends, Live, RouteError, Router, Weights, weight_of};
use json_patch::jsonptr::PointerBuf;
use serde_json::{Value, json};

/// The TraefikService.
pub const TRAEFIK_SERVICE: Kind = Kind::Route(&RouteKind {
    group: "traefik.io",
    version: "v1alpha1",
    kind: "TraefikService",
    plural: "traefikservices",
});

/// Where the Services stand.
const SERVICES: &str = "/spec/weighted/services";

pub(super) struct Traefik;

impl Routing for Traefik {
    fn names(&self) -> &'static [&'static str] {
        &["traefik"]
    }

    fn kinds(&self) -> &'static [Kind] {
        &[TRAEFIK_SERVICE]
    }

    fn reconcile(&self, router: &Router, live: &Live<'_>) -> Result<Vec<Write>, RouteError> {
        let at = self.route(router);
        let metadata = router.route_metadata();
        let write = match live(&at) {
            None => {
                let object = object::create(&at, &metadata, &router.owner, spec(router, Weights::INITIAL));
                Some(Write::Create { target: at, object })
            }
            Some(found) if router.owner.owns(found) => {
                let weights = router.backends(found).weights().unwrap_or(Weights::INITIAL);
                let mut next = with_weights(router, found, weights);
                object::add_metadata(&mut next, &metadata);
                object::update(&at, found, &next)
            }
            Some(_) => None,
        };
        Ok(write.into_iter().collect())
    }

    fn pairs(&self, router: &Router, route: &Value) -> Vec<Backends> {
        let entries = elements(route.pointer(SERVICES));
        let find = |name: &str| {
            let j = entries.iter().position(|entry| is(&router.names, entry, name))?;
            Some(Backend {
                weight_at: PointerBuf::from_tokens([
                    "spec",
                    "weighted",
                    "services",
                    &j.to_string(),
                    "weight",
                ]),
                weight: entries.get(j).and_then(|entry| weight_of(entry.get("weight")?)),
            })
        };
        vec![Backends { primary: find(&router.names.apex_primary), canary: find(&router.names.apex_canary) }]
    }

    /// The canary's entry is there only while it has a weight (Flagger), so that no request waits for a Service without pods.
    fn set_weights(
        &self,
        router: &Router,
        route: &Value,
        wanted: Weights,
    ) -> Result<Option<Write>, RouteError> {
        let at = self.route(router);
        if router.backends(route).primary.is_none() {
            return Err(router.no_routes(&at));
        }
        Ok(object::update(&at, route, &with_weights(router, route, wanted)))
    }

    /// One that somebody else made is not edited: its weights are its owner's own split.
    fn shape(&self, _: &Router) -> Option<Shape> {
        None
    }

    fn spec(&self, router: &Router, weights: Weights) -> Result<Value, RouteError> {
        Ok(spec(router, weights))
    }
}

fn is(names: &Names, entry: &Value, name: &str) -> bool {
    let within = entry.get("namespace").is_none_or(|namespace| *namespace == *names.namespace);
    within && entry.get("name").is_some_and(|n| n == name)
}

fn spec(router: &Router, weights: Weights) -> Value {
    let names = &router.names;
    let entry = |name: &str, weight: i32| json!({"name": name, "namespace": names.namespace, "port": router.service.port, "weight": weight});
    let mut services = vec![entry(&names.apex_primary, weights.primary)];
    if weights.canary > 0 {
        services.push(entry(&names.apex_canary, weights.canary));
    }
    json!({"weighted": {"services": services}})
}

/// Returns a live TraefikService with the two Services and these weights; what else stands in it, and on their entries, stays.
fn with_weights(router: &Router, live: &Value, weights: Weights) -> Value {
    let found = elements(live.pointer(SERVICES));
    let wanted = spec(router, weights);
    let entry = |wanted: &Value| {
        let name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some(found) = found.iter().find(|entry| is(&router.names, entry, name)) else {
            return wanted.clone();
        };
        let mut entry = found.clone();
        for field in ["port", "weight"] {
            settle(&mut entry, field, wanted.get(field));
        }
        entry
    };
    let services: Vec<Value> = elements(wanted.pointer("/weighted/services")).iter().map(entry).collect();
    let mut next = live.clone();
    set(object::child(object::child(&mut next, "spec"), "weighted"), "services", services.into());
    next
}
