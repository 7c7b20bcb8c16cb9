//! Makes certificates, and reads back what was made.
//!
//! Keys are ECDSA P-256. Which certificate of the bundle plays which part is told by the keys beside it, so
//! that no part is stored twice and none can contradict another.

use super::plan::{Authority, Leaf, Policy, State, Step, Validity};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// What the Secret holds, all in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Certificates of all authorities to trust: the caBundle.
    pub bundle: String,
    /// Key of the authority in the bundle that signs.
    pub issuer_key: String,
    /// Key of the authority in the bundle that will sign.
    pub next_key: Option<String>,
    /// The certificate served.
    pub leaf: String,
    /// Its key.
    pub leaf_key: String,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never a key into a log.
        f.debug_struct("Material").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A certificate is not PEM or not X.509.
    #[error("cannot read the {what}: {reason}")]
    Unreadable {
        /// Which one.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// A key belongs to no certificate of the bundle.
    #[error("no certificate of the bundle belongs to the {0}")]
    NoMatch(&'static str),
    /// The step needs something that is not there.
    #[error("nothing to take the step {0:?} from")]
    Nothing(Step),
    /// Making a key or a certificate failed.
    #[error("cannot issue")]
    Issue(#[from] rcgen::Error),
}

/// Returns the names that a server behind a Service answers to, and the extra ones (names or addresses).
#[must_use]
pub fn names(service: &str, namespace: &str, extra: &[String]) -> Vec<String> {
    let mut names =
        vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local")];
    names.extend(extra.iter().filter(|e| !e.is_empty()).cloned());
    names
}

/// Takes a step: returns what the Secret is to hold after it.
///
/// # Errors
/// When what is held cannot be read or lacks what the step needs.
pub fn take(
    step: Step,
    held: Option<&Material>,
    names: &[String],
    policy: &Policy,
    now: Timestamp,
) -> Result<Material, IssueError> {
    let held = || held.ok_or(IssueError::Nothing(step));
    match step {
        Step::Create => {
            let (pem, key) = authority(policy, now)?;
            signed(Material { bundle: pem, issuer_key: key, ..empty() }, names, policy, now)
        }
        Step::RenewLeaf => signed(held()?.clone(), names, policy, now),
        Step::AddAuthority => {
            let held = held()?;
            let (pem, key) = authority(policy, now)?;
            // A next one that is there already has been found useless: it goes, with its key.
            let useless = held.next_key.as_deref().map(|key| public(key, "next key")).transpose()?;
            let kept =
                certificates(&held.bundle)?.into_iter().filter(|c| Some(&c.public_key) != useless.as_ref());
            let bundle = kept.map(|c| c.pem).chain([pem]).collect();
            Ok(Material { bundle, next_key: Some(key), ..held.clone() })
        }
        Step::SwitchAuthority => {
            let held = held()?;
            let key = held.next_key.clone().ok_or(IssueError::Nothing(step))?;
            signed(Material { issuer_key: key, next_key: None, ..held.clone() }, names, policy, now)
        }
        Step::DropRetired => {
            let held = held()?;
            let mut keys = vec![public(&held.issuer_key, "issuer key")?];
            keys.extend(held.next_key.as_deref().map(|key| public(key, "next key")).transpose()?);
            let kept = certificates(&held.bundle)?.into_iter().filter(|c| keys.contains(&c.public_key));
            Ok(Material { bundle: kept.map(|c| c.pem).collect(), ..held.clone() })
        }
    }
}

impl Material {
    /// Reads what is held. An unusable leaf is none; an unusable authority is an error.
    ///
    /// # Errors
    /// When the bundle cannot be read or a key has no certificate in it.
    pub fn state(&self, names: &[String]) -> Result<State, IssueError> {
        let mut all = certificates(&self.bundle)?;
        let mut claim = |key: &str, what| {
            let key = public(key, what)?;
            let at = all.iter().position(|c| c.public_key == key).ok_or(IssueError::NoMatch(what))?;
            Ok::<_, IssueError>(all.swap_remove(at).authority)
        };
        let issuer = claim(&self.issuer_key, "issuer key")?;
        let next = self.next_key.as_deref().map(|key| claim(key, "next key")).transpose()?;
        let retired = all.into_iter().map(|c| c.authority).collect();
        Ok(State { issuer, next, retired, leaf: leaf(&self.leaf, &self.leaf_key, names).ok() })
    }
}

/// Returns until when the first certificate of a PEM text is valid.
///
/// # Errors
/// When it cannot be read.
pub fn validity_of(pem: &str) -> Result<Validity, IssueError> {
    read(first(pem)?, "certificate", validity)
}

fn empty() -> Material {
    let none = String::new;
    Material { bundle: none(), issuer_key: none(), next_key: None, leaf: none(), leaf_key: none() }
}

/// Makes an authority: certificate and key.
fn authority(policy: &Policy, now: Timestamp) -> Result<(String, String), IssueError> {
    let key = KeyPair::generate()?;
    let digest = Sha256::digest(key.der_bytes());
    let unique: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let validity = Validity::starting(now, policy.authority_life, policy.backdate);
    let mut params = params(&format!("sidetrack webhook CA {unique}"), validity, Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Gives a new leaf, signed with the issuer key.
fn signed(held: Material, names: &[String], policy: &Policy, now: Timestamp) -> Result<Material, IssueError> {
    let signer = public(&held.issuer_key, "issuer key")?;
    let issuer = certificates(&held.bundle)?
        .into_iter()
        .find(|c| c.public_key == signer)
        .ok_or(IssueError::NoMatch("issuer key"))?;
    let mut validity = Validity::starting(now, policy.leaf_life, policy.backdate);
    validity.until = validity.until.min(issuer.authority.validity.until);
    let mut params = params("sidetrack webhook", validity, names.to_vec())?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let signer = Issuer::from_ca_cert_pem(&issuer.pem, KeyPair::from_pem(&held.issuer_key)?)?;
    let leaf = params.signed_by(&key, &signer)?.pem();
    Ok(Material { leaf, leaf_key: key.serialize_pem(), ..held })
}

fn params(name: &str, validity: Validity, names: Vec<String>) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let date = |at: Timestamp| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0))
    };
    params.not_before = date(validity.from);
    params.not_after = date(validity.until);
    Ok(params)
}

/// A certificate of the bundle.
struct Certificate {
    pem: String,
    public_key: Vec<u8>,
    authority: Authority,
}

fn certificates(bundle: &str) -> Result<Vec<Certificate>, IssueError> {
    // The text is cut rather than encoded anew: what is published stays byte for byte what was made.
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle
        .split_inclusive(END)
        .filter(|pem| !pem.trim().is_empty())
        .map(|pem| {
            read(first(pem)?, "bundle", |c| {
                Ok(Certificate {
                    pem: pem.to_owned(),
                    public_key: c.public_key().subject_public_key.data.to_vec(),
                    authority: Authority { subject: c.subject().to_string(), validity: validity(c)? },
                })
            })
        })
        .collect()
}

fn leaf(pem: &str, key: &str, names: &[String]) -> Result<Leaf, IssueError> {
    let key = public(key, "leaf key")?;
    read(first(pem)?, "leaf", |c| {
        if c.public_key().subject_public_key.data.as_ref() != key {
            return Err("another key".to_owned());
        }
        let alternatives = c.subject_alternative_name().map_err(|e| e.to_string())?;
        let alternatives = alternatives.map_or(&[][..], |a| &a.value.general_names);
        let covers = |name: &String| {
            let address = name.parse::<IpAddr>().ok().map(|ip| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            });
            alternatives.iter().any(|alternative| match (alternative, &address) {
                (GeneralName::IPAddress(bytes), Some(address)) => bytes == address,
                (GeneralName::DNSName(dns), None) => dns.eq_ignore_ascii_case(name),
                _ => false,
            })
        };
        Ok(Leaf {
            issuer: c.issuer().to_string(),
            validity: validity(c)?,
            covers_names: names.iter().all(covers),
        })
    })
}

fn first(pem: &str) -> Result<Pem, IssueError> {
    let unreadable = |reason: String| IssueError::Unreadable { what: "PEM text", reason };
    let first =
        Pem::iter_from_buffer(pem.as_bytes()).next().ok_or_else(|| unreadable("it is empty".to_owned()))?;
    first.map_err(|e| unreadable(e.to_string()))
}

fn read<T>(
    pem: Pem,
    what: &'static str,
    with: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> Result<T, String>,
) -> Result<T, IssueError> {
    pem.parse_x509()
        .map_err(|e| e.to_string())
        .and_then(|certificate| with(&certificate))
        .map_err(|reason| IssueError::Unreadable { what, reason })
}

fn validity(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Result<Validity, String> {
    let at = |seconds| Timestamp::from_second(seconds).map_err(|e| e.to_string());
    let validity = certificate.validity();
    Ok(Validity { from: at(validity.not_before.timestamp())?, until: at(validity.not_after.timestamp())? })
}

/// Returns the public half of a key.
fn public(key: &str, what: &'static str) -> Result<Vec<u8>, IssueError> {
    let key = KeyPair::from_pem(key).map_err(|e| IssueError::Unreadable { what, reason: e.to_string() })?;
    Ok(key.public_key_raw().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn wanted() -> Vec<String> {
        names("sidetrack", "sidetrack-system", &["127.0.0.1".to_owned(), String::new()])
    }

    fn step(step: Step, held: Option<&Material>) -> Material {
        take(step, held, &wanted(), &Policy::default(), now()).unwrap()
    }

    #[test]
    fn names_are_those_of_the_service_and_the_extra_ones() {
        let all =
            ["sidetrack.sidetrack-system.svc", "sidetrack.sidetrack-system.svc.cluster.local", "127.0.0.1"];
        assert_eq!(wanted(), all);
    }

    #[test]
    fn created_certificates_are_valid_as_the_policy_says() {
        let state = step(Step::Create, None).state(&wanted()).unwrap();
        let policy = Policy::default();
        let leaf = state.leaf.unwrap();
        assert_eq!(state.issuer.validity, Validity::starting(now(), policy.authority_life, policy.backdate));
        assert_eq!(leaf.validity, Validity::starting(now(), policy.leaf_life, policy.backdate));
        assert_eq!(leaf.issuer, state.issuer.subject);
        assert!(leaf.covers_names && state.next.is_none() && state.retired.is_empty());
    }

    #[test]
    fn leaf_is_for_servers_only_and_the_authority_signs_nothing_but_leaves() {
        let made = step(Step::Create, None);
        read(first(&made.leaf).unwrap(), "leaf", |c| {
            let usage = c.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.server_auth && !usage.client_auth && !usage.any);
            assert!(!c.is_ca());
            Ok(())
        })
        .unwrap();
        read(first(&made.bundle).unwrap(), "authority", |c| {
            let constraints = c.basic_constraints().unwrap().unwrap().value;
            assert!(constraints.ca && constraints.path_len_constraint == Some(0));
            assert!(c.key_usage().unwrap().unwrap().value.key_cert_sign());
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn rotation_keeps_the_old_authority_until_it_is_dropped() {
        let first = step(Step::Create, None);
        let old = first.state(&wanted()).unwrap().issuer;
        let added = step(Step::AddAuthority, Some(&first));
        let state = added.state(&wanted()).unwrap();
        assert_eq!((&state.issuer, added.leaf.as_str()), (&old, first.leaf.as_str()));
        let new = state.next.unwrap();
        let switched = step(Step::SwitchAuthority, Some(&added));
        let state = switched.state(&wanted()).unwrap();
        assert_eq!((&state.issuer, &state.retired), (&new, &vec![old]));
        assert_eq!(state.leaf.unwrap().issuer, new.subject);
        assert_eq!(switched.bundle, added.bundle, "what is published does not change with the signer");
        let dropped = step(Step::DropRetired, Some(&switched));
        let state = dropped.state(&wanted()).unwrap();
        assert!(state.retired.is_empty() && state.issuer == new);
    }

    #[test]
    fn second_successor_replaces_the_first() {
        let added = step(Step::AddAuthority, Some(&step(Step::Create, None)));
        let again = step(Step::AddAuthority, Some(&added));
        assert_ne!(added.state(&wanted()).unwrap().next, again.state(&wanted()).unwrap().next);
        assert_eq!(certificates(&again.bundle).unwrap().len(), 2);
    }

    #[test]
    fn leaf_ends_with_its_authority() {
        let made = step(Step::Create, None);
        let late = now() + jiff::SignedDuration::from_hours(360 * 24);
        let renewed = take(Step::RenewLeaf, Some(&made), &wanted(), &Policy::default(), late).unwrap();
        let state = renewed.state(&wanted()).unwrap();
        assert_eq!(state.leaf.unwrap().validity.until, state.issuer.validity.until);
    }

    #[test]
    fn damage_to_the_leaf_is_told_from_damage_to_the_authority() {
        let made = step(Step::Create, None);
        let other = step(Step::Create, None);
        let swapped = Material { leaf_key: other.leaf_key.clone(), ..made.clone() };
        assert_eq!(swapped.state(&wanted()).unwrap().leaf, None);
        let foreign = Material { issuer_key: other.issuer_key.clone(), ..made.clone() };
        assert!(matches!(foreign.state(&wanted()), Err(IssueError::NoMatch(_))));
        let cut = Material { bundle: made.bundle.get(..100).unwrap().to_owned(), ..made.clone() };
        assert!(matches!(cut.state(&wanted()), Err(IssueError::Unreadable { .. })));
        let more = [wanted(), vec!["other.example".to_owned()]].concat();
        assert!(!made.state(&more).unwrap().leaf.unwrap().covers_names);
    }

    #[test]
    fn keys_are_not_shown_when_debugged() {
        assert!(!format!("{:?}", step(Step::Create, None)).contains("PRIVATE KEY"));
    }
}
