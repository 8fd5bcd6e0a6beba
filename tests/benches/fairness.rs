//! What a flood of one project does to the others: one project is asked for slow maps, ten times as many at once as there
//! are workers, while another is asked for a small map every 200 ms; beside FastCGI processes behind nginx.
//!
//!     cargo bench --workspace --profile dev --bench fairness
//!
//! Two QGIS processes on each side. The small maps are sent by the clock, whether or not the last one was answered, so a wait
//! counts in full. The figures are the small map's wait, and how many times a slow map's own length (alone, on an idle
//! side) that is: with fair shares a small map waits about as long as one slow map takes, in one queue as long as all
//! that are ahead of it.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::{Duration, Instant};

use stack::bench::{Loop, Outcome, Table, Times, announce, ask, seconds, times};
use stack::shots::{PNG, Shot};
use stack::{Plan, Side};

const PROCESSES: usize = 2;
const FLOOD: usize = 10 * PROCESSES;

/// Between two small maps.
const EVERY: Duration = Duration::from_millis(200);

/// A map of which no two are the same: `number` makes it a little higher.
fn map(map: &str, layers: &str, bbox: &str, number: u32) -> Shot {
    let top = 50.0 + f64::from(number % 1000) / 10_000.0;
    Shot {
        name: "map",
        target: format!(
            "/?MAP={map}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS={layers}&STYLES=&CRS=EPSG:4326\
             &BBOX={bbox},{top},20&WIDTH=256&HEIGHT=256&FORMAT=image/png"
        ),
        media_type: "image/png",
        holds: PNG,
    }
}

fn slow(name: &str, number: u32) -> Shot {
    map(name, "land,labels", "40,0", number)
}

fn small(name: &str, number: u32) -> Shot {
    map(name, "roads,towns", "49,9", number)
}

/// How long a slow map takes when nothing else runs: the median of some.
async fn length(side: &Side) -> Duration {
    let name = side.project("slow");
    let mut lengths = Vec::new();
    // The first ones load the project.
    for number in 0..8 {
        let sent = Instant::now();
        ask(side.client(), &slow(&name, number)).await.unwrap();
        lengths.push(sent.elapsed());
    }
    Duration::from_secs_f64(Times::new(lengths.split_off(3)).median() / 1e3)
}

struct Waits {
    times: Times,
    errors: usize,
}

/// Small maps by the clock for as long as `lasting`.
async fn every(side: &Side, lasting: Duration) -> Waits {
    let name = side.project("public/roads");
    let mut clock = tokio::time::interval(EVERY);
    let mut sent = Vec::new();
    let started = Instant::now();
    while started.elapsed() < lasting {
        clock.tick().await;
        let number = u32::try_from(sent.len()).unwrap();
        let (client, shot) = (side.client().clone(), small(&name, number));
        sent.push(tokio::spawn(async move {
            let sent = Instant::now();
            ask(&client, &shot).await.map(|()| sent.elapsed())
        }));
    }
    let (mut times, mut errors) = (Vec::new(), 0);
    for answer in sent {
        match answer.await.unwrap() {
            Ok(took) => times.push(took),
            Err(why) => {
                if errors == 0 {
                    eprintln!("small map: {why}");
                }
                errors += 1;
            }
        }
    }
    Waits {
        times: Times::new(times),
        errors,
    }
}

/// Small maps while the flood runs, and the flood.
async fn flooded(side: &Side, lasting: Duration) -> (Waits, Outcome) {
    let swell = Duration::from_secs(3);
    let flood = Loop {
        clients: FLOOD,
        warm_up: swell,
        measured: lasting,
    };
    let name = side.project("slow");
    let flood = flood.run(side.client(), 1, move |draw| slow(&name, draw.below(1000)));
    let small = async {
        tokio::time::sleep(swell).await;
        every(side, lasting).await
    };
    let (flood, waits) = tokio::join!(flood, small);
    (waits, flood)
}

#[tokio::main]
async fn main() {
    announce("A small map every 200 ms beside a flood of slow ones: 2 QGIS processes on each side");
    // A busy machine must not turn waits into errors.
    let plan = Plan::agents(1)
        .workers(PROCESSES)
        .agent("CONF_SERVER__TIMEOUT", 70)
        .agent("CONF_WORKER__MAX_WAITING_REQUESTS", 500)
        .control_plane("CONF_FRONT__REQUEST_TIMEOUT", 80);
    let sides = [
        ("nginx + FastCGI", Side::incumbent(PROCESSES, &[]).await),
        ("Graticule", Side::graticule(plan).await),
    ];
    let lasting = seconds(20.0);
    for (name, side) in &sides {
        let length = length(side).await.as_secs_f64() * 1e3;
        let alone = every(side, lasting / 2).await;
        let (beside, flood) = flooded(side, lasting).await;
        flood.complain(name);
        let mut table = Table::new(&[
            name,
            "answered",
            "errors",
            "median ms",
            "of a slow map",
            "p99 ms",
            "of a slow map",
        ]);
        for (what, waits) in [("small map, nothing else", &alone), ("small map, flood of 20", &beside)] {
            table.line([
                what.to_owned(),
                waits.times.count().to_string(),
                waits.errors.to_string(),
                format!("{:.1}", waits.times.median()),
                times(waits.times.median(), length),
                format!("{:.1}", waits.times.p99()),
                times(waits.times.p99(), length),
            ]);
        }
        table.line([
            "the flood's own".to_owned(),
            flood.times.count().to_string(),
            flood.errors.to_string(),
            format!("{:.1}", flood.times.median()),
            times(flood.times.median(), length),
            format!("{:.1}", flood.times.p99()),
            times(flood.times.p99(), length),
        ]);
        println!();
        table.print();
        println!("  a slow map alone takes {length:.0} ms");
    }
}
