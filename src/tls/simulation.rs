//! Years of certificates in virtual time: whatever is served must verify against what the API server trusts.

use super::issue::{self, Material};
use super::plan::{Due, Policy, Step, due};
use super::resolver::{Pair, Resolver, server_config};
use crate::kubernetes::serve::{Limits, Shutdown, serve_tls};
use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::get;
use jiff::{SignedDuration, Timestamp};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const NAME: &str = "sidetrack.sidetrack-system.svc";

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn names() -> Vec<String> {
    issue::names("sidetrack", "sidetrack-system", &["127.0.0.1".to_owned()])
}

fn seconds(n: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(n).unwrap())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(bundle: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    Arc::new(roots)
}

/// Verifies as a TLS client would at that time.
fn verify(leaf: &str, bundle: &str, now: Timestamp) -> Result<(), rustls::Error> {
    let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(bundle), provider()).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap()));
    let name = ServerName::try_from(NAME).unwrap();
    verifier.verify_server_cert(&leaf, &[], &name, &[], now).map(|_| ())
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Something that travels: what is in force, and what will be from when on.
#[derive(Clone)]
struct Travelling {
    present: Option<String>,
    coming: Vec<(Timestamp, String)>,
}

impl Travelling {
    const fn new() -> Self {
        Self { present: None, coming: Vec::new() }
    }

    fn send(&mut self, arrives: Timestamp, what: &str) {
        // Later news do not overtake earlier ones: both a watch and an informer keep the order.
        let arrives = self.coming.last().map_or(arrives, |(before, _)| arrives.max(*before));
        self.coming.push((arrives, what.to_owned()));
    }

    fn at(&mut self, now: Timestamp) -> Option<&str> {
        while self.coming.first().is_some_and(|(at, _)| *at <= now) {
            self.present = Some(self.coming.remove(0).1);
        }
        self.present.as_deref()
    }
}

/// Lives three years with one Secret, three replicas and an API server. Returns how often each step was taken,
/// or when a leaf did not verify.
fn live(seed: u64, policy: &Policy) -> Result<BTreeMap<String, u32>, String> {
    let names = names();
    let mut dice = Dice(seed);
    let mut now = start();
    let end = now + SignedDuration::from_hours(3 * 365 * 24);
    let mut secret: Option<Material> = None;
    // What the webhook configuration says, what the API server goes by, and what the process knows of it.
    let mut configured = String::new();
    let mut trusted = Travelling::new();
    let mut published: Option<(String, Timestamp)> = None;
    let mut replicas = [const { Travelling::new() }; 3];
    let mut taken: BTreeMap<String, u32> = BTreeMap::new();
    while now < end {
        let mut wakes = now + SignedDuration::from_hours(10 * 24);
        // A crash before a write, between two writes, or after both: the process knows nothing of the publication.
        if dice.roll(4) == 0 {
            published = None;
            wakes = now + seconds(1 + dice.roll(3600));
        } else {
            let state = secret.as_ref().map(|s| s.state(&names).unwrap());
            if let Some(held) = &secret
                && configured != held.bundle
                && dice.roll(3) > 0
            {
                configured.clone_from(&held.bundle);
                trusted.send(now + seconds(dice.roll(100)), &configured);
            }
            published =
                secret.as_ref().filter(|s| s.bundle == configured).map(|held| match published.take() {
                    Some((bundle, since)) if bundle == held.bundle => (bundle, since),
                    _ => (held.bundle.clone(), now),
                });
            match due(state.as_ref(), published.as_ref().map(|p| p.1), policy, now) {
                Due::Now(step) => {
                    let made = issue::take(step, secret.as_ref(), &names, policy, now).unwrap();
                    for replica in &mut replicas {
                        // Mostly at once; now and then a watch hangs for most of the overlap.
                        let lag = if dice.roll(20) == 0 { 20 * 3600 } else { 90 };
                        replica.send(now + seconds(dice.roll(lag)), &made.leaf);
                    }
                    secret = Some(made);
                    *taken.entry(format!("{step:?}")).or_default() += 1;
                    wakes = now + seconds(1 + dice.roll(60));
                }
                Due::At(at) if published.is_some() => wakes = wakes.min(at),
                Due::At(_) => wakes = now + seconds(1 + dice.roll(60)),
            }
        }
        // At each moment that something changes, and at the last second before it does.
        let mut moments = vec![now, wakes - seconds(1)];
        for travelling in replicas.iter().chain([&trusted]) {
            for (at, _) in travelling.coming.iter().filter(|(at, _)| *at < wakes && *at >= now) {
                moments.extend([*at, now.max(*at - seconds(1))]);
            }
        }
        moments.sort();
        moments.dedup();
        for moment in moments {
            let Some(bundle) = trusted.at(moment).map(str::to_owned) else { continue };
            for leaf in replicas.iter_mut().filter_map(|r| r.at(moment)) {
                verify(leaf, &bundle, moment).map_err(|e| format!("at {moment}: {e}, taken {taken:?}"))?;
            }
        }
        now = wakes.max(now + seconds(1));
    }
    Ok(taken)
}

#[test]
fn served_leaf_verifies_at_every_instant_of_three_years_with_restarts() {
    for seed in 0..5 {
        let taken = live(seed, &Policy::default()).unwrap();
        let count = |step: Step| taken.get(&format!("{step:?}")).copied().unwrap_or(0);
        assert_eq!(count(Step::Create), 1, "seed {seed}: {taken:?}");
        let rotations = count(Step::SwitchAuthority);
        assert!(rotations >= 3, "seed {seed}: {taken:?}");
        assert!(count(Step::DropRetired) >= rotations - 1, "seed {seed}: {taken:?}");
        assert!((12..30).contains(&count(Step::RenewLeaf)), "seed {seed}: {taken:?}");
    }
}

#[test]
fn simulation_notices_a_policy_without_settle_time_or_overlap() {
    let hasty = Policy { settle: SignedDuration::ZERO, ..Policy::default() };
    assert!((0..5).any(|seed| live(seed, &hasty).is_err()));
    let forgetful = Policy { overlap: SignedDuration::ZERO, ..Policy::default() };
    assert!((0..5).any(|seed| live(seed, &forgetful).is_err()));
}

/// The test's time, for client and server; the machine's clock plays no part.
#[derive(Debug)]
struct Clock(AtomicI64);

impl Clock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

#[derive(Debug)]
struct ClientTime(Arc<Clock>);

impl TimeProvider for ClientTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

async fn call(
    to: std::net::SocketAddr,
    bundle: &str,
    clock: &Arc<Clock>,
    by_address: bool,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<String> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(ClientTime(clock.clone())))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(bundle))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = if by_address { "127.0.0.1" } else { NAME };
    let stream = TcpStream::connect(to).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from(name).unwrap(), stream).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// Two authorities' lives ten days at a time, under new connections all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load_fails_no_handshake() {
    let (policy, names) = (Policy::default(), names());
    let clock = Arc::new(Clock(AtomicI64::new(start().as_second())));
    let resolver = Arc::new(Resolver::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let shutdown =
        Shutdown { drain: CancellationToken::new(), stop: stop.clone(), deadline: Duration::from_secs(9) };
    let app = Router::new().route("/", get(async || "served"));
    let tls = Arc::new(server_config(resolver.clone()).unwrap());
    let server = tokio::spawn(serve_tls(listener, tls, app, Limits::default(), shutdown));

    let mut held = issue::take(Step::Create, None, &names, &policy, clock.now()).unwrap();
    resolver.set(&Pair::from_pem(&held.leaf, &held.leaf_key).unwrap());
    let published = Arc::new(ArcSwap::from_pointee((held.bundle.clone(), clock.now())));
    let (served, done) = (Arc::new([const { AtomicU32::new(0) }; 4]), CancellationToken::new());
    let clients: Vec<_> = [true, false, true, false]
        .into_iter()
        .enumerate()
        .map(|(index, by_address)| {
            let (published, clock, served) = (published.clone(), clock.clone(), served.clone());
            let done = done.clone();
            let version = if index < 2 { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
            tokio::spawn(async move {
                while !done.is_cancelled() {
                    // The bundle is taken before the connection is made: the API server's may be that old, too.
                    let bundle = published.load_full();
                    let answer = call(address, &bundle.0, &clock, by_address, &[version]).await?;
                    assert!(answer.ends_with("served"), "{answer}");
                    served[index].fetch_add(1, Ordering::SeqCst);
                }
                std::io::Result::Ok(())
            })
        })
        .collect();

    let mut taken: BTreeMap<String, u32> = BTreeMap::new();
    let end = start() + SignedDuration::from_hours(600 * 24);
    while clock.now() < end {
        let count = || served.each_ref().map(|n| n.load(Ordering::SeqCst));
        let before = count();
        let state = held.state(&names).unwrap();
        let pause = match due(Some(&state), Some(published.load().1), &policy, clock.now()) {
            Due::Now(step) => {
                held = issue::take(step, Some(&held), &names, &policy, clock.now()).unwrap();
                resolver.set(&Pair::from_pem(&held.leaf, &held.leaf_key).unwrap());
                if published.load().0 != held.bundle {
                    published.store(Arc::new((held.bundle.clone(), clock.now())));
                }
                *taken.entry(format!("{step:?}")).or_default() += 1;
                SignedDuration::ZERO
            }
            Due::At(at) => at.duration_since(clock.now()).min(SignedDuration::from_hours(10 * 24)),
        };
        // Time passes when everybody has finished two calls: no call, nor its bundle, is older than a step.
        while count().iter().zip(before).any(|(n, before)| *n < before + 2)
            && !clients.iter().any(|c| c.is_finished())
        {
            tokio::task::yield_now().await;
        }
        clock.0.fetch_add(pause.as_secs(), Ordering::SeqCst);
    }
    done.cancel();
    for client in clients {
        client.await.unwrap().unwrap();
    }
    stop.cancel();
    server.await.unwrap();
    assert_eq!(taken.get("SwitchAuthority"), Some(&2), "{taken:?}");
    assert!(taken.get("DropRetired") >= Some(&1), "{taken:?}");
}
