//! Ports of Services: those that a Canary states or has discovered, and how they meet those of a Service's owner.
//!
//! A port is known by its number and protocol, as Kubernetes knows it; its name is what Ingresses and monitors refer to, and
//! stays its owner's.

use super::object::set;
use super::service::ServiceSpec;
use serde_json::{Map, Value, json};

/// Containers whose ports are not the application's (Flagger's list).
const SIDECARS: [&str; 2] = ["istio-proxy", "envoy"];
/// The longest name of a port (Kubernetes: a DNS label).
const LONGEST: usize = 63;

/// A port of a container to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// Number and protocol of a port: no Service has two of one kind.
pub(super) type Address = (i64, String);

pub(super) fn address(port: &Value) -> Address {
    let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
    (port.get("port").and_then(Value::as_i64).unwrap_or_default(), protocol.to_owned())
}

fn name(port: &Value) -> &str {
    port.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Lists the containers' ports beside the Service's own (Flagger, `portDiscovery`), named as in the template, else
/// `tcp-<container>-<index>`. Empty when the Canary does not ask for them. No two share a name, or number and protocol, with
/// one another or with the Service's own: the API server would refuse the Service.
#[must_use]
pub fn discovered_ports(template: &Value, service: &ServiceSpec) -> Vec<DiscoveredPort> {
    if !service.port_discovery {
        return Vec::new();
    }
    let own = service.target_port();
    let mut taken = vec![(i64::from(service.port), "TCP".to_owned())];
    let mut names = vec![service.port_name().to_owned()];
    let mut ports = Vec::new();
    for container in list(template.pointer("/spec/containers")) {
        let of = name(container);
        if SIDECARS.contains(&of) {
            continue;
        }
        for (i, port) in list(container.get("ports")).iter().enumerate() {
            let given = Some(name(port)).filter(|n| !n.is_empty());
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
            let Some(number) =
                port.get("containerPort").and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok())
            else {
                continue;
            };
            let is_own = own == json!(number) || given.is_some() && own.as_str() == given;
            let at = (i64::from(number), protocol.clone());
            if is_own && protocol == "TCP" || taken.contains(&at) {
                continue;
            }
            let wanted = given.map_or_else(|| format!("{}-{of}-{i}", protocol.to_lowercase()), str::to_owned);
            let name = free(&wanted, &at, &names);
            taken.push(at);
            names.push(name.clone());
            ports.push(DiscoveredPort { name, port: number, protocol });
        }
    }
    ports
}

/// A name that no other port has: the wanted one, else one that says the address.
fn free(wanted: &str, (number, protocol): &Address, taken: &[String]) -> String {
    let is_free = |name: &String| name.len() <= LONGEST && !taken.contains(name);
    let protocol = protocol.to_lowercase();
    [wanted.to_owned(), format!("{wanted}-{protocol}"), format!("{wanted}-{number}")]
        .into_iter()
        .find(is_free)
        .unwrap_or_else(|| format!("{protocol}-{number}"))
}

/// Brings the wanted ports into the live list of a Service that was made for the Canary: in their places where they are there,
/// else at the end; their node ports stay. Others go.
pub(super) fn merged(live: Option<&Value>, wanted: &[Value]) -> Vec<Value> {
    let live = list(live);
    let found = |wanted: &Value| {
        live.iter()
            .position(|l| address(l) == address(wanted))
            .or_else(|| live.iter().position(|l| name(l) == name(wanted)))
    };
    let mut placed: Vec<(usize, Value)> = wanted
        .iter()
        .map(|port| {
            let mut port = port.clone();
            let at = found(&port);
            let node_port = at.and_then(|at| live.get(at)?.get("nodePort")).filter(|n| n.as_i64() != Some(0));
            if let Some(node_port) = node_port {
                set(&mut port, "nodePort", node_port.clone());
            }
            (at.unwrap_or(live.len()), port)
        })
        .collect();
    placed.sort_by_key(|(at, _)| *at);
    placed.into_iter().map(|(_, port)| port).collect()
}

/// The ports of an adopted Service, and what has to be remembered of them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Adopted {
    pub(super) ports: Vec<Value>,
    /// Names of those that the Canary defines: the added ones.
    pub(super) defined: Vec<String>,
    /// The owner's names of those that have another one now, by [`key`]; empty where they had none.
    pub(super) renamed: Map<String, Value>,
}

/// A port as the record of an adopted Service names it.
fn key(port: &Value) -> String {
    let (number, protocol) = address(port);
    format!("{protocol}/{number}")
}

/// Brings the wanted ports into the list of a Service that has an owner: a port that is there by number and protocol stays as
/// it is, with its name unless the Canary `states` one for its own (the first), and what is not there is added. `defined` and
/// `renamed` are what [`Adopted`] said the last time.
pub(super) fn adopted(
    live: Option<&Value>,
    wanted: &[Value],
    states: bool,
    defined: &str,
    renamed: &Map<String, Value>,
) -> Adopted {
    let ours = |port: &Value| {
        defined.split(',').any(|n| !n.is_empty() && n == name(port)) && !renamed.contains_key(&key(port))
    };
    let mut next = Adopted::default();
    let kept: Vec<&Value> = list(live).iter().filter(|port| !ours(port)).collect();
    let added: Vec<&Value> =
        wanted.iter().filter(|w| !kept.iter().any(|k| address(k) == address(w))).collect();
    let many = kept.len() + added.len() > 1;
    let stated = wanted.first().filter(|_| states);
    for port in kept {
        let mut port = port.clone();
        let own = renamed.get(&key(&port)).and_then(Value::as_str).unwrap_or(name(&port)).to_owned();
        let (number, protocol) = address(&port);
        let other = stated.filter(|stated| address(stated) == address(&port)).map(name);
        let meant = match other {
            Some(other) => other.to_owned(),
            // Beside another port each must have a name.
            None if own.is_empty() && many => format!("{}-{number}", protocol.to_lowercase()),
            None => own.clone(),
        };
        if meant != own {
            next.renamed.insert(key(&port), own.into());
        }
        rename(&mut port, &meant);
        next.ports.push(port);
    }
    for port in added {
        let taken: Vec<String> = next.ports.iter().map(|p| name(p).to_owned()).collect();
        let mut port = port.clone();
        let free = free(name(&port), &address(&port), &taken);
        rename(&mut port, &free);
        let before = list(live).iter().find(|l| address(l) == address(&port));
        if let Some(node_port) = before.and_then(|l| l.get("nodePort")).filter(|n| n.as_i64() != Some(0)) {
            set(&mut port, "nodePort", node_port.clone());
        }
        next.defined.push(free);
        next.ports.push(port);
    }
    next
}

fn rename(port: &mut Value, name: &str) {
    if let Some(port) = port.as_object_mut() {
        if name.is_empty() {
            port.remove("name");
        } else {
            port.insert("name".into(), name.into());
        }
    }
}

/// The ports as their owner has them: without those that were added, under the names that he gave.
pub(super) fn given_back(live: Option<&Value>, defined: &str, renamed: &Map<String, Value>) -> Vec<Value> {
    adopted(live, &[], false, defined, renamed)
        .ports
        .into_iter()
        .map(|mut port| {
            if let Some(own) = renamed.get(&key(&port)).and_then(Value::as_str) {
                rename(&mut port, own);
            }
            port
        })
        .collect()
}

/// The ports of an owner's Service beside the wanted ones: who calls them by a mesh meets the generated Services instead, so
/// these have them too.
pub(super) fn beside(owners: &[Value], wanted: &[Value]) -> Vec<Value> {
    let mut names: Vec<String> = wanted.iter().map(|port| name(port).to_owned()).collect();
    let mut more = Vec::new();
    for port in owners {
        if wanted.iter().any(|w| address(w) == address(port)) {
            continue;
        }
        let mut port = port.clone();
        let at = address(&port);
        let wanted_name = Some(name(&port)).filter(|n| !n.is_empty()).map(str::to_owned);
        let wanted_name = wanted_name.unwrap_or_else(|| format!("{}-{}", at.1.to_lowercase(), at.0));
        let free = free(&wanted_name, &at, &names);
        rename(&mut port, &free);
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
        names.push(free);
        more.push(port);
    }
    more
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn discover(service: &Value, ports: &Value) -> Vec<(String, i32, String)> {
        let template = json!({"spec": {"containers": [{"name": "app", "ports": ports}]}});
        let service = serde_json::from_value(service.clone()).unwrap();
        discovered_ports(&template, &service).into_iter().map(|p| (p.name, p.port, p.protocol)).collect()
    }

    #[test]
    fn discovered_ports_never_make_an_invalid_service() {
        let found = |name: &str, port, protocol: &str| (name.to_owned(), port, protocol.to_owned());
        let service = json!({"port": 80, "targetPort": 8080, "portDiscovery": true});
        for (ports, expected) in [
            // Beside the Service's own port of that name.
            (
                json!([{"name": "http", "containerPort": 9090}, {"containerPort": 8080}]),
                vec![found("http-tcp", 9090, "TCP")],
            ),
            // Of the Service's own number.
            (json!([{"containerPort": 80}, {"containerPort": 8080}]), vec![]),
            // Two protocols of one number are two ports.
            (
                json!([{"name": "dns", "containerPort": 53}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]),
                vec![found("dns", 53, "TCP"), found("dns-udp", 53, "UDP")],
            ),
            (
                json!([{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}]),
                vec![found("udp-app-0", 53, "UDP"), found("tcp-app-1", 53, "TCP")],
            ),
            // The pods' own port by another protocol.
            (json!([{"containerPort": 8080, "protocol": "UDP"}]), vec![found("udp-app-0", 8080, "UDP")]),
        ] {
            assert_eq!(discover(&service, &ports), expected, "{ports}");
        }
    }

    fn take(live: &Value, wanted: &Value, states: bool, before: &Adopted) -> Adopted {
        let wanted = wanted.as_array().unwrap();
        adopted(Some(live), wanted, states, &before.defined.join(","), &before.renamed)
    }

    #[test]
    fn an_owners_port_stays_as_it_is() {
        let live = json!([{"name": "web", "port": 80, "targetPort": "http", "nodePort": 31090, "appProtocol": "h2c"},
            {"name": "dns", "port": 80, "protocol": "UDP", "targetPort": 53}]);
        let wanted = json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
        let next = take(&live, &wanted, false, &Adopted::default());
        assert_eq!((json!(next.ports), next.defined.len(), next.renamed.len()), (live.clone(), 0, 0));
        // Where the Canary states a name, it is that one, and the owner's comes back.
        let next = take(&live, &wanted, true, &Adopted::default());
        assert_eq!(next.ports[0]["name"], "http");
        assert_eq!(next.ports[0]["nodePort"], 31090);
        assert_eq!(json!(given_back(Some(&json!(next.ports)), &next.defined.join(","), &next.renamed)), live);
    }

    #[test]
    fn a_port_that_is_no_longer_wanted_goes_again() {
        let live = json!([{"port": 8080, "targetPort": 8080}]);
        let wanted = json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
        let added = take(&live, &wanted, false, &Adopted::default());
        assert_eq!(
            json!(added.ports.iter().map(|p| &p["name"]).collect::<Vec<_>>()),
            json!(["tcp-8080", "http"])
        );
        let gone = take(&json!(added.ports), &json!([]), false, &added);
        assert_eq!(json!(gone.ports), live);
    }

    proptest! {
        /// Whatever ports an owner has: the result is a valid Service, taking it again changes nothing, and leaving gives the
        /// owner's back.
        #[test]
        fn ports_are_given_back(
            own in proptest::collection::btree_map((1..6i64, 0..2usize), (0..4usize, any::<bool>()), 1..4),
            wanted in proptest::collection::btree_map((1..6i64, 0..2usize), 0..4usize, 0..3),
            states in any::<bool>(),
        ) {
            let protocol = |p: usize| ["TCP", "UDP"][p];
            let single = own.len() == 1;
            let mut used = BTreeSet::new();
            let live: Vec<Value> = own.iter().map(|((port, p), (n, node))| {
                let mut v = json!({"port": port, "protocol": protocol(*p), "targetPort": port + 1000});
                let mut name = ["a", "b", "http", "c"][*n].to_owned();
                while !used.insert(name.clone()) { name.push('x'); }
                if !(single && *n == 0) { v["name"] = name.into(); }
                if *node { v["nodePort"] = json!(31000 + port); }
                v
            }).collect();
            let mut used = BTreeSet::new();
            let wanted: Vec<Value> = wanted.iter().map(|((port, p), n)| {
                let mut name = ["http", "a", "d", "e"][*n].to_owned();
                while !used.insert(name.clone()) { name.push('y'); }
                json!({"name": name, "port": port, "protocol": protocol(*p), "targetPort": 8080})
            }).collect();
            // A stated name that another port of the owner's has is refused before.
            prop_assume!(!states || !live.iter().any(|l| wanted.first().is_some_and(|w| name(l) == name(w) && address(l) != address(w))));
            let first = adopted(Some(&json!(live)), &wanted, states, "", &Map::new());
            let addresses: BTreeSet<_> = first.ports.iter().map(address).collect();
            prop_assert_eq!(addresses.len(), first.ports.len());
            let names: BTreeSet<_> = first.ports.iter().map(name).collect();
            prop_assert_eq!(names.len(), first.ports.len());
            prop_assert!(first.ports.len() == 1 || !names.contains(""));
            let again = adopted(Some(&json!(first.ports)), &wanted, states, &first.defined.join(","), &first.renamed);
            prop_assert_eq!(&again, &first);
            let back = given_back(Some(&json!(first.ports)), &first.defined.join(","), &first.renamed);
            prop_assert_eq!(json!(back), json!(live));
        }
    }
}
