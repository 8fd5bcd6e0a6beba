//! `config get|set|log|reload|schema|reference`: the configuration of a running control plane. Answers go to standard output, everything else to
//! standard error.

use std::process::ExitCode;

use anyhow::Context as _;
use control_plane::Config;
use graticule_cli::{Failure, exit, say};
use graticule_daemon::config::{join, leaves, reference, split};
use graticule_proto::v1::{
    FleetConfigChange, FleetConfigChangesRequest, FleetConfigRequest, FleetReloadConfigRequest, FleetSetConfigRequest,
};
use serde_json::{Map, Value, json};

use crate::target::{Target, said};

/// `control-plane config …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what counts now, and where each value comes from
    #[command(after_help = "Example: control-plane config get front")]
    Get {
        /// A key or a table; else everything
        key: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Change it while the control plane runs, as a whole or not at all, and keep that in its store
    #[command(after_help = "\
Examples:
  control-plane config set front.request_timeout=90
  control-plane config set front.request_timeout= --dry-run")]
    Set {
        /// The value as JSON, or as a text; KEY= takes back what was set for a key, or for a table
        #[arg(required = true, value_name = "KEY=VALUE")]
        words: Vec<String>,
        /// Only say what would change, or why it would be refused
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Show what has become of changes since the control plane's start, the latest first
    #[command(after_help = "Example: control-plane config log")]
    Log {
        #[command(flatten)]
        target: Target,
    },
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Example: control-plane config schema")]
    Schema,
    /// Print a configuration file with every key, its default and what it is for
    #[command(after_help = "Example: control-plane config reference")]
    Reference,
    /// Have it read its configuration file again, as SIGHUP does
    #[command(after_help = "Exits 1 when that is refused.\n\nExample: control-plane config reload")]
    Reload {
        #[command(flatten)]
        target: Target,
    },
}

/// Does what was asked.
///
/// # Errors
/// When no control plane answers, or it refuses.
#[tokio::main(flavor = "current_thread")]
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Get { key, target } => get(&target, key.as_deref()).await,
        Command::Set { words, dry_run, target } => set(&target, &words, dry_run).await,
        Command::Log { target } => log(&target).await,
        Command::Schema => {
            say(&format!("{:#}\n", graticule_daemon::config::schema::<Config>()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Reference => {
            say(&reference::<Config>("control-plane")?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Reload { target } => {
            let reply = target.admin().await?.reload_config(FleetReloadConfigRequest {}).await;
            let change = reply.map_err(said)?.into_inner();
            let refused = change.result == "refused";
            if target.json {
                say(&format!("{:#}\n", as_json(&change)));
            } else if refused {
                graticule_cli::complain(told(&change).trim_end());
            } else {
                say(&told(&change));
            }
            Ok(ExitCode::from(if refused { exit::REFUSED } else { exit::DONE }))
        }
    }
}

async fn get(target: &Target, key: Option<&str>) -> anyhow::Result<ExitCode> {
    let reply = target.admin().await?.get_config(FleetConfigRequest {}).await;
    let reply = reply.map_err(said)?.into_inner();
    let whole: Value = serde_json::from_str(&reply.config_json).context("the answer cannot be read")?;
    let path = key.map(split).unwrap_or_default();
    let found = path.iter().try_fold(&whole, |tree, part| tree.get(part));
    let found = found.with_context(|| format!("there is no `{}`", key.unwrap_or_default()))?;
    if target.json {
        say(&format!("{found:#}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let lines = leaves(found).into_iter().map(|(below, value)| {
        let key = join(path.iter().chain(&below));
        let origin = reply.origins.get(&key).map_or("", String::as_str);
        format!("{key} = {value}  # {origin}\n")
    });
    say(&lines.collect::<String>());
    Ok(ExitCode::SUCCESS)
}

async fn set(target: &Target, words: &[String], validate_only: bool) -> anyhow::Result<ExitCode> {
    let patch_json = patch(words)
        .map_err(|problem| Failure::Usage(format!("{problem:#}")))?
        .to_string();
    let request = FleetSetConfigRequest {
        patch_json,
        validate_only,
    };
    let reply = target.admin().await?.set_config(request).await;
    let change = reply.map_err(said)?.into_inner();
    say(&if target.json {
        format!("{:#}\n", as_json(&change))
    } else {
        told(&change)
    });
    Ok(ExitCode::SUCCESS)
}

async fn log(target: &Target) -> anyhow::Result<ExitCode> {
    let reply = target
        .admin()
        .await?
        .list_config_changes(FleetConfigChangesRequest {})
        .await;
    let changes = reply.map_err(said)?.into_inner().changes;
    say(&if target.json {
        let changes: Vec<_> = changes.iter().map(as_json).collect();
        format!("{:#}\n", json!({ "changes": changes }))
    } else {
        changes
            .iter()
            .map(|change| format!("{} {}", change.at, told(change)))
            .collect()
    });
    Ok(ExitCode::SUCCESS)
}

/// The merge patch that words ask for.
fn patch(words: &[String]) -> anyhow::Result<Value> {
    let mut patch = Map::new();
    for word in words {
        let (key, text) = word
            .split_once('=')
            .with_context(|| format!("`{word}`: expected KEY=VALUE, such as front.request_timeout=90"))?;
        let value = match text {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        let parts = split(key);
        let (last, tables) = parts.split_last().context("a key has a name")?;
        let mut table = &mut patch;
        for part in tables {
            let inner = table.entry(part).or_insert_with(|| Value::Object(Map::new()));
            table = inner
                .as_object_mut()
                .with_context(|| format!("`{key}`: another word sets `{part}` itself"))?;
        }
        table.insert(last.clone(), value);
    }
    Ok(Value::Object(patch))
}

fn as_json(change: &FleetConfigChange) -> Value {
    let key = |key: &graticule_proto::v1::FleetConfigKeyChange| json!({"key": key.key, "before": key.before, "after": key.after});
    json!({
        "at": change.at, "cause": change.cause, "result": change.result, "problem": change.problem,
        "changes": change.changes.iter().map(key).collect::<Vec<_>>(),
    })
}

fn told(change: &FleetConfigChange) -> String {
    let mut text = match change.problem.as_str() {
        "" => format!("{} ({})\n", change.result, change.cause),
        problem => format!("{} ({}): {problem}\n", change.result, change.cause),
    };
    let or_none = |text: &str| {
        if text.is_empty() {
            "none".to_owned()
        } else {
            text.to_owned()
        }
    };
    for key in &change.changes {
        text += &format!("  {}: {} → {}\n", key.key, or_none(&key.before), or_none(&key.after));
    }
    text
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::FleetConfigKeyChange;
    use serde_json::json;

    use super::*;

    #[test]
    fn words_make_a_patch() {
        let words = |words: &[&str]| patch(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            words(&[
                "front.request_timeout=90",
                "logging.level=debug",
                "pools.\"a.b\".hosts=[\"x\"]",
                "front.affinity="
            ])
            .unwrap(),
            json!({
                "front": {"request_timeout": 90, "affinity": null},
                "logging": {"level": "debug"},
                "pools": {"a.b": {"hosts": ["x"]}},
            })
        );
        assert!(
            words(&["front"])
                .unwrap_err()
                .to_string()
                .contains("expected KEY=VALUE")
        );
        assert!(
            words(&["a=1", "a.b=2"])
                .unwrap_err()
                .to_string()
                .contains("sets `a` itself")
        );
    }

    #[test]
    fn a_change_is_told_key_by_key() {
        let change = FleetConfigChange {
            cause: "set".to_owned(),
            result: "applied".to_owned(),
            changes: vec![FleetConfigKeyChange {
                key: "pools.maps.hosts".to_owned(),
                after: "[\"a\"]".to_owned(),
                ..FleetConfigKeyChange::default()
            }],
            ..FleetConfigChange::default()
        };
        assert_eq!(told(&change), "applied (set)\n  pools.maps.hosts: none → [\"a\"]\n");
        assert_eq!(as_json(&change)["changes"][0]["key"], "pools.maps.hosts");
    }
}
