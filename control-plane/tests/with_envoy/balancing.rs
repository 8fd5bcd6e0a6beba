//! How agents are chosen, with a real Envoy: what it finds out about them by itself, where they are found, what strained ones
//! get, and where placed projects go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use control_plane::Config;
use control_plane::config::Pool;
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::{AgentPhase, FleetPinRequest, ListPlacementsReply, ListPlacementsRequest};
use hyper::Method;
use tonic::transport::Channel;

use crate::fleet_changes::{all_good, load_of};
use crate::stack::{Agent, Mode, Stack, exchange, request, until};

/// A pool whose agents are checked often, and whatever else `change` does.
fn pool(change: impl FnOnce(&mut Pool)) -> impl FnOnce(&mut Config) {
    let mut pool = Pool::default();
    pool.health_check.interval = 0.1;
    change(&mut pool);
    move |config| drop(config.pools.insert("default".to_owned(), pool))
}

async fn admin(stack: &Stack) -> FleetAdminClient<Channel> {
    FleetAdminClient::connect(format!("http://{}", stack.config.fleet.listen))
        .await
        .unwrap()
}

async fn placements(stack: &Stack) -> ListPlacementsReply {
    let reply = admin(stack).await.list_placements(ListPlacementsRequest {}).await;
    reply.unwrap().into_inner()
}

/// Pins a project and waits until whoever is to keep it has it.
async fn pin(stack: &Stack, project: &str, replicas: u32) {
    let request = FleetPinRequest {
        project: project.to_owned(),
        pool: "default".to_owned(),
        replicas,
    };
    let mut progress = admin(stack).await.pin_project(request).await.unwrap().into_inner();
    while let Some(said) = progress.message().await.unwrap() {
        if said.done {
            return;
        }
    }
    panic!("the pin has settled");
}

async fn served_by(stack: &Stack, projects: impl IntoIterator<Item = String>) -> BTreeMap<String, String> {
    let mut served = BTreeMap::new();
    for project in projects {
        let answer = stack.get(&format!("/?MAP={project}")).await;
        assert_eq!(answer.status, 200, "{project}: {}", answer.body);
        served.insert(project, answer.agent().to_owned());
    }
    served
}

fn projects(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("/p{n:02}"))
}

#[tokio::test]
async fn an_agent_that_fails_checks_gets_nothing_until_it_passes_one() {
    let (stack, [a, b]) = Stack::with_agents_and(["a", "b"], pool(|_| {})).await;
    a.be(Mode::Unwell);
    stack.until_healthy("pool/default", 1).await;
    let before = a.served();
    let served = served_by(&stack, projects(20)).await;
    assert!(served.values().all(|agent| agent == "b"));
    assert_eq!(a.served(), before);
    // That every check fails says more of the checks than of the agents.
    b.be(Mode::Unwell);
    stack.until_healthy("pool/default", 0).await;
    assert!(served_by(&stack, projects(5)).await.len() == 5);
    for agent in [&a, &b] {
        agent.be(Mode::Prompt);
    }
    stack.until_healthy("pool/default", 2).await;
    let served = served_by(&stack, projects(20)).await;
    let both: BTreeSet<&String> = served.values().collect();
    assert_eq!(both.len(), 2);
}

#[tokio::test]
async fn an_agent_that_takes_no_connections_is_left_out_for_a_while_and_answers_do_not_count() {
    // Without checks, which would find it out as well.
    let change = pool(|pool| (pool.health_check.interval, pool.ejection.failures) = (0.0, 3));
    let (stack, [a, b]) = Stack::with_agents_and(["a", "b"], change).await;
    let ejected = "cluster.pool/default.outlier_detection.ejections_active";
    let served = served_by(&stack, projects(40)).await;
    let of_a = served.iter().filter(|(_, agent)| *agent == "a").map(|(p, _)| p);
    let of_a: Vec<&String> = of_a.collect();
    assert!(of_a.len() >= 5);
    let now_by_b = async |project: &str| {
        let answer = stack.get(&format!("/?MAP={project}&SERVICE=WMS")).await;
        assert_eq!((answer.status.as_u16(), answer.agent()), (200, "b"), "{}", answer.body);
    };
    // A full agent's word: another one is asked, and nothing is held against the first.
    a.be(Mode::Elsewhere);
    for project in of_a.iter().cycle().take(30) {
        now_by_b(project).await;
    }
    assert_eq!(stack.stat(ejected).await, 0);
    a.close();
    until("the ejection", async || {
        now_by_b(of_a[0]).await;
        stack.stat(ejected).await == 1
    })
    .await;
    let failed = "cluster.pool/default.upstream_cx_connect_fail";
    let before = stack.stat(failed).await;
    assert!(before >= 3);
    for project in &of_a {
        now_by_b(project).await;
    }
    assert_eq!(stack.stat(failed).await, before, "it is left alone");
    // Never everybody.
    b.close();
    for project in projects(20) {
        assert_eq!(stack.get(&format!("/?MAP={project}")).await.status, 503);
    }
    assert_eq!(stack.stat(ejected).await, 1);
}

#[tokio::test]
async fn the_only_agent_may_drain_and_finish_what_it_has() {
    let (stack, [a]) = Stack::with_agents_and(["a"], pool(|_| {})).await;
    a.be(Mode::Slow(Duration::from_millis(500)));
    let in_flight = stack.get("/?MAP=/world");
    let drain = async {
        until("the request to be there", async || a.served() == 1).await;
        a.say(AgentPhase::Draining);
        stack.until_healthy("pool/default", 0).await;
        assert_eq!(stack.get("/?MAP=/world").await.status, 503, "nothing new");
    };
    let (in_flight, ()) = tokio::join!(in_flight, drain);
    assert_eq!((in_flight.status.as_u16(), a.served()), (200, 1));
}

#[tokio::test]
async fn a_strained_agent_gets_less_than_the_others() {
    let (stack, [a, b, _c]) = Stack::with_agents(["a", "b", "c"]).await;
    a.tell(|state| state.request_pressure = 8.0);
    b.tell(|state| state.request_pressure = 1.0);
    let weight = async |agent: &Agent| {
        let page = exchange(stack.admin, request(Method::GET, "/clusters", &[], ""))
            .await
            .body;
        let line = format!("pool/default::{}::weight::", agent.address);
        let found = page.lines().find_map(|found| found.strip_prefix(&line));
        found.unwrap_or("none").to_owned()
    };
    assert_eq!((weight(&a).await.as_str(), weight(&b).await.as_str()), ("100", "100"));
    until("a smaller share", async || weight(&a).await == "70").await;
    assert_eq!(weight(&b).await, "100");
    let shares = placements(&stack).await.agents;
    let shares: Vec<(&str, u32)> = shares
        .iter()
        .map(|share| (share.agent_id.as_str(), share.weight))
        .collect();
    assert_eq!(shares, [("a", 70), ("b", 100), ("c", 100)]);
    assert!(stack.page("/metrics").await.contains("graticule_cp_agents_spared 1"));
    let served = served_by(&stack, projects(60)).await;
    let of_a = served.values().filter(|agent| *agent == "a").count();
    println!("60 projects, {of_a} of them on the strained one of three agents");
    assert!(of_a > 0);
}

#[tokio::test]
async fn agents_that_cannot_register_are_found_by_address_and_by_name() {
    let (x, y, z) = (
        Agent::unregistered("x"),
        Agent::unregistered("y"),
        Agent::unregistered("z"),
    );
    let addresses = vec![
        x.address.to_string(),
        format!("localhost:{}", y.address.port()),
        "no-such-name.invalid:80".to_owned(),
    ];
    let mut stack = Stack::start(pool(|pool| pool.addresses = addresses)).await;
    stack.until_listening().await;
    stack.until_healthy("pool/default", 2).await;
    let served = served_by(&stack, projects(40)).await;
    let both: BTreeSet<&str> = served.values().map(String::as_str).collect();
    assert_eq!(both, BTreeSet::from(["x", "y"]));
    // One that registers stands beside them, in the same ring.
    let _a = Agent::start("a", "default", stack.config.fleet.listen);
    stack.until_healthy("pool/default", 3).await;
    let now = served_by(&stack, projects(40)).await;
    let moved = now.iter().filter(|(project, agent)| served[*project] != **agent);
    assert!(moved.clone().count() > 0 && moved.into_iter().all(|(_, agent)| agent == "a"));
    // Nobody is there any more: the checks find it out.
    drop(x);
    stack.until_healthy("pool/default", 2).await;
    let addresses = vec![y.address.to_string(), z.address.to_string()];
    stack
        .restart_control_plane(Duration::ZERO, |config| {
            config.pools.get_mut("default").unwrap().addresses = addresses;
        })
        .await;
    until("the new address", async || {
        let served = served_by(&stack, projects(40)).await;
        let all: BTreeSet<&str> = served.values().map(String::as_str).collect();
        all == BTreeSet::from(["a", "y", "z"])
    })
    .await;
}

#[tokio::test]
async fn what_an_agent_has_no_places_for_goes_to_one_that_has() {
    let (stack, [a, b]) = Stack::with_agents(["a", "b"]).await;
    let served = served_by(&stack, projects(40)).await;
    let of = |agent: &str| -> Vec<String> {
        let of = served.iter().filter(|(_, by)| *by == agent);
        of.map(|(project, _)| project.clone()).collect()
    };
    let (of_a, of_b) = (of("a"), of("b"));
    let listeners = stack.stat("listener_manager.listener_modified").await;
    a.tell(|state| state.places = u32::try_from(of_a.len() - 3).unwrap());
    b.tell(|state| state.places = u32::try_from(of_b.len() + 10).unwrap());
    a.is_asked(of_a.clone());
    b.is_asked(of_b.clone());
    until("three projects to be moved", async || {
        placements(&stack).await.projects.len() == 3
    })
    .await;
    let moved = placements(&stack).await.projects;
    assert!(
        moved
            .iter()
            .all(|placed| placed.agents == ["b"] && placed.reason == "overfull" && of_a.contains(&placed.project)),
        "{moved:?}"
    );
    let metric = r#"graticule_cp_placement_moves_total{reason="overfull"} 3"#;
    assert!(stack.page("/metrics").await.contains(metric));
    let moved: BTreeSet<&String> = moved.iter().map(|placed| &placed.project).collect();
    until("Envoy to send them there", async || {
        let now = served_by(&stack, projects(40)).await;
        now.iter()
            .all(|(project, agent)| (*agent != served[project]) == moved.contains(project))
    })
    .await;
    // Every spelling of the name, and behind whatever route.
    let project = moved.iter().next().unwrap().trim_start_matches('/');
    for target in [
        format!("/ows/{project}?SERVICE=WMS&REQUEST=GetMap"),
        format!("/?map=%2F{project}.qgs&service=WFS"),
    ] {
        assert_eq!(stack.get(&target).await.agent(), "b", "{target}");
    }
    // A client's own word does not place anything.
    let forged = [("x-graticule-project", project)];
    let answer = stack.send(request(Method::GET, "/?MAP=/nowhere", &forged, "")).await;
    assert_eq!(answer.project().as_deref(), Some("nowhere"));
    assert_eq!(stack.stat("listener_manager.listener_modified").await, listeners);
    assert_eq!(stack.stat("http.front.lua.errors").await, 0);
    // Where they were moved to nothing new is taken: it is as if they had not been moved.
    b.say(AgentPhase::Draining);
    stack.until_healthy("pool/default", 1).await;
    let now = served_by(&stack, projects(40)).await;
    assert!(now.values().all(|agent| agent == "a"));
    until("the placement to be given up", async || {
        placements(&stack).await.projects.is_empty()
    })
    .await;
    drop((a, b));
}

#[tokio::test]
async fn a_pin_for_some_agents_is_served_by_them_and_handed_on_warm() {
    let stack = Stack::start(pool(|_| {})).await;
    let fleet = stack.config.fleet.listen;
    let agents: Vec<Agent> = ["a", "b", "c", "d"]
        .map(|id| Agent::keeper(id, fleet, Duration::from_millis(50)))
        .into();
    stack.until_healthy("pool/default", 4).await;
    stack.until_listening().await;
    pin(&stack, "/one", 1).await;
    pin(&stack, "/everywhere", 0).await;
    let keepers = |agents: &[Agent]| -> BTreeSet<String> {
        let keep = agents.iter().filter(|agent| agent.loaded().contains("/one"));
        keep.map(|agent| agent.id.clone()).collect()
    };
    until("two agents to keep it", async || keepers(&agents).len() == 2).await;
    assert!(agents.iter().all(|agent| agent.loaded().contains("/everywhere")));
    let one = placements(&stack).await.projects;
    assert_eq!(
        (one.len(), one[0].agents.len(), one[0].kept.len()),
        (1, 1, 2),
        "{one:?}"
    );
    let home = one[0].agents[0].clone();
    let warm = async |by: &str| {
        for _ in 0..10 {
            let answer = stack.get("/?MAP=/one").await;
            if (answer.status.as_u16(), answer.agent(), answer.header("x-test-warm")) != (200, by, "yes") {
                return false;
            }
        }
        true
    };
    until("Envoy to send it there", async || warm(&home).await).await;

    // Its agent drains: the other one that keeps it serves at once, and a third one loads it.
    let spare = one[0].kept.iter().find(|agent| **agent != home).unwrap().clone();
    let at_home = agents.iter().position(|agent| agent.id == home).unwrap();
    agents[at_home].say(AgentPhase::Draining);
    until("the other one to serve it", async || warm(&spare).await).await;
    until("a third one to keep it", async || keepers(&agents).len() == 3).await;
    let moved = placements(&stack).await.projects;
    assert_eq!(
        (moved[0].agents.as_slice(), moved[0].reason.as_str()),
        ([spare].as_slice(), "not_ready")
    );
    agents[at_home].say(AgentPhase::Ready);
    until("it to be at home again", async || warm(&home).await).await;
    until("two agents to keep it", async || keepers(&agents).len() == 2).await;

    // All of them share it from now on.
    pin(&stack, "/one", 4).await;
    until("everybody to serve it", async || {
        let mut by = BTreeSet::new();
        for _ in 0..12 {
            by.insert(stack.get("/?MAP=/one").await.agent().to_owned());
        }
        by.len() == 4
    })
    .await;
    drop(agents);
}

#[tokio::test]
async fn a_rolling_restart_fails_no_request_and_leaves_no_pinned_project_without_a_warm_agent() {
    const LOAD: Duration = Duration::from_millis(200);
    let stack = Stack::start(pool(|_| {})).await;
    let fleet = stack.config.fleet.listen;
    let mut agents: Vec<Agent> = ["a", "b", "c"].map(|id| Agent::keeper(id, fleet, LOAD)).into();
    stack.until_healthy("pool/default", 3).await;
    stack.until_listening().await;
    // Some on one agent, some on two, some on all.
    for n in 0..6 {
        pin(&stack, &format!("/pin{n}"), n % 3).await;
    }
    let pinned: Vec<String> = (0..6).map(|n| format!("/pin{n}")).collect();
    let warm = |agents: &[Agent], project: &String| {
        agents
            .iter()
            .filter(|agent| agent.is_ready() && agent.loaded().contains(project))
            .count()
    };
    let (stop, load) = load_of(&stack, |n| format!("/?MAP=/pin{}&SERVICE=WMS", n % 6));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut changes = vec![Instant::now()];
    for n in 0..agents.len() {
        for project in &pinned {
            assert!(
                warm(&agents, project) >= 2,
                "{project} has a second agent before the first goes"
            );
        }
        agents[n].say(AgentPhase::Draining);
        changes.push(Instant::now());
        tokio::time::sleep(Duration::from_millis(300)).await;
        for project in &pinned {
            assert!(warm(&agents, project) >= 1, "{project} has no warm agent");
        }
        let id = agents[n].id.clone();
        agents[n] = Agent::keeper(&id, fleet, LOAD);
        changes.push(Instant::now());
        stack.until_healthy("pool/default", 3).await;
        changes.push(Instant::now());
        until("two warm agents for each project", async || {
            pinned.iter().all(|project| warm(&agents, project) >= 2)
        })
        .await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answers = all_good(stop, load).await;
    assert!(answers.len() > 200, "there was a load");
    // What Envoy sends while it hears of a change may meet an agent that has to load the project; nothing else does.
    let cold: Vec<Instant> = answers
        .iter()
        .filter(|(_, answer)| answer.header("x-test-warm") != "yes")
        .map(|(at, _)| *at)
        .collect();
    println!("{} answers, {} of them cold", answers.len(), cold.len());
    let after_a_change = |at: &Instant| {
        changes
            .iter()
            .any(|change| *at >= *change && *at < *change + Duration::from_secs(2))
    };
    assert!(cold.iter().all(after_a_change));
    assert!(
        cold.len() * 10 < answers.len(),
        "{} of {} were cold",
        cold.len(),
        answers.len()
    );
}
