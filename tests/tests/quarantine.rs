//! A request that kills workers kills two of the whole fleet, however often clients come back with it, and is then refused
//! everywhere; all else goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;
use stack::{Agent, Answer, Plan, Stack, until};

/// A map of the slow project.
fn map(width: u32, more: &str) -> String {
    format!(
        "/?MAP=/slow&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=land,glow,labels&STYLES=&CRS=EPSG:4326\
         &BBOX=-90,-180,90,180&WIDTH={width}&HEIGHT={}&FORMAT=image/png{more}",
        width / 2
    )
}

/// The code of the exception, or `none`.
fn code(answer: &Answer) -> String {
    if answer.status == 200 {
        return "none".into();
    }
    answer.exception().0
}

/// What `quarantine list` shows on an agent.
fn list(agent: &Agent) -> Vec<Value> {
    let output = agent.cli(&["quarantine", "list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list["entries"].as_array().unwrap().clone()
}

fn is_refused_by(agent: &Agent) -> bool {
    list(agent).iter().any(|entry| entry["state"] == "refused")
}

/// How many workers left for a reason, over all agents.
async fn exits(stack: &Stack, reason: &str) -> u64 {
    let stats = join_all(stack.agents.iter().map(Agent::stats)).await;
    stats.iter().filter_map(|stats| stats.exits.get(reason)).sum()
}

/// Both agents refuse it at once, and Envoy asks neither for it twice.
async fn is_refused_everywhere(stack: &Stack, poison: &str) {
    let retries = stack.retries().await;
    let through_envoy = stack.get(poison).await;
    let (one, two) = (stack.agents[0].direct(), stack.agents[1].direct());
    for answer in [through_envoy, one.get(poison).await, two.get(poison).await] {
        let (code, text) = answer.expect(503).exception();
        assert_eq!(code, "RequestQuarantined");
        assert!(text.contains("its fingerprint is"), "{text}");
        let after: u32 = answer.header("retry-after").parse().unwrap();
        assert!((1..=3600).contains(&after), "{after}");
        assert_eq!(answer.header("x-agent-retry"), "");
    }
    assert_eq!(stack.retries().await, retries);
}

/// The control plane's own count of refused requests.
async fn refused_in_the_fleet(stack: &Stack) -> Option<String> {
    let page = stack
        .status()
        .ask(http::Method::GET, "/metrics", &[], "")
        .await
        .ok()?
        .text();
    let line = r#"graticule_cp_quarantine_entries{state="refused"} "#;
    page.lines().find_map(|l| l.strip_prefix(line)).map(str::to_owned)
}

/// Ends every worker that is busy, as a fault in QGIS would, until `stop` is set.
async fn crash_busy_workers(stack: &Stack, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        for agent in &stack.agents {
            for worker in agent.stats().await.workers {
                if worker.state == "busy" {
                    agent.signal_worker(&worker, Signal::SIGSEGV);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_crashes_workers_kills_two_of_the_fleet() {
    let mut stack = Plan::agents(2)
        .agent("CONF_SERVER__TIMEOUT", 60)
        .agent("CONF_WORKER__QUARANTINE__DURATION", 600)
        .start()
        .await;
    let poison = map(3000, "&TOKEN=s3cret");
    stack.get(&map(64, "")).await.expect(200);

    let stop = Arc::new(AtomicBool::new(false));
    let codes = async {
        let mut codes = Vec::new();
        for _ in 0..5 {
            let answer = stack.get(&poison).await;
            codes.push(code(&answer));
            // As the answer's Retry-After asks.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // Many clients at once.
        for answer in join_all((0..20).map(|_| stack.get(&poison))).await {
            codes.push(code(&answer));
        }
        stop.store(true, Ordering::SeqCst);
        codes
    };
    let (codes, ()) = tokio::join!(codes, crash_busy_workers(&stack, &stop));
    assert!(codes.iter().all(|code| code == "RequestQuarantined"), "{codes:?}");
    assert_eq!(
        exits(&stack, "crash").await,
        2,
        "one, and one when the agent tried another worker"
    );
    is_refused_everywhere(&stack, &poison).await;
    stack.get(&map(64, "")).await.expect(200);
    stack.get(&map(100, "&TOKEN=s3cret")).await.expect(200);

    // What operators see.
    let entries = list(&stack.agents[0]);
    assert_eq!(entries.len(), 1, "{entries:?}");
    let fingerprint = entries[0]["fingerprint"].as_str().unwrap().to_owned();
    let agents = entries[0]["agents"].as_object().unwrap();
    assert_eq!(
        (
            agents.values().filter_map(Value::as_u64).sum::<u64>(),
            &entries[0]["kills"]
        ),
        (2, &Value::from(2)),
        "{entries:?}"
    );
    assert_eq!(
        (&entries[0]["project"], &entries[0]["reason"]),
        (&"/slow".into(), &"crash".into())
    );
    let request = entries[0]["request"].as_str().unwrap();
    assert!(
        request.starts_with("GET /?MAP=/slow&") && request.ends_with("&TOKEN=***"),
        "{request}"
    );
    assert_eq!(list(&stack.agents[1])[0]["fingerprint"], fingerprint);
    let logs: String = stack.agents.iter().map(Agent::log).collect();
    let lines: Vec<&str> = logs.lines().filter(|line| line.contains("killed too many")).collect();
    assert_eq!(lines.len(), 1, "said once: {lines:?}");
    assert!(lines[0].contains(&fingerprint) && lines[0].contains("WIDTH=3000") && !logs.contains("s3cret"));

    restarts_change_nothing(&mut stack, &poison).await;

    // Cleared on one agent, it is let through by both.
    let cleared = stack.agents[1].cli(&["quarantine", "clear", &fingerprint]);
    assert!(cleared.status.success());
    let said = String::from_utf8(cleared.stdout).unwrap();
    assert_eq!(said, format!("{fingerprint} is let through again\n"));
    until("both agents to have heard of it", async || {
        stack.agents.iter().all(|agent| list(agent).is_empty())
    })
    .await;
    assert_eq!(refused_in_the_fleet(&stack).await.as_deref(), Some("0"));
    for agent in &stack.agents {
        agent.direct().get(&poison).await.expect(200);
    }
    assert!(stack.agents[0].cli(&["quarantine", "clear", "--all"]).status.success());
    for (arguments, exit) in [(&["quarantine", "clear", "x"][..], 1), (&["quarantine", "clear"], 64)] {
        assert_eq!(
            stack.agents[0].cli(arguments).status.code(),
            Some(exit),
            "{arguments:?}"
        );
    }
}

/// It stays refused while the control plane is away, when a new one comes, and when an agent starts anew.
async fn restarts_change_nothing(stack: &mut Stack, poison: &str) {
    stack.kill_control_plane();
    is_refused_everywhere(stack, poison).await;
    stack.start_control_plane();
    until("the new control plane to know", async || {
        is_refused_everywhere(stack, poison).await;
        refused_in_the_fleet(stack).await.as_deref() == Some("1")
    })
    .await;
    until("Envoy's agents to be told", async || {
        stack.in_service().await == Some(2)
    })
    .await;

    let crashes = async |stack: &Stack| {
        stack.agents[1]
            .stats()
            .await
            .exits
            .get("crash")
            .copied()
            .unwrap_or_default()
    };
    let before = crashes(stack).await;
    let agent = &mut stack.agents[0];
    agent.kill();
    agent.start();
    agent.until_ready().await;
    let agent = &stack.agents[0];
    until("the new process to be told", async || is_refused_by(agent)).await;
    stack.until_in_service(2).await;
    is_refused_everywhere(stack, poison).await;
    assert_eq!(exits(stack, "crash").await, before, "nobody dies of it any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_ends_kills_two_and_nothing_else_suffers() {
    let stack = Plan::agents(2)
        .agent("CONF_SERVER__TIMEOUT", 6)
        .agent("CONF_WORKER__CANCEL_TIMEOUT", 0.3)
        .start()
        .await;
    let poison = map(8000, "");
    let mut codes = Vec::new();
    for _ in 0..4 {
        let answer = stack.get(&poison).await;
        codes.push(code(&answer));
    }
    let late = "DeadlineExceeded".to_owned();
    let refused = "RequestQuarantined".to_owned();
    assert_eq!(codes, [late.clone(), late, refused.clone(), refused]);
    until("the second worker to be gone", async || {
        exits(&stack, "deadline").await == 2
    })
    .await;
    until("the other agent to be told", async || {
        stack.agents.iter().all(is_refused_by)
    })
    .await;
    is_refused_everywhere(&stack, &poison).await;
    stack.get(&map(64, "")).await.expect(200);
    assert_eq!(list(&stack.agents[0])[0]["reason"], "deadline");
    assert_eq!(exits(&stack, "deadline").await, 2);
}
