//! Each project has an agent of its own while the fleet is stable, and moves only when it must.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stack::{Plan, Stack, parts};

const PROJECTS: usize = 24;
const CAPABILITIES: &str = "SERVICE=WMS&REQUEST=GetCapabilities";

/// Many small projects: the roads, under many names.
fn lay_out(folder: &Path) {
    let demo = parts::projects().join("public");
    std::fs::copy(demo.join("roads.gpkg"), folder.join("roads.gpkg")).unwrap();
    for number in 0..PROJECTS {
        std::fs::copy(demo.join("roads.qgs"), folder.join(format!("town{number}.qgs"))).unwrap();
    }
}

/// Which agent answers for each project.
async fn homes(stack: &Stack) -> BTreeMap<usize, String> {
    let mut homes = BTreeMap::new();
    for number in 0..PROJECTS {
        let answer = stack.get(&format!("/?MAP=/town{number}&{CAPABILITIES}")).await;
        homes.insert(number, answer.expect(200).agent().to_owned());
    }
    homes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_project_has_one_agent_and_moves_only_when_it_must() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let mut stack = Plan::agents(3).workers(1).projects(folder.path()).start().await;

    let before = homes(&stack).await;
    let agents: BTreeSet<&String> = before.values().collect();
    assert_eq!(agents.len(), 3, "projects are spread: {before:?}");
    assert_eq!(homes(&stack).await, before, "nothing moves while nothing changes");
    for number in [0, 7, 13] {
        every_spelling_goes_home(&stack, number, &before[&number]).await;
    }
    // A project is loaded where it is at home and nowhere else.
    for agent in &stack.agents {
        let own: BTreeSet<String> = before
            .iter()
            .filter(|(_, home)| **home == agent.name)
            .map(|(number, _)| format!("/town{number}"))
            .collect();
        let held: BTreeSet<String> = agent
            .workers()
            .await
            .into_iter()
            .flat_map(|worker| worker.projects)
            .collect();
        assert_eq!(held, own, "{}", agent.name);
    }

    // The projects of an agent that goes move, the others stay; when it is back, so are they.
    let gone = before[&0].clone();
    stack.agent_mut(&gone).kill();
    stack.until_in_service(2).await;
    let without = homes(&stack).await;
    for (number, home) in &without {
        if before[number] == gone {
            assert_ne!(*home, gone);
        } else {
            assert_eq!(*home, before[number], "town{number} did not have to move");
        }
    }
    stack.agent_mut(&gone).start();
    stack.until_in_service(3).await;
    assert_eq!(homes(&stack).await, before);
}

async fn every_spelling_goes_home(stack: &Stack, number: usize, home: &str) {
    let name = format!("town{number}");
    for target in [
        format!("/?MAP={name}&{CAPABILITIES}"),
        format!("/?map=/{name}&service=wms&request=getcapabilities"),
        format!("/?{CAPABILITIES}&Map=%2F{name}"),
        format!("/?MAP=%2f{name}.qgs&{CAPABILITIES}"),
        format!("/ows?MAP=/{name}&{CAPABILITIES}"),
        format!("/ows/{name}?{CAPABILITIES}"),
        format!("/ows/{name}.qgs?{CAPABILITIES}"),
        format!("/ows/{name}/?{CAPABILITIES}"),
        format!("/ows/{name}/wfs3/collections.json"),
        format!("/wfs3/collections.json?MAP=/{name}"),
        format!("/?MAP=/{name}&SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME=roads&MAXFEATURES=1"),
    ] {
        let answer = stack.get(&target).await;
        assert_eq!(answer.expect(200).agent(), home, "{target}");
    }
    let form = "application/x-www-form-urlencoded";
    for body in [
        format!("MAP=/{name}&{CAPABILITIES}"),
        format!("{CAPABILITIES}&map=%2F{name}.qgs"),
    ] {
        let answer = stack.client().post("/", form, body.clone()).await;
        assert_eq!(answer.expect(200).agent(), home, "POST {body}");
    }
}
