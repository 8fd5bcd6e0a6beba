//! `placements`: which agents serve which projects, where that is not left to Envoy's hash, and what each agent gets.

use std::process::ExitCode;

use graticule_cli::{Ink, row, say, table};
use graticule_proto::v1::{AgentShare, ListPlacementsReply, ListPlacementsRequest, ProjectPlacement};
use serde_json::{Value, json};

use crate::target::{Target, said};

/// `control-plane placements`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  control-plane placements\n  control-plane placements --agents\n  control-plane placements --json"
)]
pub struct Command {
    /// What each agent gets and has places for, in place of projects; JSON has both
    #[arg(long)]
    agents: bool,
    #[command(flatten)]
    target: Target,
}

/// Does what was asked.
///
/// # Errors
/// When no control plane answers, or it refuses.
#[tokio::main(flavor = "current_thread")]
pub async fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let mut client = command.target.admin().await?;
    let reply = client.list_placements(ListPlacementsRequest {}).await.map_err(said)?;
    let reply = reply.into_inner();
    let ink = Ink::of_stdout();
    say(&if command.target.json {
        format!("{:#}\n", as_json(&reply))
    } else if command.agents {
        agents(ink, &reply.agents)
    } else {
        projects(ink, &reply.projects)
    });
    Ok(ExitCode::SUCCESS)
}

fn projects(ink: Ink, projects: &[ProjectPlacement]) -> String {
    if projects.is_empty() {
        return "no project is placed; every agent gets those that Envoy's hash gives it\n".to_owned();
    }
    let head = row(["POOL", "PROJECT", "SERVED BY", "KEPT BY", "WHY", "FOR"]);
    let rows = projects.iter().map(|placed| {
        let names = |names: &[String]| {
            if names.is_empty() {
                "-".to_owned()
            } else {
                names.join(", ")
            }
        };
        vec![
            placed.pool.clone(),
            placed.project.clone(),
            names(&placed.agents),
            names(&placed.kept),
            placed.reason.clone(),
            since(placed.since_seconds),
        ]
    });
    table(ink, &std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn agents(ink: Ink, agents: &[AgentShare]) -> String {
    if agents.is_empty() {
        return "no agent takes requests\n".to_owned();
    }
    let head = row(["POOL", "AGENT", "WEIGHT", "PROJECTS", "PLACES", "PRESSURE", "WAIT"]);
    let rows = agents.iter().map(|share| {
        let places = match share.places {
            0 => "unknown".to_owned(),
            places => places.to_string(),
        };
        vec![
            share.pool.clone(),
            share.agent_id.clone(),
            share.weight.to_string(),
            share.asked.to_string(),
            places,
            format!("{:.1}", share.request_pressure),
            format!("{:.2} s", share.wait_seconds),
        ]
    });
    table(ink, &std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// A time in its two largest units.
fn since(seconds: f64) -> String {
    let seconds = std::time::Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn as_json(reply: &ListPlacementsReply) -> Value {
    let projects = reply.projects.iter().map(|placed| {
        json!({
            "pool": placed.pool,
            "project": placed.project,
            "agents": placed.agents,
            "kept_by": placed.kept,
            "reason": placed.reason,
            "since_seconds": placed.since_seconds,
        })
    });
    let agents = reply.agents.iter().map(|share| {
        json!({
            "pool": share.pool,
            "agent": share.agent_id,
            "weight": share.weight,
            "asked": share.asked,
            "places": share.places,
            "request_pressure": share.request_pressure,
            "wait_seconds": share.wait_seconds,
        })
    });
    let (projects, agents): (Vec<_>, Vec<_>) = (projects.collect(), agents.collect());
    json!({"projects": projects, "agents": agents})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_and_agents_are_tables_and_json() {
        let placed = |project: &str, kept: &[&str]| ProjectPlacement {
            pool: "maps".to_owned(),
            project: project.to_owned(),
            agents: vec!["a".to_owned()],
            kept: kept.iter().map(|agent| (*agent).to_owned()).collect(),
            reason: if kept.is_empty() { "overfull" } else { "pin" }.to_owned(),
            since_seconds: 7384.0,
        };
        let share = AgentShare {
            pool: "maps".to_owned(),
            agent_id: "a".to_owned(),
            weight: 70,
            asked: 108,
            request_pressure: 2.5,
            ..AgentShare::default()
        };
        let reply = ListPlacementsReply {
            projects: vec![placed("/moved", &[]), placed("/pinned", &["a", "b"])],
            agents: vec![share],
        };
        assert_eq!(
            projects(Ink::PLAIN, &reply.projects),
            "POOL  PROJECT  SERVED BY  KEPT BY  WHY       FOR\n\
             maps  /moved   a          -        overfull  2h3m\n\
             maps  /pinned  a          a, b     pin       2h3m\n"
        );
        assert_eq!(
            agents(Ink::PLAIN, &reply.agents),
            "POOL  AGENT  WEIGHT  PROJECTS  PLACES   PRESSURE  WAIT\n\
             maps  a      70      108       unknown  2.5       0.00 s\n"
        );
        let value = as_json(&reply);
        assert_eq!(
            (&value["projects"][1]["kept_by"][1], &value["agents"][0]["weight"]),
            (&json!("b"), &json!(70))
        );
        assert!(
            projects(Ink::PLAIN, &[]).starts_with("no project is placed")
                && agents(Ink::PLAIN, &[]).starts_with("no agent")
        );
    }

    #[test]
    fn times_are_short() {
        let times = [4.2, 61.0, 3600.0, 90_000.0].map(since);
        assert_eq!(times, ["4s", "1m1s", "1h0m", "1d1h"]);
    }
}
