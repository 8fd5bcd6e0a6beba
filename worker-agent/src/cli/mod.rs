//! The command line: the daemon itself, and what operators ask of running ones over gRPC, of a single one or of a fleet.

mod answer;
mod ask;
mod cache;
mod catalog;
mod config;
mod health;
mod operate;
mod ping;
mod plugin;
mod quarantine;
mod request;
mod serve;
mod show;
mod stats;
mod target;
mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use graticule_cli::{complain as to_stderr, exit, pages};
use graticule_daemon::client::Secured;

/// Looks after a pool of QGIS processes and serves OGC requests with them
#[derive(Debug, Parser)]
#[command(
    name = "worker-agent",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done, 1 refused, 2 not ready, 3 given up, 64 wrong usage or
configuration, 69 nobody answers there.

Example: worker-agent serve --conf agent.toml"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    secured: Secured,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM or Ctrl-C
    #[command(
        after_help = "Exits 3 when failure pressure goes above its limit.\n\nExample: worker-agent serve --conf agent.toml"
    )]
    Serve(serve::ConfigArgs),
    /// Say what the configuration is, where each value comes from and what is wrong
    #[command(after_help = "Example: worker-agent check-config -C agent.toml --set server.timeout=30")]
    CheckConfig {
        #[command(flatten)]
        args: serve::ConfigArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask whether an agent is ready, or set its health by hand
    Healthcheck(health::Healthcheck),
    /// Ask whether an agent answers, and show how long that takes
    Ping(ping::Ping),
    /// Show an agent's workers, queue and pressure
    Stats(stats::Stats),
    /// Show agents live: workers, queue, projects, pressure
    Top(top::Top),
    #[command(flatten)]
    Operate(operate::OperateCommand),
    /// Projects that workers hold, and pins
    #[command(subcommand, after_help = "Example: worker-agent cache list")]
    Cache(cache::CacheCommand),
    /// The configuration of a running agent
    #[command(subcommand, after_help = "Example: worker-agent config get server")]
    Config(config::ConfigCommand),
    /// A request of a client's, without HTTP
    #[command(
        subcommand,
        after_help = "Example: worker-agent request ows /world --param SERVICE=WMS --param REQUEST=GetCapabilities"
    )]
    Request(request::RequestCommand),
    /// Requests that killed workers
    #[command(subcommand, after_help = "Example: worker-agent quarantine list")]
    Quarantine(quarantine::QuarantineCommand),
    /// QGIS's server plugins
    #[command(subcommand, after_help = "Example: worker-agent plugin list")]
    Plugin(plugin::PluginCommand),
    /// The words of QJazz's client
    #[command(subcommand, hide = true)]
    State(health::StateCommand),
    /// Print completions for a shell
    #[command(after_help = "Example: worker-agent completions bash")]
    Completions(pages::Completions),
    /// Print the manual page, or write one for each command into a folder
    #[command(after_help = "Example: worker-agent man /usr/local/share/man/man1")]
    Man(pages::Man),
}

impl Args {
    /// Does what was asked.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.secured.remember();
        match self.command {
            Command::Serve(args) => serve::serve(args),
            Command::CheckConfig { args, json } => serve::check(args, json),
            Command::Healthcheck(command) => command.run(),
            Command::Ping(command) => command.run(),
            Command::Stats(command) => command.run(),
            Command::Top(command) => command.run(),
            Command::Operate(command) => command.run(),
            Command::Cache(command) => command.run(),
            Command::Config(command) => command.run(),
            Command::Request(command) => command.run(),
            Command::Quarantine(command) => command.run(),
            Command::Plugin(command) => command.run(),
            Command::State(command) => command.run(),
            Command::Completions(command) => command.print::<Self>(),
            Command::Man(command) => command
                .run::<Self>()
                .unwrap_or_else(|error| ExitCode::from(fail(&error))),
        }
    }
}

/// A line to standard error under the program's name.
fn complain(text: &str) {
    to_stderr(&format!("worker-agent: {text}"));
}

/// Prints an error; gives its exit code.
fn fail(error: &anyhow::Error) -> u8 {
    complain(&format!("{error:#}"));
    exit::code(error)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use graticule_cli::reference;

    use super::*;

    #[test]
    fn every_command_fits_a_screen_and_has_an_example_that_can_be_typed() {
        Args::command().debug_assert();
        assert_eq!(reference::problems(&Args::command()), Vec::<String>::new());
    }

    #[test]
    fn the_page_of_commands_has_them_all() {
        let page = include_str!("../../../docs/cli.md");
        assert_eq!(reference::differences(&Args::command(), page), Vec::<String>::new());
    }

    #[test]
    fn the_words_of_qjazz_are_taken() {
        for line in [
            "cache checkout --pull /world",
            "state enable",
            "state disable",
            "state env",
            "state reload",
        ] {
            let words = ["worker-agent"].into_iter().chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
