//! Two control planes and an Envoy with the repository's bootstrap for them: it hears one, moves to the other when that goes,
//! and is told what it knows already, which is to say nothing. Agents are attached to both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::stack::postgres::Postgres;
use control_plane::{Bound, Config, build};
use graticule_proto::v1::{AgentPhase, FleetPinRequest, SnapshotReply, SnapshotRequest};
use hyper::Method;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::ports::control_plane;
use crate::stack::{Agent, Stack, exchange, free_port, request, store_dir, until};
use crate::state::admin_of;

/// The sum of a metric of a control plane over all labels.
async fn metric(status: SocketAddr, name: &str) -> f64 {
    let page = exchange(status, request(Method::GET, "/metrics", &[], "")).await.body;
    let lines = page.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Whether an Envoy is attached there.
async fn hears(status: SocketAddr) -> bool {
    metric(status, "graticule_xds_clients").await > 0.5
}

/// How many answers Envoys got there.
async fn sent(status: SocketAddr) -> f64 {
    metric(status, "graticule_xds_pushes_total").await
}

/// What Envoys are told there; nothing while that is not known.
async fn snapshot(bound: &Bound) -> SnapshotReply {
    let reply = admin_of(bound).await.get_snapshot(SnapshotRequest::default()).await;
    reply.map(tonic::Response::into_inner).unwrap_or_default()
}

/// A client that asks until told to stop; how many answers there were, and those that were bad.
fn load(front: SocketAddr) -> (Arc<AtomicBool>, tokio::task::JoinHandle<(usize, Vec<String>)>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let load = tokio::spawn(async move {
        let (mut count, mut bad) = (0, Vec::new());
        while !stopped.load(Ordering::SeqCst) && count < 100_000 {
            let target = format!("/?MAP=/project{}&SERVICE=WMS", count % 16);
            let answer = exchange(front, request(Method::GET, &target, &[], "")).await;
            if answer.status != 200 {
                bad.push(format!("{} {}", answer.status, answer.body));
            }
            count += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (count, bad)
    });
    (stop, load)
}

struct Twins {
    stack: Stack,
    configs: [Config; 2],
    bounds: [Option<Bound>; 2],
    agents: [Agent; 2],
}

impl Twins {
    async fn start() -> Self {
        let (xds, fleet, status) = (free_port(), free_port(), free_port());
        let edit = |text: String| {
            assert_eq!(text.matches("port_value: 28000").count(), 1);
            text.replace("port_value: 28000", &format!("port_value: {}", xds.port()))
        };
        let mut stack = Box::pin(Stack::start_with(|_| {}, "bootstrap-twin.yaml", edit)).await;
        let first = stack.config.clone();
        let mut second = first.clone();
        (second.xds.listen, second.fleet.listen, second.status.listen) = (xds, fleet, status);
        second.store.dir = store_dir();
        let bounds = [stack.control_plane.take(), Some(build(second.clone()).await.unwrap())];
        let both = [first.fleet.listen, second.fleet.listen];
        let agents = ["a", "b"].map(|id| Agent::of_all(id, &both));
        stack.until_healthy("pool/default", 2).await;
        stack.until_listening().await;
        let twins = Self {
            stack,
            configs: [first, second],
            bounds,
            agents,
        };
        twins.until_known_to(0, 2).await;
        twins.until_known_to(1, 2).await;
        twins
    }

    fn status(&self, which: usize) -> SocketAddr {
        self.configs[which].status.listen
    }

    async fn until_known_to(&self, which: usize, agents: usize) {
        until("the control plane to know its agents", async || {
            let ready = metric(self.status(which), "graticule_cp_agents_told{told=\"healthy\"}").await;
            let snapshot = snapshot(self.bounds[which].as_ref().unwrap()).await;
            (ready - agents as f64).abs() < 0.5 && !snapshot.views.is_empty()
        })
        .await;
    }

    async fn stop(&mut self, which: usize) {
        self.bounds[which].take().unwrap().stop().await;
    }

    async fn begin(&mut self, which: usize) {
        self.bounds[which] = Some(build(self.configs[which].clone()).await.unwrap());
    }

    /// Waits until Envoy hears this one, and says how long that took.
    async fn until_heard(&self, which: usize, since: Instant) {
        until("Envoy to move", async || hears(self.status(which)).await).await;
        println!("Envoy hears control plane {which} after {:?}", since.elapsed());
    }
}

#[tokio::test]
async fn envoy_moves_to_the_other_control_plane_and_is_sent_nothing() {
    let mut twins = Box::pin(Twins::start()).await;
    let front = twins.stack.front;
    // The first, but where both are starting at once.
    let first = usize::from(!hears(twins.status(0)).await);
    assert!(hears(twins.status(first)).await && !hears(twins.status(1 - first)).await);
    // The same input gives the same snapshot: contents, versions and order.
    let snapshots = [
        snapshot(twins.bounds[0].as_ref().unwrap()).await,
        snapshot(twins.bounds[1].as_ref().unwrap()).await,
    ];
    assert_eq!(snapshots[0], snapshots[1]);
    assert!(snapshots[0].views[0].resources.iter().any(|one| one.kind == "eds"));

    let (stop, load) = load(front);
    for (gone, there) in [(first, 1 - first), (1 - first, first)] {
        let before = sent(twins.status(there)).await;
        let since = Instant::now();
        twins.stop(gone).await;
        twins.until_heard(there, since).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = sent(twins.status(there)).await;
        assert!((after - before).abs() < 0.5, "{after} answers, {before} before");
        assert_eq!(twins.stack.stat("cluster.pool/default.membership_healthy").await, 2);

        // What agents say now comes by the other one.
        twins.agents[0].say(AgentPhase::Draining);
        twins.stack.until_healthy("pool/default", 1).await;
        twins.agents[0].say(AgentPhase::Ready);
        twins.stack.until_healthy("pool/default", 2).await;

        // The one that comes again is not asked, and knows the same in the end.
        twins.begin(gone).await;
        twins.until_known_to(gone, 2).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(hears(twins.status(there)).await && !hears(twins.status(gone)).await);
        let both = [
            snapshot(twins.bounds[0].as_ref().unwrap()).await,
            snapshot(twins.bounds[1].as_ref().unwrap()).await,
        ];
        assert_eq!(both[0], both[1]);
        assert_eq!(both[0], snapshots[0]);
    }
    stop.store(true, Ordering::SeqCst);
    let (count, bad) = load.await.unwrap();
    println!("{count} requests");
    assert!(
        count > 200 && bad.is_empty(),
        "{} of {count} bad: {:?}",
        bad.len(),
        bad.first()
    );
    assert_eq!(twins.stack.stat("listener_manager.listener_modified").await, 0);
    assert_eq!(twins.stack.stat("cluster_manager.cluster_modified").await, 0);
}

#[tokio::test]
async fn one_that_has_just_started_does_not_attract_envoys() {
    let mut config = Config::default();
    config.store.dir = store_dir();
    config.fleet.sync_window = 1.0;
    for listen in [
        &mut config.xds.listen,
        &mut config.fleet.listen,
        &mut config.status.listen,
    ] {
        *listen = free_port();
    }
    let bound = build(config.clone()).await.unwrap();
    let well = async || {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", config.xds.listen)).unwrap();
        let mut health = HealthClient::new(endpoint.connect().await.unwrap());
        let service = String::new();
        let reply = health.check(HealthCheckRequest { service }).await.unwrap();
        reply.into_inner().status()
    };
    assert_eq!(well().await, ServingStatus::NotServing);
    until("the sync window to pass", async || {
        well().await == ServingStatus::Serving
    })
    .await;
    bound.stop().await;
}

/// How soon is printed, not asserted.
#[tokio::test]
async fn what_is_pinned_through_one_is_known_to_the_other() {
    let postgres = Postgres::start().await;
    postgres.sql(
        "gis",
        "CREATE ROLE fleet LOGIN PASSWORD 'hush'; GRANT CREATE ON SCHEMA public TO fleet",
    );
    let url = format!("postgresql://fleet:hush@{}/gis", postgres.address());
    let shared = |config: &mut Config| {
        config.store.dir = std::path::PathBuf::new();
        config.store.url.clone_from(&url);
        config.fleet.sync_window = 0.0;
    };
    let (first, second) = tokio::join!(control_plane(shared), control_plane(shared));
    let both = [&first, &second].map(|bound| bound.addresses.fleet);
    let agent = Agent::keeper("a", both[1], Duration::ZERO);
    until("the agent to be ready", async || agent.is_ready()).await;
    let mut admin = admin_of(&first).await;
    let mut took = Vec::new();
    for n in 0..20 {
        let project = format!("/p{n:02}");
        let request = FleetPinRequest {
            project: project.clone(),
            pool: String::new(),
            replicas: 0,
        };
        let since = Instant::now();
        let mut progress = admin.pin_project(request).await.unwrap().into_inner();
        progress.message().await.unwrap();
        // An agent that is attached to the other one alone has it.
        while !agent.loaded().contains(&project) {
            assert!(since.elapsed() < Duration::from_secs(20), "{project} does not come");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        took.push(since.elapsed());
    }
    took.sort_unstable();
    println!(
        "from the wish at one to an agent of the other: median {:?}, longest {:?}",
        took[10], took[19]
    );
    second.stop().await;
    first.stop().await;
}
