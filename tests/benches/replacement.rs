//! How soon a killed worker has a successor that is ready, and what an idle worker costs: forked beside spawned.
//!
//!     cargo bench --workspace --profile dev --bench replacement
//!
//! The agent is the one that `cargo build --workspace --bins` built. Times run from the SIGKILL to the moment the agent
//! says that another worker is ready, asked for over gRPC about every millisecond.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::{Duration, Instant};

use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use graticule_proto::v1::{StatsRequest, WorkerInfo};
use nix::sys::signal::Signal;
use stack::bench::{Table, Times, announce, megabytes, number, times};
use stack::memory::Memory;
use stack::{Agent, PATIENCE, Plan};
use tonic::transport::Channel;

/// How workers are started, and how many are killed.
const METHODS: [(&str, usize); 2] = [("fork", 60), ("spawn", 12)];

struct Measured {
    times: Times,
    private: f64,
    proportional: f64,
}

async fn live(client: &mut QgisAdminClient<Channel>) -> Vec<WorkerInfo> {
    let workers = client.stats(StatsRequest {}).await.unwrap().into_inner().workers;
    workers.into_iter().filter(|worker| worker.state == "idle").collect()
}

/// Kills a worker and waits until its successor is ready.
async fn replace(agent: &Agent, client: &mut QgisAdminClient<Channel>) -> Duration {
    let before = live(client).await;
    agent.signal_worker(&before[0], Signal::SIGKILL);
    let killed = Instant::now();
    loop {
        let now = live(client).await;
        if now.len() == before.len() && now.iter().all(|worker| worker.pid != before[0].pid) {
            return killed.elapsed();
        }
        assert!(killed.elapsed() < PATIENCE, "no successor");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn measure(method: &str, kills: usize) -> Measured {
    let stack = Plan::agents(1)
        .agent("CONF_WORKER__START_METHOD", method)
        .agent("CONF_WORKER__MAX_FAILURE_PRESSURE", 1000)
        .start()
        .await;
    let agent = &stack.agents[0];
    let channel = Channel::from_shared(format!("http://{}", agent.grpc()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = QgisAdminClient::new(channel);
    let mut times = Vec::new();
    for _ in 0..kills {
        times.push(replace(agent, &mut client).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let memory: Vec<Memory> = live(&mut client)
        .await
        .iter()
        .map(|worker| Memory::of(worker.pid))
        .collect();
    let mean = |of: fn(&Memory) -> u64| megabytes(memory.iter().map(of).sum()) / number(memory.len());
    Measured {
        times: Times::new(times),
        private: mean(|memory| memory.private_dirty),
        proportional: mean(|memory| memory.proportional),
    }
}

#[tokio::main]
async fn main() {
    announce("SIGKILL to a successor that is ready, and memory of an idle worker");
    let mut sides = Vec::new();
    for (method, kills) in METHODS {
        sides.push((method, measure(method, kills).await));
    }
    let mut table = Table::new(&[
        "started by",
        "kills",
        "p50 ms",
        "of fork's",
        "p99 ms",
        "of fork's",
        "private MB",
        "of fork's",
        "proportional MB",
        "of fork's",
    ]);
    let fork = &sides[0].1;
    for (method, found) in &sides {
        let mut line = vec![(*method).to_owned(), found.times.count().to_string()];
        let figures: [fn(&Measured) -> f64; 4] = [
            |found| found.times.median(),
            |found| found.times.p99(),
            |found| found.private,
            |found| found.proportional,
        ];
        for figure in figures {
            line.push(format!("{:.1}", figure(found)));
            line.push(times(figure(found), figure(fork)));
        }
        table.line(line);
    }
    println!();
    table.print();
}
