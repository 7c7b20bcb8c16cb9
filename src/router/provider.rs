//! Provider names: what `spec.provider` and `-mesh-provider` may say, and which of it is served.

/// What splits the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Istio's VirtualService.
    Istio,
    /// SMI's TrafficSplit.
    Smi {
        /// The API version of the TrafficSplit.
        version: SmiVersion,
        /// The mesh behind it, as named after the version (`smi:v1alpha1:istio`).
        mesh: Option<String>,
    },
    /// Gateway API's HTTPRoute, always written as `v1`: an HTTPRoute of `v1beta1` is the same stored object.
    GatewayApi,
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

/// Versions of SMI's traffic split API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmiVersion {
    /// `split.smi-spec.io/v1alpha1`: weights are quantities.
    V1Alpha1,
    /// `split.smi-spec.io/v1alpha2`.
    V1Alpha2,
    /// `split.smi-spec.io/v1alpha3`.
    V1Alpha3,
}

/// A provider name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// A provider that Flagger has and Sidetrack has not.
    #[error(
        "provider '{0}' is not served; served are istio, gatewayapi:v1, smi:v1alpha1, smi:v1alpha2, smi:v1alpha3, linkerd and osm"
    )]
    NotServed(String),
    /// A name that is nobody's. Flagger falls back to Istio here; a typing error is better said.
    #[error("provider '{0}' is unknown")]
    Unknown(String),
}

/// Names that Flagger knows and Sidetrack does not serve; with a colon more may follow.
const NOT_SERVED: [&str; 10] =
    ["appmesh", "contour", "gloo", "knative", "nginx", "skipper", "traefik", "apisix", "kuma", "crossover"];

impl Provider {
    /// Reads a provider name; `linkerd` and `osm` are SMI (flagger.app, `spec.provider`).
    ///
    /// # Errors
    ///
    /// When the name is not served or not known.
    pub fn parse(name: &str) -> Result<Self, ProviderError> {
        let smi = |version, mesh: &str| Self::Smi {
            version,
            mesh: Some(mesh.trim_start_matches(':').to_owned()).filter(|m| !m.is_empty()),
        };
        match name {
            "istio" => return Ok(Self::Istio),
            "linkerd" => return Ok(smi(SmiVersion::V1Alpha1, "linkerd")),
            "osm" => return Ok(smi(SmiVersion::V1Alpha2, "osm")),
            _ => {}
        }
        for (prefix, version) in [
            ("smi:v1alpha1", SmiVersion::V1Alpha1),
            ("smi:v1alpha2", SmiVersion::V1Alpha2),
            ("smi:v1alpha3", SmiVersion::V1Alpha3),
        ] {
            if let Some(mesh) = suffix(name, prefix) {
                return Ok(smi(version, mesh));
            }
        }
        if ["gatewayapi:v1", "gatewayapi:v1beta1"].iter().any(|prefix| suffix(name, prefix).is_some()) {
            return Ok(Self::GatewayApi);
        }
        if NOT_SERVED.iter().any(|known| suffix(name, known).is_some()) {
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
        assert_eq!(Provider::parse("istio"), Ok(Provider::Istio));
        assert_eq!(Provider::parse("gatewayapi:v1"), Ok(Provider::GatewayApi));
        assert_eq!(Provider::parse("gatewayapi:v1beta1"), Ok(Provider::GatewayApi));
        assert_eq!(
            Provider::parse("smi:v1alpha2:linkerd"),
            Ok(Provider::Smi { version: SmiVersion::V1Alpha2, mesh: Some("linkerd".into()) })
        );
        assert_eq!(
            Provider::parse("smi:v1alpha3"),
            Ok(Provider::Smi { version: SmiVersion::V1Alpha3, mesh: None })
        );
    }

    #[test]
    fn other_names_are_told_apart() {
        assert_eq!(Traffic::parse("kubernetes"), Ok(Traffic::Replicas));
        for name in ["nginx", "appmesh:v1beta2"] {
            assert_eq!(Provider::parse(name), Err(ProviderError::NotServed(name.into())));
        }
        for name in ["", "istioo", "gatewayapi:v1alpha2", "smi:v1", "kubernetes"] {
            assert_eq!(Provider::parse(name), Err(ProviderError::Unknown(name.into())));
        }
    }
}
