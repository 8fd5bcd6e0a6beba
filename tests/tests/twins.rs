//! Two control planes beside each other: agents are attached to both, Envoy to one of them. Either may be killed or hang at any
//! time; what is done through one counts with the other; stores that do not belong together are noticed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Output;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stack::load::Load;
use stack::postgres::Postgres;
use stack::shots::{Shot, mix};
use stack::{ControlPlane, Plan, Stack, until};

const CLIENTS: usize = 4;

/// A load that is to show anything has at least so many requests.
const LEAST: u64 = 200;

async fn pause(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// Runs a command against one of the control planes, which must do it.
fn ask(control_plane: &ControlPlane, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = control_plane.cli(arguments);
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{arguments:?}: {said}");
    said
}

/// The sum of a metric over all labels; 0 when nobody answers.
async fn metric(control_plane: &ControlPlane, name: &str) -> f64 {
    let answer = control_plane.status().ask(http::Method::GET, "/metrics", &[], "").await;
    let text = answer.map(|answer| answer.text()).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Waits until Envoy is attached to this one.
async fn until_heard(stack: &Stack, which: usize) {
    let since = Instant::now();
    until("Envoy to move", async || {
        metric(&stack.control_planes[which], "graticule_xds_clients").await > 0.5
    })
    .await;
    println!("Envoy hears control plane {which} after {:?}", since.elapsed());
}

/// The one that Envoy is attached to: the first, but where both are starting at once.
async fn heard(stack: &Stack) -> usize {
    let mut heard = None;
    until("Envoy to be attached", async || {
        for (which, control_plane) in stack.control_planes.iter().enumerate() {
            if metric(control_plane, "graticule_xds_clients").await > 0.5 {
                heard = Some(which);
            }
        }
        heard.is_some()
    })
    .await;
    heard.unwrap()
}

/// How each agent stands with each control plane.
async fn standings(stack: &Stack) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for agent in &stack.agents {
        let links = agent.stats().await.control_planes;
        all.push(links.into_iter().map(|link| link.standing).collect());
    }
    all
}

async fn until_all_stand(stack: &Stack, wanted: [&str; 2]) {
    until(&format!("every agent to stand {wanted:?}"), async || {
        standings(stack).await.iter().all(|one| *one == wanted)
    })
    .await;
}

/// Waits until every agent has these pinned and loaded, and nothing else.
async fn until_pinned(stack: &Stack, projects: &[&str]) {
    until(&format!("every agent to have {projects:?}"), async || {
        for agent in &stack.agents {
            if agent.stats().await.state.unwrap().pins != projects {
                return false;
            }
        }
        true
    })
    .await;
}

/// A stack whose control planes share a store.
async fn shared() -> (Postgres, Stack) {
    let postgres = Postgres::start().await;
    postgres.sql(
        "gis",
        "CREATE ROLE fleet LOGIN PASSWORD 'hush'; GRANT CREATE ON SCHEMA public TO fleet",
    );
    let store = format!("postgresql://fleet:hush@{}/gis", postgres.address());
    let plan = Plan::agents(2).twins().control_plane("CONF_STORE__URL", store);
    let stack = plan.control_plane("CONF_FLEET__SYNC_WINDOW", 1.0).start().await;
    until_all_stand(&stack, ["agrees", "agrees"]).await;
    (postgres, stack)
}

/// Load on a stack that has loaded what it is asked for.
async fn loaded(stack: &Stack) -> (Load, Vec<Shot>) {
    let shots = mix();
    for shot in &shots {
        let answer = stack.get(&shot.target).await;
        shot.judge(&answer).unwrap();
    }
    let load = Load::start(stack.client(), CLIENTS, &shots);
    pause(0.5).await;
    (load, shots)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_either_is_killed_and_what_one_is_told_the_other_knows() {
    let (_postgres, mut stack) = shared().await;
    let snapshots = |stack: &Stack| [0, 1].map(|one: usize| ask(&stack.control_planes[one], &["snapshot", "--json"]));
    let [one, other] = snapshots(&stack);
    assert_eq!(one, other, "the same input gives the same snapshot");
    let (load, shots) = loaded(&stack).await;
    let first = heard(&stack).await;

    // Pinned through one, seen by way of the other: the agents have heard the newer revision by whichever was first.
    let since = Instant::now();
    ask(&stack.control_planes[1], &["pins", "add", "/world"]);
    println!("pinned on both agents after {:?}", since.elapsed());
    until_pinned(&stack, &["/world"]).await;
    until("the other to know", async || {
        ask(&stack.control_planes[0], &["pins", "list"]).contains("2/2")
    })
    .await;

    for (gone, there) in [(first, 1 - first), (1 - first, first)] {
        let before = metric(&stack.control_planes[there], "graticule_xds_pushes_total").await;
        stack.control_planes[gone].kill();
        until_heard(&stack, there).await;
        pause(1.0).await;
        let after = metric(&stack.control_planes[there], "graticule_xds_pushes_total").await;
        assert!((after - before).abs() < 0.5, "{after} answers, {before} before");
        ask(&stack.control_planes[there], &["pins", "add", "/points"]);
        until_pinned(&stack, &["/points", "/world"]).await;

        stack.control_planes[gone].start();
        until_all_stand(&stack, ["agrees", "agrees"]).await;
        until("the one that was away to know", async || {
            let listed = stack.control_planes[gone].cli(&["pins", "list"]).stdout;
            String::from_utf8(listed).unwrap().matches("2/2").count() == 2
        })
        .await;
        // An order by the one that Envoy does not hear, and its end by the other.
        ask(&stack.control_planes[gone], &["fleet", "drain", "agent-1"]);
        stack.until_in_service(1).await;
        ask(&stack.control_planes[there], &["fleet", "resume", "agent-1"]);
        stack.until_in_service(2).await;
        ask(&stack.control_planes[gone], &["pins", "remove", "/points"]);
        until_pinned(&stack, &["/world"]).await;
        let [one, other] = snapshots(&stack);
        assert_eq!(one, other);
    }
    load.stop().await.expect_no_failure(LEAST, &shots);
    let shown = stack.agents[0].metrics().get("/metrics").await.text();
    assert_eq!(
        shown.matches("graticule_control_plane_connected{").count(),
        2,
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_holds_nobody_up() {
    let (_postgres, mut stack) = shared().await;
    let (load, shots) = loaded(&stack).await;
    let hangs = heard(&stack).await;
    let other = 1 - hangs;
    stack.control_planes[hangs].signal(Signal::SIGSTOP);
    // At once, while agents and Envoy take the one that hangs for well.
    ask(&stack.control_planes[other], &["pins", "add", "/world"]);
    until_pinned(&stack, &["/world"]).await;
    until_heard(&stack, other).await;
    let mut standing = ["agrees"; 2];
    standing[hangs] = "away";
    until_all_stand(&stack, standing).await;
    stack.agents[0].terminate();
    stack.until_in_service(1).await;
    let ended = stack.agents[0].until_ended().await;
    assert!(ended.success(), "it stopped as it was told: {ended}");
    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    stack.until_in_service(2).await;
    stack.control_planes[hangs].signal(Signal::SIGCONT);
    until_all_stand(&stack, ["agrees", "agrees"]).await;
    load.stop().await.expect_no_failure(LEAST, &shots);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_stores_the_first_counts_and_everybody_is_told() {
    let mut stack = Plan::agents(1).twins().start().await;
    ask(&stack.control_planes[0], &["pins", "add", "/world"]);
    until_pinned(&stack, &["/world"]).await;
    until_all_stand(&stack, ["agrees", "other store"]).await;
    // The other one has nobody who does what it says; who asks it does not wait for that here.
    let second = stack.control_planes[1].fleet().to_string();
    let mut asking = std::process::Command::new(stack::parts::binary("control-plane"))
        .args(["pins", "add", "/points", "--host", &second])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the other one to know", async || {
        ask(&stack.control_planes[1], &["pins", "list"]).contains("/points")
    })
    .await;
    asking.kill().unwrap();
    asking.wait().unwrap();
    pause(3.0).await;
    until_pinned(&stack, &["/world"]).await;
    assert!(ask(&stack.control_planes[1], &["pins", "list"]).contains("0/1"));
    let agent = &stack.agents[0];
    let shown = agent.metrics().get("/metrics").await.text();
    let ignored = shown
        .lines()
        .filter(|line| line.starts_with("graticule_control_plane_pins_ignored") && line.ends_with(" 1"));
    assert_eq!(ignored.count(), 1, "{shown}");
    until("the agent's log to say it", async || {
        agent.log().contains("give all of them the same store.url")
    })
    .await;
    let stats = String::from_utf8(agent.cli(&["stats"]).stdout).unwrap();
    assert!(
        stats.contains("its pins are ignored: it has another store than a control plane before it"),
        "{stats}"
    );

    stack.control_planes[0].kill();
    until_pinned(&stack, &["/points"]).await;
    stack.control_planes[0].start();
    until_pinned(&stack, &["/world"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_go_back_when_the_store_gets_another_identity_and_else_not() {
    let (postgres, mut stack) = shared().await;
    ask(&stack.control_planes[0], &["pins", "add", "/world"]);
    postgres.sql("gis", "CREATE TABLE copy AS SELECT * FROM graticule_documents");
    ask(&stack.control_planes[1], &["pins", "add", "/points"]);
    until_pinned(&stack, &["/points", "/world"]).await;

    stack.control_planes.iter_mut().for_each(ControlPlane::kill);
    postgres.sql(
        "gis",
        "DELETE FROM graticule_documents; INSERT INTO graticule_documents SELECT * FROM copy",
    );
    stack.control_planes.iter_mut().for_each(ControlPlane::start);
    until_all_stand(&stack, ["behind", "behind"]).await;
    until_pinned(&stack, &["/points", "/world"]).await;
    // Not after a restart of the agent either.
    stack.agents[0].kill();
    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    until_all_stand(&stack, ["behind", "behind"]).await;
    until_pinned(&stack, &["/points", "/world"]).await;

    stack.control_planes.iter_mut().for_each(ControlPlane::kill);
    postgres.sql("gis", "DELETE FROM graticule_documents WHERE kind = 'identity'");
    stack.control_planes.iter_mut().for_each(ControlPlane::start);
    until_pinned(&stack, &["/world"]).await;
    until_all_stand(&stack, ["agrees", "agrees"]).await;
}
