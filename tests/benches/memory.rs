//! Memory of a worker that has drawn a map, and how long the first map took: forked with the project pinned (loaded once in
//! the zygote), forked and loading it itself, spawned, and beside `qgis_mapserv.fcgi`.
//!
//!     cargo bench --workspace --profile dev --bench memory
//!
//! For a small project of two layers and for one of 150. Private is what only that process has written to, proportional
//! has each shared page in part; both are means over four processes. "All" is the agent with its zygote and its four
//! workers, or nginx with its four processes. The first map is a single one, drawn while nothing else is.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::{Duration, Instant};

use stack::bench::{Table, announce, ask, megabytes, number, times};
use stack::memory::{Memory, family};
use stack::shots::{PNG, Shot};
use stack::{Agent, Client, Incumbent, Plan, parts, until};

const PROCESSES: usize = 4;

struct Project {
    title: &'static str,
    /// As clients of Graticule name it; its file has the ending `.qgs`.
    name: &'static str,
    layers: &'static str,
    bbox: &'static str,
}

const PROJECTS: [Project; 2] = [
    Project {
        title: "2 layers (public/roads)",
        name: "/public/roads",
        layers: "roads,towns",
        bbox: "49.5,9.2,50.5,10.8",
    },
    Project {
        title: "150 layers (atlas150)",
        name: "/atlas150",
        layers: "FRA,DEU,ITA,POL",
        bbox: "40,0,60,20",
    },
];

struct Measured {
    first: Duration,
    private: f64,
    proportional: f64,
    all: f64,
}

impl Measured {
    fn of(first: Duration, processes: &[u32], all: u64) -> Self {
        let memory: Vec<Memory> = processes.iter().map(|pid| Memory::of(*pid)).collect();
        let mean = |of: fn(&Memory) -> u64| megabytes(memory.iter().map(of).sum()) / number(memory.len());
        Self {
            first,
            private: mean(|memory| memory.private_dirty),
            proportional: mean(|memory| memory.proportional),
            all: megabytes(all),
        }
    }
}

/// A map; one number more is one column of pixels more, so that no two are answered by one render.
fn map(project: &Project, map: &str, number: usize) -> Shot {
    let Project { layers, bbox, .. } = project;
    let width = 256 + number;
    Shot {
        name: "map",
        target: format!(
            "/?MAP={map}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS={layers}&STYLES=&CRS=EPSG:4326&BBOX={bbox}\
             &WIDTH={width}&HEIGHT=256&FORMAT=image/png"
        ),
        media_type: "image/png",
        holds: PNG,
    }
}

/// The first map, alone.
async fn first(client: &Client, shot: &Shot) -> Duration {
    let sent = Instant::now();
    ask(client, shot).await.unwrap();
    sent.elapsed()
}

/// One map for each process at once.
async fn round(client: &Client, shots: Vec<Shot>) {
    let ask_one = |shot: Shot| {
        let client = client.clone();
        tokio::spawn(async move { ask(&client, &shot).await })
    };
    for answer in shots.into_iter().map(ask_one).collect::<Vec<_>>() {
        answer.await.unwrap().unwrap();
    }
}

async fn graticule(method: &str, pinned: bool, project: &Project) -> Measured {
    let plan = Plan::agents(1).workers(PROCESSES);
    let stack = plan.agent("CONF_WORKER__START_METHOD", method).start().await;
    let agent = &stack.agents[0];
    if pinned {
        pin(agent, project).await;
    }
    let client = agent.direct();
    let shot = |number| map(project, project.name, number);
    let took = first(&client, &shot(0)).await;
    let mut sent = 1;
    until("every worker to have drawn a map", async || {
        round(&client, (sent..sent + PROCESSES).map(shot).collect()).await;
        sent += PROCESSES;
        let workers = agent.workers().await;
        workers.len() == PROCESSES && workers.iter().all(|worker| worker.served > 0)
    })
    .await;
    let workers: Vec<u32> = agent.workers().await.iter().map(|worker| worker.pid).collect();
    Measured::of(took, &workers, family(agent.pid()))
}

/// Pins the project and waits until every worker has it from its zygote.
async fn pin(agent: &Agent, project: &Project) {
    let pinned = agent.cli(&["cache", "pin", project.name]);
    assert!(pinned.status.success(), "{}", String::from_utf8_lossy(&pinned.stderr));
    until("workers that inherited the project", async || {
        let workers = agent.stats().await.workers;
        let inherited = |worker: &stack::WorkerInfo| worker.projects.iter().any(|name| name == project.name);
        workers.len() == PROCESSES && workers.iter().all(|worker| worker.state == "idle" && inherited(worker))
    })
    .await;
}

async fn incumbent(project: &Project) -> Measured {
    let incumbent = Incumbent::start(PROCESSES, &[]).await;
    let file = format!("{}{}.qgs", parts::projects().display(), project.name);
    let shot = |number| map(project, &file, number);
    let client = incumbent.client();
    let took = first(client, &shot(0)).await;
    // They do not say who drew what; four at once mostly reach four processes.
    for number in 0..6 {
        let from = 1 + number * PROCESSES;
        round(client, (from..from + PROCESSES).map(shot).collect()).await;
    }
    Measured::of(took, &incumbent.processes(), incumbent.memory())
}

#[tokio::main]
async fn main() {
    announce("Memory of a process that has drawn a map, 4 processes each");
    for project in &PROJECTS {
        let sides = [
            ("nginx + FastCGI", incumbent(project).await),
            ("spawned", graticule("spawn", false, project).await),
            ("forked, loaded by itself", graticule("fork", false, project).await),
            ("forked, pinned", graticule("fork", true, project).await),
        ];
        let mut table = Table::new(&[
            project.title,
            "first map ms",
            "of nginx's",
            "private MB",
            "of nginx's",
            "proportional MB",
            "of nginx's",
            "all MB",
            "of nginx's",
        ]);
        let nginx = &sides[0].1;
        for (name, found) in &sides {
            let first = |found: &Measured| found.first.as_secs_f64() * 1e3;
            let figures: [fn(&Measured) -> f64; 3] =
                [|found| found.private, |found| found.proportional, |found| found.all];
            let mut line = vec![
                (*name).to_owned(),
                format!("{:.0}", first(found)),
                times(first(found), first(nginx)),
            ];
            for figure in figures {
                line.push(format!("{:.1}", figure(found)));
                line.push(times(figure(found), figure(nginx)));
            }
            table.line(line);
        }
        println!();
        table.print();
    }
}
