//! Pins of the whole fleet, by the control plane's command line: every agent has them, through the death of agents and of
//! the control plane; an agent that cannot is named, and its own pins are its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Output;

use serde_json::Value;
use stack::{Agent, Plan, Stack, parts, until};

/// Runs `control-plane pins …` and checks its exit code; gives what it printed, standard output first.
fn pins(stack: &Stack, arguments: &[&str], code: i32) -> String {
    let arguments: Vec<&str> = ["pins"].iter().chain(arguments).copied().collect();
    let Output { status, stdout, stderr } = stack.cli(&arguments);
    let (said, wrong) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{arguments:?}: {said}{wrong}");
    said + &wrong
}

/// Each agent's state and problem for a pin; none when there is no such pin or nobody answers.
fn states(stack: &Stack, project: &str) -> Vec<(String, String, String)> {
    let Output { stdout, .. } = stack.cli(&["pins", "list", "--json"]);
    let list: Value = serde_json::from_slice(&stdout).unwrap_or_default();
    let listed = list["pins"].as_array().into_iter().flatten();
    let agents = listed
        .filter(|pin| pin["project"] == project)
        .flat_map(|pin| pin["agents"].as_array().unwrap());
    let text = |agent: &Value, key: &str| agent[key].as_str().unwrap().to_owned();
    agents
        .map(|agent| (text(agent, "agent"), text(agent, "state"), text(agent, "problem")))
        .collect()
}

async fn until_loaded(stack: &Stack, project: &str, agents: usize) {
    until(
        &format!("{agents} agents to say that they have {project}"),
        async || {
            let states = states(stack, project);
            states.len() == agents && states.iter().all(|(_, state, _)| state == "loaded")
        },
    )
    .await;
}

/// Waits until every worker of the agent holds these and nothing else.
async fn until_held(agent: &Agent, projects: &[&str]) {
    until(
        &format!("every worker of {} to hold {projects:?}", agent.name),
        async || {
            let Ok(stats) = agent.try_stats().await else {
                return false;
            };
            let holds =
                |held: &[String]| held.len() == projects.len() && projects.iter().all(|p| held.iter().any(|h| h == p));
            let workers = &stats.workers;
            workers.len() == 2
                && workers
                    .iter()
                    .all(|worker| worker.state == "idle" && holds(&worker.projects))
        },
    )
    .await;
}

/// Runs the agent's own command line and checks its exit code.
fn own(agent: &Agent, arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = agent.cli(arguments);
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {said}");
    said
}

async fn metric(stack: &Stack, name: &str) -> String {
    let text = stack.status().get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_of_the_fleet_reaches_every_agent_and_outlives_them_and_the_control_plane() {
    let mut stack = Plan::agents(3).start().await;
    assert_eq!(pins(&stack, &["list"], 0), "nothing is pinned for the fleet\n");
    own(&stack.agents[0], &["cache", "pin", "/points"], 0);

    let said = pins(&stack, &["add", "world.qgs"], 0);
    assert!(said.starts_with("/world is pinned for every pool\n"), "{said}");
    for agent in ["agent-1", "agent-2", "agent-3"] {
        assert!(said.contains(&format!("\n{agent}: loaded\n")), "{said}");
    }
    assert!(said.ends_with("\n3 of 3 agents have loaded /world\n"), "{said}");
    until_held(&stack.agents[0], &["/points", "/world"]).await;
    until_held(&stack.agents[1], &["/world"]).await;
    until_held(&stack.agents[2], &["/world"]).await;
    assert!(pins(&stack, &["add", "/world"], 0).starts_with("/world is pinned for every pool as before\n"));
    assert!(pins(&stack, &["list"], 0).contains("/world   all   3/3"));
    let wrong = pins(&stack, &["add", "/world", "--pool", "other"], 1);
    assert!(
        wrong.contains("there is no pool `other`; take one of default"),
        "{wrong}"
    );
    assert!(pins(&stack, &["add", "/../world"], 1).contains("steps through"));

    // An agent shows it as pinned, and does not end it by itself.
    let agent = &stack.agents[1];
    let cache: Value = serde_json::from_str(&own(agent, &["cache", "list", "--json"], 0)).unwrap();
    assert_eq!(
        (&cache["projects"][0]["project"], &cache["projects"][0]["pinned"]),
        (&"/world".into(), &true.into())
    );
    let stats: Value = serde_json::from_str(&own(agent, &["stats", "--json"], 0)).unwrap();
    assert_eq!(stats["pins"], serde_json::json!(["/world"]));
    let refused = own(agent, &["cache", "unpin", "/world"], 1);
    assert!(
        refused.contains("pinned for the whole fleet; use `control-plane pins remove /world`"),
        "{refused}"
    );

    // An agent dies; another one while there is no control plane, which dies as well.
    stack.agents[1].kill();
    stack.agents[1].start();
    stack.agents[1].until_ready().await;
    until_held(&stack.agents[1], &["/world"]).await;
    stack.kill_control_plane();
    stack.agents[2].kill();
    stack.agents[2].start();
    stack.agents[2].until_ready().await;
    until_held(&stack.agents[2], &["/world"]).await;
    stack.start_control_plane();
    until_loaded(&stack, "/world", 3).await;
    assert_eq!(metric(&stack, "graticule_fleet_pins").await, "1");
    assert_eq!(metric(&stack, "graticule_fleet_pins_lacking").await, "0");
    let page = stack.status().get("/").await.text();
    assert!(
        page.contains("<td>/world</td><td>all</td><td>3 of 3 agents</td>"),
        "{page}"
    );

    // One that comes later has it, too.
    stack.add_agent().until_ready().await;
    until_loaded(&stack, "/world", 4).await;
    until_held(&stack.agents[3], &["/world"]).await;

    assert_eq!(
        pins(&stack, &["remove", "/world"], 0),
        "/world is no longer pinned for the fleet\n"
    );
    assert_eq!(
        pins(&stack, &["remove", "/world"], 0),
        "/world was not pinned for the fleet\n"
    );
    until_held(&stack.agents[0], &["/points"]).await;
    for agent in &stack.agents[1..] {
        until_held(agent, &[]).await;
    }
    stack.kill_control_plane();
    stack.start_control_plane();
    until("the control plane to answer", async || {
        stack.cli(&["pins", "list"]).status.success()
    })
    .await;
    assert_eq!(pins(&stack, &["list"], 0), "nothing is pinned for the fleet\n");
    // The end of a pin outlives an agent, and what it had pinned for itself does as well.
    stack.agents[0].kill();
    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    until_held(&stack.agents[0], &["/points"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_cannot_load_a_pin_is_named_and_the_others_have_it() {
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(
        parts::failing_projects().join("unreadable.qgs"),
        other.path().join("world.qgs"),
    )
    .unwrap();
    let mut stack = Plan::agents(3)
        .agent("CONF_WORKER__STORAGE__CHECK_INTERVAL", 1)
        .start()
        .await;
    let agent = &mut stack.agents[2];
    agent.kill();
    let paths = serde_json::json!({"/": other.path()}).to_string();
    agent.set("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", &paths);
    agent.start();
    agent.until_ready().await;
    until("three agents", async || {
        stack.status().get("/").await.text().matches("<td>ready</td>").count() == 3
    })
    .await;

    let said = pins(&stack, &["add", "/world"], 1);
    assert!(
        said.contains("agent-1: loaded\n") && said.contains("agent-2: loaded\n"),
        "{said}"
    );
    assert!(
        said.contains("agent-3 cannot load it: ") && said.contains("2 of 3 agents have loaded /world"),
        "{said}"
    );
    let said = pins(&stack, &["add", "/points"], 1);
    assert!(
        said.contains("agent-3 has no such project: there is no project"),
        "{said}"
    );
    until_held(&stack.agents[0], &["/points", "/world"]).await;
    until_held(&stack.agents[1], &["/points", "/world"]).await;
    let found = states(&stack, "/world");
    assert!(found[2].1 == "failed" && !found[2].2.is_empty(), "{found:?}");
    assert_eq!(states(&stack, "/points")[2].1, "missing");
    assert_eq!(metric(&stack, "graticule_fleet_pins_lacking").await, "2");
    // It serves on.
    assert_eq!(stack.in_service().await, Some(3));
    assert!(
        stack
            .status()
            .get("/")
            .await
            .text()
            .contains("agent-3: missing: there is no project")
    );

    // As soon as the projects are there, it has them.
    for file in ["points.gpkg", "points.qgs", "world.gpkg", "world.qgs"] {
        let fresh = other.path().join("fresh");
        std::fs::copy(parts::projects().join(file), &fresh).unwrap();
        std::fs::rename(fresh, other.path().join(file)).unwrap();
    }
    until_loaded(&stack, "/world", 3).await;
    until_loaded(&stack, "/points", 3).await;
    assert_eq!(metric(&stack, "graticule_fleet_pins_lacking").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_damaged_or_cannot_be_written_is_refused() {
    let mut stack = Plan::agents(0).start().await;
    let said = pins(&stack, &["add", "/world"], 0);
    assert!(
        said.contains("no agent is attached; those that come will load /world"),
        "{said}"
    );
    let file = stack.store().join("pins.json");

    // A pin that cannot be written down is refused, and nothing changes.
    std::fs::create_dir(stack.store().join("pins.json.new")).unwrap();
    let said = pins(&stack, &["add", "/points"], 1);
    assert!(
        said.contains("nothing was changed: the store ") && said.contains("see that store.dir"),
        "{said}"
    );
    assert!(!pins(&stack, &["list"], 0).contains("/points"));
    let said = pins(&stack, &["remove", "/world"], 1);
    assert!(said.contains("nothing was changed"), "{said}");
    assert!(pins(&stack, &["list"], 0).contains("/world"));

    stack.kill_control_plane();
    stack.start_control_plane();
    let (status, log) = stack.until_control_plane_ended().await;
    assert_eq!(status.code(), Some(64), "{log}");
    let last = log.lines().last().unwrap();
    assert!(
        last.starts_with("control-plane: the store ") && last.contains("see that store.dir"),
        "{last}"
    );
    std::fs::remove_dir(stack.store().join("pins.json.new")).unwrap();

    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    stack.start_control_plane();
    let (status, log) = stack.until_control_plane_ended().await;
    assert_eq!(status.code(), Some(64), "{log}");
    let last = log.lines().last().unwrap();
    assert!(
        last.contains("pins.json is damaged: ") && last.contains("repair it, or move it away"),
        "{last}"
    );

    std::fs::write(&file, whole).unwrap();
    stack.start_control_plane();
    until("the control plane to answer", async || {
        stack.cli(&["pins", "list"]).status.success()
    })
    .await;
    assert!(pins(&stack, &["list"], 0).contains("/world"));
}
