//! The command `worker-agent`.

use std::process::ExitCode;

use clap::Parser as _;
use worker_agent::cli::Args;

fn main() -> ExitCode {
    Args::parse().run()
}
