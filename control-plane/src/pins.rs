//! `pins list|add|remove`: what operators ask of a running control plane about the fleet's pins. Answers go to standard
//! output, everything else to standard error.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use graticule_cli::{Failure, Ink, Progress, exit, row, say, table};
use graticule_proto::v1::{AgentPin, FleetPinProgress, FleetPinRequest, ListPinsReply, ListPinsRequest};
use serde_json::{Value, json};

use crate::target::{Target, said};

/// Which pin of which control plane.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The project as clients name it, such as /world
    project: String,
    /// The agents of this pool only; else of every pool
    #[arg(long, value_name = "POOL", default_value = "", hide_default_value = true)]
    pool: String,
    #[command(flatten)]
    target: Target,
}

impl Which {
    fn request(&self) -> FleetPinRequest {
        let (project, pool) = (self.project.clone(), self.pool.clone());
        FleetPinRequest {
            project,
            pool,
            replicas: 0,
        }
    }
}

/// `control-plane pins …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show every pin of the fleet and the agents that lack it
    #[command(after_help = "Example: control-plane pins list --json")]
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Have every agent keep a project loaded, and show how each gets on
    #[command(after_help = "\
Exits 1 when an agent cannot, and names it; the others have the project then.

Example: control-plane pins add /world --pool maps")]
    Add {
        #[command(flatten)]
        which: Which,
        /// By how many agents of a pool it is served: these, two at least, keep it loaded; else all, or pools.NAME.replicas
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), default_value = None)]
        replicas: Option<u32>,
    },
    /// End a pin of the fleet; what agents have pinned for themselves stays
    #[command(after_help = "Example: control-plane pins remove /world")]
    Remove(Which),
}

/// Does what was asked.
///
/// # Errors
/// When no control plane answers, or it refuses.
#[tokio::main(flavor = "current_thread")]
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { target } => list(&target).await,
        Command::Add { which, replicas } => add(&which, replicas.unwrap_or_default()).await,
        Command::Remove(which) => remove(&which).await,
    }
}

async fn list(target: &Target) -> anyhow::Result<ExitCode> {
    let reply = target.admin().await?.list_pins(ListPinsRequest {}).await;
    let reply = reply.map_err(said)?.into_inner();
    say(&if target.json {
        format!("{:#}\n", as_json(&reply))
    } else {
        as_table(Ink::of_stdout(), &reply)
    });
    Ok(ExitCode::SUCCESS)
}

async fn remove(which: &Which) -> anyhow::Result<ExitCode> {
    let reply = which.target.admin().await?.unpin_project(which.request()).await;
    let reply = reply.map_err(said)?.into_inner();
    let ended = if reply.was_pinned {
        "is no longer pinned"
    } else {
        "was not pinned"
    };
    say(&if which.target.json {
        format!(
            "{:#}\n",
            json!({"project": reply.project, "was_pinned": reply.was_pinned})
        )
    } else {
        format!("{} {ended} for the fleet\n", reply.project)
    });
    Ok(ExitCode::SUCCESS)
}

async fn add(which: &Which, replicas: u32) -> anyhow::Result<ExitCode> {
    let request = FleetPinRequest {
        replicas,
        ..which.request()
    };
    let stream = which.target.admin().await?.pin_project(request).await;
    let mut stream = stream.map_err(said)?.into_inner();
    let bar = Progress::new(1, &format!("{} on every agent", which.project));
    let mut all = Agents::default();
    while let Some(progress) = stream.message().await.map_err(said)? {
        let (done, ended) = (progress.done, progress.ended);
        for line in all.hear(progress) {
            if !which.target.json {
                bar.say(&line);
            }
        }
        bar.at(all.settled(), all.agents.len());
        if ended {
            anyhow::bail!("the pin of {} was ended meanwhile", all.project);
        }
        if done {
            drop(bar);
            return Ok(all.tell(which.target.json));
        }
    }
    let project = all.project;
    let gone = format!("the control plane went away; {project} stays pinned, see `control-plane pins list`");
    Err(Failure::Unreachable(gone).into())
}

/// How every agent gets on with a pin.
#[derive(Debug, Default)]
struct Agents {
    project: String,
    pool: String,
    already: bool,
    heard: bool,
    agents: BTreeMap<String, AgentPin>,
}

impl Agents {
    /// Takes what is new; gives lines for people. Who cannot is left to the verdict, where the reason stands.
    fn hear(&mut self, progress: FleetPinProgress) -> Vec<String> {
        let mut lines = Vec::new();
        self.project = progress.project;
        if !std::mem::replace(&mut self.heard, true) {
            (self.pool, self.already) = (progress.pool, progress.already);
            let before = if self.already { " as before" } else { "" };
            lines.push(format!("{} is pinned for {}{before}\n", self.project, whom(&self.pool)));
        }
        for agent in progress.agents {
            if !matches!(agent.state.as_str(), "missing" | "failed") {
                lines.push(format!("{}: {}\n", agent.agent_id, Ink::of_stdout().cell(&agent.state)));
            }
            self.agents.insert(agent.agent_id.clone(), agent);
        }
        lines
    }

    /// Agents of which nothing more is awaited.
    fn settled(&self) -> usize {
        self.agents.values().filter(|agent| agent.state != "loading").count()
    }

    /// Says what has come of it.
    fn tell(&self, json: bool) -> ExitCode {
        let (verdict, well) = verdict(&self.project, self.agents.values());
        if json {
            say(&format!("{:#}\n", self.as_json(well)));
        } else if well {
            say(&format!("{verdict}\n"));
        } else {
            graticule_cli::complain(&verdict);
        }
        ExitCode::from(if well { exit::DONE } else { exit::REFUSED })
    }

    fn as_json(&self, well: bool) -> Value {
        json!({
            "project": self.project, "pool": self.pool, "already": self.already, "well": well,
            "agents": self.agents.values().map(agent_json).collect::<Vec<_>>(),
        })
    }
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

fn as_table(ink: Ink, reply: &ListPinsReply) -> String {
    if reply.pins.is_empty() {
        return "nothing is pinned for the fleet\n".to_owned();
    }
    let head = row(["PROJECT", "POOL", "LOADED", "NOTES"]);
    let rows = reply.pins.iter().map(|pin| {
        let loaded = pin.agents.iter().filter(|agent| agent.state == "loaded").count();
        let lacking = pin.agents.iter().filter(|agent| agent.state != "loaded");
        let notes = lacking.map(|agent| match agent.problem.as_str() {
            "" => format!("{}: {}", agent.agent_id, agent.state),
            problem => format!("{}: {}: {problem}", agent.agent_id, agent.state),
        });
        let pool = if pin.pool.is_empty() { "all" } else { &pin.pool };
        vec![
            pin.project.clone(),
            pool.to_owned(),
            format!("{loaded}/{}", pin.agents.len()),
            notes.collect::<Vec<_>>().join("; "),
        ]
    });
    table(ink, &std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn agent_json(agent: &AgentPin) -> Value {
    json!({"agent": agent.agent_id, "state": agent.state, "problem": agent.problem})
}

fn as_json(reply: &ListPinsReply) -> Value {
    let pins = reply.pins.iter().map(|pin| {
        let agents: Vec<_> = pin.agents.iter().map(agent_json).collect();
        json!({
            "project": pin.project,
            "pool": pin.pool,
            "replicas": pin.replicas,
            "since": pin.since,
            "agents": agents,
        })
    });
    json!({"pins": pins.collect::<Vec<_>>()})
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
    fn progress_is_told_once_and_failures_are_left_to_the_verdict() {
        let mut all = Agents::default();
        let progress = |agents| FleetPinProgress {
            project: "/world".to_owned(),
            already: true,
            agents,
            ..FleetPinProgress::default()
        };
        let lines = all.hear(progress(vec![agent("a", "loading", ""), agent("b", "loading", "")]));
        assert_eq!(lines[0], "/world is pinned for every pool as before\n");
        assert_eq!((lines.len(), all.settled()), (3, 0));
        assert_eq!(all.hear(progress(vec![agent("a", "loaded", "")])), ["a: loaded\n"]);
        assert_eq!(
            all.hear(progress(vec![agent("b", "failed", "bad")])),
            Vec::<String>::new()
        );
        assert_eq!(all.settled(), 2);
        let value = all.as_json(false);
        assert_eq!(
            value["agents"][1],
            json!({"agent": "b", "state": "failed", "problem": "bad"})
        );
        assert_eq!((&value["well"], &value["already"]), (&false.into(), &true.into()));
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
            as_table(Ink::PLAIN, &reply),
            "PROJECT  POOL  LOADED  NOTES\n/world   all   1/2     b: missing: nothing there\n"
        );
        let value = as_json(&reply);
        assert_eq!(value["pins"][0]["agents"][1]["state"], "missing");
        assert_eq!(
            as_table(Ink::PLAIN, &ListPinsReply::default()),
            "nothing is pinned for the fleet\n"
        );
    }
}
