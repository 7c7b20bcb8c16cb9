//! Findings before an installation: whether the cluster is new enough, whether who looks may install, and what is there already.

use super::facts::{Answer, Facts};
use super::finding::Finding;
use super::finding::Level::{Error, Info, Warning};
use super::{applications, installation, metrics_servers};
use crate::object::text;
use std::collections::BTreeSet;

/// A kind of object of an installation, and whether who looks may make and change such objects.
pub(super) type Rights = Vec<(String, Answer<bool>)>;

pub(super) fn findings(facts: &Facts, rights: &Rights) -> Vec<Finding> {
    let mut found = vec![installation::version(&facts.version)];
    let denied: BTreeSet<&str> =
        rights.iter().filter(|(_, may)| *may == Ok(false)).map(|(kind, _)| kind.as_str()).collect();
    for (kind, may) in rights {
        if let Err(refusal) = may {
            found.push(Finding::unknown(&format!("whether you may apply a {kind} is"), refusal));
        }
    }
    if denied.is_empty() {
        found.push(Finding::ok("you may apply what is installed"));
    } else {
        let kinds = denied.into_iter().collect::<Vec<_>>().join(", ");
        found.push(Finding::new(
            Error,
            format!("you may not apply these kinds: {kinds}"),
            "an installation needs all of them",
            "install as somebody with ClusterRole cluster-admin",
        ));
    }
    if installation::deployment_of(facts).is_some() {
        found.push(Finding::new(Info, "Sidetrack is installed already", "", "kubectl sidetrack check"));
    }
    let theirs = facts.installed.iter().filter(|installed| {
        text(&installed.wanted, "/kind") == "CustomResourceDefinition"
            && matches!(installed.live, Ok(Some(_)))
    });
    let theirs: Vec<&str> = theirs.map(|installed| text(&installed.wanted, "/metadata/name")).collect();
    if !theirs.is_empty() && installation::deployment_of(facts).is_none() {
        found.push(Finding::new(
            Info,
            format!("CRDs are there already: {}", theirs.join(", ")),
            "",
            "those of this version take their place; the objects stay as they are",
        ));
    }
    // Who releases these today goes on doing so: nothing of it stands in the way of an installation.
    let of_canaries = applications::findings(facts).into_iter().chain(metrics_servers::findings(facts));
    found.extend(of_canaries.map(|finding| Finding { level: finding.level.min(Warning), ..finding }));
    found
}
