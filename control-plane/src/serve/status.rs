//! The status page: agents, what Envoy is told of them, the fleet's pins, requests that killed workers, and what each Envoy has taken or
//! refused. For people with a browser; plain HTML that reloads itself. And the OpenAPI document, for programs.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use graticule_daemon::ops::Page;
use graticule_proto::v1::{AgentState, QuarantineEntry};

use super::clients::Card;
use crate::adapters::openapi;
use crate::core::fleet::Agent;
use crate::core::pins::{Listed, Pins, State};
use crate::core::quarantine::Quarantine;

/// How many requests that killed workers are shown; `ListQuarantine` has all of them.
const CULPRITS: usize = 50;

/// The page at a path, where there is one.
#[must_use]
pub fn page(
    path: &str,
    agents: &[Arc<Agent<AgentState>>],
    quarantine: &Quarantine,
    pins: &Pins,
    envoys: &[Card],
    published: bool,
) -> Option<Page> {
    (path == "/").then(|| Page {
        content_type: "text/html; charset=utf-8",
        body: html(agents, quarantine, pins, envoys, published),
    })
}

/// The OpenAPI document of the administration as REST.
#[must_use]
pub fn openapi() -> Option<Page> {
    /// It is made once: nothing in it changes.
    static TEXT: LazyLock<Option<String>> = LazyLock::new(|| {
        let text = openapi::text();
        text.inspect_err(|problem| tracing::error!(%problem, "there is no OpenAPI document"))
            .ok()
    });
    TEXT.as_ref().map(|text| Page {
        content_type: "application/json",
        body: text.clone(),
    })
}

fn html(
    agents: &[Arc<Agent<AgentState>>],
    quarantine: &Quarantine,
    pins: &Pins,
    envoys: &[Card],
    published: bool,
) -> String {
    let mut page = String::from(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Graticule control plane</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:2em}table{border-collapse:collapse;margin:0 0 2em}
th,td{text-align:left;padding:.2em 1em .2em 0;border-bottom:1px solid #ccc;vertical-align:top}.bad{color:#b00020}</style>
</head><body><h1>Graticule control plane</h1>
"#,
    );
    if !published {
        page.push_str("<p>Started a moment ago: it still learns the fleet and tells Envoys nothing yet.</p>\n");
    }
    page.push_str("<h2>Agents</h2>\n");
    if agents.is_empty() {
        page.push_str("<p class=\"bad\">No agent is attached.</p>\n");
    } else {
        let head = [
            "agent",
            "pool",
            "address",
            "says",
            "Envoy is told",
            "workers",
            "waiting",
            "pressure",
            "waits for",
        ];
        table(&mut page, &head, agents.iter().map(|agent| agent_row(agent)));
    }
    if pins.list().next().is_some() {
        page.push_str("<h2>Pins of the fleet</h2>\n");
        let head = ["project", "pool", "loaded", "not loaded"];
        table(&mut page, &head, pins.list().map(|pin| pin_row(&pin)));
    }
    let culprits = super::quarantine::entries(quarantine);
    if !culprits.is_empty() {
        page.push_str("<h2>Requests that killed workers</h2>\n");
        let head = [
            "fingerprint",
            "project",
            "kills",
            "state",
            "for",
            "last reason",
            "request",
        ];
        table(&mut page, &head, culprits.into_iter().take(CULPRITS).map(culprit_row));
    }
    page.push_str("<h2>Envoys</h2>\n");
    if envoys.is_empty() {
        page.push_str("<p class=\"bad\">No Envoy is attached.</p>\n");
    } else {
        table(
            &mut page,
            &["node", "view", "from", "has taken", "last refused"],
            envoys.iter().map(envoy_row),
        );
    }
    page.push_str("<p><a href=\"/metrics\">metrics</a> · <a href=\"/readyz\">readiness</a> · <a href=\"/openapi.json\">OpenAPI</a></p>\n</body></html>\n");
    page
}

fn agent_row(agent: &Agent<AgentState>) -> Vec<String> {
    let state = agent.state.as_ref().map(|(_, state)| state.clone()).unwrap_or_default();
    let says = if agent.attached {
        agent.phase().name().to_owned()
    } else {
        format!("{}, stream broken", agent.phase().name())
    };
    vec![
        agent.identity.id.to_string(),
        agent.identity.pool.to_string(),
        agent.identity.data_address.to_string(),
        says,
        agent.told().name().to_owned(),
        format!("{} busy, {} of {} live", state.busy, state.live, state.capacity),
        state.waiting.to_string(),
        format!(
            "failure {:.2}, request {:.2}",
            state.failure_pressure, state.request_pressure
        ),
        state.waits_for.join(", "),
    ]
}

fn pin_row(pin: &Listed<'_>) -> Vec<String> {
    let loaded = pin.agents.iter().filter(|(_, state)| *state == State::Loaded);
    let lacking = pin.agents.iter().filter(|(_, state)| *state != State::Loaded);
    let lacking = lacking.map(|(agent, state)| match state.problem() {
        "" => format!("{agent}: {}", state.name()),
        problem => format!("{agent}: {}: {problem}", state.name()),
    });
    let pool = if pin.key.pool.is_empty() { "all" } else { &pin.key.pool };
    vec![
        pin.key.project.clone(),
        pool.to_owned(),
        format!("{} of {} agents", loaded.count(), pin.agents.len()),
        lacking.collect::<Vec<_>>().join("\n"),
    ]
}

fn culprit_row(entry: QuarantineEntry) -> Vec<String> {
    let state = if entry.refused { "refused" } else { "suspected" };
    vec![
        entry.fingerprint,
        entry.project,
        entry.kills.to_string(),
        state.to_owned(),
        format!("{:.0} s", entry.remaining_seconds),
        entry.reason,
        entry.request,
    ]
}

fn envoy_row(card: &Card) -> Vec<String> {
    let node = card.node.clone().unwrap_or_default();
    let name = if card.admitted {
        node.id
    } else {
        format!("{} of cluster `{}`: unknown, waits", node.id, node.cluster)
    };
    let taken = card.standing.iter().map(|standing| {
        let held: Vec<String> = standing
            .held
            .iter()
            .map(|(name, version)| format!("{name}@{version}"))
            .collect();
        let waits = if standing.in_flight {
            ", waiting for its word"
        } else {
            ""
        };
        format!("{}: {}{waits}", standing.kind, held.join(" "))
    });
    let refused = card.refused.iter().map(|(kind, rejection)| {
        let what: Vec<String> = rejection
            .resources
            .iter()
            .map(|(name, version)| format!("{name}@{version}"))
            .collect();
        format!("{kind}: {} ({})", rejection.message, what.join(" "))
    });
    let peer = card.peer.map(|peer| peer.to_string()).unwrap_or_default();
    vec![
        name,
        card.view.clone(),
        peer,
        taken.collect::<Vec<_>>().join("\n"),
        refused.collect::<Vec<_>>().join("\n"),
    ]
}

fn table(page: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    page.push_str("<table><tr>");
    for cell in head {
        let _ = write!(page, "<th>{cell}</th>");
    }
    page.push_str("</tr>\n");
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            let _ = write!(page, "<td>{}</td>", escaped(&cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

/// Names come from outside; they must not become markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\n', "<br>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ads::{Node, Rejection};
    use crate::core::resources::Kind;

    #[test]
    fn an_empty_fleet_is_said_in_words() {
        let page = page("/", &[], &Quarantine::default(), &Pins::default(), &[], false)
            .unwrap()
            .body;
        assert!(page.contains("No agent is attached") && page.contains("No Envoy is attached"));
        assert!(page.contains("still learns the fleet"));
        assert!(super::page("/else", &[], &Quarantine::default(), &Pins::default(), &[], true).is_none());
    }

    #[test]
    fn the_openapi_document_is_json() {
        let page = super::openapi().unwrap();
        assert_eq!(page.content_type, "application/json");
        let document: serde_json::Value = serde_json::from_str(&page.body).unwrap();
        assert!(document["paths"]["/v1/agents"]["get"].is_object());
    }

    #[test]
    fn a_pin_is_shown_with_the_agents_that_lack_it() {
        let key = crate::core::pins::Key {
            project: "/world".to_owned(),
            pool: String::new(),
        };
        let mut pins = Pins::new(crate::core::pins::Desired::default().with(key, 7, 0).unwrap());
        pins.attach("a", "default");
        pins.attach("b", "default");
        let words = crate::core::pins::Words {
            revision: 1,
            missing: vec!["/world".to_owned()],
            problems: [("/world".to_owned(), "no <file>".to_owned())].into(),
            ..Default::default()
        };
        pins.said("b", words);
        let page = html(&[], &Quarantine::default(), &pins, &[], true);
        assert!(page.contains("<td>all</td><td>0 of 2 agents</td>"), "{page}");
        assert!(page.contains("a: loading<br>b: missing: no &lt;file&gt;"), "{page}");
    }

    #[test]
    fn a_refusal_is_shown_and_foreign_text_stays_text() {
        let node = Node {
            id: "<script>".to_owned(),
            cluster: String::new(),
        };
        let rejection = Rejection {
            message: "no & no".to_owned(),
            resources: vec![("a".to_owned(), "1".to_owned())],
        };
        let card = Card {
            node: Some(node),
            admitted: true,
            refused: [(Kind::Cluster, rejection)].into(),
            ..Card::default()
        };
        let page = html(&[], &Quarantine::default(), &Pins::default(), &[card], true);
        assert!(page.contains("<td>&lt;script&gt;</td>"));
        assert!(page.contains("cds: no &amp; no (a@1)"));
    }
}
