//! What a release costs those who ask: shares, delays, errors and time, through both gateways at once.
//!
//! Chapters are played on one application a gateway, one after the other under load that never stops; what happened is then read from
//! the requests themselves, from a watch of the routes and from the Canaries.

mod figures;
mod side;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::Lab;
use crate::bench::figures::Report;
use crate::bench::side::{Chapter, Side};
use crate::parts::Part;
use crate::sample::{Traffic, WINDOW};
use crate::sidetrack;

/// Requests a second through each gateway.
pub const RATE: u32 = 200;

/// The parts that it needs.
pub const PARTS: [Part; 3] = [Part::Istio, Part::Gateway, Part::Prometheus];

/// Time between a route that leaves pods and their end, as Sidetrack is shipped.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Weights that are held for [`HELD`].
const SHARES: [i64; 3] = [10, 50, 100];
/// 5,000 requests, and the moment that a gateway takes to hear of a weight.
const HELD: Duration = Duration::from_secs(28);
/// Steps of the release whose time is taken, and their interval.
const STEPS: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(5);

/// Plays all chapters, prints the figures and writes them to a file.
///
/// # Errors
/// When a release does not end as it should, or the file cannot be written.
pub async fn run(lab: &Lab, file: &Path) -> Result<()> {
    let both = tokio::try_join!(Side::start(lab, Traffic::Istio), Side::start(lab, Traffic::Gateway))?;
    let mut both = <[Side<'_>; 2]>::from(both);
    let quick = json!({ "interval": "2s", "threshold": 2, "stepWeights": [50, 60, 70] });

    say("v2: 10, 50 and 100 %, each for 28 s");
    let plan = json!({ "interval": seconds(HELD), "threshold": 2, "stepWeights": SHARES });
    let begun = begin(&both, "shares", "v2", &[], |side| judged(&plan, side)).await?;
    promoted(&mut both, begun).await?;

    say("v3: five steps of 5 s");
    let plan = json!({ "interval": seconds(INTERVAL), "threshold": 2, "stepWeight": 10, "maxWeight": 50 });
    let begun = begin(&both, "promotion", "v3", &[], |side| judged(&plan, side)).await?;
    promoted(&mut both, begun).await?;

    say("v4: fails 10 % of its requests");
    calm().await;
    let begun = begin(&both, "rollback", "v4", &[("FAIL_PERCENT", "10")], |side| judged(&plan, side)).await?;
    let [istio, gateway] = &mut both;
    tokio::try_join!(istio.rejected(begun.0), gateway.rejected(begun.1))?;

    say("v5, and v6 while v5 has weight");
    let mut begun = begin(&both, "supersede", "v5", &[], |_| quick.clone()).await?;
    weight(&both, 60).await?;
    let [istio, gateway] = &both;
    tokio::try_join!(istio.deploy(&mut begun.0, "v6", &[]), gateway.deploy(&mut begun.1, "v6", &[]))?;
    promoted(&mut both, begun).await?;

    say("v7: both replicas of Sidetrack killed with SIGKILL at weight");
    let begun = begin(&both, "kill -9", "v7", &[], |_| quick.clone()).await?;
    weight(&both, 50).await?;
    let killed = Instant::now();
    lab.kill_sidetrack()?;
    promoted(&mut both, begun).await?;
    let resumed = killed.elapsed();
    sidetrack::wait(&lab.cp).await?;

    say("v8: the webhook's certificate replaced at weight");
    let begun = begin(&both, "TLS rotation", "v8", &[], |_| quick.clone()).await?;
    weight(&both, 50).await?;
    sidetrack::rotate(&lab.cp).await?;
    promoted(&mut both, begun).await?;
    // Pods are still being ended.
    calm().await;

    let mut report = Report::default();
    for side in both {
        side.report(&mut report).await?;
    }
    report.figure("from kill -9 of both replicas to both promotions", resumed.as_secs_f64(), "s", "");
    report.write(file).with_context(|| format!("writing {}", file.display()))
}

type Both = (Chapter, Chapter);

/// Begins a chapter on both sides.
async fn begin(
    [istio, gateway]: &[Side<'_>; 2],
    name: &'static str,
    version: &str,
    env: &[(&str, &str)],
    analysis: impl Fn(&Side<'_>) -> Value,
) -> Result<Both> {
    tokio::try_join!(
        istio.begin(name, version, env, analysis(istio)),
        gateway.begin(name, version, env, analysis(gateway))
    )
}

/// Waits until both have this weight.
async fn weight([istio, gateway]: &[Side<'_>; 2], least: i64) -> Result<()> {
    tokio::try_join!(istio.weight(least), gateway.weight(least)).map(drop)
}

/// Waits until both have promoted the last version.
async fn promoted([istio, gateway]: &mut [Side<'_>; 2], begun: Both) -> Result<()> {
    tokio::try_join!(istio.promoted(begun.0), gateway.promoted(begun.1)).map(drop)
}

/// The analysis with the metrics of the sample's Canary.
fn judged(analysis: &Value, side: &Side<'_>) -> Value {
    let mut analysis = analysis.clone();
    if let (Some(analysis), Some(metrics)) =
        (analysis.as_object_mut(), side.sample.canary().pointer("/spec/analysis/metrics"))
    {
        analysis.insert("metrics".to_owned(), metrics.clone());
    }
    analysis
}

/// Lets the primaries answer alone for as long as the queries look back: they know workloads, not revisions.
async fn calm() {
    tokio::time::sleep(WINDOW).await;
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

fn say(text: &str) {
    println!("... {text}");
}
