//! `quarantine list` and `quarantine clear`.

use std::process::ExitCode;

use clap::Subcommand;
use graticule_cli::{Ink, row, table};
use graticule_proto::v1::{ClearQuarantineRequest, ListQuarantineReply, ListQuarantineRequest, QuarantineEntry};
use serde_json::{Value, json};

use super::answer::Answer;
use super::ask::{ask, said};
use super::target::{Admin, Target};

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// Show what is refused, and what is suspected
    #[command(after_help = "Example: worker-agent quarantine list --json")]
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Let a request through again, on every agent
    #[command(after_help = "Example: worker-agent quarantine clear 0123456789abcdef")]
    Clear {
        /// Which, as `list` shows it
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        fingerprint: Option<String>,
        /// All of them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        target: Target,
    },
}

impl QuarantineCommand {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::List { target } => ask(&target, "asking", list),
            Self::Clear {
                fingerprint, target, ..
            } => {
                let fingerprint = fingerprint.unwrap_or_default();
                ask(&target, "asking", async |admin| clear(admin, &fingerprint).await)
            }
        }
    }
}

async fn list(mut admin: Admin) -> anyhow::Result<Answer> {
    let reply = admin.list_quarantine(ListQuarantineRequest {}).await;
    let list = reply.map_err(|status| said(&status))?.into_inner();
    Ok(Answer::new(as_table(Ink::of_stdout(), &list), as_json(&list)))
}

async fn clear(mut admin: Admin, fingerprint: &str) -> anyhow::Result<Answer> {
    let request = ClearQuarantineRequest {
        fingerprint: fingerprint.to_owned(),
    };
    let reply = admin.clear_quarantine(request).await;
    let cleared = reply.map_err(|status| said(&status))?.into_inner().cleared;
    let text = match (fingerprint, cleared) {
        ("", 0) => "there was nothing in the quarantine".to_owned(),
        ("", 1) => "1 request is let through again".to_owned(),
        ("", count) => format!("{count} requests are let through again"),
        (fingerprint, 0) => format!("{fingerprint} was not in the quarantine"),
        (fingerprint, _) => format!("{fingerprint} is let through again"),
    };
    Ok(Answer::new(text, json!({ "cleared": cleared })))
}

const fn state(entry: &QuarantineEntry) -> &'static str {
    if entry.refused { "refused" } else { "suspected" }
}

/// Agents with their kills, by name.
fn agents(entry: &QuarantineEntry) -> std::collections::BTreeMap<&str, usize> {
    let agents = entry.agents.iter();
    agents
        .map(|(agent, kills)| (agent.as_str(), kills.ages_seconds.len()))
        .collect()
}

fn as_table(ink: Ink, list: &ListQuarantineReply) -> String {
    if list.entries.is_empty() {
        return "no request has killed a worker lately\n".into();
    }
    let mut rows = vec![row([
        "FINGERPRINT",
        "STATE",
        "FOR",
        "KILLS",
        "REASON",
        "PROJECT",
        "AGENTS",
        "REQUEST",
    ])];
    for entry in &list.entries {
        let agents: Vec<String> = agents(entry)
            .into_iter()
            .map(|(agent, kills)| format!("{agent}: {kills}"))
            .collect();
        rows.push(vec![
            entry.fingerprint.clone(),
            state(entry).into(),
            format!("{:.0} s", entry.remaining_seconds),
            entry.kills.to_string(),
            entry.reason.clone(),
            entry.project.clone(),
            agents.join(", "),
            entry.request.clone(),
        ]);
    }
    table(ink, &rows)
}

fn as_json(list: &ListQuarantineReply) -> Value {
    let entries: Vec<_> = list
        .entries
        .iter()
        .map(|entry| {
            json!({
                "fingerprint": entry.fingerprint, "state": state(entry), "remaining_seconds": entry.remaining_seconds,
                "kills": entry.kills, "reason": entry.reason, "project": entry.project, "agents": agents(entry),
                "request": entry.request,
            })
        })
        .collect();
    json!({ "entries": entries })
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::AgentKills;

    use super::*;

    #[test]
    fn entries_are_shown_to_people_and_programs() {
        let ages_seconds = vec![2.0, 1.0];
        let entry = QuarantineEntry {
            fingerprint: "0123456789abcdef".into(),
            kills: 2,
            refused: true,
            remaining_seconds: 298.7,
            agents: [("agent-1".to_owned(), AgentKills { ages_seconds })].into(),
            ..QuarantineEntry::default()
        };
        let list = ListQuarantineReply { entries: vec![entry] };
        let text = as_table(Ink::PLAIN, &list);
        assert!(
            text.contains("0123456789abcdef  refused  299 s") && text.contains("agent-1: 2"),
            "{text}"
        );
        let value = as_json(&list);
        assert_eq!(value["entries"][0]["agents"]["agent-1"], 2);
        assert_eq!(value["entries"][0]["state"], "refused");
    }
}
