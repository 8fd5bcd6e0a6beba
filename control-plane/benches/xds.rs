//! What a change costs, by the size of the fleet and the number of Envoys: an agent's word, until the last client has taken it.
//!
//!     cargo bench --workspace --profile dev --bench xds
//!
//! Agents and clients are simulated here; the control plane is a process of its own, whose processor time and memory are
//! taken. A change is one agent that begins or ends to drain: one pool's endpoints. "One pool" has all agents in it, so that a
//! change resends them all, as xDS has it; else 100 agents share a pool. The clients decode what they get on the same
//! processors, so with many of them most of the time is theirs.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use graticule_proto::v1::AgentPhase;
use stack::bench::{Table, Times, announce, megabytes, number};
use stack::memory::Memory;

#[path = "../tests/with_envoy/world.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod world;

use world::{Agents, Envoy, Program};

/// Agents, agents in a pool, clients, whether one more client reads nothing.
const CELLS: [(usize, usize, usize, bool); 11] = [
    (100, 100, 1, false),
    (100, 100, 20, false),
    (100, 100, 200, false),
    (1_000, 100, 1, false),
    (1_000, 100, 20, false),
    (1_000, 100, 200, false),
    (1_000, 100, 200, true),
    (10_000, 100, 1, false),
    (10_000, 100, 200, false),
    (10_000, 10_000, 1, false),
    (10_000, 10_000, 20, false),
];

/// Changes in a cell.
const CHANGES: usize = 40;

struct Measured {
    times: Times,
    bytes: u64,
    cpu: Duration,
    memory: Memory,
}

async fn measure(agents: usize, in_pool: usize, clients: usize, with_stuck: bool) -> Measured {
    let pools = agents.div_ceil(in_pool);
    let name = |pool: usize| format!("p{pool:03}");
    let configured: serde_json::Map<String, serde_json::Value> = (0..pools)
        .map(|pool| {
            (
                name(pool),
                serde_json::json!({"hosts": [format!("{}.example.org", name(pool))]}),
            )
        })
        .collect();
    let variables = [
        ("CONF_POOLS", serde_json::Value::Object(configured).to_string()),
        ("CONF_FLEET__SYNC_WINDOW", "0".to_owned()),
        ("CONF_LOGGING__LEVEL", "error".to_owned()),
    ];
    let program = Program::start(Path::new(env!("CARGO_BIN_EXE_control-plane")), &variables).await;
    let fleet = Agents::attach(program.fleet, agents, |agent| name(agent / in_pool)).await;
    let mut envoys = Vec::new();
    for client in 0..clients {
        envoys.push(Envoy::start(program.xds, &format!("envoy-{client}")).await);
    }
    let mut held = None;
    if with_stuck {
        held = Some(world::stuck(program.xds).await);
    }
    let cluster = |agent: usize| format!("pool/{}", name(agent / in_pool));
    for envoy in &mut envoys {
        for pool in 0..pools {
            envoy.until_told(&format!("pool/{}", name(pool)), 0).await;
        }
    }
    // Agents still arrive, and every client hears of each.
    settle(&envoys).await;

    let (cpu, sent) = (program.cpu(), bytes(&envoys));
    let mut times = Vec::new();
    for change in 0..CHANGES {
        // Every second one takes the one before it back.
        let agent = (change / 2 * 997) % agents;
        let phase = if change % 2 == 0 {
            AgentPhase::Draining
        } else {
            AgentPhase::Ready
        };
        let cluster = cluster(agent);
        let before: Vec<u64> = envoys.iter().map(|envoy| envoy.times_told(&cluster)).collect();
        let said = Instant::now();
        fleet.say(agent, phase);
        for (envoy, before) in envoys.iter_mut().zip(before) {
            envoy.until_told(&cluster, before).await;
        }
        times.push(said.elapsed());
    }
    let (cpu, bytes) = (program.cpu() - cpu, bytes(&envoys) - sent);
    let memory = Memory::of(program.pid());
    drop(held);
    Measured {
        times: Times::new(times),
        bytes,
        cpu,
        memory,
    }
}

fn bytes(envoys: &[Envoy]) -> u64 {
    envoys.iter().map(|envoy| envoy.told.borrow().bytes).sum()
}

/// Waits until nobody has been told anything for a second.
async fn settle(envoys: &[Envoy]) {
    let mut before = 0;
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = bytes(envoys);
        if std::mem::replace(&mut before, now) == now {
            return;
        }
    }
    panic!("clients are told things for ever");
}

#[tokio::main]
async fn main() {
    announce("xds: one agent's word, until the last client has taken what follows from it");
    let mut table = Table::new(&[
        "agents",
        "in a pool",
        "clients",
        "p50 ms",
        "p99 ms",
        "kB sent per change and client",
        "CPU ms per change",
        "memory MB",
    ]);
    for (agents, in_pool, clients, with_stuck) in CELLS {
        let measured = measure(agents, in_pool, clients, with_stuck).await;
        let changes = number(CHANGES);
        let per_client = megabytes(measured.bytes) * 1000.0 / changes / number(clients);
        let stuck = if with_stuck { " + 1 stuck" } else { "" };
        table.line([
            agents.to_string(),
            in_pool.to_string(),
            format!("{clients}{stuck}"),
            format!("{:.1}", measured.times.median()),
            format!("{:.1}", measured.times.p99()),
            format!("{per_client:.1}"),
            format!("{:.1}", measured.cpu.as_secs_f64() * 1e3 / changes),
            format!("{:.0}", megabytes(measured.memory.resident)),
        ]);
    }
    table.print();
}
