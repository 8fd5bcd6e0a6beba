//! A minute in which everything goes wrong at once. Every safe request is answered with 200, or, past its deadline, with
//! 504, or refused when it would be late; a request that takes all the memory is stopped; and the agents come out of it as they went in.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use nix::sys::signal::Signal;
use stack::client::Client;
use stack::draw::Draw;
use stack::memory::Memory;
use stack::shots::{PNG, Shot, get_map, mix};
use stack::{Agent, Plan, Stack, until};
use tokio::task::JoinHandle;

/// How long it rages.
const STORM: Duration = Duration::from_secs(60);

/// The deadline of every request.
const TIMEOUT: Duration = Duration::from_secs(6);

const CLIENTS: u64 = 8;

/// What an agent may have grown by, in bytes: allocators do not give everything back.
const GROWTH: u64 = 24 << 20;

/// Descriptors of connections that Envoy has opened or closed since.
const DESCRIPTORS: usize = 12;

/// A request whose picture alone takes 900 MB: more than a worker may have.
const HUNGRY: &str = "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=countries&STYLES=&CRS=EPSG:4326\
    &BBOX=-80,-170,80,170&WIDTH=15000&HEIGHT=15000&FORMAT=image/png";

/// A place in a list of so many.
fn place(draw: &mut Draw, of: usize) -> usize {
    usize::try_from(draw.below(u32::try_from(of).unwrap())).unwrap()
}

/// Requests that are all different, so that workers have to answer them, among some that are the same.
fn shot(draw: &mut Draw, mix: &[Shot]) -> Shot {
    if draw.below(4) == 0 {
        return mix[place(draw, mix.len())].clone();
    }
    let (south, west) = (draw.below(12_000), draw.below(30_000));
    let (south, west) = (f64::from(south) / 100.0 - 80.0, f64::from(west) / 100.0 - 170.0);
    Shot {
        name: "a map",
        target: get_map(&format!("{south},{west},{},{}", south + 20.0, west + 20.0), 200),
        media_type: "image/png",
        holds: PNG,
    }
}

#[derive(Debug, Default)]
struct Tally {
    right: u64,
    late: u64,
    failures: Vec<String>,
}

async fn client(client: Client, seed: u64, stop: Arc<AtomicBool>) -> Tally {
    let (mut draw, mut tally, mix) = (Draw::seeded(seed), Tally::default(), mix());
    while !stop.load(Ordering::Relaxed) {
        let shot = shot(&mut draw, &mix);
        let sent = Instant::now();
        let answer = client.ask(Method::GET, &shot.target, &[], "").await;
        let took = sent.elapsed();
        match answer {
            // A joined request shares the deadline of the one that it joined, which has at least half of its own left.
            Ok(answer) if answer.status == 504 && took >= TIMEOUT / 2 => tally.late += 1,
            // Refused after a good part of its time, as the rest would not do.
            Ok(answer) if answer.status == 503 && took >= TIMEOUT / 8 && answer.text().contains("ServerBusy") => {
                tally.late += 1;
            }
            Ok(answer) => match shot.judge(&answer) {
                Ok(()) => tally.right += 1,
                Err(why) => tally.failures.push(format!("after {took:?}, {}: {why}", shot.target)),
            },
            Err(error) => tally
                .failures
                .push(format!("after {took:?}, {}: {error:#}", shot.target)),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tally
}

/// Clients that ask and do not wait for the answer.
async fn impatient(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let (mut draw, mut gone) = (Draw::seeded(4711), 0);
    while !stop.load(Ordering::Relaxed) {
        let target = get_map(&format!("{},{},60,60", draw.below(50), draw.below(50)), 900);
        let asking = client.ask(Method::GET, &target, &[], "");
        let patience = Duration::from_millis(u64::from(5 + draw.below(60)));
        gone += u64::from(tokio::time::timeout(patience, asking).await.is_err());
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    gone
}

/// A client that asks for more than a worker may have, again and again; counts answers by status.
async fn greedy(client: Client, stop: Arc<AtomicBool>) -> BTreeMap<u16, u64> {
    let mut answers = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let answer = client.ask(Method::GET, HUNGRY, &[], "").await.unwrap();
        *answers.entry(answer.status).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    answers
}

fn descriptors(agent: &Agent) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count()
}

fn crashes(agents: &[graticule_proto::v1::StatsReply], reason: &str) -> u64 {
    agents.iter().filter_map(|stats| stats.exits.get(reason)).sum()
}

async fn quiet(stack: &Stack) {
    for agent in &stack.agents {
        assert!(agent.cli(&["resize", "2"]).status.success());
        until("two idle workers", async || {
            let workers = agent.stats().await.workers;
            workers.len() == 2 && workers.iter().all(|worker| worker.state == "idle")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_safe_request_is_answered_whatever_happens() {
    let stack = Plan::agents(2)
        .agent("CONF_SERVER__TIMEOUT", TIMEOUT.as_secs_f64())
        .agent("CONF_WORKER__CANCEL_TIMEOUT", 0.5)
        .agent("CONF_WORKER__MAX_FAILURE_PRESSURE", 100_000)
        .agent("CONF_WORKER__MAX_WAITING_REQUESTS", 200)
        .agent("CONF_WORKER__MEMORY__SOFT_LIMIT", 300 << 20)
        .agent("CONF_WORKER__MEMORY__HARD_LIMIT", 500 << 20)
        .agent("CONF_CACHE__MAX_BYTES", 1 << 20)
        .start()
        .await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<JoinHandle<Tally>> = (0..CLIENTS)
        .map(|seed| tokio::spawn(client(stack.client().clone(), seed, Arc::clone(&stop))))
        .collect();
    // What all of them need to have seen once does not count as growth.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before: Vec<(u64, usize)> = stack
        .agents
        .iter()
        .map(|agent| (Memory::of(agent.pid()).private_dirty, descriptors(agent)))
        .collect();
    let impatient = tokio::spawn(impatient(stack.client().clone(), Arc::clone(&stop)));
    let greedy = tokio::spawn(greedy(stack.client().clone(), Arc::clone(&stop)));

    let killed = rage(&stack).await;

    stop.store(true, Ordering::Relaxed);
    let mut tally = Tally::default();
    for client in clients {
        let Tally { right, late, failures } = client.await.unwrap();
        tally.right += right;
        tally.late += late;
        tally.failures.extend(failures);
    }
    let (gone, greedy) = (impatient.await.unwrap(), greedy.await.unwrap());
    quiet(&stack).await;
    let mut stats = Vec::new();
    for agent in &stack.agents {
        stats.push(agent.stats().await);
    }
    let exits: Vec<_> = stats.iter().map(|stats| &stats.exits).collect();
    println!(
        "{} right, {} past their deadline, {killed} workers killed, {gone} clients gone, greedy {greedy:?}, exits {exits:?}",
        tally.right, tally.late
    );
    assert!(
        tally.failures.is_empty(),
        "{} failures: {:#?}",
        tally.failures.len(),
        &tally.failures[..tally.failures.len().min(10)]
    );
    assert!(tally.right > 500 && killed > 80 && gone > 20, "a storm worth the name");
    assert!(
        crashes(&stats, "deadline") >= 1,
        "the hung worker was found and ended: {exits:?}"
    );
    let by_memory = crashes(&stats, "memory");
    assert!(
        (1..=3).contains(&by_memory),
        "the greedy request is stopped; a kill from outside may have come before one: {exits:?}"
    );
    assert!(greedy.keys().all(|status| *status == 503), "{greedy:?}");
    // Connections that nobody uses any more are closed after a moment.
    for (agent, (memory, open)) in stack.agents.iter().zip(before) {
        let now = (Memory::of(agent.pid()).private_dirty, descriptors(agent));
        println!(
            "{}: {memory} bytes and {open} descriptors before, {now:?} after",
            agent.name
        );
        assert!(
            now.0 <= memory + GROWTH,
            "{} has grown from {memory} to {now:?}",
            agent.name
        );
        assert!(
            now.1 <= open + DESCRIPTORS,
            "{} had {open} descriptors, now {now:?}",
            agent.name
        );
        let left = std::fs::read_dir(agent.runtime_dir()).unwrap();
        let left = left.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('w'));
        assert!(
            left.count() <= 3,
            "temporary directories of workers that have gone are left"
        );
    }
}

/// Kills a random worker every half second, stops one for good, and resizes every five seconds. Says how many it killed.
async fn rage(stack: &Stack) -> u64 {
    let (mut draw, started) = (Draw::seeded(99), Instant::now());
    let (mut killed, mut hung) = (0, false);
    let mut round = 0_u32;
    while started.elapsed() < STORM {
        tokio::time::sleep_until((started + Duration::from_millis(500) * round).into()).await;
        let agent = &stack.agents[place(&mut draw, 2)];
        let workers = agent.workers().await;
        if round.is_multiple_of(10) {
            let size = 1 + draw.below(4);
            assert!(agent.cli(&["resize", &size.to_string()]).status.success());
        }
        if workers.is_empty() {
            round += 1;
            continue;
        }
        let victim = &workers[place(&mut draw, workers.len())];
        if !hung && round > 10 && victim.state == "busy" {
            println!("worker {} of {} hangs", victim.id, agent.name);
            agent.signal_worker(victim, Signal::SIGSTOP);
            hung = true;
            // For it not to be killed by chance before its deadline.
            tokio::time::sleep(TIMEOUT + Duration::from_secs(1)).await;
            round += u32::try_from((TIMEOUT + Duration::from_secs(1)).as_millis() / 500).unwrap();
        } else {
            agent.signal_worker(victim, Signal::SIGKILL);
            killed += 1;
        }
        round += 1;
    }
    assert!(hung, "no worker was ever busy");
    killed
}
