//! What is done to an agent as a whole: `drain`, `resume`, `reload`, `resize`, `sleep`, `env`.

use std::collections::HashMap;
use std::process::ExitCode;

use clap::Subcommand;
use graticule_cli::{Ink, row, table};
use graticule_proto::v1::{
    DrainReply, DrainRequest, GetEnvReply, GetEnvRequest, ReloadRequest, ResizeRequest, ResumeRequest, SleepRequest,
};
use serde_json::json;

use super::answer::Answer;
use super::ask::{FOLLOWED, ask, for_long, said};
use super::target::{Admin, Target};

#[derive(Debug, Subcommand)]
pub(super) enum OperateCommand {
    /// Take nothing new and finish what runs; the agent does not end
    #[command(
        after_help = "Exits 1 when something still runs after the wait.\n\nExample: worker-agent drain --wait 30"
    )]
    Drain {
        /// How long to wait until nothing runs, in seconds, at most 3600
        #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
        wait: f64,
        #[command(flatten)]
        target: Target,
    },
    /// End a drain
    #[command(after_help = "Example: worker-agent resume")]
    Resume {
        #[command(flatten)]
        target: Target,
    },
    /// Make a new generation of workers and move to it one by one; waits until that is done
    #[command(
        after_help = "Plugins and pinned projects are loaded anew; nothing in flight is lost.\n\nExample: worker-agent reload"
    )]
    Reload {
        #[command(flatten)]
        target: Target,
    },
    /// Set the number of workers until the agent ends; nothing in flight is lost
    #[command(after_help = "Example: worker-agent resize 8")]
    Resize {
        /// How many, from 1 to 1024
        workers: u32,
        #[command(flatten)]
        target: Target,
    },
    /// Keep a worker busy, for tests; Ctrl-C frees it
    #[command(after_help = "Example: worker-agent sleep 5 --lane heavy")]
    Sleep {
        /// For how long, in seconds, at most 600
        #[arg(default_value_t = 3.0)]
        seconds: f64,
        /// In which lane: interactive or heavy
        #[arg(long, value_name = "LANE", default_value = "interactive")]
        lane: String,
        #[command(flatten)]
        target: Target,
    },
    /// Show versions and the environment of workers, without secrets
    #[command(after_help = "Example: worker-agent env")]
    Env {
        #[command(flatten)]
        target: Target,
    },
}

impl OperateCommand {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Drain { wait, target } => ask(&target, "draining", async |admin| drain(admin, wait).await),
            Self::Resume { target } => ask(&target, "asking", resume),
            Self::Reload { target } => ask(&target, "reloading", reload),
            Self::Resize { workers, target } => ask(&target, "asking", async |admin| resize(admin, workers).await),
            Self::Sleep { seconds, lane, target } => {
                ask(&target, "sleeping", async |admin| sleep(admin, seconds, &lane).await)
            }
            Self::Env { target } => ask(&target, "asking", env),
        }
    }
}

async fn drain(mut admin: Admin, wait_seconds: f64) -> anyhow::Result<Answer> {
    let reply = admin.drain(for_long(DrainRequest { wait_seconds }, wait_seconds)).await;
    let reply = reply.map_err(|status| said(&status))?.into_inner();
    let value = json!({"already": reply.already, "running": reply.running, "waiting": reply.waiting});
    let done = (reply.running, reply.waiting) == (0, 0) || wait_seconds == 0.0;
    Ok(Answer::new(drained(&reply), value).unless(done))
}

fn drained(reply: &DrainReply) -> String {
    let before = if reply.already { ", as before" } else { "" };
    match (reply.running, reply.waiting) {
        (0, 0) => format!("drained{before}: nothing runs"),
        (running, waiting) => format!("draining{before}: {running} requests still run, {waiting} wait"),
    }
}

async fn resume(mut admin: Admin) -> anyhow::Result<Answer> {
    let reply = admin.resume(ResumeRequest {}).await.map_err(|status| said(&status))?;
    let was_drained = reply.into_inner().was_drained;
    let text = if was_drained {
        "takes requests again"
    } else {
        "was not drained"
    };
    Ok(Answer::new(text, json!({"was_drained": was_drained})))
}

pub(super) async fn reload(mut admin: Admin) -> anyhow::Result<Answer> {
    let reply = admin.reload(for_long(ReloadRequest {}, FOLLOWED)).await;
    let reply = reply.map_err(|status| said(&status))?.into_inner();
    let (before, after, seconds) = (reply.before, reply.after, reply.seconds);
    let text = format!("reloaded in {seconds:.1} s: generation {after}, {before} before");
    Ok(Answer::new(
        text,
        json!({"before": before, "after": after, "seconds": seconds}),
    ))
}

async fn resize(mut admin: Admin, workers: u32) -> anyhow::Result<Answer> {
    let reply = admin.resize(ResizeRequest { workers }).await;
    let done = reply.map_err(|status| said(&status))?.into_inner();
    let text = format!("{} workers are wanted now, {} before", done.after, done.before);
    Ok(Answer::new(text, json!({"before": done.before, "after": done.after})))
}

async fn sleep(mut admin: Admin, seconds: f64, lane: &str) -> anyhow::Result<Answer> {
    let lane = lane.to_owned();
    let slept = admin.sleep(for_long(SleepRequest { seconds, lane }, seconds)).await;
    let slept = slept.map_err(|status| said(&status))?.into_inner();
    let (worker, busy, waited) = (slept.worker, slept.busy_seconds, slept.waited_seconds);
    let text = format!("worker {worker} was busy for {busy:.2} s, after waiting {waited:.2} s");
    let value = json!({"worker": worker, "busy_seconds": busy, "waited_seconds": waited});
    Ok(Answer::new(text, value))
}

pub(super) async fn env(mut admin: Admin) -> anyhow::Result<Answer> {
    let env = admin.get_env(GetEnvRequest {}).await.map_err(|status| said(&status))?;
    let env = env.into_inner();
    let value = json!({"agent": env.agent, "versions": env.versions, "environment": env.environment});
    Ok(Answer::new(environment(Ink::of_stdout(), &env), value))
}

fn environment(ink: Ink, env: &GetEnvReply) -> String {
    let listed = |heads: [&str; 2], map: &HashMap<String, String>| {
        let mut pairs: Vec<_> = map.iter().collect();
        pairs.sort();
        let rows = pairs.iter().map(|(name, value)| row([name, value]));
        table(ink, &std::iter::once(row(heads)).chain(rows).collect::<Vec<_>>())
    };
    let versions = listed(["PART", "VERSION"], &env.versions);
    let variables = listed(["VARIABLE", "VALUE"], &env.environment);
    format!("{versions}\n{variables}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_what_is_left() {
        let mut reply = DrainReply::default();
        assert_eq!(drained(&reply), "drained: nothing runs");
        (reply.already, reply.running) = (true, 2);
        assert_eq!(drained(&reply), "draining, as before: 2 requests still run, 0 wait");
    }

    #[test]
    fn versions_and_variables_are_two_tables() {
        let env = GetEnvReply {
            versions: [("qgis".to_owned(), "3.40.6".to_owned())].into(),
            environment: [("B".to_owned(), "***".to_owned()), ("A".to_owned(), "1".to_owned())].into(),
            ..GetEnvReply::default()
        };
        assert_eq!(
            environment(Ink::PLAIN, &env),
            "PART  VERSION\nqgis  3.40.6\n\nVARIABLE  VALUE\nA         1\nB         ***\n"
        );
    }
}
