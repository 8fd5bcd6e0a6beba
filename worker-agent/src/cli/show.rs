//! How answers read: tables for people, JSON for programs. Pure.

use std::fmt::Write as _;

use graticule_cli::{Ink, row, table};
use graticule_proto::v1::{AgentState, ControlPlaneLink, ListCacheReply, StatsReply, WorkerInfo};
use serde_json::{Value, json};

#[allow(clippy::cast_precision_loss, reason = "bytes to show, not to count")]
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

pub(super) fn phase(stats: &StatsReply) -> String {
    let phase = stats.state.as_ref().map(AgentState::phase).unwrap_or_default();
    phase.as_str_name().trim_start_matches("AGENT_PHASE_").to_lowercase()
}

pub(super) fn stats(ink: Ink, stats: &StatsReply) -> String {
    let state = stats.state.clone().unwrap_or_default();
    let mut text = format!(
        "{} for {:.0} s: {} of {} workers live, {} busy, {} requests waiting\n\
         failure pressure {:.2}, request pressure {:.2}, generation {}\n",
        phase(stats),
        stats.uptime_seconds,
        state.live,
        state.capacity,
        state.busy,
        state.waiting,
        state.failure_pressure,
        state.request_pressure,
        state.generation
    );
    if !state.waits_for.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "waits for {}", state.waits_for.join(", "));
    }
    if state.degraded {
        text.push_str("degraded: workers keep failing; the log says why\n");
    }
    if let Some(memory) = &stats.memory {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "memory {} of {} in use ({}); a worker is replaced above {}, killed above {}",
            megabytes(memory.used),
            megabytes(memory.total),
            memory.source,
            megabytes(memory.soft_limit),
            megabytes(memory.hard_limit)
        );
    }
    let mut counts = |what: &str, mut counts: Vec<(String, u64)>| {
        counts.retain(|(_, count)| *count > 0);
        counts.sort();
        let list: Vec<String> = counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        let _ = writeln!(
            text,
            "{what} {}",
            if list.is_empty() {
                "none".to_owned()
            } else {
                list.join(", ")
            }
        );
    };
    counts(
        "answers by status:",
        stats
            .answers
            .iter()
            .map(|(status, count)| (status.to_string(), *count))
            .collect(),
    );
    counts(
        "workers gone by reason:",
        stats
            .exits
            .iter()
            .map(|(reason, count)| (reason.clone(), *count))
            .collect(),
    );
    let _ = writeln!(text, "{}", response_cache(stats));
    for link in &stats.control_planes {
        let _ = writeln!(text, "{}", control_plane(link));
    }
    let mut lanes = vec![row(["LANE", "RUNNING", "WAITING", "GUARANTEED", "MAXIMUM"])];
    for lane in &stats.lanes {
        let counts = [lane.running, lane.waiting, lane.guaranteed, lane.maximum];
        lanes.push(
            std::iter::once(lane.name.clone())
                .chain(counts.iter().map(u32::to_string))
                .collect(),
        );
    }
    text.push_str(&table(ink, &lanes));
    let mut rows = vec![row([
        "WORKER", "PID", "STATE", "START", "SERVED", "PRIVATE", "BUSY", "PROJECTS",
    ])];
    for worker in &stats.workers {
        rows.push(worker_cells(worker).into());
    }
    text + &table(ink, &rows)
}

/// A worker in a table: number, process, state, start and generation, requests, memory, time in its request, projects.
pub(super) fn worker_cells(worker: &WorkerInfo) -> [String; 8] {
    [
        worker.id.to_string(),
        worker.pid.to_string(),
        worker.state.clone(),
        format!("{} {}", worker.start, worker.generation),
        worker.served.to_string(),
        megabytes(worker.private_bytes),
        if worker.busy_seconds > 0.0 {
            format!("{:.1} s", worker.busy_seconds)
        } else {
            "-".to_owned()
        },
        plain(&worker.projects.join(" ")),
    ]
}

/// A text of somebody else's on one line, and without what terminals take for orders.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn control_plane(link: &ControlPlaneLink) -> String {
    let (address, revision) = (&link.address, link.pins_revision);
    let how = match link.standing.as_str() {
        "away" => "not attached".to_owned(),
        "silent" => "attached, and has told no pins yet".to_owned(),
        "agrees" => format!("attached, pins of revision {revision}"),
        "behind" => format!("attached, its pins are ignored: revision {revision} is older than what is known"),
        "other store" => {
            "attached, its pins are ignored: it has another store than a control plane before it".to_owned()
        }
        other => other.to_owned(),
    };
    format!("control plane {address}: {how}")
}

fn response_cache(stats: &StatsReply) -> String {
    let cache = stats.cache.unwrap_or_default();
    let joined = format!("{} joined another's render", cache.joined);
    if cache.max_bytes == 0 {
        return format!("response cache: off, {joined}");
    }
    format!(
        "response cache: {} answers, {} of {}, {} hits, {} misses, {joined}",
        cache.entries,
        megabytes(cache.bytes),
        megabytes(cache.max_bytes),
        cache.hits,
        cache.misses
    )
}

pub(super) fn stats_json(stats: &StatsReply) -> Value {
    let state = stats.state.clone().unwrap_or_default();
    let cache = stats.cache.unwrap_or_default();
    let workers: Vec<_> = stats
        .workers
        .iter()
        .map(|worker| {
            json!({
                "id": worker.id, "pid": worker.pid, "state": worker.state, "start": worker.start,
                "generation": worker.generation, "served": worker.served, "private_bytes": worker.private_bytes,
                "busy_seconds": worker.busy_seconds, "projects": worker.projects,
            })
        })
        .collect();
    let lanes: Vec<_> = stats
        .lanes
        .iter()
        .map(|lane| {
            json!({
                "name": lane.name, "running": lane.running, "waiting": lane.waiting,
                "guaranteed": lane.guaranteed, "maximum": lane.maximum,
            })
        })
        .collect();
    let memory = stats.memory.as_ref().map(|memory| {
        json!({
            "total": memory.total, "used": memory.used, "source": memory.source,
            "soft_limit": memory.soft_limit, "hard_limit": memory.hard_limit,
        })
    });
    let control_planes: Vec<_> = stats
        .control_planes
        .iter()
        .map(|link| {
            json!({
                "address": link.address, "standing": link.standing, "store_id": link.store_id,
                "pins_revision": link.pins_revision,
            })
        })
        .collect();
    json!({
        "phase": phase(stats), "capacity": state.capacity, "live": state.live, "busy": state.busy,
        "waiting": state.waiting, "failure_pressure": state.failure_pressure,
        "request_pressure": state.request_pressure, "generation": state.generation, "pins": state.pins,
        "cache": {
            "entries": cache.entries, "bytes": cache.bytes, "max_bytes": cache.max_bytes, "hits": cache.hits,
            "misses": cache.misses, "joined": cache.joined,
        },
        "uptime_seconds": stats.uptime_seconds, "answers": stats.answers, "exits": stats.exits, "workers": workers,
        "degraded": state.degraded, "waits_for": state.waits_for, "lanes": lanes, "memory": memory,
        "control_planes": control_planes,
    })
}

pub(super) fn cache(ink: Ink, cache: &ListCacheReply) -> String {
    if cache.projects.is_empty() {
        return "no project is loaded or pinned\n".into();
    }
    let mut rows = vec![row(["PROJECT", "PINNED", "WORKERS", "LOAD", "HITS", "NOTES"])];
    for project in &cache.projects {
        let mut notes = project.problem.clone();
        if !project.bad_layers.is_empty() {
            let _ = write!(notes, "bad layers: {}", project.bad_layers.join(", "));
        }
        if project.outdated {
            notes.push_str(if notes.is_empty() { "" } else { "; " });
            notes.push_str("some workers hold an older version");
        }
        rows.push(vec![
            project.project.clone(),
            if project.pinned { "yes" } else { "no" }.into(),
            project.workers.to_string(),
            format!("{:.0} ms", project.load_ms),
            project.hits.to_string(),
            notes,
        ]);
    }
    table(ink, &rows)
}

pub(super) fn cache_json(cache: &ListCacheReply) -> Value {
    let projects: Vec<_> = cache
        .projects
        .iter()
        .map(|project| {
            json!({
                "project": project.project, "pinned": project.pinned, "workers": project.workers,
                "version": project.version, "load_ms": project.load_ms, "hits": project.hits,
                "bad_layers": project.bad_layers, "problem": project.problem, "outdated": project.outdated,
                "slow_layers": project.slow_layers.iter()
                    .map(|slow| json!({"layer": slow.layer, "load_ms": slow.load_ms}))
                    .collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "projects": projects })
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::{CachedProject, WorkerInfo};

    use super::*;

    #[test]
    fn tables_line_up() {
        let project = CachedProject {
            project: "/world".into(),
            pinned: true,
            workers: 2,
            ..CachedProject::default()
        };
        let text = cache(
            Ink::PLAIN,
            &ListCacheReply {
                projects: vec![project],
            },
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].find("PINNED"), lines[1].find("yes"));
    }

    #[test]
    fn json_is_json() {
        let reply = StatsReply {
            workers: vec![WorkerInfo::default()],
            ..StatsReply::default()
        };
        let value = stats_json(&reply);
        assert_eq!(value["workers"].as_array().unwrap().len(), 1);
        assert!(stats(Ink::PLAIN, &reply).starts_with("unspecified for 0 s"));
        assert!(stats(Ink::PLAIN, &reply).contains("response cache: off, 0 joined"));
        assert_eq!(value["cache"]["hits"], 0);
    }

    #[test]
    fn every_control_plane_is_shown_with_what_is_wrong_with_it() {
        let link = |standing: &str| ControlPlaneLink {
            address: format!("http://{}", standing.replace(' ', "-")),
            standing: standing.to_owned(),
            store_id: "s".to_owned(),
            pins_revision: 7,
        };
        let reply = StatsReply {
            control_planes: ["agrees", "away", "other store"].map(link).into(),
            ..StatsReply::default()
        };
        let text = stats(Ink::PLAIN, &reply);
        assert!(text.contains("\ncontrol plane http://agrees: attached, pins of revision 7\n"));
        assert!(text.contains("\ncontrol plane http://away: not attached\n"));
        assert!(text.contains("http://other-store: attached, its pins are ignored: it has another store"));
        assert_eq!(stats_json(&reply)["control_planes"][1]["standing"], "away");
    }
}
