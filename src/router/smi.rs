//! SMI: a TrafficSplit.

use super::adopted::{self, Shape, elements};
use super::object::{self, settle};
use super::{Backends, Live, Metadata, RouteError, Router, SmiVersion, Weights};
use crate::object::{Kind, ObjectRef, Write};
use serde_json::{Value, json};

/// Tells SMI's adapter for Istio which gateways to use.
const ISTIO_GATEWAYS: &str = "VirtualService.v1alpha3.networking.istio.io/spec.gateways";

pub(super) fn route(router: &Router, version: SmiVersion) -> ObjectRef {
    let kind = match version {
        SmiVersion::V1Alpha1 => Kind::TrafficSplitV1Alpha1,
        SmiVersion::V1Alpha2 => Kind::TrafficSplitV1Alpha2,
        SmiVersion::V1Alpha3 => Kind::TrafficSplitV1Alpha3,
    };
    ObjectRef::new(kind, &router.names.namespace, &router.names.apex)
}

/// Writes a weight in the form of the version.
pub(super) fn weight(version: SmiVersion, weight: i32) -> Value {
    match version {
        SmiVersion::V1Alpha1 => weight.to_string().into(),
        SmiVersion::V1Alpha2 | SmiVersion::V1Alpha3 => weight.into(),
    }
}

fn host(entry: &Value) -> Option<&str> {
    entry.get("service").and_then(Value::as_str)
}

pub(super) const SHAPE: Shape = Shape {
    rules: None,
    list: "backends",
    host_at: "/service",
    host: |_, entry| host(entry),
    is_empty: |spec| elements(spec.get("backends")).is_empty(),
    weightless: false,
};

pub(super) fn pairs(router: &Router, object: &Value) -> Vec<Backends> {
    let entries = object.pointer("/spec/backends").and_then(Value::as_array);
    let find = |name: &str| {
        let j = entries?.iter().position(|e| host(e) == Some(name))?;
        Some(super::Backend {
            weight_at: json_patch::jsonptr::PointerBuf::from_tokens([
                "spec",
                "backends",
                &j.to_string(),
                "weight",
            ]),
            weight: entries?.get(j).and_then(|e| e.get("weight")).and_then(super::weight_of),
        })
    };
    vec![Backends { primary: find(&router.names.apex_primary), canary: find(&router.names.apex_canary) }]
}

pub(super) fn reconcile(
    router: &Router,
    version: SmiVersion,
    mesh: Option<&str>,
    live: &Live<'_>,
) -> Result<Vec<Write>, RouteError> {
    let at = route(router, version);
    let write = match live(&at) {
        None => {
            let mut metadata = Metadata::default();
            if mesh == Some("istio") && !router.service.gateways.is_empty() {
                metadata
                    .annotations
                    .insert(ISTIO_GATEWAYS.into(), json!(router.service.gateways).to_string());
            }
            let spec = spec(router, version, Weights::INITIAL);
            Some(Write::Create { object: object::create(&at, &metadata, &router.owner, spec) })
        }
        Some(found) if router.owner.owns(found) => {
            let weights = router.backends(found).weights().unwrap_or(Weights::INITIAL);
            let wanted = spec(router, version, weights);
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

/// Whether two lists name the same Services in the same order with the same weights, in whatever form those
/// are.
fn same_backends(a: Option<&Value>, b: Option<&Value>) -> bool {
    let read = |v: Option<&Value>| -> Vec<(Option<String>, i32)> {
        v.and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|e| (host(e).map(str::to_owned), e.get("weight").and_then(super::weight_of).unwrap_or(0)))
            .collect()
    };
    read(a) == read(b)
}

pub(super) fn spec(router: &Router, version: SmiVersion, weights: Weights) -> Value {
    let names = &router.names;
    json!({
        "service": router.service.hosts.first().unwrap_or(&names.apex),
        "backends": [
            { "service": names.apex_canary, "weight": weight(version, weights.canary) },
            { "service": names.apex_primary, "weight": weight(version, weights.primary) },
        ],
    })
}
