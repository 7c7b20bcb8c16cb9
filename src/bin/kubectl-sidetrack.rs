//! The kubectl plugin.

use clap::Parser as _;
use sidetrack::plugin::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::parse().execute(&mut std::io::stdout()) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
