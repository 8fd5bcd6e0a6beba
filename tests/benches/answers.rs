//! Answers that cost little or nothing: capabilities from the response cache beside QGIS's own and FastCGI processes behind
//! nginx, warm tiles of one project, and a hundred clients that ask for the same tile at once.
//!
//!     cargo bench --workspace --profile dev --bench answers
//!
//! One agent of four workers with its cache, one without (`cache.max_bytes = 0`, `cache.join = false`), one that keeps maps
//! too (`cache.map_max_age`), and four `qgis_mapserv.fcgi`. In the storm nothing is kept: clients share a render only where
//! they ask while it runs, and "renders" is how many requests reached QGIS for the hundred.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::{Duration, Instant};

use stack::bench::{Loop, Outcome, Table, Times, announce, ask, number, seconds, times};
use stack::draw::Draw;
use stack::shots::{PNG, Shot};
use stack::{Client, Plan, Side, towns};

const PROCESSES: usize = 4;
const CLIENTS: usize = 8;

/// How many ask at once in the storm, and how often it comes.
const STORM: usize = 100;
const STORMS: usize = 3;

/// The town whose tiles are asked: one with all twelve layers.
const TOWN: usize = 4;

async fn graticule(variables: &[(&str, &str)]) -> Side {
    let mut plan = Plan::agents(1)
        .workers(PROCESSES)
        // The whole storm may wait.
        .agent("CONF_WORKER__MAX_WAITING_REQUESTS", 2 * STORM);
    for (key, value) in variables {
        plan = plan.agent(key, value);
    }
    Side::graticule(plan).await
}

/// Eight clients that ask what `request` draws, once every process has the project.
async fn run(side: &Side, request: impl Fn(&mut Draw) -> Shot + Send + Sync + 'static) -> Outcome {
    let mut draw = Draw::seeded(1);
    for _ in 0..4 {
        at_once(side.client(), CLIENTS, |_| request(&mut draw)).await;
    }
    let run = Loop {
        clients: CLIENTS,
        warm_up: Duration::from_secs(3),
        measured: seconds(6.0),
    };
    run.run(side.client(), 1, request).await
}

/// The tile of a storm: a new one each time.
fn storm_tile(map: &str, number: usize) -> Shot {
    let left = number * 20;
    let right = left + 20;
    Shot {
        name: "tile",
        target: format!(
            "/?MAP={map}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=countries&STYLES=&CRS=EPSG:4326\
             &BBOX=40,{left},60,{right}&WIDTH=256&HEIGHT=256&FORMAT=image/png"
        ),
        media_type: "image/png",
        holds: PNG,
    }
}

struct Storm {
    /// Until the last client had its tile.
    last: Times,
    renders: Option<f64>,
    errors: usize,
}

async fn storm(side: &Side) -> Storm {
    let map = side.project("world");
    // The project is loaded everywhere, and every client has a connection.
    at_once(side.client(), STORM, |client| storm_tile(&map, STORMS + client % 5)).await;
    let (mut last, mut errors) = (Vec::new(), 0);
    let before = side.served().await;
    for number in 0..STORMS {
        let (took, wrong) = at_once(side.client(), STORM, |_| storm_tile(&map, number)).await;
        last.push(took);
        errors += wrong;
    }
    let renders = match (before, side.served().await) {
        (Some(before), Some(after)) => Some(number(usize::try_from(after - before).unwrap()) / number(STORMS)),
        _ => None,
    };
    Storm {
        last: Times::new(last),
        renders,
        errors,
    }
}

/// One request of each of so many clients at the same moment: until when all had answers, and how many were wrong.
async fn at_once(client: &Client, clients: usize, mut shot: impl FnMut(usize) -> Shot) -> (Duration, usize) {
    let sent = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|number| {
            let (client, shot) = (client.clone(), shot(number));
            tokio::spawn(async move { ask(&client, &shot).await })
        })
        .collect();
    let mut wrong = 0;
    for answer in clients {
        if let Err(why) = answer.await.unwrap() {
            if wrong == 0 {
                eprintln!("one of the clients at once: {why}");
            }
            wrong += 1;
        }
    }
    (sent.elapsed(), wrong)
}

fn rates(title: &str, found: &[(&str, Outcome)]) {
    let mut table = Table::new(&[
        title,
        "requests/s",
        "of nginx's",
        "p50 ms",
        "p99 ms",
        "of nginx's",
        "errors",
    ]);
    let first = &found[0].1;
    for (name, outcome) in found {
        outcome.complain(name);
        table.line([
            (*name).to_owned(),
            format!("{:.0}", outcome.rate()),
            times(outcome.rate(), first.rate()),
            format!("{:.2}", outcome.times.median()),
            format!("{:.2}", outcome.times.p99()),
            times(outcome.times.p99(), first.times.p99()),
            outcome.errors.to_string(),
        ]);
    }
    println!();
    table.print();
}

#[tokio::main]
async fn main() {
    announce("Answers that cost little: 8 clients, 4 QGIS processes on each side");
    let off = [("CONF_CACHE__MAX_BYTES", "0"), ("CONF_CACHE__JOIN", "false")];
    let sides = [
        ("nginx + FastCGI", Side::incumbent(PROCESSES, &[]).await),
        ("Graticule, no cache", graticule(&off).await),
        ("Graticule", graticule(&[]).await),
        (
            "Graticule, maps kept",
            graticule(&[("CONF_CACHE__MAP_MAX_AGE", "300")]).await,
        ),
    ];
    let [nginx, no_cache, cache, maps_kept] = &sides;

    let mut found = Vec::new();
    for (name, side) in [nginx, no_cache, cache] {
        let map = side.project("atlas150");
        found.push((*name, run(side, move |_| towns::capabilities(&map)).await));
    }
    rates("capabilities of 150 layers", &found);

    let mut found = Vec::new();
    for (name, side) in [nginx, no_cache, cache, maps_kept] {
        let map = side.town(TOWN);
        found.push((*name, run(side, move |draw| towns::tile(&map, draw.below(64))).await));
    }
    rates("64 warm tiles of one project", &found);

    let mut table = Table::new(&[
        "100 clients, one tile at once",
        "all have it after, median ms",
        "of nginx's",
        "longest ms",
        "renders",
        "errors",
    ]);
    let mut first = f64::NAN;
    for (name, side) in [nginx, no_cache, cache] {
        let found = storm(side).await;
        if first.is_nan() {
            first = found.last.median();
        }
        table.line([
            (*name).to_owned(),
            format!("{:.0}", found.last.median()),
            times(found.last.median(), first),
            format!("{:.0}", found.last.quantile(1.0)),
            found
                .renders
                .map_or_else(|| STORM.to_string(), |renders| format!("{renders:.1}")),
            found.errors.to_string(),
        ]);
    }
    println!();
    table.print();
}
