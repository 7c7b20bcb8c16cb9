//! Somebody else's writes to what is generated, and to what a run has set.

use crate::race::{Race, Side, race, unless_rests_on};
use anyhow::Result;
use harness::objects::ready;
use harness::{at, weight};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn r11() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.phase("Succeeded").await?;
        race.world.flux(race.manifest("v2", None)).await?;
        race.looked_at().await
    };
    race("R11 replicas applied again after a release", json!({}), deeds, async |race| {
        unless_rests_on(race, "v2").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r12() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(40).await?;
        let reset = json!([
            {"op": "replace", "path": "/spec/http/0/route/0/weight", "value": 100},
            {"op": "replace", "path": "/spec/http/0/route/1/weight", "value": 0}]);
        race.world.edit(&race.ns, "vs", "app", reset).await?;
        race.world.until(&race.ns, "vs", "app", "the weight is put right", |vs| weight(vs) > Some(0)).await?;
        race.phase("Succeeded").await.map(drop)
    };
    race(
        "R12 routes reset by somebody else at weight 40",
        json!({"gates": ["pre-rollout"], "analysis": {"interval": "3s"}}),
        deeds,
        async |race| {
            let mut wrong = unless_rests_on(race, "v2").await?;
            let begun = race.outside.heard("/pre-rollout").len();
            if begun != 1 {
                wrong.push(format!("the analysis began {begun} times"));
            }
            Ok(wrong)
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r14() -> Result<()> {
    let deeds = async |race: &Race| {
        let image =
            json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "app:hack"}]);
        let edited = race.world.edit(&race.ns, "deploy", "app-primary", image).await;
        anyhow::ensure!(edited.is_ok() == (race.side == Side::Naive), "{edited:?}");
        race.looked_at().await
    };
    race("R14 image of the primary edited by hand", json!({}), deeds, async |race| {
        unless_rests_on(race, "v1").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r14b() -> Result<()> {
    let deeds = async |race: &Race| {
        race.merge("deploy", "app-primary", json!({"spec": {"replicas": 0}})).await?;
        race.looked_at().await?;
        race.update("v2").await
    };
    race("R14b primary scaled to 0 by hand", json!({}), deeds, async |race| unless_rests_on(race, "v2").await)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r17() -> Result<()> {
    let deeds = async |race: &Race| race.world.delete(&race.ns, "canary", "app").await;
    race("R17 Canary deleted", json!({}), deeds, async |race| {
        let pods = race.world.list(&race.ns, "pod", "").await?;
        let canary = race.get("canary", "app").await?;
        let mut wrong = Vec::new();
        if !pods.iter().any(ready) {
            wrong.push("nothing serves".into());
        }
        if !canary.is_null() && race.side == Side::Sidetrack {
            wrong.push(format!("still there in phase {}", at(&canary, "/status/phase")));
        }
        Ok(wrong)
    })
    .await
}
