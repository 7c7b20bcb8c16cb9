//! What a look at the simulated namespace finds.

use crate::cluster::Cluster;
use sidetrack::rollout::model::neighbours::{LISTED, Neighbours};

/// Lists the objects of a namespace, of the kinds that the simulated cluster has.
pub(crate) fn of(cluster: &Cluster, namespace: &str) -> Neighbours {
    let mut found = Neighbours::default();
    for kind in LISTED {
        let objects = cluster
            .objects
            .iter()
            .filter(|(at, _)| at.namespace == namespace && at.kind.as_str() == kind.kind);
        found.add(kind, objects.map(|(_, object)| (**object).clone()).collect::<Vec<_>>());
    }
    found
}
