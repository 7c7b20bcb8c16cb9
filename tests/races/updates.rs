//! A newer template at a bad moment.

use crate::race::{Race, Side, race, raced, unless_rests_on};
use anyhow::Result;
use harness::at;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn r1() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(40).await?;
        race.update("v3").await
    };
    race("R1 update while Progressing", json!({}), deeds, async |race| unless_rests_on(race, "v3").await)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r1b() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(20).await?;
        race.outside.is_late("/rollout", 3000);
        race.until_asked("/rollout").await?;
        race.update("v3").await?;
        race.outside.says("/rollout", 200, "");
        Ok(())
    };
    race("R1b update while a rollout hook is asked", json!({}), deeds, async |race| {
        unless_rests_on(race, "v3").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r2() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update_with("v2", Some("slow")).await?;
        race.phase("Promoting").await?;
        race.update("v3").await
    };
    let more = json!({"analysis": {"stepWeight": 50, "maxWeight": 100}});
    race("R2 update while Promoting", more, deeds, async |race| unless_rests_on(race, "v3").await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn r3() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(60).await?;
        race.outside.is_late("/confirm-promotion", 3000);
        race.until_asked("/confirm-promotion").await?;
        race.update("v3").await?;
        race.outside.says("/confirm-promotion", 200, "");
        Ok(())
    };
    let more = json!({"gates": ["confirm-promotion"]});
    race("R3 update while confirm-promotion is asked", more, deeds, async |race| {
        unless_rests_on(race, "v3").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r4() -> Result<()> {
    let begin = async |side| {
        let mut first = harness::deployment("", "v1", 2);
        first["spec"]["template"]["metadata"]["labels"]["ready"] = "slow".into();
        first["spec"]["template"]["metadata"]["labels"]["ready-after"] = "3".into();
        Race::before(side, "r4", json!({}), first).await
    };
    let deeds = async |race: &Race| {
        race.world.until(&race.ns, "deploy", "app-primary", "the primary is made", |_| true).await?;
        race.update("v2").await?;
        race.phase("Initialized").await.map(drop)
    };
    raced("R4 update during initialisation", begin, deeds, async |race| unless_rests_on(race, "v2").await)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r5() -> Result<()> {
    let deeds = async |race: &Race| {
        race.outside.says("/rollout", 500, "");
        race.update("v2").await?;
        race.phase("Failed").await?;
        race.outside.says("/rollout", 200, "");
        race.unready("app-primary").await?;
        race.update("v3").await?;
        race.looked_at().await?;
        for pod in race.world.list(&race.ns, "pod", "app=app-primary").await? {
            let name = at(&pod, "/metadata/name").as_str().unwrap_or_default();
            race.merge("pod", name, json!({"metadata": {"labels": {"ready": null}}})).await?;
        }
        Ok(())
    };
    race("R5 update while Failed and the primary is unready", json!({}), deeds, async |race| {
        unless_rests_on(race, "v3").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r9() -> Result<()> {
    let deeds = async |race: &Race| {
        race.outside.says("/confirm-rollout", 500, "");
        race.update("v2").await?;
        race.phase("Waiting").await?;
        race.merge("deploy", "app", json!({"spec": {"replicas": 2}})).await?;
        race.looked_at().await?;
        race.update("v3").await?;
        race.looked_at().await?;
        race.outside.says("/confirm-rollout", 200, "");
        Ok(())
    };
    race(
        "R9 replicas and another revision while Waiting",
        json!({"gates": ["confirm-rollout"]}),
        deeds,
        async |race| {
            let mut wrong = unless_rests_on(race, "v3").await?;
            if race.ran("app", "app:v2") {
                wrong.push("pods of the unapproved v2 ran".into());
            }
            Ok(wrong)
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r9b() -> Result<()> {
    let deeds = async |race: &Race| {
        race.outside.says("/confirm-rollout", 500, "");
        race.update("v2").await?;
        race.phase("Waiting").await?;
        race.update("v1").await
    };
    race("R9b revert while Waiting", json!({"gates": ["confirm-rollout"]}), deeds, async |race| {
        let mut wrong = unless_rests_on(race, "v1").await?;
        if at(&race.get("canary", "app").await?, "/status/phase") == "Waiting" {
            wrong.push("still Waiting".into());
        }
        Ok(wrong)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r15() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(40).await?;
        race.update("v1").await
    };
    race(
        "R15 revert to the promoted revision",
        json!({"analysis": {"interval": "3s"}}),
        deeds,
        async |race| {
            let mut wrong = unless_rests_on(race, "v1").await?;
            let weights = race.weights_since();
            if weights.iter().any(|w| *w != 0) {
                wrong.push(format!("weights {weights:?} after the revert"));
            }
            Ok(wrong)
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn r15b() -> Result<()> {
    let deeds = async |race: &Race| {
        race.update("v2").await?;
        race.until_weight(40).await?;
        race.update("v1").await?;
        race.phase("Succeeded").await?;
        let reverted = race.weights_since().iter().all(|w| *w == 0);
        anyhow::ensure!(reverted == (race.side == Side::Sidetrack), "the control cancels a revert");
        race.update("v2").await
    };
    race(
        "R15b the reverted revision once more",
        json!({"analysis": {"interval": "3s"}}),
        deeds,
        async |race| {
            let mut wrong = unless_rests_on(race, "v2").await?;
            if race.side == Side::Naive {
                wrong.push("the revert was analysed".into());
            }
            Ok(wrong)
        },
    )
    .await
}
