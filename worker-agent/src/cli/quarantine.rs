//! `quarantine list` and `quarantine clear`.

use std::process::ExitCode;

use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use graticule_proto::v1::{ClearQuarantineRequest, ListQuarantineReply, ListQuarantineRequest, QuarantineEntry};
use serde_json::json;

use super::client::{connect, said};
use super::show::{row, table};

/// The longest answer that is read, in bytes: an agent may know of thousands of requests of 2 KiB.
const LONGEST: usize = 32 << 20;

pub(super) async fn list(host: &str, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(host).await?).max_decoding_message_size(LONGEST);
    let list = client
        .list_quarantine(ListQuarantineRequest {})
        .await
        .map_err(|status| said(&status))?
        .into_inner();
    print!("{}", if json { as_json(&list) } else { as_table(&list) });
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn clear(host: &str, fingerprint: String) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(host).await?);
    let all = fingerprint.is_empty();
    let request = ClearQuarantineRequest {
        fingerprint: fingerprint.clone(),
    };
    let cleared = client
        .clear_quarantine(request)
        .await
        .map_err(|status| said(&status))?
        .into_inner()
        .cleared;
    match (all, cleared) {
        (true, 0) => println!("there was nothing in the quarantine"),
        (true, 1) => println!("1 request is let through again"),
        (true, count) => println!("{count} requests are let through again"),
        (false, 0) => println!("{fingerprint} was not in the quarantine"),
        (false, _) => println!("{fingerprint} is let through again"),
    }
    Ok(ExitCode::SUCCESS)
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

fn as_table(list: &ListQuarantineReply) -> String {
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
    table(&rows)
}

fn as_json(list: &ListQuarantineReply) -> String {
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
    format!("{:#}\n", json!({ "entries": entries }))
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
        let text = as_table(&list);
        assert!(
            text.contains("0123456789abcdef  refused  299 s") && text.contains("agent-1: 2"),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&as_json(&list)).unwrap();
        assert_eq!(value["entries"][0]["agents"]["agent-1"], 2);
        assert_eq!(value["entries"][0]["state"], "refused");
    }
}
