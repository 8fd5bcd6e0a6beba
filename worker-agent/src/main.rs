//! The command `worker-agent`.

use std::process::ExitCode;

use worker_agent::cli::Args;

fn main() -> ExitCode {
    match graticule_cli::parse::<Args>() {
        Ok(args) => args.run(),
        Err(code) => code,
    }
}
