//! Controllers that are killed, doubled and interrupted: real processes on a control plane of their own.

use crate::race::{Race, Side, raced, unless_rests_on};
use anyhow::{Result, ensure};
use harness::{at, eventually};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::Mutex;

/// A lease that another process takes over soon.
const SHORT: &str = "--lease-duration=3s";

/// One scenario at a time: each ends with the processes that it started, and there is one webhook.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn r10() -> Result<()> {
    let _turn = TURN.lock().await;
    let late = Duration::from_millis(2500);
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(10).await?;
        race.outside.is_late("/rollout", 2500);
        for interval in ["2s", "1s", "2s", "1s"] {
            race.until_asked("/rollout").await?;
            race.edits_interval(interval).await?;
        }
        race.until_asked("/rollout").await?;
        race.outside.says("/rollout", 200, "");
        race.phase("Succeeded").await.map(drop)
    };
    let begin = async |side| {
        Race::alone(side, "r10", json!({"analysis": {"stepWeight": 10, "maxWeight": 60}}), SHORT).await
    };
    raced("R10 interval edited while a tick asks", begin, deeds, async |race| {
        let mut wrong = unless_rests_on(race, "v2").await?;
        let asked = race.outside.heard("/rollout");
        let overlaps = asked
            .iter()
            .zip(asked.iter().skip(1))
            .filter(|(one, next)| one.late && next.at.saturating_duration_since(one.at) < late)
            .count();
        if overlaps > 0 {
            wrong.push(format!("{overlaps} ticks overlap"));
        }
        Ok(wrong)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r13() -> Result<()> {
    let _turn = TURN.lock().await;
    let deeds = async |race: &Race| {
        let template = at(&race.get("deploy", "app-primary").await?, "/spec/template").clone();
        race.update("v2").await?;
        let written = |d: &Value| *at(d, "/spec/template") != template;
        race.world.until(&race.ns, "deploy", "app-primary", "the primary is written", written).await?;
        race.kills();
        race.starts()?;
        race.phase("Succeeded").await.map(drop)
    };
    let begin = async |side| Race::alone(side, "r13", json!({}), SHORT).await;
    raced("R13 killed as the primary is written", begin, deeds, async |race| {
        let mut wrong = unless_rests_on(race, "v2").await?;
        let rolls = race.rolls().await?;
        if rolls != 1 {
            wrong.push(format!("the primary was rolled {rolls} times"));
        }
        Ok(wrong)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r13b() -> Result<()> {
    let _turn = TURN.lock().await;
    let deeds = async |race: &Race| {
        race.update_with("v2", Some("slow")).await?;
        race.phase("Promoting").await?;
        race.kills();
        let taken = race.update("v3").await;
        ensure!(taken.is_ok() == (race.side == Side::Naive), "without a webhook: {taken:?}");
        race.starts()?;
        if taken.is_err() {
            // As Flux does.
            eventually("the update is taken", async || Ok(race.update("v3").await.ok())).await?;
        }
        Ok(())
    };
    let more = json!({"analysis": {"stepWeight": 50, "maxWeight": 100}});
    let begin = async |side| Race::alone(side, "r13b", more.clone(), SHORT).await;
    raced("R13b killed while Promoting, then an update", begin, deeds, async |race| {
        unless_rests_on(race, "v3").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r19() -> Result<()> {
    let _turn = TURN.lock().await;
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(10).await?;
        for _ in 0..2 {
            // Out of step with the one before.
            tokio::time::sleep(Duration::from_millis(300)).await;
            race.starts()?;
        }
        race.phase("Succeeded").await.map(drop)
    };
    let more = json!({"analysis": {"stepWeight": 10, "maxWeight": 60}});
    let begin = async |side| Race::alone(side, "r19", more.clone(), SHORT).await;
    raced("R19 a second and a third controller", begin, deeds, async |race| unless_rests_on(race, "v2").await)
        .await
}
