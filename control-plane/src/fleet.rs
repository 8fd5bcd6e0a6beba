//! `fleet`: what operators see of a running control plane's agents, and what they have them do. Answers go to standard
//! output, everything else to standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use graticule_cli::{Failure, Ink, Progress, exit, row, say, table};
use graticule_proto::v1::{
    AgentPhase, AgentProgress, AgentRecord, FleetOrder, FleetProgress, ListAgentsRequest, ResizeAgentsRequest,
    WatchAgentsRequest,
};
use serde_json::{Value, json};
use tonic::Streaming;

use crate::target::{Target, said};

/// `control-plane fleet …`
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  control-plane fleet --watch
  control-plane fleet drain maps-1"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Go on and show every change; with --json a line for each
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Have agents finish what they have and take nothing new
    #[command(after_help = "Exits 1 when an agent has not done it.\n\nExample: control-plane fleet drain maps-1")]
    Drain(Which),
    /// Have drained agents serve again
    #[command(after_help = "Exits 1 when an agent has not done it.\n\nExample: control-plane fleet resume --all")]
    Resume(Which),
    /// Have agents load plugins and pinned projects anew
    #[command(
        after_help = "Exits 1 when an agent has not done it.\n\nExample: control-plane fleet reload --pool maps --rolling"
    )]
    Reload(Which),
    /// Set each agent's number of workers until it ends
    #[command(
        after_help = "Exits 1 when an agent has not done it.\n\nExample: control-plane fleet resize 8 --pool maps"
    )]
    Resize {
        /// How many, from 1 to 1024
        workers: u32,
        #[command(flatten)]
        which: Which,
    },
}

impl Command {
    const fn which(&self) -> &Which {
        let (Self::Drain(which) | Self::Resume(which) | Self::Reload(which) | Self::Resize { which, .. }) = self;
        which
    }
}

/// Which agents are to do it.
#[derive(Debug, clap::Args)]
struct Which {
    #[command(flatten)]
    agents: Agents,
    /// One after the other; the next when the one before is ready again, and nobody after a failure
    #[arg(long)]
    rolling: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Agents {
    /// This agent
    agent: Option<String>,
    /// Every agent of this pool
    #[arg(long)]
    pool: Option<String>,
    /// Every agent
    #[arg(long)]
    all: bool,
}

impl Which {
    fn order(&self) -> FleetOrder {
        FleetOrder {
            agent_id: self.agents.agent.clone().unwrap_or_default(),
            pool: self.agents.pool.clone().unwrap_or_default(),
            all: self.agents.all,
            rolling: self.rolling,
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// When no control plane answers, or it refuses.
#[tokio::main(flavor = "current_thread")]
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(command) = args.command else {
        return if args.watch {
            watch(&args.target).await
        } else {
            list(&args.target).await
        };
    };
    let which = command.which();
    let mut admin = which.target.admin().await?;
    let progress = match &command {
        Command::Drain(_) => admin.drain_agents(which.order()).await,
        Command::Resume(_) => admin.resume_agents(which.order()).await,
        Command::Reload(_) => admin.reload_agents(which.order()).await,
        Command::Resize { workers, .. } => {
            let (agents, workers) = (Some(which.order()), *workers);
            admin.resize_agents(ResizeAgentsRequest { agents, workers }).await
        }
    };
    follow(progress.map_err(said)?.into_inner(), which.target.json).await
}

async fn follow(mut progress: Streaming<FleetProgress>, json: bool) -> anyhow::Result<ExitCode> {
    let bar = Progress::new(1, "agents");
    let mut agents: BTreeMap<String, AgentProgress> = BTreeMap::new();
    while let Some(said_now) = progress.message().await.map_err(said)? {
        for agent in said_now.agents {
            if !json {
                match agent.problem.as_str() {
                    "" => bar.say(&format!(
                        "{}: {}\n",
                        agent.agent_id,
                        Ink::of_stdout().cell(&agent.state)
                    )),
                    problem => bar.complain(&format!("{}: {}: {problem}", agent.agent_id, agent.state)),
                }
            }
            agents.insert(agent.agent_id.clone(), agent);
        }
        let done = agents.values().filter(|agent| agent.state == "done").count();
        bar.at(done, agents.len());
        if said_now.done {
            drop(bar);
            let (well, verdict) = (
                done == agents.len(),
                format!("{done} of {} agents have done it", agents.len()),
            );
            if json {
                let agents = agents
                    .values()
                    .map(|agent| json!({"agent": agent.agent_id, "state": agent.state, "problem": agent.problem}));
                say(&format!(
                    "{:#}\n",
                    json!({"well": well, "agents": agents.collect::<Vec<_>>()})
                ));
            } else if well {
                say(&format!("{verdict}\n"));
            } else {
                graticule_cli::complain(&verdict);
            }
            return Ok(ExitCode::from(if well { exit::DONE } else { exit::REFUSED }));
        }
    }
    let gone = "the control plane went away; see `control-plane fleet` for how the agents stand";
    Err(Failure::Unreachable(gone.to_owned()).into())
}

async fn list(target: &Target) -> anyhow::Result<ExitCode> {
    let reply = target.admin().await?.list_agents(ListAgentsRequest {}).await;
    let agents = reply.map_err(said)?.into_inner().agents;
    say(&if target.json {
        let agents: Vec<_> = agents.iter().map(as_json).collect();
        format!("{:#}\n", json!({ "agents": agents }))
    } else {
        as_table(Ink::of_stdout(), agents.iter())
    });
    Ok(ExitCode::SUCCESS)
}

async fn watch(target: &Target) -> anyhow::Result<ExitCode> {
    let changes = target.admin().await?.watch_agents(WatchAgentsRequest {}).await;
    let mut changes = changes.map_err(said)?.into_inner();
    let mut agents: BTreeMap<String, AgentRecord> = BTreeMap::new();
    // On a terminal the table stays in its place.
    let clear = if std::io::stdout().is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        ""
    };
    while let Some(change) = changes.message().await.map_err(said)? {
        let text = if target.json {
            let changed: Vec<Value> = change.agents.iter().map(as_json).collect();
            format!("{}\n", json!({"agents": changed, "gone": change.gone}))
        } else {
            for id in &change.gone {
                agents.remove(id);
            }
            let changed = change.agents.into_iter();
            agents.extend(changed.map(|agent| (id(&agent).to_owned(), agent)));
            format!("{clear}{}", as_table(Ink::of_stdout(), agents.values()))
        };
        // Whoever read it may have gone.
        if !say(&text) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(Failure::Unreachable("the control plane went away".to_owned()).into())
}

fn id(agent: &AgentRecord) -> &str {
    agent.hello.as_ref().map_or("", |hello| &hello.agent_id)
}

const fn phase(phase: AgentPhase) -> &'static str {
    match phase {
        AgentPhase::Unspecified => "unknown",
        AgentPhase::Starting => "starting",
        AgentPhase::Ready => "ready",
        AgentPhase::Draining => "draining",
        AgentPhase::Failing => "failing",
    }
}

fn as_table<'a>(ink: Ink, agents: impl Iterator<Item = &'a AgentRecord>) -> String {
    let head = row(["AGENT", "POOL", "PHASE", "ENVOY", "WORKERS", "BUSY", "WAITING", "NOTES"]);
    let rows = agents.map(|agent| {
        let hello = agent.hello.clone().unwrap_or_default();
        let state = agent.state.clone().unwrap_or_default();
        let mut notes = Vec::new();
        if !agent.attached {
            notes.push("its stream is broken".to_owned());
        }
        if !state.waits_for.is_empty() {
            notes.push(format!("waits for {}", state.waits_for.join(", ")));
        }
        if state.degraded {
            notes.push(format!("degraded, failure pressure {:.1}", state.failure_pressure));
        }
        notes.extend(
            state
                .pin_problems
                .iter()
                .map(|(pin, problem)| format!("{pin}: {problem}")),
        );
        vec![
            hello.agent_id,
            hello.pool,
            agent
                .state
                .as_ref()
                .map_or("starting", |state| phase(state.phase()))
                .to_owned(),
            agent.told.clone(),
            format!("{}/{}", state.live, state.capacity),
            state.busy.to_string(),
            state.waiting.to_string(),
            notes.join("; "),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    if rows.len() == 1 {
        return "no agent is attached\n".to_owned();
    }
    table(ink, &rows)
}

fn as_json(agent: &AgentRecord) -> Value {
    let hello = agent.hello.clone().unwrap_or_default();
    let state = agent.state.as_ref().map(|state| {
        json!({
            "phase": phase(state.phase()),
            "capacity": state.capacity,
            "live": state.live,
            "busy": state.busy,
            "waiting": state.waiting,
            "failure_pressure": state.failure_pressure,
            "request_pressure": state.request_pressure,
            "degraded": state.degraded,
            "generation": state.generation,
            "pins": state.pins,
            "pin_problems": state.pin_problems,
            "waits_for": state.waits_for,
        })
    });
    json!({
        "agent": hello.agent_id,
        "pool": hello.pool,
        "version": hello.version,
        "data_address": hello.data_address,
        "grpc_address": hello.grpc_address,
        "attached": agent.attached,
        "told": agent.told,
        "state": state,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use graticule_proto::v1::{AgentHello, AgentState};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn order(line: &str) -> Result<FleetOrder, String> {
        let parsed = Line::try_parse_from(["fleet"].into_iter().chain(line.split(' '))).map_err(|e| e.to_string())?;
        match parsed.args.command {
            Some(Command::Drain(which) | Command::Resume(which) | Command::Reload(which)) => Ok(which.order()),
            Some(Command::Resize { which, .. }) => Ok(which.order()),
            None => Err("no order".to_owned()),
        }
    }

    #[test]
    fn it_has_to_be_said_which_agents_are_meant() {
        assert_eq!(order("drain a-1").unwrap().agent_id, "a-1");
        assert_eq!(order("resize 4 --pool maps").unwrap().pool, "maps");
        let all = order("reload --all --rolling").unwrap();
        assert!(all.all && all.rolling);
        for wrong in [
            "drain",
            "resize 4",
            "drain a --all",
            "drain --pool x --all",
            "resize --all",
        ] {
            assert!(order(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_list_is_a_table_and_json() {
        let hello = AgentHello {
            agent_id: "maps-1".to_owned(),
            pool: "maps".to_owned(),
            ..AgentHello::default()
        };
        let state = AgentState {
            phase: AgentPhase::Starting.into(),
            capacity: 4,
            live: 3,
            waits_for: vec!["workers".to_owned()],
            ..AgentState::default()
        };
        let agent = AgentRecord {
            hello: Some(hello),
            state: Some(state),
            attached: false,
            told: "none".to_owned(),
        };
        assert_eq!(
            as_table(Ink::PLAIN, [&agent].into_iter()),
            "AGENT   POOL  PHASE     ENVOY  WORKERS  BUSY  WAITING  NOTES\n\
             maps-1  maps  starting  none   3/4      0     0        its stream is broken; waits for workers\n"
        );
        assert_eq!(as_json(&agent)["state"]["phase"], "starting");
        assert_eq!(as_table(Ink::PLAIN, std::iter::empty()), "no agent is attached\n");
    }
}
