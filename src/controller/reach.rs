//! Where the questions of Canaries may go.
//!
//! Whoever may write a Canary names the servers that it asks, and reads in its Events what they said: without a limit he would
//! see by the controller what he cannot see himself. What is next to the controller is refused therefore: itself, its node, the
//! metadata service of a cloud, the API server.

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use url::{Host, Url};

/// The metadata service of AWS by IPv6, which is no link-local address.
const METADATA: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254));

/// What may be called.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Networks that may be called although they would be refused (`--allow-network`).
    pub allowed: Vec<IpNet>,
    /// Addresses of the API server.
    pub api_server: Vec<IpAddr>,
    /// The metrics server that the one who runs the controller has named (`--metrics-server`).
    pub metrics_server: Option<Url>,
}

impl Reach {
    /// Says why an address is not called, if it is not.
    #[must_use]
    pub fn refusal(&self, address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&address)) {
            return None;
        }
        let local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let what = if address.is_loopback() || address.is_unspecified() {
            "of the controller itself"
        } else if local || address == METADATA {
            "of the controller's node"
        } else if self.api_server.iter().any(|server| server.to_canonical() == address) {
            "of the API server"
        } else {
            return None;
        };
        Some(format!("{address} is an address {what}, which Canaries may not ask; see --allow-network"))
    }

    /// Says why a URL is not called, if that can be told without looking its host up.
    #[must_use]
    pub fn refuses(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).ok()?;
        if self.metrics_server.as_ref().is_some_and(|server| server.origin() == url.origin()) {
            return None;
        }
        match url.host()? {
            Host::Ipv4(address) => self.refusal(address.into()),
            Host::Ipv6(address) => self.refusal(address.into()),
            Host::Domain(_) => None,
        }
    }
}

/// Looks hosts up, and finds what may be called only.
#[derive(Clone, Debug)]
pub(super) struct Resolver(pub(super) Arc<Reach>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0.clone();
        Box::pin(async move {
            let mut refused = None;
            let mut found: Vec<SocketAddr> = Vec::new();
            for address in tokio::net::lookup_host((name.as_str(), 0)).await? {
                match reach.refusal(address.ip()) {
                    None => found.push(address),
                    Some(why) => refused = Some(why),
                }
            }
            match refused.filter(|_| found.is_empty()) {
                Some(why) => Err(why.into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(allowed: &[&str]) -> Reach {
        Reach {
            allowed: allowed.iter().map(|network| network.parse().unwrap()).collect(),
            api_server: vec!["10.96.0.1".parse().unwrap()],
            metrics_server: Some("http://127.0.0.1:19090".parse().unwrap()),
        }
    }

    #[test]
    fn what_is_next_to_the_controller_is_refused() {
        for (url, why) in [
            ("http://127.0.0.1:8080/metrics", Some("controller itself")),
            ("http://127.1/", Some("controller itself")),
            ("http://2130706433/", Some("controller itself")),
            ("http://0.0.0.0/", Some("controller itself")),
            ("http://[::1]:9090/", Some("controller itself")),
            ("http://[::ffff:127.0.0.1]/", Some("controller itself")),
            ("http://169.254.169.254/latest", Some("controller's node")),
            ("http://[fe80::1]/", Some("controller's node")),
            ("http://[fd00:ec2::254]/", Some("controller's node")),
            ("https://10.96.0.1/api", Some("API server")),
            ("https://[::ffff:10.96.0.1]/api", Some("API server")),
            ("http://127.0.0.1:19090/api/v1/query", None),
            ("http://10.96.0.2/", None),
            ("http://prometheus.monitoring:9090/", None),
            ("http://[fd00::1]/", None),
        ] {
            let said = reach(&[]).refuses(url);
            assert_eq!(said.is_some(), why.is_some(), "{url}: {said:?}");
            assert!(said.unwrap_or_default().contains(why.unwrap_or_default()), "{url}");
        }
    }

    #[test]
    fn what_an_operator_allows_is_called() {
        let allows = reach(&["127.0.0.0/8", "10.96.0.1/32"]);
        for url in ["http://127.0.0.1/", "https://10.96.0.1/", "http://[::ffff:127.0.0.1]/"] {
            assert_eq!(allows.refuses(url), None, "{url}");
        }
        assert!(allows.refuses("http://[::1]/").is_some() && allows.refuses("http://169.254.1.1/").is_some());
    }

    /// A name may stand for any address.
    #[tokio::test]
    async fn names_are_looked_up_before_they_are_called() {
        let look = async |reach: Reach| {
            let name: Name = "localhost".parse().unwrap();
            Resolver(Arc::new(reach)).resolve(name).await.map(Iterator::count)
        };
        let refused = look(reach(&[])).await.err().unwrap().to_string();
        assert!(refused.contains("is an address of the controller itself"), "{refused}");
        assert!(look(reach(&["127.0.0.0/8", "::1/128"])).await.unwrap() > 0);
    }
}
