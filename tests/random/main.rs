//! The random run: many applications, deeds of people, answers, pods and crashes drawn from a seed, on a real control plane
//! with two real processes. What happens is judged by the oracle of the race suite, write by write, and in the end all
//! comes to rest with every revision accounted for.
//!
//! `make races SEED=n` plays a seed again, `make races LONG=1` an hour of new ones.

#[cfg(test)]
mod application;
#[cfg(test)]
mod deeds;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod story;

#[cfg(test)]
mod run {
    use crate::application::Application;
    use crate::deeds::Round;
    use crate::stage::Stage;
    use anyhow::{Context as _, Result, bail};
    use futures::future::{join_all, try_join_all};
    use std::time::{Duration, Instant};

    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok().filter(|n| !n.is_empty()).and_then(|n| n.parse().ok())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whatever_happens_the_invariants_hold_and_all_comes_to_rest() -> Result<()> {
        let long = number("SIDETRACK_LONG").is_some();
        let (applications, span) = if long { (30, 60_000) } else { (6, 25_000) };
        let applications =
            number("SIDETRACK_APPLICATIONS").and_then(|n| n.try_into().ok()).unwrap_or(applications);
        // New seeds for a long run; else one that is known, so that what `make test` does is the same each time.
        let first = number("SIDETRACK_SEED").unwrap_or_else(|| {
            let since = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_secs());
            if long { since % 1_000_000 } else { 1 }
        });
        let end = Instant::now() + Duration::from_secs(if long { 3600 } else { 0 });
        let rounds = number("SIDETRACK_ROUNDS").unwrap_or(1);
        let stage = Stage::set().await?;
        let mut failed = Vec::new();
        for seed in first.. {
            let begun = Instant::now();
            let outcome = round(&stage, seed, applications, span).await;
            match outcome {
                Ok(said) => println!("seed {seed}: {said}, {:.0} s", begun.elapsed().as_secs_f64()),
                Err(error) => {
                    println!("seed {seed}: FAILED (make races SEED={seed})\n{error:#}");
                    failed.push(seed);
                }
            }
            if seed - first + 1 >= rounds && Instant::now() >= end {
                break;
            }
        }
        if !failed.is_empty() {
            bail!("seeds {failed:?}: play one again with make races SEED={}", failed[0]);
        }
        Ok(())
    }

    async fn round(stage: &Stage, seed: u64, applications: usize, span: u64) -> Result<String> {
        let round = Round::new(seed, applications, span);
        let all: Vec<Application> =
            try_join_all((0..applications).map(|n| Application::new(&stage.world, n))).await?;
        let begun = Instant::now();
        let (outages, _) = tokio::join!(
            stage.suffers(&round.outages, begun),
            join_all(
                all.iter().zip(&round.deeds).map(|(application, deeds)| application.lives(deeds, begun))
            ),
        );
        stage.heals().await.context("all is well again")?;
        let verdicts = join_all(all.iter().map(|a| a.ends(seed, &outages, begun))).await;
        let wrong: Vec<String> =
            verdicts.into_iter().filter_map(|v| v.err().map(|e| format!("{e:#}"))).collect();
        let outages: Vec<String> = outages.iter().map(|o| o.said(begun)).collect();
        if !wrong.is_empty() {
            bail!("{}\noutages:\n{}\n{}", wrong.join("\n\n"), outages.join("\n"), stage.keeps_logs(seed)?);
        }
        let deeds: usize = round.deeds.iter().map(Vec::len).sum();
        join_all(all.iter().map(Application::leaves)).await.into_iter().collect::<Result<()>>()?;
        Ok(format!("{applications} applications, {deeds} deeds, {} outages: all well", outages.len()))
    }
}
