//! Promotions that go wrong, and failed ones.

use crate::race::{Race, race, unless_rests_on};
use anyhow::Result;
use harness::at;
use harness::objects::{pod_image, ready};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn r6() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update_with("v2", Some("canaryonly")).await?;
        race.phase("Promoting").await?;
        race.update("v3").await
    };
    let more = json!({"progressDeadlineSeconds": 12, "analysis": {"stepWeight": 50, "maxWeight": 100}});
    race("R6 fix pushed into a promotion that fails", more, deeds, async |race| {
        unless_rests_on(race, "v3").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r7() -> Result<()> {
    let deeds = async |race: &Race| {
        race.outside.says("/rollout", 500, "");
        race.update("v2").await?;
        race.phase("Failed").await?;
        let uid = at(&race.get("deploy", "app-primary").await?, "/metadata/uid").clone();
        race.world.delete(&race.ns, "deploy", "app-primary").await?;
        let another = |d: &Value| *at(d, "/metadata/uid") != uid;
        race.world.until(&race.ns, "deploy", "app-primary", "another primary", another).await.map(drop)
    };
    race("R7 primary deleted after a rejection", json!({}), deeds, async |race| {
        unless_rests_on(race, "v1").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r18() -> Result<()> {
    let deeds = async |race: &Race| {
        race.merge("canary", "app", json!({"spec": {"skipAnalysis": true}})).await?;
        race.update_with("v2", Some("canaryonly")).await?;
        let taken = |c: &Value| ["Promoting", "Succeeded"].iter().any(|p| at(c, "/status/phase") == *p);
        race.world.until(&race.ns, "canary", "app", "v2 is taken up", taken).await.map(drop)
    };
    let more = json!({"progressDeadlineSeconds": 12});
    race("R18 skipped analysis of a revision that breaks as primary", more, deeds, async |race| {
        let mut wrong = unless_rests_on(race, "v1").await?;
        let pods = race.world.list(&race.ns, "pod", "").await?;
        if !pods.iter().any(|p| ready(p) && pod_image(p) == "app:v1") {
            wrong.push("no pods of v1".into());
        }
        Ok(wrong)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r26() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(40).await?;
        race.unready("app").await
    };
    // Pods that never come back are the revision's failure, within the deadline.
    let more = json!({"progressDeadlineSeconds": 12, "analysis": {"interval": "3s"}});
    race("R26 canary pods unready at weight 40", more, deeds, async |race| unless_rests_on(race, "v1").await)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r25() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(40).await?;
        race.world.delete(&race.ns, "deploy", "app").await
    };
    race("R25 target deleted at weight 40", json!({"analysis": {"interval": "3s"}}), deeds, async |race| {
        unless_rests_on(race, "v1").await
    })
    .await
}
