//! A project of 150 layers is pinned on a running fleet under load: what the first map of every worker costs after that beside
//! the later ones, and what all processes use of memory beside the same with a copy in every worker.
//!
//!     cargo bench --workspace --profile dev --bench pinning
//!
//! Two agents of two workers each. Six clients ask for maps of other projects through Envoy all the time; none may fail.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stack::bench::{Table, Times, announce, ask, megabytes, number, seconds, times};
use stack::shots::{PNG, Shot, mix};
use stack::{Agent, Client, Plan, Stack, until};

const AGENTS: usize = 2;
const WORKERS: usize = 2;
const CLIENTS: usize = 6;
const PROJECT: &str = "/atlas150";

/// Maps that each worker draws after its first.
const LATER: usize = 6;

/// A map; one number more is one column of pixels more, so that no two are answered by one render.
fn map(number: usize) -> Shot {
    let width = 256 + number;
    Shot {
        name: "map",
        target: format!(
            "/?MAP={PROJECT}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=FRA,DEU,ITA,POL&STYLES=&CRS=EPSG:4326\
             &BBOX=40,0,60,20&WIDTH={width}&HEIGHT=256&FORMAT=image/png"
        ),
        media_type: "image/png",
        holds: PNG,
    }
}

/// As many maps at once as the agent has workers, so that each draws one; how long the slowest took.
async fn round(agent: &Agent, number: usize) -> Duration {
    let client = agent.direct();
    let maps = (0..WORKERS).map(|worker| {
        let (client, shot) = (client.clone(), map(number * WORKERS + worker));
        async move {
            let sent = Instant::now();
            ask(&client, &shot).await.unwrap();
            sent.elapsed()
        }
    });
    futures::future::join_all(maps).await.into_iter().max().unwrap()
}

/// The first map of every worker and the later ones, round by round.
async fn rounds(stack: &Stack) -> (Times, Times) {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for agent in &stack.agents {
        first.push(round(agent, 0).await);
        for number in 1..=LATER {
            later.push(round(agent, number).await);
        }
    }
    (Times::new(first), Times::new(later))
}

/// Asks without a pause until it is told to stop; counts what was right and panics at what was not.
fn load(client: &Client) -> (Arc<AtomicBool>, Arc<AtomicUsize>, Vec<tokio::task::JoinHandle<()>>) {
    let (stop, right) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients = (0..CLIENTS).map(|first| {
        let (client, stop, right) = (client.clone(), Arc::clone(&stop), Arc::clone(&right));
        tokio::spawn(async move {
            let shots = mix();
            for at in first.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                ask(&client, &shots[at % shots.len()]).await.unwrap();
                right.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let clients = clients.collect();
    (stop, right, clients)
}

async fn start() -> Stack {
    Plan::agents(AGENTS).workers(WORKERS).start().await
}

async fn until_pinned(stack: &Stack) {
    until("every worker to have the project", async || {
        for agent in &stack.agents {
            let stats = agent.stats().await;
            let held = |held: &Vec<String>| held.iter().any(|project| project == PROJECT);
            let all = stats.workers.len() == WORKERS && stats.workers.iter().all(|worker| held(&worker.projects));
            if !all || !stats.state.is_some_and(|state| held(&state.pins)) {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::main]
async fn main() {
    announce("Pinning a project of 150 layers on a fleet of 2 × 2 workers under load");
    let stack = start().await;
    let empty = megabytes(stack.memory());
    for agent in &stack.agents {
        let done = agent.cli(&["cache", "checkout", "--pull", PROJECT]);
        assert!(done.status.success(), "{done:?}");
    }
    let copies = rounds(&stack).await;
    let copied = megabytes(stack.memory());
    drop(stack);

    let stack = start().await;
    let (stop, right, clients) = load(stack.client());
    tokio::time::sleep(seconds(3.0)).await;
    let before = megabytes(stack.memory());
    let asked = right.load(Ordering::SeqCst);
    let began = Instant::now();
    let done = tokio::task::block_in_place(|| stack.cli(&["pins", "add", PROJECT]));
    assert!(done.status.success(), "{done:?}");
    until_pinned(&stack).await;
    let took = began.elapsed();
    let meanwhile = right.load(Ordering::SeqCst) - asked;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let pinned = rounds(&stack).await;
    let after = megabytes(stack.memory());

    println!(
        "\n  pinned on all workers after {:.1} s; {meanwhile} requests were answered meanwhile ({:.0}/s), none failed",
        took.as_secs_f64(),
        number(meanwhile) / took.as_secs_f64()
    );
    let mut table = Table::new(&[
        "",
        "first map of a worker, ms",
        "later ones, median ms",
        "first to later",
        "all processes before, MB",
        "after, MB",
    ]);
    for (name, (first, later), before, after) in [
        ("a copy in every worker", copies, empty, copied),
        ("pinned", pinned, before, after),
    ] {
        table.line([
            name.to_owned(),
            format!("{:.0}", first.quantile(1.0)),
            format!("{:.0}", later.median()),
            times(first.quantile(1.0), later.median()),
            format!("{before:.0}"),
            format!("{after:.0}"),
        ]);
    }
    println!();
    table.print();
}
