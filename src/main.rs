//! The `sidetrack` binary.

use sidetrack::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::from_args().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidetrack: {error:#}");
            ExitCode::FAILURE
        }
    }
}
