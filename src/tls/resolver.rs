//! Hands the present certificate to each new handshake.

use super::issue;
use super::plan::Validity;
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use std::sync::Arc;

/// A pair of certificate and key that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The text is not PEM, or lacks what it should hold.
    #[error("cannot read the {what}: {reason}")]
    Unreadable {
        /// `certificate` or `key`.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// Certificate and key do not belong together, or the key is of no known kind.
    #[error("certificate and key cannot be used together")]
    Unusable(#[from] rustls::Error),
    /// The certificate is no X.509.
    #[error("the certificate is broken")]
    Certificate(#[from] issue::IssueError),
}

/// A certificate with its key, ready to be served.
#[derive(Clone, Debug)]
pub struct Pair {
    key: Arc<CertifiedKey>,
    /// When the certificate is valid.
    pub validity: Validity,
}

impl Pair {
    /// Reads a certificate chain (leaf first) and its key from PEM, and checks that they belong together.
    ///
    /// # Errors
    /// When they cannot be served.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, PairError> {
        let unreadable =
            |what, e: rustls::pki_types::pem::Error| PairError::Unreadable { what, reason: e.to_string() };
        let certificates = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| unreadable("certificate", e))?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| unreadable("key", e))?;
        let key = CertifiedKey::from_der(certificates, private, &provider())?;
        Ok(Self { key: Arc::new(key), validity: issue::validity_of(chain)? })
    }
}

/// Holds the pair that is served. A swap concerns new handshakes only; open connections live on.
#[derive(Debug, Default)]
pub struct Resolver {
    current: ArcSwapOption<Pair>,
}

impl Resolver {
    /// Serves a pair from now on.
    pub fn set(&self, pair: &Pair) {
        self.current.store(Some(Arc::new(pair.clone())));
    }

    /// Returns whether there is anything to serve.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }

    /// Returns whether what is served is valid then: else no handshake of the API server succeeds.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.current.load().as_ref().is_some_and(|pair| pair.validity.holds(now))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // No choice by name: the API server also calls by address, without one.
        self.current.load().as_ref().map(|pair| Arc::clone(&pair.key))
    }
}

/// Builds a server configuration: TLS 1.3 and 1.2, HTTP/1.1, no client certificates, and no resumption, so that
/// each handshake proves the present certificate.
///
/// # Errors
/// When the provider lacks a cipher suite for those versions.
pub fn server_config(resolver: Arc<Resolver>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The provider is named everywhere rather than installed: a process-wide default can be set once only, by anyone.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::plan::{Policy, Step};

    fn made() -> issue::Material {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        issue::take(Step::Create, None, &["a.b.svc".to_owned()], &Policy::default(), now).unwrap()
    }

    #[test]
    fn pair_of_two_makings_is_refused() {
        let (one, other) = (made(), made());
        assert!(Pair::from_pem(&one.leaf, &one.leaf_key).is_ok());
        assert!(matches!(Pair::from_pem(&one.leaf, &other.leaf_key), Err(PairError::Unusable(_))));
    }

    #[test]
    fn half_a_file_is_refused() {
        let made = made();
        for (chain, key) in [("", made.leaf_key.as_str()), (&made.leaf, ""), ("junk", "junk")] {
            assert!(Pair::from_pem(chain, key).is_err(), "{chain:?} {key:?}");
        }
        let cut = made.leaf.get(..made.leaf.len() / 2).unwrap();
        assert!(Pair::from_pem(cut, &made.leaf_key).is_err());
    }

    #[test]
    fn chain_may_hold_more_than_the_leaf() {
        let made = made();
        let chain = format!("{}{}", made.leaf, made.bundle);
        assert_eq!(Pair::from_pem(&chain, &made.leaf_key).unwrap().key.cert.len(), 2);
    }

    #[test]
    fn nothing_is_served_before_a_pair_is_set() {
        let resolver = Resolver::default();
        assert!(!resolver.is_set());
        let made = made();
        let pair = Pair::from_pem(&made.leaf, &made.leaf_key).unwrap();
        resolver.set(&pair);
        let Validity { from, until } = pair.validity;
        let second = jiff::SignedDuration::from_secs(1);
        assert!(resolver.is_set() && resolver.holds(from) && !resolver.holds(from - second));
        assert!(resolver.holds(until - second) && !resolver.holds(until));
    }
}
