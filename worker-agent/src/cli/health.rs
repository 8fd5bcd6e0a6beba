//! `healthcheck`: whether agents are ready, and their health set by hand; `state`, as QJazz's client has it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use graticule_cli::{exit, say};
use graticule_proto::v1::{AgentPhase, SetServingRequest, StatsRequest};
use serde_json::{Value, json};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::answer::Answer;
use super::ask::{ask, each, run, said};
use super::target::{Admin, One, Target};
use super::{operate, stats};

/// How often `--watch` looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits 0 when ready, 2 when not, 69 when nobody answers.

Examples:
  worker-agent healthcheck
  worker-agent healthcheck --watch --fleet 127.0.0.1:18001
  worker-agent healthcheck --set-error 'the disk is slow'")]
pub(super) struct Healthcheck {
    /// Go on, and show every change
    #[arg(short, long)]
    watch: bool,
    /// Have the agent say that it is not ready, and why, until --clear-error; it serves what comes all the same
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "", conflicts_with = "watch")]
    set_error: Option<String>,
    /// Have it say again how it is
    #[arg(long, conflicts_with_all = ["watch", "set_error"])]
    clear_error: bool,
    #[command(flatten)]
    target: Target,
}

impl Healthcheck {
    pub(super) fn run(self) -> ExitCode {
        let target = &self.target;
        if self.clear_error {
            return ask(target, "asking", async |admin| set_serving(admin, true, "").await);
        }
        if let Some(reason) = self.set_error {
            return ask(target, "asking", async |admin| set_serving(admin, false, &reason).await);
        }
        if self.watch {
            return run(watch(target));
        }
        run(each(target, "asking", check))
    }
}

/// The same by the words of QJazz's client.
#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    /// Say that the agent is ready when it is, after `disable`
    Enable {
        #[command(flatten)]
        target: Target,
    },
    /// Say everywhere that the agent is not ready; what comes is served all the same
    Disable {
        /// Why, for those who see it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        target: Target,
    },
    /// As `worker-agent env`
    Env {
        #[command(flatten)]
        target: Target,
    },
    /// As `worker-agent reload`
    Reload {
        #[command(flatten)]
        target: Target,
    },
    /// As `worker-agent stats`
    Stats {
        #[command(flatten)]
        target: Target,
    },
}

impl StateCommand {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Enable { target } => ask(&target, "asking", async |admin| set_serving(admin, true, "").await),
            Self::Disable { reason, target } => ask(&target, "asking", async |admin| {
                set_serving(admin, false, &reason).await
            }),
            Self::Env { target } => ask(&target, "asking", operate::env),
            Self::Reload { target } => ask(&target, "reloading", operate::reload),
            Self::Stats { target } => ask(&target, "asking", stats::stats),
        }
    }
}

async fn set_serving(mut admin: Admin, serving: bool, reason: &str) -> anyhow::Result<Answer> {
    let reason = reason.to_owned();
    let reply = admin.set_serving(SetServingRequest { serving, reason }).await;
    let was_serving = reply.map_err(|status| said(&status))?.into_inner().was_serving;
    let health = if serving { "ok" } else { "in error" };
    let before = if was_serving == serving { ", as before" } else { "" };
    let value = json!({"serving": serving, "was_serving": was_serving});
    Ok(Answer::new(format!("its health is {health}{before}"), value))
}

/// Whether it is ready: its own health service says so, or through the control plane its state.
async fn ready(one: &One) -> anyhow::Result<bool> {
    if one.of_fleet() {
        let stats = one.admin().await?.stats(StatsRequest {}).await;
        let stats = stats.map_err(|status| said(&status))?.into_inner();
        let state = stats.state.unwrap_or_default();
        return Ok(state.phase() == AgentPhase::Ready && state.waits_for.is_empty());
    }
    let mut client = HealthClient::new(one.own().await?);
    let answer = client.check(HealthCheckRequest::default()).await;
    Ok(answer.map_err(|status| said(&status))?.into_inner().status() == ServingStatus::Serving)
}

async fn check(one: &One) -> anyhow::Result<Answer> {
    let ready = ready(one).await?;
    let answer = Answer::new(if ready { "ready" } else { "not ready" }, json!({ "ready": ready }));
    Ok(if ready { answer } else { answer.code(exit::NOT_READY) })
}

/// Shows how every agent stands, and each change, until nobody reads it any more.
async fn watch(target: &Target) -> anyhow::Result<u8> {
    let mut known: BTreeMap<String, &'static str> = BTreeMap::new();
    // Who is not there at the beginning may be misspelt; who goes later is waited for.
    let mut agents = target.agents().await?;
    loop {
        let mut now = BTreeMap::new();
        for one in agents.all() {
            let state = match ready(one).await {
                Ok(true) => "ready",
                Ok(false) => "not ready",
                Err(error) if exit::code(&error) == exit::UNREACHABLE => "unreachable",
                Err(error) => return Err(error),
            };
            now.insert(one.name.clone(), state);
        }
        for (name, state) in changes(&known, &now) {
            if !say(&line(name, state, target.json)) {
                return Ok(exit::DONE);
            }
        }
        known = now;
        tokio::time::sleep(LOOK_EVERY).await;
        // Of a fleet, agents come and go; when there is nobody at all, the last ones stay in sight.
        if let Ok(found) = target.agents().await {
            agents = found;
        }
    }
}

/// Who stands otherwise than before, those that are no longer in the fleet included.
fn changes<'a>(
    known: &'a BTreeMap<String, &'static str>,
    now: &'a BTreeMap<String, &'static str>,
) -> Vec<(&'a str, &'static str)> {
    let other = now.iter().filter(|(name, state)| known.get(*name) != Some(*state));
    let gone = known.keys().filter(|name| !now.contains_key(*name));
    let other = other.map(|(name, state)| (name.as_str(), *state));
    other.chain(gone.map(|name| (name.as_str(), "gone"))).collect()
}

fn line(name: &str, state: &str, json: bool) -> String {
    if json {
        let agent = if name.is_empty() { Value::Null } else { name.into() };
        return format!("{}\n", json!({"agent": agent, "state": state}));
    }
    match name {
        "" => format!("{state}\n"),
        name => format!("{name}: {state}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_tells_changes_only() {
        let map = |pairs: &[(&str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, state)| ((*name).to_owned(), *state));
            pairs.collect::<BTreeMap<_, _>>()
        };
        let before = map(&[("a", "ready"), ("b", "ready"), ("c", "ready")]);
        let after = map(&[("a", "ready"), ("b", "not ready"), ("d", "ready")]);
        assert_eq!(
            changes(&before, &after),
            [("b", "not ready"), ("d", "ready"), ("c", "gone")]
        );
        assert_eq!(changes(&after, &after), []);
    }

    #[test]
    fn a_single_agent_has_no_name() {
        assert_eq!(line("", "ready", false), "ready\n");
        assert_eq!(line("a", "ready", false), "a: ready\n");
        assert_eq!(line("", "ready", true), "{\"agent\":null,\"state\":\"ready\"}\n");
    }
}
