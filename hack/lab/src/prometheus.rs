//! Prometheus, scraping the gateways.

use std::path::Path;

use anyhow::Result;
use ground::{Launch, Server};

use crate::parts::prometheus;

/// Where it listens.
pub const ADDRESS: &str = "10.244.0.4:9090";

const CONFIG: &str = include_str!("../config/prometheus.yaml");

/// Returns its URL.
#[must_use]
pub fn url() -> String {
    format!("http://{ADDRESS}")
}

pub(crate) fn start(dir: &Path, logs: &Path) -> Result<Vec<Server>> {
    std::fs::write(dir.join("prometheus.yaml"), CONFIG)?;
    let args = [
        "--config.file=prometheus.yaml",
        "--storage.tsdb.path=prometheus",
        "--storage.tsdb.retention.time=2h",
        "--log.level=warn",
    ];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.push(format!("--web.listen-address={ADDRESS}"));
    let server = Server::start(&Launch {
        name: "prometheus".to_owned(),
        program: prometheus().path()?,
        args,
        env: Some(Vec::new()),
        dir: dir.to_owned(),
        log: logs.join("prometheus.log"),
    })?;
    Ok(vec![server])
}
