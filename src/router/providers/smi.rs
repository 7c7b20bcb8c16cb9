//! SMI: a TrafficSplit.

use crate::object::{Kind, RouteKind, Write};
use crate::router::adopted::{self, Shape, elements};
use crate::router::object::{self, settle};
use crate::router::routing::Routing;
use crate::router::service::ServiceSpec;
use crate::router::{Backend, Backends, Live, Metadata, RouteError, Router, Weights, weight_of};
use json_patch::jsonptr::PointerBuf;
use serde_json::{Value, json};

/// Tells SMI's adapter for Istio which gateways to use.
const ISTIO_GATEWAYS: &str = "VirtualService.v1alpha3.networking.istio.io/spec.gateways";

const fn traffic_split(version: &'static str) -> RouteKind {
    RouteKind { group: "split.smi-spec.io", version, kind: "TrafficSplit", plural: "trafficsplits" }
}

/// The TrafficSplit of `v1alpha1`, whose weights are quantities.
pub const TRAFFIC_SPLIT_V1ALPHA1: Kind = Kind::Route(&traffic_split("v1alpha1"));
/// The TrafficSplit of `v1alpha2`.
pub const TRAFFIC_SPLIT_V1ALPHA2: Kind = Kind::Route(&traffic_split("v1alpha2"));
/// The TrafficSplit of `v1alpha3`.
pub const TRAFFIC_SPLIT_V1ALPHA3: Kind = Kind::Route(&traffic_split("v1alpha3"));

/// One version of the API.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Smi {
    V1Alpha1,
    V1Alpha2,
    V1Alpha3,
}

impl Routing for Smi {
    /// Meshes that have one version of it (flagger.app, `spec.provider`).
    fn names(&self) -> &'static [&'static str] {
        match self {
            Self::V1Alpha1 => &["linkerd"],
            Self::V1Alpha2 => &["osm"],
            Self::V1Alpha3 => &[],
        }
    }

    fn prefixes(&self) -> &'static [&'static str] {
        match self {
            Self::V1Alpha1 => &["smi:v1alpha1"],
            Self::V1Alpha2 => &["smi:v1alpha2"],
            Self::V1Alpha3 => &["smi:v1alpha3"],
        }
    }

    fn kinds(&self) -> &'static [Kind] {
        match self {
            Self::V1Alpha1 => &[TRAFFIC_SPLIT_V1ALPHA1],
            Self::V1Alpha2 => &[TRAFFIC_SPLIT_V1ALPHA2],
            Self::V1Alpha3 => &[TRAFFIC_SPLIT_V1ALPHA3],
        }
    }

    fn reconcile(&self, router: &Router, live: &Live<'_>) -> Result<Vec<Write>, RouteError> {
        let at = self.route(router);
        let write = match live(&at) {
            None => {
                let mut metadata = Metadata::default();
                if router.provider.mesh.as_deref() == Some("istio") && !router.service.gateways.is_empty() {
                    metadata
                        .annotations
                        .insert(ISTIO_GATEWAYS.into(), json!(router.service.gateways).to_string());
                }
                let spec = self.split(router, Weights::INITIAL);
                let object = object::create(&at, &metadata, &router.owner, spec);
                Some(Write::Create { target: at, object })
            }
            Some(found) if router.owner.owns(found) => {
                let weights = router.backends(found).weights().unwrap_or(Weights::INITIAL);
                let wanted = self.split(router, weights);
                let mut next = found.clone();
                let spec = object::child(&mut next, "spec");
                settle(spec, "service", wanted.get("service"));
                if !same_backends(spec.get("backends"), wanted.get("backends")) {
                    object::set(spec, "backends", wanted.get("backends").cloned().unwrap_or_default());
                }
                object::update(&at, found, &next)
            }
            Some(found) => adopted::reconcile(router, &at, found)?,
        };
        Ok(write.into_iter().collect())
    }

    fn pairs(&self, router: &Router, route: &Value) -> Vec<Backends> {
        let entries = route.pointer("/spec/backends").and_then(Value::as_array);
        let find = |name: &str| {
            let j = entries?.iter().position(|e| host(e) == Some(name))?;
            Some(Backend {
                weight_at: PointerBuf::from_tokens(["spec", "backends", &j.to_string(), "weight"]),
                weight: entries?.get(j).and_then(|e| e.get("weight")).and_then(weight_of),
            })
        };
        vec![Backends { primary: find(&router.names.apex_primary), canary: find(&router.names.apex_canary) }]
    }

    fn weight(&self, weight: i32) -> Value {
        match self {
            Self::V1Alpha1 => weight.to_string().into(),
            Self::V1Alpha2 | Self::V1Alpha3 => weight.into(),
        }
    }

    fn shape(&self, _: &Router) -> Option<Shape> {
        Some(SHAPE)
    }

    fn spec(&self, router: &Router, weights: Weights) -> Result<Value, RouteError> {
        Ok(self.split(router, weights))
    }

    fn unwritten(&self, router: &Router, spec: &Value, _: &[&Value]) -> Vec<&'static str> {
        let host = router.service.hosts.first().map(String::as_str);
        let differs = host.is_some() && spec.get("service").and_then(Value::as_str) != host;
        differs.then_some("hosts").into_iter().collect()
    }

    fn called_by_service(&self, _: &str, service: &ServiceSpec) -> bool {
        service.hosts.is_empty()
    }
}

impl Smi {
    fn split(self, router: &Router, weights: Weights) -> Value {
        let names = &router.names;
        json!({
            "service": router.service.hosts.first().unwrap_or(&names.apex),
            "backends": [
                { "service": names.apex_canary, "weight": self.weight(weights.canary) },
                { "service": names.apex_primary, "weight": self.weight(weights.primary) },
            ],
        })
    }
}

fn host(entry: &Value) -> Option<&str> {
    entry.get("service").and_then(Value::as_str)
}

const SHAPE: Shape = Shape {
    rules: None,
    list: "backends",
    host_at: "/service",
    host: |_, entry| host(entry),
    is_empty: |spec| elements(spec.get("backends")).is_empty(),
    weightless: false,
};

/// Whether two lists name the same Services in the same order with the same weights, in whatever form those
/// are.
fn same_backends(a: Option<&Value>, b: Option<&Value>) -> bool {
    let read = |v: Option<&Value>| -> Vec<(Option<String>, i32)> {
        v.and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|e| (host(e).map(str::to_owned), e.get("weight").and_then(weight_of).unwrap_or(0)))
            .collect()
    };
    read(a) == read(b)
}
