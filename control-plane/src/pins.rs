//! `pins list|add|remove`: what operators ask of a running control plane about the fleet's pins. Answers go to standard
//! output, everything else to standard error.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::{AgentPin, FleetPinRequest, ListPinsReply, ListPinsRequest};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use crate::EXIT_REFUSED;

/// A control plane that has not taken the connection after this long is not there.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which pin of which control plane.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The project as clients name it, such as /world.
    project: String,
    /// The agents of this pool only; else of every pool.
    #[arg(long, value_name = "POOL", default_value = "")]
    pool: String,
    #[command(flatten)]
    target: Target,
}

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The control plane's port for agents and tools (fleet.listen).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18001")]
    host: String,
}

/// `control-plane pins …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show every pin of the fleet and the agents that lack it. Example: control-plane pins list
    List {
        /// As JSON, with every agent.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Have every agent keep a project loaded, and show how each gets on; exits 1 when one cannot. Example: control-plane pins add /world
    Add(Which),
    /// End a pin of the fleet; what agents have pinned for themselves stays. Example: control-plane pins remove /world
    Remove(Which),
}

/// Does what was asked.
///
/// # Errors
/// When no control plane answers, or it refuses.
#[tokio::main(flavor = "current_thread")]
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { json, target } => list(&target.host, json).await,
        Command::Add(which) => add(which).await,
        Command::Remove(which) => remove(which).await,
    }
}

async fn connect(host: &str) -> anyhow::Result<FleetAdminClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{host}"))
        .map_err(|_| anyhow::anyhow!("--host `{host}`: expected HOST:PORT, such as 127.0.0.1:18001"))?;
    let channel = endpoint.connect_timeout(PATIENCE).connect().await.map_err(|_| {
        anyhow::anyhow!(
            "no control plane answers at {host}: is it running, and is this its port for tools (fleet.listen)?"
        )
    })?;
    Ok(FleetAdminClient::new(channel))
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the control plane refused: {}", status.message())
}

async fn list(host: &str, json: bool) -> anyhow::Result<ExitCode> {
    let reply = connect(host).await?.list_pins(ListPinsRequest {}).await.map_err(said)?;
    let reply = reply.into_inner();
    print!("{}", if json { as_json(&reply) } else { as_table(&reply) });
    Ok(ExitCode::SUCCESS)
}

async fn remove(which: Which) -> anyhow::Result<ExitCode> {
    let mut client = connect(&which.target.host).await?;
    let (project, pool) = (which.project, which.pool);
    let reply = client.unpin_project(FleetPinRequest { project, pool }).await;
    let reply = reply.map_err(said)?.into_inner();
    let ended = if reply.was_pinned {
        "is no longer pinned"
    } else {
        "was not pinned"
    };
    println!("{} {ended} for the fleet", reply.project);
    Ok(ExitCode::SUCCESS)
}

async fn add(which: Which) -> anyhow::Result<ExitCode> {
    let mut client = connect(&which.target.host).await?;
    let (project, pool) = (which.project, which.pool);
    let stream = client.pin_project(FleetPinRequest { project, pool }).await;
    let mut stream = stream.map_err(said)?.into_inner();
    let mut agents: BTreeMap<String, AgentPin> = BTreeMap::new();
    let (mut name, mut first) = (String::new(), true);
    while let Some(progress) = stream.message().await.map_err(said)? {
        name = progress.project;
        if std::mem::take(&mut first) {
            let before = if progress.already { " as before" } else { "" };
            println!("{name} is pinned for {}{before}", whom(&progress.pool));
        }
        for agent in progress.agents {
            if !matches!(agent.state.as_str(), "missing" | "failed") {
                println!("{}: {}", agent.agent_id, agent.state);
            }
            agents.insert(agent.agent_id.clone(), agent);
        }
        if progress.ended {
            anyhow::bail!("the pin of {name} was ended meanwhile");
        }
        if progress.done {
            let (verdict, well) = verdict(&name, agents.values());
            if well {
                println!("{verdict}");
                return Ok(ExitCode::SUCCESS);
            }
            eprintln!("{verdict}");
            return Ok(ExitCode::from(EXIT_REFUSED));
        }
    }
    anyhow::bail!("the control plane went away; {name} stays pinned, see `control-plane pins list`")
}

/// What has come of it in the end, and whether every agent has it.
fn verdict<'a>(project: &str, agents: impl Iterator<Item = &'a AgentPin>) -> (String, bool) {
    let agents: Vec<&AgentPin> = agents.filter(|agent| agent.state != "gone").collect();
    let lacking: Vec<&&AgentPin> = agents.iter().filter(|agent| agent.state != "loaded").collect();
    if agents.is_empty() {
        return (
            format!("no agent is attached; those that come will load {project}"),
            true,
        );
    }
    let loaded = agents.len() - lacking.len();
    let mut text = String::new();
    for agent in &lacking {
        let _ = match agent.state.as_str() {
            "missing" => writeln!(text, "{} has no such project: {}", agent.agent_id, agent.problem),
            "failed" => writeln!(text, "{} cannot load it: {}", agent.agent_id, agent.problem),
            _ => writeln!(text, "{} has not loaded it yet", agent.agent_id),
        };
    }
    let _ = write!(text, "{loaded} of {} agents have loaded {project}", agents.len());
    if !lacking.is_empty() {
        text.push_str("; it stays pinned for all of them, end that with `control-plane pins remove`");
    }
    (text, lacking.is_empty())
}

fn whom(pool: &str) -> String {
    match pool {
        "" => "every pool".to_owned(),
        pool => format!("pool {pool}"),
    }
}

fn as_table(reply: &ListPinsReply) -> String {
    if reply.pins.is_empty() {
        return "nothing is pinned for the fleet\n".to_owned();
    }
    let rows: Vec<[String; 4]> = std::iter::once(["PROJECT", "POOL", "LOADED", "NOTES"].map(str::to_owned))
        .chain(reply.pins.iter().map(|pin| {
            let loaded = pin.agents.iter().filter(|agent| agent.state == "loaded").count();
            let lacking = pin.agents.iter().filter(|agent| agent.state != "loaded");
            let notes = lacking.map(|agent| match agent.problem.as_str() {
                "" => format!("{}: {}", agent.agent_id, agent.state),
                problem => format!("{}: {}: {problem}", agent.agent_id, agent.state),
            });
            let pool = if pin.pool.is_empty() { "all" } else { &pin.pool };
            [
                pin.project.clone(),
                pool.to_owned(),
                format!("{loaded}/{}", pin.agents.len()),
                notes.collect::<Vec<_>>().join("; "),
            ]
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    rows.iter()
        .fold(String::new(), |mut text, [project, pool, loaded, notes]| {
            let line = format!(
                "{project:0$}  {pool:1$}  {loaded:2$}  {notes}",
                widths[0], widths[1], widths[2]
            );
            text.push_str(line.trim_end());
            text.push('\n');
            text
        })
}

fn as_json(reply: &ListPinsReply) -> String {
    let agent = |agent: &AgentPin| json!({"agent": agent.agent_id, "state": agent.state, "problem": agent.problem});
    let pins = reply.pins.iter().map(|pin| {
        let agents: Vec<_> = pin.agents.iter().map(agent).collect();
        json!({"project": pin.project, "pool": pin.pool, "since": pin.since, "agents": agents})
    });
    format!("{:#}\n", json!({"pins": pins.collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::FleetPin;

    use super::*;

    fn agent(id: &str, state: &str, problem: &str) -> AgentPin {
        AgentPin {
            agent_id: id.to_owned(),
            state: state.to_owned(),
            problem: problem.to_owned(),
        }
    }

    #[test]
    fn who_lacks_it_is_named_with_the_reason() {
        let all = [agent("a", "loaded", ""), agent("b", "gone", "")];
        assert_eq!(
            verdict("/world", all.iter()),
            ("1 of 1 agents have loaded /world".to_owned(), true)
        );
        let some = [
            agent("a", "loaded", ""),
            agent("b", "failed", "bad"),
            agent("c", "loading", ""),
        ];
        let (said, well) = verdict("/world", some.iter());
        assert!(
            !well && said.starts_with("b cannot load it: bad\nc has not loaded it yet\n1 of 3 agents"),
            "{said}"
        );
        assert!(verdict("/world", [].iter()).1);
    }

    #[test]
    fn the_list_is_a_table_and_json() {
        let pin = FleetPin {
            project: "/world".to_owned(),
            since: 7,
            agents: vec![agent("a", "loaded", ""), agent("b", "missing", "nothing there")],
            ..FleetPin::default()
        };
        let reply = ListPinsReply { pins: vec![pin] };
        assert_eq!(
            as_table(&reply),
            "PROJECT  POOL  LOADED  NOTES\n/world   all   1/2     b: missing: nothing there\n"
        );
        let value: serde_json::Value = serde_json::from_str(&as_json(&reply)).unwrap();
        assert_eq!(value["pins"][0]["agents"][1]["state"], "missing");
        assert_eq!(as_table(&ListPinsReply::default()), "nothing is pinned for the fleet\n");
    }
}
