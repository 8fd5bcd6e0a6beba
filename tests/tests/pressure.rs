//! An agent whose workers keep dying says so, is left by Envoy, and ends with its own exit code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nix::sys::signal::Signal;
use stack::shots::mix;
use stack::{Load, Plan, until_within};

/// What `serve` ends with when failure pressure is above its limit.
const GAVE_UP: i32 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_ends_the_agent_and_nobody_notices() {
    let mut stack = Plan::agents(2)
        .agent("CONF_WORKER__MAX_FAILURE_PRESSURE", 2)
        .start()
        .await;
    let shots = mix();
    for shot in &shots {
        shot.judge(&stack.get(&shot.target).await).unwrap();
    }
    let load = Load::start(stack.client(), 4, &shots);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;

    // Workers of the agent that serves the world are killed as fast as they come; replacements take milliseconds, and
    // still it gives up.
    let mut killed = 0;
    let home = stack.get(&shots[0].target).await.agent().to_owned();
    let agent = stack.agent_mut(&home);
    let gave_up = until_within(stack::PATIENCE, async || {
        let workers = agent.try_stats().await.map(|stats| stats.workers).unwrap_or_default();
        if let Some(worker) = workers
            .iter()
            .find(|worker| matches!(worker.state.as_str(), "idle" | "busy"))
        {
            agent.signal_worker(worker, Signal::SIGKILL);
            killed += 1;
        }
        agent.ended().is_some()
    })
    .await;
    assert!(gave_up, "{killed} workers were killed, and the agent goes on");
    assert_eq!(agent.until_ended().await.code(), Some(GAVE_UP));
    // More than twice its two workers, and the window is a minute.
    assert!(killed >= 5, "it gave up after {killed} deaths");
    let log = agent.log();
    assert!(log.contains("failure pressure"), "it says why it ends");
    stack.until_in_service(1).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let tally = load.stop().await;
    tally.expect_no_failure(50, &shots);

    // An orchestrator starts it anew, and all is as before.
    stack.agent_mut(&home).start();
    stack.until_in_service(2).await;
}
