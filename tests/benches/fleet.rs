//! Many projects: requests a second and waits, with each project kept on its agent (affinity), without, and beside QGIS's
//! own FastCGI processes behind nginx.
//!
//!     cargo bench --workspace --profile dev --bench fleet
//!
//! Two agents of two workers each keep up to 50 projects a worker; four `qgis_mapserv.fcgi` have their own cache of 100
//! projects each, and once more a cache that holds all of them. Eight clients ask small town maps (`make.py --bench`): nine
//! in ten for a tile of 256 pixels, the others for capabilities or a click. All sides stand ready at once and take turns,
//! so that what else the machine does meets all alike. Clients run on the same processors. Where projects are kept none is
//! loaded while it is measured: "loaded" says how many were, whatever else the machine did.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::Duration;

use stack::bench::{Loop, Outcome, Table, announce, megabytes, seconds, times, warm};
use stack::draw::{Draw, Spread};
use stack::{Plan, Side, towns};

const CLIENTS: usize = 8;
const WORKERS: usize = 4;

/// How often each side has its turn in a cell.
const TURNS: u64 = 2;

/// How often a town is asked for on average before that is measured. Projects that just fit are where they stay after fifteen.
const ROUNDS: usize = 24;

/// No side is warmed up for longer than this.
const WARM_UP: Duration = Duration::from_secs(90);

/// How requests are spread over how many towns.
struct Cell {
    name: &'static str,
    towns: u32,
    exponent: f64,
}

const CELLS: [Cell; 3] = [
    Cell {
        name: "40 projects, each as often",
        towns: 40,
        exponent: 0.0,
    },
    Cell {
        name: "200 projects, each as often",
        towns: towns::TOWNS,
        exponent: 0.0,
    },
    Cell {
        name: "200 projects, Zipf 1.0",
        towns: towns::TOWNS,
        exponent: 1.0,
    },
];

async fn graticule(affinity: bool) -> Side {
    let plan = Plan::agents(2)
        .workers(WORKERS / 2)
        .control_plane("CONF_FRONT__AFFINITY", affinity)
        .agent("CONF_WORKER__QGIS__MAX_PROJECTS", 50);
    Side::graticule(plan).await
}

async fn incumbent(cached: &str) -> Side {
    Side::incumbent(WORKERS, &[("QGIS_SERVER_PROJECT_CACHE_SIZE", cached)]).await
}

/// The values of MAP for a cell's towns.
fn maps(side: &Side, cell: &Cell) -> Vec<String> {
    (0..cell.towns as usize).map(|town| side.town(town)).collect()
}

async fn turn(side: &Side, cell: &Cell, seed: u64, warm_up: Duration, measured: Duration) -> Outcome {
    let spread = Spread::zipf(cell.towns, cell.exponent);
    let maps = maps(side, cell);
    let run = Loop {
        clients: CLIENTS,
        warm_up,
        measured,
    };
    run.run(side.client(), seed, move |draw| {
        let town = spread.pick(draw);
        towns::request(&maps[town], draw)
    })
    .await
}

/// A cell of every side, and how many projects it loaded meanwhile.
async fn measure(cell: &Cell, sides: &[(&str, Side)]) -> Vec<(Outcome, Option<u64>)> {
    for (_, side) in sides {
        let (maps, spread) = (maps(side, cell), Spread::zipf(cell.towns, cell.exponent));
        let requests = maps.len() * ROUNDS;
        warm(side.client(), requests, WARM_UP, move |number| {
            let mut draw = Draw::seeded(number as u64);
            towns::request(&maps[spread.pick(&mut draw)], &mut draw)
        })
        .await;
    }
    let mut outcomes = vec![(Outcome::default(), None::<u64>); sides.len()];
    for number in 1..=TURNS {
        for ((name, side), (outcome, loaded)) in sides.iter().zip(&mut outcomes) {
            // What the other sides put into caches of the system is common to all; the processors' own warm up again.
            let warm_up = Duration::from_millis(500);
            let before = side.loaded().await;
            let found = turn(side, cell, number, warm_up, seconds(5.0)).await;
            if let (Some(before), Some(after)) = (before, side.loaded().await) {
                *loaded = Some(loaded.unwrap_or_default() + after - before);
            }
            found.complain(&format!("{}, {name}", cell.name));
            outcome.add(found);
        }
    }
    outcomes
}

#[tokio::main]
async fn main() {
    announce("Requests over many projects: 8 clients, 4 QGIS processes on each side");
    let sides = [
        ("nginx + FastCGI", incumbent("100").await),
        ("nginx + FastCGI, cache of 200", incumbent("200").await),
        ("Graticule, affinity off", graticule(false).await),
        ("Graticule", graticule(true).await),
    ];
    let mut rates = Vec::new();
    for cell in &CELLS {
        let outcomes = measure(cell, &sides).await;
        let first = &outcomes[0].0;
        let mut table = Table::new(&[
            cell.name,
            "requests/s",
            "of nginx's",
            "p50 ms",
            "p99 ms",
            "of nginx's",
            "errors",
            "loaded",
            "memory MB",
        ]);
        for ((name, side), (outcome, loaded)) in sides.iter().zip(&outcomes) {
            table.line([
                (*name).to_owned(),
                format!("{:.1}", outcome.rate()),
                times(outcome.rate(), first.rate()),
                format!("{:.1}", outcome.times.median()),
                format!("{:.1}", outcome.times.p99()),
                times(outcome.times.p99(), first.times.p99()),
                outcome.errors.to_string(),
                loaded.map(|loaded| loaded.to_string()).unwrap_or_default(),
                format!("{:.0}", megabytes(side.memory())),
            ]);
        }
        println!();
        table.print();
        rates.push(outcomes.iter().map(|(outcome, _)| outcome.rate()).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["from 40 to 200 projects, each as often", "the rate becomes"]);
    for (at, (name, _)) in sides.iter().enumerate() {
        table.line([(*name).to_owned(), times(rates[1][at], rates[0][at])]);
    }
    println!();
    table.print();
}
