//! How soon a killed worker has a successor that is ready, and what an idle worker costs: forked beside spawned.
//!
//!     cargo bench -p graticule-tests --profile dev --bench replacement
//!
//! The agent is the one that `cargo build --workspace --bins` built. Times run from the SIGKILL to the moment the agent
//! says that another worker is ready, asked for over gRPC about every millisecond.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::{Duration, Instant};

use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use graticule_proto::v1::{StatsRequest, WorkerInfo};
use nix::sys::signal::Signal;
use stack::memory::Memory;
use stack::{Agent, PATIENCE, Plan};
use tonic::transport::Channel;

/// How workers are started, and how many are killed.
const METHODS: [(&str, usize); 2] = [("fork", 60), ("spawn", 12)];

struct Measured {
    times: Vec<Duration>,
    private: u64,
    proportional: u64,
}

impl Measured {
    /// The time that this part of all replacements did not exceed.
    fn quantile(&self, part: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let at = ((times.len() - 1) as f64 * part).round() as usize;
        times[at].as_secs_f64() * 1e3
    }
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
    let mean = |of: fn(&Memory) -> u64| memory.iter().map(of).sum::<u64>() / memory.len() as u64;
    Measured {
        times,
        private: mean(|memory| memory.private_dirty),
        proportional: mean(|memory| memory.proportional),
    }
}

#[tokio::main]
async fn main() {
    let mut measured = Vec::new();
    for (method, kills) in METHODS {
        measured.push((method, measure(method, kills).await));
    }
    let megabytes = |bytes: u64| format!("{:.1} MB", Duration::from_micros(bytes).as_secs_f64());
    println!("SIGKILL to a successor that is ready, and memory of an idle worker");
    for (method, found) in &measured {
        println!(
            "  {method:<6} p50 {:>7.1} ms   p99 {:>7.1} ms   of {:>3}   private dirty {:>9}   proportional {:>9}",
            found.quantile(0.5),
            found.quantile(0.99),
            found.times.len(),
            megabytes(found.private),
            megabytes(found.proportional),
        );
    }
    let [(_, fork), (_, spawn)] = &measured[..] else {
        unreachable!("two methods")
    };
    let ratio = |spawn: f64, fork: f64| spawn / fork;
    #[allow(clippy::cast_precision_loss, reason = "bytes to show, not to count")]
    let bytes = |found: &Measured| (found.private as f64, found.proportional as f64);
    println!(
        "  spawned over forked: p50 {:.0} times, p99 {:.0} times, private dirty {:.0} times, proportional {:.0} times",
        ratio(spawn.quantile(0.5), fork.quantile(0.5)),
        ratio(spawn.quantile(0.99), fork.quantile(0.99)),
        ratio(bytes(spawn).0, bytes(fork).0),
        ratio(bytes(spawn).1, bytes(fork).1),
    );
}
