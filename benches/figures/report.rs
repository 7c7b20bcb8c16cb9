//! What was measured, one line a figure, and all of them in `target/bench.json`.

use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;

/// Collects figures.
pub(crate) struct Report {
    figures: Vec<Value>,
    quick: bool,
    only: Option<String>,
}

impl Report {
    /// Reads the command line; what cargo adds to it is not looked at.
    pub(crate) fn from_args() -> Self {
        let args: Vec<String> = std::env::args().collect();
        let only = args.iter().position(|a| a == "--only").and_then(|at| args.get(at + 1).cloned());
        Self { figures: Vec::new(), quick: args.iter().any(|a| a == "--quick"), only }
    }

    /// Whether this part was asked for.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }

    /// The first, or with `--quick` the second.
    pub(crate) fn either<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Notes and prints a figure. `beside` says what it is held against: a goal, or Flagger's figure on the same ground
    /// (measured by the race suite).
    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &str, beside: &str) {
        println!("{name:<48} {value:>9.2} {unit:<14} {beside}");
        self.figures.push(json!({"name": name, "value": value, "unit": unit}));
    }

    /// Prints what a figure is made of.
    pub(crate) fn detail(text: &str) {
        println!("    {text}");
    }

    /// Writes the file.
    pub(crate) fn write(&self) -> Result<()> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
        std::fs::write(file, serde_json::to_string_pretty(&self.figures)?)?;
        Ok(())
    }
}

/// The value below which this share of the samples lies.
pub(crate) fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * share).ceil() as usize;
    samples.get(at.clamp(1, samples.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}
