//! Projects with a layer from this very server: they render although a worker waits for another, and a circle ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use futures::future::join_all;
use stack::{Plan, Stack, parts};

const PROJECT: &str = include_str!("../projects/own_wms.qgs");

/// The world project and its data, in a folder that more projects can be put in.
fn with_world(folder: &Path) {
    for file in ["world.qgs", "world.gpkg", "coast_distance.tif"] {
        std::fs::copy(parts::projects().join(file), folder.join(file)).unwrap();
    }
}

/// Writes a project whose one layer, `own`, is `layer` of the project `source` as this stack's Envoy serves it.
fn write(stack: &Stack, folder: &Path, name: &str, source: &str, layer: &str) {
    let url = format!("{}/ows/{source}", stack.base());
    let text = PROJECT.replace("@URL@", &url).replace("@LAYER@", layer);
    std::fs::write(folder.join(name).with_extension("qgs"), text).unwrap();
}

fn map(project: &str, layer: &str) -> String {
    format!(
        "/ows/{project}?SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS={layer}&STYLES=&CRS=EPSG:4326&BBOX=-60,-120,60,120\
         &WIDTH=200&HEIGHT=100&FORMAT=image/png"
    )
}

/// The sum of a counter's series that have all these labels, over all agents.
async fn counted(stack: &Stack, metric: &str, labels: &[&str]) -> f64 {
    let mut sum = 0.0;
    for agent in &stack.agents {
        let page = agent.metrics().get("/metrics").await.expect(200).text();
        let series = page
            .lines()
            .filter(|line| line.starts_with(metric) && labels.iter().all(|label| line.contains(label)));
        sum += series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
    }
    sum
}

fn colours(png: &[u8]) -> usize {
    let image = image::load_from_memory(png).unwrap().to_rgba8();
    image.pixels().map(|pixel| pixel.0).collect::<BTreeSet<_>>().len()
}

/// One worker, which waits for another request of the same agent, and a deadline that is far off.
async fn alone(folder: &Path) -> Stack {
    with_world(folder);
    Plan::agents(1)
        .workers(1)
        .projects(folder)
        .agent("CONF_SERVER__TIMEOUT", 45)
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_from_this_server_renders_with_a_single_worker() {
    let folder = tempfile::tempdir().unwrap();
    let stack = alone(folder.path()).await;
    write(&stack, folder.path(), "outer", "world", "countries");
    write(&stack, folder.path(), "outermost", "outer", "own");

    let plain = stack.get(&map("world", "countries")).await;
    let least = colours(&plain.expect(200).body) / 2;
    assert!(least > 10, "the map to compare with has {least} colours");
    // As deep as is allowed by default, and several at once that all want the one worker.
    for project in ["outer", "outermost"] {
        let target = map(project, "own");
        for answer in join_all((0..4).map(|_| stack.get(&target))).await {
            assert_eq!(answer.expect(200).media_type(), "image/png", "{project}");
            let seen = colours(&answer.body);
            assert!(
                seen > least,
                "{project}: {seen} colours, more than {least} in its source"
            );
        }
    }
    let inner = counted(
        &stack,
        "graticule_requests_total",
        &["lane=\"inner\"", "status=\"200\""],
    )
    .await;
    assert!(inner >= 2.0, "{inner} requests in the inner lane");
    assert!(stack.agents[0].stats().await.exits.values().all(|count| *count == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_that_asks_for_itself_fails_at_once_and_alone() {
    let folder = tempfile::tempdir().unwrap();
    let stack = alone(folder.path()).await;
    write(&stack, folder.path(), "itself", "itself", "own");
    write(&stack, folder.path(), "there", "back", "own");
    write(&stack, folder.path(), "back", "there", "own");

    for project in ["itself", "there"] {
        let answer = stack.get(&map(project, "own")).await;
        let (code, text) = answer.exception();
        println!("{project}: {} {code}: {text}", answer.status);
        assert!(
            answer.status >= 400 && answer.status != 504,
            "{project}: {} {text}",
            answer.status
        );
    }
    let loops = counted(&stack, "graticule_refusals_total", &["code=\"LoopDetected\""]).await;
    assert!(loops >= 2.0, "{loops} loops were told of");
    let late = counted(&stack, "graticule_refusals_total", &["code=\"DeadlineExceeded\""]).await;
    assert!(late < 0.5, "{late} requests hung until their deadline");
    stack.get(&map("world", "countries")).await.expect(200);
}
