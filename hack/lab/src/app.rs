//! The sample application: it answers with its version, and misbehaves as its environment says.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::get;
use clap::Args;
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Port that the application listens on.
pub const PORT: u16 = 9898;
/// Header with the version that answered.
pub const VERSION: &str = "x-version";

/// How the application behaves; each is a variable of its pod template too.
#[derive(Args, Clone, Debug)]
pub struct App {
    /// Address to listen on
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    address: IpAddr,
    /// Its image, whose tag is the version that it answers with
    #[arg(long, env = "IMAGE", default_value = "app:v0")]
    image: String,
    /// Percentage of requests that fail with 500
    #[arg(long, env = "FAIL_PERCENT", default_value_t = 0)]
    fail_percent: u64,
    /// Milliseconds that each answer takes longer
    #[arg(long, env = "DELAY_MS", default_value_t = 0)]
    delay_ms: u64,
    /// Seconds until it is ready
    #[arg(long, env = "READY_AFTER", default_value_t = 0)]
    ready_after: u64,
    /// Never be ready
    #[arg(long, env = "REFUSE_READINESS")]
    refuse_readiness: bool,
    /// Seconds until it ends with exit code 1
    #[arg(long, env = "CRASH_AFTER")]
    crash_after: Option<u64>,
}

struct Running {
    app: App,
    version: String,
    start: Instant,
    requests: AtomicU64,
}

/// Serves until told to end, or to crash.
///
/// # Errors
/// When it cannot listen.
pub async fn run(app: App) -> Result<ExitCode> {
    let address = SocketAddr::new(app.address, PORT);
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    let version = app.image.rsplit(':').next().unwrap_or_default().to_owned();
    println!("{version} listens on {address}");
    let crash = app.crash_after.map(Duration::from_secs);
    let running = Running { app, version, start: Instant::now(), requests: AtomicU64::new(0) };
    let router = Router::new().route("/readyz", get(ready)).fallback(answer).with_state(Arc::new(running));
    let mut terminate = signal(SignalKind::terminate())?;
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        terminate.recv().await;
    });
    let crashed = async {
        match crash {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = server => result.map(|()| ExitCode::SUCCESS).context("serving"),
        () = crashed => {
            println!("crashes as it was told to");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn ready(State(running): State<Arc<Running>>) -> StatusCode {
    let early = running.start.elapsed() < Duration::from_secs(running.app.ready_after);
    if early || running.app.refuse_readiness { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

async fn answer(State(running): State<Arc<Running>>) -> impl IntoResponse {
    let number = running.requests.fetch_add(1, Ordering::Relaxed);
    if running.app.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(running.app.delay_ms)).await;
    }
    let status = if fails(number, running.app.fail_percent) {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    (status, AppendHeaders([(VERSION, running.version.clone())]), format!("{}\n", running.version))
}

/// Spreads the failures evenly: of any hundred requests in a row, exactly `percent` fail.
const fn fails(number: u64, percent: u64) -> bool {
    (number + 1) * percent / 100 > number * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_share_of_requests_fails() {
        for percent in [0, 1, 10, 33, 100] {
            let failed = (700..800).filter(|n| fails(*n, percent)).count() as u64;
            assert_eq!(failed, percent);
        }
    }
}
