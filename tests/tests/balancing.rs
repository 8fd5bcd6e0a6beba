//! Projects and places, with real agents: what one of them has no places for is moved to the other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use serde_json::Value;
use stack::{Plan, Stack, parts, until};

/// As many as the two agents have places for together.
const PROJECTS: usize = 24;
const PLACES: usize = PROJECTS / 2;

fn project(number: usize) -> String {
    format!("/town{number:02}")
}

/// Asks for a map of each project; gives how many each agent drew.
async fn round(stack: &Stack) -> BTreeMap<String, usize> {
    let mut drew = BTreeMap::new();
    for number in 0..PROJECTS {
        let target = format!(
            "/?MAP={}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=countries&STYLES=&CRS=EPSG:4326&BBOX=-60,-120,60,120\
             &WIDTH=64&HEIGHT=32&FORMAT=image/png",
            project(number)
        );
        let answer = stack.get(&target).await;
        *drew.entry(answer.expect(200).agent().to_owned()).or_default() += 1;
    }
    drew
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_agent_has_no_places_for_is_moved_to_the_other() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(parts::projects().join("world.gpkg"), folder.path().join("world.gpkg")).unwrap();
    for number in 0..PROJECTS {
        let file = folder.path().join(format!("{}.qgs", &project(number)[1..]));
        std::fs::copy(parts::projects().join("world.qgs"), file).unwrap();
    }
    let plan = Plan::agents(2).workers(1).projects(folder.path());
    let stack = plan.agent("CONF_WORKER__QGIS__MAX_PROJECTS", PLACES).start().await;
    let by_hash = round(&stack).await;
    let most = by_hash.values().copied().max().unwrap();
    round(&stack).await;
    until("each agent to serve what it has places for", async || {
        round(&stack).await.values().all(|drew| *drew == PLACES)
    })
    .await;
    let placed: Value = serde_json::from_slice(&stack.cli(&["placements", "--json"]).stdout).unwrap();
    let moved = placed["projects"].as_array().unwrap();
    println!("by hash {by_hash:?}, moved {}", moved.len());
    assert_eq!(moved.len(), most - PLACES, "no more than need be: {moved:?}");
    assert!(moved.iter().all(|one| one["reason"] == "overfull"));
    assert!(
        placed["agents"]
            .as_array()
            .unwrap()
            .iter()
            .all(|agent| agent["places"] == PLACES)
    );
}
