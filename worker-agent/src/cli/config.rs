//! `config`: what a running agent is configured with, and changing that while it runs; and what can be configured at all.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use graticule_cli::Failure;
use graticule_proto::v1::{ConfigChange, GetConfigRequest, SetConfigRequest, SetLogLevelRequest};
use serde_json::{Value, json};

use super::answer::Answer;
use super::ask::{ask, said};
use super::target::{Admin, Target};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show what holds and where each value comes from
    #[command(after_help = "Example: worker-agent config get server")]
    Get {
        /// Only this key and what is below it
        key: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Change it until the agent ends; refused whole when anything of it is wrong
    #[command(after_help = "\
Examples:
  worker-agent config set '{\"server\": {\"timeout\": 30}}'
  worker-agent config set @patch.json --fleet 127.0.0.1:18001
  worker-agent config set --reset")]
    Set {
        /// A JSON merge patch, or @FILE that holds one; null gives a key its default back
        #[arg(required_unless_present = "reset")]
        patch: Option<String>,
        /// First forget what was set before
        #[arg(long)]
        reset: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Set the log level until the agent ends
    #[command(after_help = "Example: worker-agent config log info,worker_agent::adapters=debug")]
    Log {
        /// error, warn, info, debug or trace; per module as in the example
        level: String,
        #[command(flatten)]
        target: Target,
    },
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Example: worker-agent config schema")]
    Schema,
    /// Print a configuration file with every key, its default and what it is for
    #[command(after_help = "Example: worker-agent config reference")]
    Reference,
}

impl ConfigCommand {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Get { key, target } => ask(&target, "asking", async |admin| get(admin, key.as_deref()).await),
            Self::Set { patch, reset, target } => {
                let patch = match read(patch) {
                    Ok(patch) => patch,
                    Err(error) => return ExitCode::from(super::fail(&error)),
                };
                ask(&target, "asking", async |admin| set(admin, &patch, reset).await)
            }
            Self::Log { level, target } => ask(&target, "asking", async |admin| log(admin, &level).await),
            Self::Schema => {
                let schema = graticule_daemon::config::schema::<Config>();
                graticule_cli::say(&format!("{schema:#}\n"));
                ExitCode::SUCCESS
            }
            Self::Reference => match graticule_daemon::config::reference::<Config>("worker-agent") {
                Ok(text) => {
                    graticule_cli::say(&text);
                    ExitCode::SUCCESS
                }
                Err(error) => ExitCode::from(super::fail(&error.into())),
            },
        }
    }
}

/// The patch itself, or what stands in the file that is named.
fn read(patch: Option<String>) -> anyhow::Result<String> {
    let patch = patch.unwrap_or_default();
    match patch.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{file}: {error}")).into()),
        None => Ok(patch),
    }
}

async fn get(mut admin: Admin, key: Option<&str>) -> anyhow::Result<Answer> {
    let asked = admin.get_config(GetConfigRequest {}).await;
    let reply = asked.map_err(|status| said(&status))?.into_inner();
    let tree: Value = serde_json::from_str(&reply.config).context("the agent's answer is no JSON")?;
    let path = key.map(graticule_daemon::config::split).unwrap_or_default();
    let found = path.iter().try_fold(&tree, |tree, key| tree.get(key));
    let found = found.with_context(|| format!("there is no key `{}`", key.unwrap_or_default()))?;
    let value = json!({ "config": found, "origins": reply.origins, "needs_restart": changes(&reply.needs_restart) });
    let origins = reply.origins.into_iter().collect();
    let text = graticule_daemon::config::listing(&tree, &origins, key);
    Ok(Answer::new(text, value).notes(pending(&reply.needs_restart)))
}

async fn set(mut admin: Admin, patch: &str, reset: bool) -> anyhow::Result<Answer> {
    let patch = patch.to_owned();
    let asked = admin.set_config(SetConfigRequest { patch, reset }).await;
    let reply = asked.map_err(|status| said(&status))?.into_inner();
    let value = json!({ "applied": changes(&reply.applied), "needs_restart": changes(&reply.needs_restart) });
    let line = |ConfigChange { key, before, after }: &ConfigChange| format!("{key}: {before} → {after}\n");
    let mut text: String = reply.applied.iter().map(line).collect();
    if reply.applied.is_empty() && reply.needs_restart.is_empty() {
        text.push_str("nothing has changed");
    }
    Ok(Answer::new(text, value).notes(pending(&reply.needs_restart)))
}

async fn log(mut admin: Admin, level: &str) -> anyhow::Result<Answer> {
    let level = level.to_owned();
    let asked = admin.set_log_level(SetLogLevelRequest { level }).await;
    let reply = asked.map_err(|status| said(&status))?.into_inner();
    let text = format!("{} → {}", reply.before, reply.after);
    Ok(Answer::new(text, json!({"before": reply.before, "after": reply.after})))
}

fn pending(pending: &[ConfigChange]) -> Vec<String> {
    let line = |ConfigChange { key, before, after }: &ConfigChange| {
        format!("{key}: {before} → {after} needs a restart, with the value in a file or variable")
    };
    pending.iter().map(line).collect()
}

fn changes(changes: &[ConfigChange]) -> Value {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let shown = changes
        .iter()
        .map(|change| json!({ "key": change.key, "before": read(&change.before), "after": read(&change.after) }));
    shown.collect()
}
