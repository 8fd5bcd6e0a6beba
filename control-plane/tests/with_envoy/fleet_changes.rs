//! What Envoy's clients notice while the fleet, the control plane and the configuration change: nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::stack::{Agent, Answer, Mode, Stack, free_port, request, until};
use control_plane::config::Pool;
use graticule_proto::v1::AgentPhase;
use hyper::{Method, StatusCode};

/// Safe requests for a dozen projects.
pub fn steady_load(stack: &Stack) -> (Arc<AtomicBool>, tokio::task::JoinHandle<Vec<(Instant, Answer)>>) {
    load_of(stack, |n| format!("/?MAP=/project{}&SERVICE=WMS", n % 12))
}

/// Sends these requests, four at a time, until told to stop; gives every answer with its time.
pub fn load_of(
    stack: &Stack,
    target: fn(usize) -> String,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<Vec<(Instant, Answer)>>) {
    let (stop, front) = (Arc::new(AtomicBool::new(false)), stack.front);
    let stopped = Arc::clone(&stop);
    let load = tokio::spawn(async move {
        let client = |client: usize| {
            let stopped = Arc::clone(&stopped);
            async move {
                let mut answers = Vec::new();
                for n in 0..20_000 {
                    if stopped.load(Ordering::SeqCst) {
                        break;
                    }
                    let request = request(Method::GET, &target(n + client), &[], "");
                    let answer = crate::stack::exchange(front, request).await;
                    answers.push((Instant::now(), answer));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                answers
            }
        };
        futures::future::join_all((0..4).map(client))
            .await
            .into_iter()
            .flatten()
            .collect()
    });
    (stop, load)
}

pub async fn all_good(
    stop: Arc<AtomicBool>,
    load: tokio::task::JoinHandle<Vec<(Instant, Answer)>>,
) -> Vec<(Instant, Answer)> {
    stop.store(true, Ordering::SeqCst);
    let answers = load.await.unwrap();
    let bad: Vec<_> = answers
        .iter()
        .filter(|(_, a)| a.status != 200)
        .map(|(_, a)| (a.status, &a.body))
        .collect();
    println!("{} answers, {} of them bad", answers.len(), bad.len());
    assert!(answers.len() > 50, "there was a load");
    assert!(bad.is_empty(), "{bad:?}");
    answers
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_draining_agent_gets_nothing_new_and_finishes_what_it_has() {
    let (stack, [a, _b]) = Stack::with_agents(["a", "b"]).await;
    let mut of_a = 0;
    while stack.get(&format!("/?MAP=/p{of_a}")).await.agent() != "a" {
        of_a += 1;
        assert!(of_a < 100, "some project lives on a");
    }
    let target = format!("/?MAP=/p{of_a}");
    a.be(Mode::Slow(Duration::from_millis(400)));
    let in_flight = stack.get(&target);
    let drain = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        a.be(Mode::Prompt);
        let said = Instant::now();
        a.say(AgentPhase::Draining);
        stack.until_healthy("pool/default", 1).await;
        println!(
            "DRAINING said → Envoy's own count of healthy agents has changed: {:?}",
            said.elapsed()
        );
        for project in 0..20 {
            assert_eq!(stack.get(&format!("/?MAP=/p{project}")).await.agent(), "b");
        }
    };
    let (in_flight, ()) = tokio::join!(in_flight, drain);
    assert_eq!((in_flight.status, in_flight.agent()), (StatusCode::OK, "a"));
    a.say(AgentPhase::Ready);
    stack.until_healthy("pool/default", 2).await;
    assert_eq!(stack.get(&target).await.agent(), "a", "its project is at home again");
}

#[tokio::test]
async fn starting_is_not_told_and_failing_gets_nothing() {
    let (stack, [a, b]) = Stack::with_agents(["a", "b"]).await;
    a.say(AgentPhase::Starting);
    stack.until_healthy("pool/default", 1).await;
    assert_eq!(stack.stat("cluster.pool/default.membership_total").await, 1);
    b.say(AgentPhase::Failing);
    stack.until_healthy("pool/default", 0).await;
    assert_eq!(
        stack.get("/?MAP=/world&SERVICE=WMS").await.status,
        503,
        "no panic: nothing is sent to either"
    );
    a.say(AgentPhase::Ready);
    stack.until_healthy("pool/default", 1).await;
    assert_eq!(
        stack.stat("cluster.pool/default.membership_total").await,
        2,
        "it drains beside one that serves"
    );
}

#[tokio::test]
async fn the_sudden_death_of_an_agent_fails_no_safe_request() {
    let (stack, agents) = Stack::with_agents(["a", "b", "c"]).await;
    let (stop, load) = steady_load(&stack);
    a_moment().await;
    let [a, _b, _c] = agents;
    let died = Instant::now();
    drop(a);
    stack.until_healthy("pool/default", 2).await;
    println!(
        "death → Envoy forgets the agent: {:?} (the grace is 0.5 s)",
        died.elapsed()
    );
    a_moment().await;
    let _again = Agent::start("a", "default", stack.config.fleet.listen);
    stack.until_healthy("pool/default", 3).await;
    a_moment().await;
    all_good(stop, load).await;
}

#[tokio::test]
async fn agents_that_are_cut_off_all_at_once_are_sent_requests_as_before() {
    let (stack, agents) = Stack::with_agents(["a", "b"]).await;
    stack.until_healthy("pool/default", 2).await;
    for agent in &agents {
        agent.part();
    }
    until("their loss", async || {
        stack.page("/metrics").await.contains("graticule_cp_agents_lost 2")
    })
    .await;
    let mut by = BTreeSet::new();
    for project in 0..20 {
        let answer = stack.get(&format!("/?MAP=/p{project}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        by.insert(answer.agent().to_owned());
    }
    assert_eq!(by.len(), 2, "{by:?}");
}

#[tokio::test]
async fn an_agent_that_says_it_drains_and_then_goes_fails_no_request() {
    let (stack, [a, _b]) = Stack::with_agents(["a", "b"]).await;
    let (stop, load) = steady_load(&stack);
    a_moment().await;
    a.say(AgentPhase::Draining);
    a_moment().await;
    drop(a);
    a_moment().await;
    all_good(stop, load).await;
}

#[tokio::test]
async fn a_new_control_plane_changes_nothing_for_envoy() {
    let (mut stack, _agents) = Stack::with_agents(["a", "b", "c"]).await;
    let (stop, load) = steady_load(&stack);
    a_moment().await;
    let home = stack.get("/?MAP=/world").await.agent().to_owned();
    let names = [
        "cluster_manager.cluster_modified",
        "cluster_manager.cluster_removed",
        "listener_manager.listener_modified",
    ];
    let mut before = Vec::new();
    for name in names {
        before.push(stack.stat(name).await);
    }
    stack.restart_control_plane(Duration::from_secs(1), |_| {}).await;
    until("Envoy to be back", async || {
        stack.page("/metrics").await.contains("graticule_xds_clients 1")
    })
    .await;
    until("the agents to be back", async || {
        stack.page("/readyz").await.trim() == "ready"
    })
    .await;
    for _ in 0..5 {
        a_moment().await;
        assert_eq!(stack.stat("cluster.pool/default.membership_healthy").await, 3);
    }
    for (name, before) in names.into_iter().zip(before) {
        assert_eq!(
            stack.stat(name).await,
            before,
            "{name}: the same content has the same version"
        );
    }
    let pushes: String = stack
        .page("/metrics")
        .await
        .lines()
        .filter(|l| l.starts_with("graticule_xds_pushes"))
        .collect();
    assert!(
        pushes.contains(r#"{type="cds"} 0"#) && pushes.contains(r#"{type="lds"} 0"#),
        "{pushes}"
    );
    assert_eq!(stack.get("/?MAP=/world").await.agent(), home);
    all_good(stop, load).await;
}

#[tokio::test]
async fn a_control_plane_that_no_agent_finds_takes_none_from_envoys() {
    let (mut stack, [_a]) = Stack::with_agents(["a"]).await;
    let (stop, load) = steady_load(&stack);
    // Where it listens for agents from now on, nobody looks.
    stack
        .restart_control_plane(Duration::ZERO, |config| {
            (config.fleet.listen, config.fleet.sync_window) = (free_port(), 0.1);
        })
        .await;
    let told = |metrics: String| {
        ["clients 1", "snapshots_total 1", "pools_awaited 1"]
            .iter()
            .all(|line| metrics.contains(line))
    };
    until("Envoy to be back and to be told", async || {
        told(stack.page("/metrics").await)
    })
    .await;
    for _ in 0..5 {
        a_moment().await;
        assert_eq!(stack.stat("cluster.pool/default.membership_healthy").await, 1);
    }
    all_good(stop, load).await;
    // Whoever comes now is known, and so is that there is nobody else.
    let _b = Agent::start("b", "default", stack.config.fleet.listen);
    until("the one that has come to answer", async || {
        stack.get("/?MAP=/world").await.agent() == "b"
    })
    .await;
    assert_eq!(stack.stat("cluster.pool/default.membership_total").await, 1);
    assert!(stack.page("/metrics").await.contains("graticule_cp_pools_awaited 0"));
}

#[tokio::test]
async fn a_changed_cluster_gets_its_endpoints_again() {
    let (mut stack, _agents) = Stack::with_agents(["a", "b"]).await;
    let (stop, load) = steady_load(&stack);
    stack
        .restart_control_plane(Duration::ZERO, |config| config.front.connect_timeout = 0.7)
        .await;
    let changed = async || stack.stat("cluster_manager.cluster_modified").await == 1;
    until("the cluster to change", changed).await;
    let started = Instant::now();
    until("the cluster to be warm", async || {
        stack.stat("cluster_manager.warming_clusters").await == 0
    })
    .await;
    println!(
        "the changed cluster was warm after {:?}; without its endpoints it takes 15 s",
        started.elapsed()
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(stack.stat("cluster.pool/default.init_fetch_timeout").await, 0);
    stack.until_healthy("pool/default", 2).await;
    all_good(stop, load).await;
}

#[tokio::test]
async fn pools_come_and_go_without_a_failed_request() {
    let pool = |hosts: &[&str]| Pool {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..Pool::default()
    };
    let mut stack = Stack::start(|_| {}).await;
    let _a = Agent::start("a", "default", stack.config.fleet.listen);
    let _b = Agent::start("b", "other", stack.config.fleet.listen);
    stack.until_healthy("pool/default", 1).await;
    stack.until_listening().await;
    assert!(stack.page("/metrics").await.contains("graticule_cp_agents_astray 1"));
    assert_eq!(stack.get("/?MAP=/w").await.agent(), "a");
    let (stop, load) = steady_load(&stack);

    let both = BTreeMap::from([
        ("default".to_owned(), pool(&["*"])),
        ("other".to_owned(), pool(&["maps.example.org"])),
    ]);
    stack
        .restart_control_plane(Duration::ZERO, |config| config.pools = both)
        .await;
    until("requests to reach the new pool", async || {
        stack.get("/?MAP=/w").await.agent() == "b"
    })
    .await;
    stack
        .restart_control_plane(Duration::ZERO, |config| config.pools = BTreeMap::new())
        .await;
    until("requests to be back", async || {
        stack.get("/?MAP=/w").await.agent() == "a"
    })
    .await;
    until("the pool to be gone", async || {
        stack.stat("cluster_manager.cluster_removed").await == 1
    })
    .await;
    all_good(stop, load).await;
}

#[tokio::test]
async fn what_envoy_refuses_is_loud_and_not_repeated() {
    let (mut stack, _agents) = Stack::with_agents(["a"]).await;
    stack
        .restart_control_plane(Duration::ZERO, |c| {
            c.front.access_log = "/nowhere/access.log".to_owned();
        })
        .await;
    let nacks = r#"graticule_xds_nacks_total{type="lds"} 1"#;
    until("the refusal", async || stack.page("/metrics").await.contains(nacks)).await;
    assert!(stack.page("/").await.contains("lds: "), "{}", stack.page("/").await);
    a_moment().await;
    let metrics = stack.page("/metrics").await;
    assert!(
        metrics.contains(nacks) && metrics.contains(r#"graticule_xds_pushes_total{type="lds"} 1"#),
        "{metrics}"
    );
    assert_eq!(
        stack.get("/?MAP=/w").await.status,
        200,
        "the last accepted configuration stays"
    );
}
