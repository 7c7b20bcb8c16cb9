//! Waiting for a condition.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Probes until there is an answer and returns it; tests wait for what they need, never for a time.
///
/// # Errors
/// When there is none `within` that time, or a probe fails.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe().await? {
            return Ok(answer);
        }
        if start.elapsed() > within {
            bail!("waited {} s in vain until {what}", within.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
