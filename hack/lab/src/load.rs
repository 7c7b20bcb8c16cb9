//! A load generator, bounded in count and time, that remembers every request: when, its status, and which version answered.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::header::HOST;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::interval;

use crate::app::VERSION;

/// Longest time that any load lasts.
const LONGEST: Duration = Duration::from_secs(1800);
/// Requests on their way at once; more are not sent, so that a stalled gateway is not buried.
const AT_ONCE: usize = 256;

/// What to ask, how often, and when to stop.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to: loopback, or an address of the lab's pods or gateways.
    pub to: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Requests a second.
    pub rate: u32,
    /// Most requests.
    pub count: u64,
    /// Longest time, at most half an hour.
    pub time: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was sent.
    pub at: Instant,
    /// How long the answer took.
    pub took: Duration,
    /// The HTTP status; none when no answer came.
    pub status: Option<u16>,
    /// The version that answered; empty when none did.
    pub version: String,
}

impl Sample {
    /// Returns whether somebody was let down: no answer, or a server's error.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.status.is_none_or(|status| status >= 500)
    }
}

/// Load that is being made. It ends with this value.
#[derive(Debug)]
pub struct Load {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts to send requests.
    ///
    /// # Errors
    /// When the address is none of the lab's.
    pub fn start(plan: Plan) -> Result<Self> {
        ensure!(is_ours(plan.to.ip()), "{} is no address of the lab: load goes to those only", plan.to);
        ensure!(plan.rate > 0, "a rate of 0 sends nothing");
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(10))
            .build()?;
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(send(client, plan, samples.clone(), stopped));
        Ok(Self { samples, stop, task })
    }

    /// Returns the requests answered so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether count or time was reached.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Sends no more, waits for the answers under way, and returns all samples in the order of their answers.
    pub async fn stop(mut self) -> Vec<Sample> {
        let _ = self.stop.send(true);
        // Ended before: its samples are there all the same.
        let _ = (&mut self.task).await;
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether an address can only be one of the lab's.
fn is_ours(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.octets().starts_with(&[10, 244]),
        IpAddr::V6(v6) => v6.is_loopback(),
    }
}

async fn send(
    client: reqwest::Client,
    plan: Plan,
    samples: Arc<Mutex<Vec<Sample>>>,
    mut stopped: watch::Receiver<bool>,
) {
    let start = Instant::now();
    // What a busy moment held up is made up for, so that the rate is kept.
    let mut tick = interval(Duration::from_secs(1) / plan.rate);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    let url = format!("http://{}/", plan.to);
    for _ in 0..plan.count {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
        if start.elapsed() > plan.time.min(LONGEST) {
            break;
        }
        while asked.try_join_next().is_some() {}
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let request = client.get(&url).header(HOST, &plan.host);
        let samples = samples.clone();
        asked.spawn(async move {
            let at = Instant::now();
            let answer = request.send().await;
            let (status, version) = match answer {
                Ok(answer) => {
                    let version = answer.headers().get(VERSION).and_then(|v| v.to_str().ok());
                    (Some(answer.status().as_u16()), version.unwrap_or_default().to_owned())
                }
                Err(_) => (None, String::new()),
            };
            let sample = Sample { at, took: at.elapsed(), status, version };
            samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            drop(permit);
        });
    }
    while asked.join_next().await.is_some() {}
}

/// Requests by version, and how many of all failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many each version answered.
    pub by_version: BTreeMap<String, usize>,
    /// How many were let down, see [`Sample::failed`].
    pub failed: usize,
    /// How many there were.
    pub total: usize,
}

impl Counts {
    /// Counts samples.
    pub fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut counts = Self::default();
        for sample in samples {
            counts.total += 1;
            counts.failed += usize::from(sample.failed());
            let version = if sample.version.is_empty() { "none" } else { &sample.version };
            *counts.by_version.entry(version.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Returns how many a version answered.
    #[must_use]
    pub fn version(&self, version: &str) -> usize {
        self.by_version.get(version).copied().unwrap_or(0)
    }
}

/// Returns the chi-square statistic of one share: `hits` of `total` where `percent` were expected. With one degree of
/// freedom, 15.1 is passed by one honest draw in 10,000.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
pub fn chi_square(hits: usize, total: usize, percent: f64) -> f64 {
    let (hits, total) = (hits as f64, total as f64);
    let expected = total * percent / 100.0;
    let other = total - expected;
    let distance = hits - expected;
    distance.powi(2) / expected + distance.powi(2) / other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_goes_to_the_lab_only() {
        for (address, ours) in
            [("10.244.0.2", true), ("127.0.0.1", true), ("10.0.0.1", false), ("192.0.2.1", false)]
        {
            assert_eq!(is_ours(address.parse().unwrap()), ours, "{address}");
        }
    }

    #[test]
    fn chi_square_tells_a_wrong_share_from_chance() {
        assert!(chi_square(1004, 5000, 20.0) < 0.1);
        assert!(chi_square(1150, 5000, 20.0) > 15.1);
    }
}
