//! A large answer flows through: nobody holds it whole, the first of it comes as soon as QGIS has it, and a slow reader
//! slows QGIS down instead of filling memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt as _;
use stack::memory::{Memory, forget_peak};
use stack::{Plan, Stack, parts};

const MB: u64 = 1_000_000;

/// By how much the agent and the worker may grow for an answer of sixty megabytes.
const GROWTH: u64 = 20 * MB;

/// How much later than QGIS alone the first byte may come.
const LATER: Duration = Duration::from_secs(1);

fn all_points() -> String {
    let query = "SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME=points&OUTPUTFORMAT=application/json";
    format!("/?MAP=/points&{query}")
}

/// How long QGIS itself takes to its first feature: a request for one, the project being loaded.
async fn what_qgis_needs(stack: &Stack) -> Duration {
    let one = format!("{}&MAXFEATURES=1", all_points());
    stack.get(&one).await.expect(200);
    let sent = Instant::now();
    stack.get(&one).await.expect(200);
    sent.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_megabytes_flow_through_without_being_held() {
    let stack = Plan::agents(1)
        .workers(1)
        .agent("CONF_SERVER__TIMEOUT", 120)
        .start()
        .await;
    let needed = what_qgis_needs(&stack).await;
    let (agent, worker) = (stack.agents[0].pid(), stack.agents[0].workers().await[0].pid);
    let before = [agent, worker, stack.envoy_pid()].map(|pid| {
        forget_peak(pid);
        (pid, Memory::of(pid))
    });

    let sent = Instant::now();
    let answer = stack.client().open(Method::GET, &all_points(), &[], "").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().get("content-length").is_none(), "it comes in pieces");
    let mut body = answer.into_body();
    let (mut first, mut size, mut end) = (None, 0_u64, Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.expect("the answer does not break off").into_data() else {
            continue;
        };
        first.get_or_insert_with(|| sent.elapsed());
        size += data.len() as u64;
        end = data[data.len().saturating_sub(16)..].to_vec();
    }
    let first = first.expect("there is a body");
    println!(
        "{size} bytes, first after {first:?}, all after {:?}; QGIS needs {needed:?}",
        sent.elapsed()
    );
    assert!((50 * MB..90 * MB).contains(&size), "{size} bytes");
    assert!(
        String::from_utf8_lossy(&end).trim_end().ends_with('}'),
        "the document is whole"
    );
    assert!(
        first <= needed + LATER,
        "first byte after {first:?}, QGIS needs {needed:?}"
    );
    for (pid, before) in before {
        let after = Memory::of(pid);
        println!(
            "process {pid}: {} MB resident before, {} MB at most",
            before.resident / MB,
            after.peak / MB
        );
        assert!(
            after.peak - before.resident < GROWTH,
            "process {pid} grew from {before:?} to {after:?}"
        );
    }
    assert_eq!(stack.agents[0].workers().await[0].pid, worker, "the same worker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_slows_qgis_down_instead_of_filling_memory() {
    let stack = Plan::agents(1)
        .workers(1)
        .agent("CONF_SERVER__TIMEOUT", 120)
        .start()
        .await;
    what_qgis_needs(&stack).await;
    let (agent, worker) = (stack.agents[0].pid(), stack.agents[0].workers().await[0].pid);
    let pids = [agent, worker, stack.envoy_pid()];
    let before = pids.map(Memory::of);
    pids.into_iter().for_each(forget_peak);

    let answer = stack.client().open(Method::GET, &all_points(), &[], "").await.unwrap();
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    // In this time QGIS would have written all of it several times over. It waits, and the worker with it.
    assert_eq!(stack.agents[0].workers().await[0].state, "busy");
    for (pid, before) in pids.into_iter().zip(before) {
        let after = Memory::of(pid);
        assert!(
            after.peak - before.resident < GROWTH,
            "process {pid} grew from {before:?} to {after:?}"
        );
    }
    // A client that goes away frees the worker for the next, long before the answer would have been written.
    drop(body);
    let sent = Instant::now();
    stack
        .get("/?MAP=/points&SERVICE=WMS&REQUEST=GetCapabilities")
        .await
        .expect(200);
    println!(
        "the next request was answered {:?} after the client went",
        sent.elapsed()
    );
}

/// The answer is the same that QGIS gives, whole and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_flows_through_is_every_feature_once() {
    let stack = Plan::agents(1)
        .workers(1)
        .agent("CONF_SERVER__TIMEOUT", 120)
        .start()
        .await;
    let answer = stack.get(&all_points()).await;
    let json = answer.expect(200).json();
    let features = json["features"].as_array().unwrap();
    let script =
        "import sys; from osgeo import ogr; data = ogr.Open(sys.argv[1]); print(data.GetLayer(0).GetFeatureCount())";
    let counted = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .arg(parts::projects().join("points.gpkg"))
        .output()
        .unwrap();
    let counted: usize = String::from_utf8_lossy(&counted.stdout).trim().parse().unwrap();
    assert_eq!(features.len(), counted);
    let names: std::collections::BTreeSet<&str> = features
        .iter()
        .map(|feature| feature["properties"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), counted);
}
