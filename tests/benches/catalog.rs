//! How soon the first page of the catalog is there, for a thousand and for ten thousand project files.
//!
//!     cargo bench --workspace --profile dev --bench catalog
//!
//! "first" is the first request after the start, "warm" one that comes while a listing is used, "listed anew" one that has
//! to wait for the directory to be read again. All ask the agent itself for 50 projects as JSON.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::{Duration, Instant};

use stack::bench::{Table, Times, announce, times};
use stack::{Client, Plan};

const SIZES: [usize; 2] = [1_000, 10_000];
const WARM: usize = 200;
const ANEW: usize = 8;

/// Longer than such a listing is used: ten times as long as it took, a second at least.
const OLD: Duration = Duration::from_secs(3);

struct Measured {
    first: Times,
    warm: Times,
    anew: Times,
}

async fn page(client: &Client, projects: usize) -> Duration {
    let asked = Instant::now();
    let answer = client.get("/catalog?f=json").await;
    let took = asked.elapsed();
    let list = answer.expect(200).json();
    assert_eq!(
        (&list["numberMatched"], &list["numberReturned"]),
        (&projects.into(), &50.into())
    );
    took
}

async fn measure(projects: usize) -> Measured {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..projects {
        let place = folder.path().join(format!("district{:02}", number % 100));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(format!("town{number:05}.qgs")), "x").unwrap();
    }
    let stack = Plan::agents(1).workers(1).projects(folder.path()).start().await;
    let client = stack.agents[0].direct();
    let first = Times::new(vec![page(&client, projects).await]);
    let (mut warm, mut anew) = (Vec::new(), Vec::new());
    for _ in 0..WARM {
        warm.push(page(&client, projects).await);
    }
    for _ in 0..ANEW {
        tokio::time::sleep(OLD).await;
        anew.push(page(&client, projects).await);
    }
    Measured {
        first,
        warm: Times::new(warm),
        anew: Times::new(anew),
    }
}

#[tokio::main]
async fn main() {
    announce("The first page of the catalog: 50 projects of many, asked of the agent itself");
    let mut found = Vec::new();
    for size in SIZES {
        found.push(measure(size).await);
    }
    let [small, large] = &found[..] else {
        unreachable!("two sizes")
    };
    let mut table = Table::new(&[
        "first page, ms",
        "1,000 projects",
        "10,000 projects",
        "10,000 over 1,000",
    ]);
    for (name, figure) in [
        ("first", (|m: &Measured| m.first.median()) as fn(&Measured) -> f64),
        ("warm, p50", |m| m.warm.median()),
        ("warm, p99", |m| m.warm.p99()),
        ("listed anew, p50", |m| m.anew.median()),
    ] {
        table.line([
            name.to_owned(),
            format!("{:.2}", figure(small)),
            format!("{:.2}", figure(large)),
            times(figure(large), figure(small)),
        ]);
    }
    println!();
    table.print();
}
