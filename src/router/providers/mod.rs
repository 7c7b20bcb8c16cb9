//! The traffic providers, a file each, and what `spec.provider` and `--mesh-provider` may say.

mod gateway_api;
mod gateway_rules;
mod istio;
mod smi;
mod traefik;

use super::routing::Routing;
use crate::api::crd::PROVIDERS;
use crate::object::{Kind, ObjectRef, text};
use serde_json::Value;
use std::fmt;

pub use gateway_api::HTTP_ROUTE;
pub use istio::{DESTINATION_RULE, VIRTUAL_SERVICE};
pub use smi::{TRAFFIC_SPLIT_V1ALPHA1, TRAFFIC_SPLIT_V1ALPHA2, TRAFFIC_SPLIT_V1ALPHA3};
pub use traefik::TRAEFIK_SERVICE;

/// Every provider that is served. Names, kinds, rights, watches and help are derived from it, and the laws run over it.
pub(super) static ALL: &[&dyn Routing] = &[
    &istio::Istio,
    &gateway_api::GatewayApi,
    &smi::Smi::V1Alpha1,
    &smi::Smi::V1Alpha2,
    &smi::Smi::V1Alpha3,
    &traefik::Traefik,
];

/// What splits the traffic.
#[derive(Clone)]
pub struct Provider {
    pub(super) routing: &'static dyn Routing,
    /// What follows the name after a colon: the mesh behind it (`smi:v1alpha1:istio`).
    pub(super) mesh: Option<String>,
}

impl PartialEq for Provider {
    fn eq(&self, other: &Self) -> bool {
        (self.routing.kinds(), &self.mesh) == (other.routing.kinds(), &other.mesh)
    }
}

impl Eq for Provider {}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.routing.names().iter().chain(self.routing.prefixes());
        f.debug_tuple("Provider").field(&names.collect::<Vec<_>>()).field(&self.mesh).finish()
    }
}

/// How the canary gets its share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// By the weights of a route.
    Routes(Provider),
    /// By the number of its pods in the application's own Service (`kubernetes`); see [`super::replicas`].
    Replicas,
}

impl Traffic {
    /// Reads a provider name.
    ///
    /// # Errors
    ///
    /// When the name is not served or not known.
    pub fn parse(name: &str) -> Result<Self, ProviderError> {
        if name == "kubernetes" { Ok(Self::Replicas) } else { Provider::parse(name).map(Self::Routes) }
    }
}

/// A provider name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// A provider that Flagger has and Sidetrack has not.
    #[error("provider '{0}' is not served; served are {served}", served = served())]
    NotServed(String),
    /// A name that is nobody's. Flagger falls back to Istio here; a typing error is better said.
    #[error("provider '{0}' is unknown")]
    Unknown(String),
}

/// The provider names that are served, in a list for people.
#[must_use]
pub fn served() -> String {
    let names = ALL.iter().flat_map(|p| p.names().iter().chain(p.prefixes()).copied());
    names.collect::<Vec<_>>().join(", ")
}

/// The kinds of the objects of all providers.
pub fn kinds() -> impl Iterator<Item = Kind> {
    ALL.iter().flat_map(|provider| provider.kinds().iter().copied())
}

/// Returns the address that a manifest states, of a route too.
#[must_use]
pub fn address(object: &Value) -> Option<ObjectRef> {
    let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
    let kind = Kind::OWN.into_iter().chain(kinds()).find(|known| known.is(version, kind))?;
    ObjectRef::of_kind(kind, object)
}

impl Provider {
    /// Reads a provider name (flagger.app, `spec.provider`).
    ///
    /// # Errors
    ///
    /// When the name is not served or not known.
    pub fn parse(name: &str) -> Result<Self, ProviderError> {
        for routing in ALL.iter().copied() {
            if routing.names().contains(&name) {
                return Ok(Self { routing, mesh: None });
            }
            if let Some(rest) = routing.prefixes().iter().find_map(|prefix| suffix(name, prefix)) {
                let mesh = Some(rest.trim_start_matches(':').to_owned()).filter(|mesh| !mesh.is_empty());
                return Ok(Self { routing, mesh });
            }
        }
        // `kubernetes` is no route; a version may follow the others.
        let known = |known: &&str| *known != "kubernetes" && suffix(name, known).is_some();
        if PROVIDERS.iter().any(known) {
            return Err(ProviderError::NotServed(name.to_owned()));
        }
        Err(ProviderError::Unknown(name.to_owned()))
    }
}

/// Returns what follows `prefix` in `name`, if that is nothing or begins with a colon.
fn suffix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_names_are_read() {
        let read = |name: &str| Provider::parse(name).map(|p| (p.routing.kinds().first().copied(), p.mesh));
        for (name, kind, mesh) in [
            ("istio", VIRTUAL_SERVICE, None),
            ("gatewayapi:v1", HTTP_ROUTE, None),
            ("gatewayapi:v1beta1", HTTP_ROUTE, None),
            ("smi:v1alpha2:linkerd", TRAFFIC_SPLIT_V1ALPHA2, Some("linkerd")),
            ("smi:v1alpha3", TRAFFIC_SPLIT_V1ALPHA3, None),
            ("linkerd", TRAFFIC_SPLIT_V1ALPHA1, None),
            ("osm", TRAFFIC_SPLIT_V1ALPHA2, None),
            ("traefik", TRAEFIK_SERVICE, None),
        ] {
            assert_eq!(read(name), Ok((Some(kind), mesh.map(str::to_owned))), "{name}");
        }
    }

    #[test]
    fn other_names_are_told_apart() {
        assert_eq!(Traffic::parse("kubernetes"), Ok(Traffic::Replicas));
        for name in ["appmesh", "appmesh:v1beta2", "appmesh:v1beta3"] {
            assert_eq!(Provider::parse(name), Err(ProviderError::NotServed(name.into())));
        }
        for name in ["", "istioo", "gatewayapi:v1alpha2", "smi:v1", "kubernetes"] {
            assert_eq!(Provider::parse(name), Err(ProviderError::Unknown(name.into())));
        }
        let said = ProviderError::NotServed("appmesh".into()).to_string();
        assert!(
            said.starts_with("provider 'appmesh' is not served; served are istio, gatewayapi:v1, "),
            "{said}"
        );
    }

    #[test]
    fn every_kind_is_of_one_provider_and_every_name_too() {
        let mut kinds: Vec<Kind> = kinds().collect();
        kinds.sort();
        assert!(kinds.windows(2).all(|pair| pair[0] != pair[1]), "{kinds:?}");
        let names: Vec<&str> =
            ALL.iter().flat_map(|p| p.names().iter().chain(p.prefixes()).copied()).collect();
        for name in &names {
            assert!(PROVIDERS.contains(name), "the schema of a Canary refuses {name}");
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
    }
}
