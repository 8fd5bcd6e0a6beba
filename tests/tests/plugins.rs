//! QGIS's server plugins through a real Envoy: filters, access control and caches do what they do, a broken one harms
//! nobody, and no answer reaches whom it is not for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use serde_json::Value;
use stack::{Agent, Plan, Stack, parts, until};

const CAPS: &str = "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetCapabilities";

/// A map of a layer that no plugin hides.
const MAP: &str = "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=provinces&STYLES=&CRS=EPSG:4326\
                   &BBOX=-60,-170,80,170&WIDTH=200&HEIGHT=100&FORMAT=image/png";

/// A map of one that is hidden.
const HIDDEN: &str = "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=countries&STYLES=&CRS=EPSG:4326\
                      &BBOX=-60,-170,80,170&WIDTH=200&HEIGHT=100&FORMAT=image/png";

const WORD: [(&str, &str); 1] = [("x-map-word", "sesame")];

/// One agent of two workers with the plugins of `tests/plugins` that are named.
fn plan(allowed: &[&str]) -> Plan {
    let paths = parts::root().join("tests/plugins");
    Plan::agents(1)
        .agent("CONF_WORKER__QGIS__PLUGINS__PATHS", format!("\"{}\"", paths.display()))
        .agent("CONF_WORKER__QGIS__PLUGINS__ALLOWED", allowed.join(","))
}

fn list(agent: &Agent) -> Value {
    let output = agent.cli(&["plugin", "list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn plugin<'a>(list: &'a Value, name: &str) -> &'a Value {
    let plugins = list["plugins"].as_array().unwrap();
    plugins
        .iter()
        .find(|plugin| plugin["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {list}"))
}

async fn ways_of_starting(stack: &Stack) -> BTreeSet<String> {
    let workers = stack.agents[0].workers().await;
    workers.into_iter().map(|worker| worker.start).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_work_and_broken_plugins_harm_nobody() {
    let stack = plan(&[
        "adds_header",
        "keeps_documents",
        "starts_thread",
        "raises",
        "for_newer_qgis",
        "nowhere",
    ])
    .workers(1)
    .start()
    .await;
    let agent = &stack.agents[0];

    let headers = [
        ("authorization", "Bearer s3cret"),
        ("cookie", "a=1"),
        ("accept", "image/png"),
    ];
    let map = stack.client().get_with(MAP, &headers).await;
    assert_eq!(map.expect(200).media_type(), "image/png");
    assert!(map.header("x-adds-header").contains("served by"), "{:?}", map.headers);
    let given = map.header("x-headers-given");
    assert!(
        given.contains("Accept: image/png") && !given.contains("s3cret") && !given.contains("a=1"),
        "{given}"
    );

    // Larger than what is held back until it is whole.
    let features = "/?MAP=/points&SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME=points&OUTPUTFORMAT=GeoJSON";
    let streamed = stack.get(features).await;
    assert_eq!(streamed.expect(200).header("content-length"), "");
    assert!(streamed.body.len() > 1 << 20, "{}", streamed.body.len());
    assert!(streamed.header("x-adds-header").contains("served by"));

    // Workers are still forked, and inherit what has no thread.
    assert_eq!(ways_of_starting(&stack).await, ["fork".to_owned()].into());
    assert_eq!(map.header("x-ticks"), "yes");

    // Its document is only asked for where the agent does not answer by itself.
    let anew = [("cache-control", "no-cache")];
    let first = stack.client().get_with(CAPS, &anew).await.expect(200).text();
    let second = stack.client().get_with(CAPS, &anew).await.expect(200).text();
    assert!(!first.contains("kept by a plugin") && second.contains("kept by a plugin"));
    // Without access control the agent keeps answers as ever.
    let kept = stack.get(CAPS).await;
    assert_eq!(
        kept.header("x-graticule-cache"),
        "hit",
        "{:?}\n{}\n{}",
        kept.headers,
        agent.metrics().get("/metrics").await.text(),
        agent.log()
    );

    let list = list(agent);
    for (name, state, place) in [
        ("adds_header", "loaded", "zygote"),
        ("keeps_documents", "loaded", "zygote"),
        ("starts_thread", "loaded", "worker"),
        ("raises", "failed", ""),
        ("for_newer_qgis", "failed", ""),
        ("nowhere", "failed", ""),
    ] {
        let plugin = plugin(&list, name);
        assert_eq!(
            (&plugin["state"], &plugin["where"]),
            (&state.into(), &place.into()),
            "{plugin}"
        );
    }
    assert_eq!(
        (&plugin(&list, "keeps_documents")["cache_filter"], &list["unshared"]),
        (&true.into(), &"".into())
    );
    let table = String::from_utf8(agent.cli(&["plugin", "list"]).stdout).unwrap();
    assert!(table.contains("No module named 'no_such_module'"), "{table}");
    assert!(agent.log().contains("a plugin is not loaded"));
    let metrics = agent.metrics().get("/metrics").await.text();
    assert!(metrics.contains("graticule_plugins{state=\"loaded\"} 3"));
    assert!(metrics.contains("graticule_plugins{state=\"failed\"} 3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_control_sees_named_headers_and_nothing_is_shared() {
    let stack = plan(&["hides_layer"])
        .agent("CONF_WORKER__QGIS__FORWARD_HEADERS", r#"["X-Map-*"]"#)
        .agent("CONF_CACHE__MAP_MAX_AGE", 60)
        .start()
        .await;
    for _ in 0..3 {
        let shown = stack.client().get_with(CAPS, &WORD).await;
        assert!(shown.expect(200).text().contains("<Name>countries</Name>"));
        let hidden = stack.get(CAPS).await;
        assert!(!hidden.expect(200).text().contains("<Name>countries</Name>"));
        assert!(hidden.text().contains("<Name>provinces</Name>"));
        stack.client().get_with(HIDDEN, &WORD).await.expect(200);
        assert_ne!(stack.get(HIDDEN).await.status, 200);
        for answer in [shown, hidden, stack.get(MAP).await] {
            assert_eq!(answer.header("x-graticule-cache"), "bypass");
            assert_eq!(answer.header("etag"), "");
        }
    }
    // Identical ones at the same time are not joined either.
    let many = futures::future::join_all((0..8).map(|_| stack.get(CAPS))).await;
    assert!(many.iter().all(|answer| answer.header("x-graticule-cache") == "bypass"));
    let list = list(&stack.agents[0]);
    assert_eq!(plugin(&list, "hides_layer")["access_control"], true);
    let why = list["unshared"].as_str().unwrap();
    assert!(
        why.contains("hides_layer controls access") && why.contains("cache.vary_headers"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_kept_apart_by_the_headers_that_access_depends_on() {
    let stack = plan(&["hides_layer"])
        .agent("CONF_WORKER__QGIS__FORWARD_HEADERS", r#"["x-map-word"]"#)
        .agent("CONF_CACHE__VARY_HEADERS", r#"["x-map-word"]"#)
        .start()
        .await;
    for round in 0..2 {
        let expected = if round == 0 { "miss" } else { "hit" };
        let shown = stack.client().get_with(CAPS, &WORD).await;
        assert!(shown.expect(200).text().contains("<Name>countries</Name>"));
        assert!(shown.header("cache-control").contains("private"), "{:?}", shown.headers);
        let hidden = stack.get(CAPS).await;
        assert!(!hidden.expect(200).text().contains("<Name>countries</Name>"));
        for answer in [shown, hidden] {
            assert_eq!(answer.header("x-graticule-cache"), expected);
            assert_eq!(answer.agents_vary(), "x-map-word");
        }
    }
    let wrong = stack.client().get_with(CAPS, &[("x-map-word", "please")]).await;
    assert!(!wrong.expect(200).text().contains("<Name>countries</Name>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_is_not_named_reaches_no_plugin() {
    let stack = plan(&["hides_layer"]).start().await;
    let hidden = stack.client().get_with(CAPS, &WORD).await;
    assert!(!hidden.expect(200).text().contains("<Name>countries</Name>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spawned_workers_have_the_same_plugins() {
    let stack = plan(&["adds_header", "starts_thread", "raises"])
        .agent("CONF_WORKER__START_METHOD", "spawn")
        .start()
        .await;
    let map = stack.get(MAP).await;
    assert!(map.expect(200).header("x-adds-header").contains("served by"));
    assert_eq!(map.header("x-ticks"), "yes");
    let list = list(&stack.agents[0]);
    assert_eq!(plugin(&list, "adds_header")["where"], "worker");
    assert_eq!(plugin(&list, "raises")["state"], "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_replaced_workers_keeps_its_plugins() {
    let stack = plan(&["adds_header", "starts_thread"]).start().await;
    let agent = &stack.agents[0];
    let before = agent.workers().await;
    for worker in &before {
        agent.signal_worker(worker, nix::sys::signal::Signal::SIGKILL);
    }
    until("new workers", async || {
        let workers = agent.workers().await;
        workers.len() == 2
            && workers
                .iter()
                .all(|worker| before.iter().all(|old| old.id != worker.id))
    })
    .await;
    for _ in 0..4 {
        let map = stack.get(MAP).await;
        assert!(map.expect(200).header("x-adds-header").contains("served by"));
        assert_eq!(map.header("x-ticks"), "yes");
    }
}

#[tokio::test]
async fn nothing_is_served_without_a_required_plugin() {
    // Without Envoy: this agent never becomes ready.
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(parts::binary("worker-agent"));
    let search_paths = serde_json::json!({"/": parts::projects()}).to_string();
    let any = "127.0.0.1:0";
    command
        .arg("serve")
        .env("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", search_paths)
        .env("CONF_WORKER__QGIS__PLUGINS__PATHS", parts::root().join("tests/plugins"))
        .env("CONF_WORKER__QGIS__PLUGINS__REQUIRED", r#"["raises"]"#)
        .env("CONF_WORKER__STATE_DIR", folder.path())
        .env("CONF_WORKER__MAX_FAILURE_PRESSURE", "1")
        .env("CONF_WORKER__NUM_PROCESSES", "1");
    for port in ["HTTP", "GRPC", "METRICS"] {
        command.env(format!("CONF_SERVER__{port}_LISTEN"), any);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // It gives up, for an orchestrator to see.
    assert_eq!(output.status.code(), Some(3), "{log}");
    assert!(
        log.contains("the plugin raises, which worker.qgis.plugins.required names, is not loaded"),
        "{log}"
    );
}
