//! Nothing that clients ask for fails while parts of the stack are killed, stopped, and come back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use graticule_proto::v1::WorkerInfo;
use nix::sys::signal::Signal;
use stack::load::Load;
use stack::shots::{Shot, mix};
use stack::{Plan, Stack, until};

const CLIENTS: usize = 8;

/// A load that gives no rest between failures has to be this large to count.
const LEAST: u64 = 300;

async fn pause(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// The stack under load, once every agent that takes part has loaded what it is asked for.
async fn loaded(agents: usize) -> (Stack, Load, Vec<Shot>) {
    let (stack, shots) = (Plan::agents(agents).start().await, mix());
    for shot in &shots {
        let answer = stack.get(&shot.target).await;
        shot.judge(&answer)
            .unwrap_or_else(|error| panic!("before anything was broken, {}: {error}", shot.name));
    }
    let load = Load::start(stack.client(), CLIENTS, &shots);
    pause(1.0).await;
    (stack, load, shots)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_a_worker_is_killed_every_second() {
    let (stack, load, shots) = loaded(2).await;
    for round in 0..10 {
        let agent = &stack.agents[round % 2];
        let mut workers = agent.workers().await;
        // One that has a request, where there is one.
        workers.sort_by_key(|worker| worker.state != "busy");
        println!(
            "killing worker {} of {}, {}",
            workers[0].id, agent.name, workers[0].state
        );
        agent.signal_worker(&workers[0], Signal::SIGKILL);
        pause(1.0).await;
    }
    load.stop().await.expect_no_failure(LEAST, &shots);
    for agent in &stack.agents {
        until("every worker to be replaced", async || agent.workers().await.len() == 2).await;
        assert_eq!(agent.stats().await.exits.get("crash"), Some(&5), "{}", agent.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_zygotes_are_killed() {
    let (stack, load, shots) = loaded(2).await;
    for _ in 0..2 {
        for agent in &stack.agents {
            let old = agent.stats().await.state.unwrap().generation;
            assert_eq!(agent.kill_zygotes(), 1, "{}", agent.name);
            // Workers go on, and move to the next generation as they fall idle.
            until("workers of a new generation", async || {
                let workers = agent.workers().await;
                let moved = |worker: &WorkerInfo| worker.generation > old && worker.start == "fork";
                workers.len() == 2 && workers.iter().all(moved)
            })
            .await;
        }
    }
    load.stop().await.expect_no_failure(LEAST, &shots);
    for agent in &stack.agents {
        assert_eq!(
            agent.stats().await.exits.get("crash"),
            Some(&0),
            "{}: no worker died with its zygote",
            agent.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_an_agent_is_killed_and_comes_back() {
    let (mut stack, load, shots) = loaded(2).await;
    for agent in 0..2 {
        stack.agents[agent].kill();
        stack.until_in_service(1).await;
        pause(2.0).await;
        stack.agents[agent].start();
        stack.until_in_service(2).await;
        pause(2.0).await;
    }
    let tally = load.stop().await;
    tally.expect_no_failure(LEAST, &shots);
    assert_eq!(tally.agents.len(), 2, "{tally}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_an_agent_is_told_to_stop() {
    let (mut stack, load, shots) = loaded(2).await;
    let retries = stack.retries().await;
    for agent in 0..2 {
        stack.agents[agent].terminate();
        let ended = stack.agents[agent].until_ended().await;
        assert_eq!(ended.code(), Some(0), "it stopped as it was told");
        pause(1.0).await;
        stack.agents[agent].start();
        stack.until_in_service(2).await;
        pause(1.0).await;
    }
    load.stop().await.expect_no_failure(LEAST, &shots);
    assert_eq!(
        stack.retries().await,
        retries,
        "Envoy knew before the ports closed, so nothing had to be tried twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_a_third_agent_joins() {
    let (mut stack, load, shots) = loaded(2).await;
    let joined = stack.add_agent().name.clone();
    stack.until_in_service(3).await;
    pause(4.0).await;
    let tally = load.stop().await;
    tally.expect_no_failure(LEAST, &shots);
    println!("{joined} answered {:?}", tally.agents.get(&joined));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_control_plane_is_away_for_five_seconds() {
    let (mut stack, load, shots) = loaded(2).await;
    stack.kill_control_plane();
    pause(5.0).await;
    stack.start_control_plane();
    // Until it has listened to the agents and told Envoy.
    pause(4.0).await;
    stack.until_in_service(2).await;
    load.stop().await.expect_no_failure(LEAST, &shots);

    // It has learnt the fleet again: what it is told now reaches Envoy.
    stack.agents[0].terminate();
    stack.until_in_service(1).await;
}
