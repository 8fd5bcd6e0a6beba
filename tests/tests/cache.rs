//! Answers that are given again, as clients see it through Envoy: kept, confirmed, shared, and never given to whom they do
//! not belong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use futures::future::join_all;
use graticule_proto::v1::CacheInfo;
use stack::client::Answer;
use stack::links::links;
use stack::{Agent, Plan, Stack, parts, until};

const CAPS: &str = "/?MAP=/world&SERVICE=WMS&REQUEST=GetCapabilities";

/// A map that takes seconds.
const SLOW: &str = "/?MAP=/slow&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=land,glow,labels&STYLES=,,&CRS=EPSG:4326\
                    &BBOX=-60,-170,80,170&WIDTH=1600&HEIGHT=700&FORMAT=image/png";

fn how(answer: &Answer) -> &str {
    answer.header("x-graticule-cache")
}

async fn cache(agent: &Agent) -> CacheInfo {
    agent.stats().await.cache.unwrap()
}

/// How many requests workers have served, the gone ones not counted.
async fn served(agent: &Agent) -> u64 {
    agent.stats().await.workers.iter().map(|worker| worker.served).sum()
}

/// A folder with a project of its own to change; its data stays where it is.
fn own_projects() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(parts::projects()).unwrap() {
        let path = entry.unwrap().path();
        let to = folder.path().join(path.file_name().unwrap());
        if path.extension().is_some_and(|suffix| suffix == "qgs") && path.file_stem().unwrap() == "world" {
            std::fs::copy(&path, to).unwrap();
        } else {
            std::os::unix::fs::symlink(&path, to).unwrap();
        }
    }
    folder
}

fn touch(file: &Path) {
    let file = std::fs::File::options().append(true).open(file).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capabilities_are_kept_confirmed_and_made_anew() {
    let projects = own_projects();
    let stack = Plan::agents(1).projects(projects.path()).start().await;
    let agent = &stack.agents[0];

    let miss = stack.get(CAPS).await;
    assert_eq!(
        (miss.expect(200).header("cache-control"), how(&miss)),
        ("no-cache", "miss")
    );
    let after_one = served(agent).await;
    let hit = stack.get(CAPS).await;
    assert_eq!((how(hit.expect(200)), hit.header("age").is_empty()), ("hit", false));
    assert_eq!(hit.body, miss.body);
    for name in ["content-type", "etag", "cache-control", "x-graticule-project-version"] {
        assert_eq!(hit.header(name), miss.header(name), "{name}");
        assert!(!hit.header(name).is_empty(), "{name}");
    }
    // Spelled in another way, and as browsers do that want to get past caches.
    let spelled = stack.get("/?request=getcapabilities&service=wms&MAP=/world&_=17").await;
    assert_eq!((how(&spelled), spelled.body == miss.body), ("hit", true));

    let tag = miss.header("etag");
    assert!(tag.starts_with('"'), "{tag} is a strong validator");
    let confirmed = stack.client().get_with(CAPS, &[("if-none-match", tag)]).await;
    assert_eq!(
        (confirmed.status, confirmed.body.len(), how(&confirmed)),
        (304, 0, "hit")
    );
    assert_eq!(confirmed.header("etag"), tag);
    let weak = format!("\"other\", W/{tag}");
    let confirmed = stack.client().get_with(CAPS, &[("if-none-match", &weak)]).await;
    assert_eq!(confirmed.status, 304);
    let head = stack.client().ask(http::Method::HEAD, CAPS, &[], "").await.unwrap();
    assert_eq!((head.status, how(&head), head.body.len()), (200, "hit", 0));
    assert_eq!(served(agent).await, after_one, "no worker was asked again");

    let anew = stack.client().get_with(CAPS, &[("cache-control", "no-cache")]).await;
    assert_eq!((how(&anew), served(agent).await), ("miss", after_one + 1));

    touch(&projects.path().join("world.qgs"));
    let version = "x-graticule-project-version";
    until("the new version", async || {
        let changed = stack.get(CAPS).await;
        let is_new = changed.header(version) != miss.header(version);
        // Until it is loaded, the old one is served and not kept.
        assert!(is_new || how(&changed) == "miss", "{}", how(&changed));
        is_new
    })
    .await;
    assert_eq!(how(&stack.get(CAPS).await), "hit");

    let info = cache(agent).await;
    assert_eq!((info.entries, info.hits, info.joined), (1, 6, 0));
    assert!(
        info.misses >= 3,
        "one more for each answer of the old version: {info:?}"
    );
    assert!(
        info.bytes > miss.body.len() as u64 && info.bytes < info.max_bytes,
        "{info:?}"
    );
    let said = String::from_utf8(agent.cli(&["stats"]).stdout).unwrap();
    assert!(
        said.contains("response cache: 1 answers") && said.contains(&format!("6 hits, {} misses", info.misses)),
        "{said}"
    );
    let metrics = agent.metrics().get("/metrics").await.text();
    assert!(
        metrics.contains("graticule_cache_requests_total{result=\"hit\"} 6"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kept_kind_is_given_again_as_it_was() {
    let stack = Plan::agents(1).agent("CONF_CACHE__MAP_MAX_AGE", 60).start().await;
    let map = stack::shots::get_map("40,0,60,20", 128);
    let kept = [
        "/?MAP=/world&SERVICE=WMS&REQUEST=GetProjectSettings",
        "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetLegendGraphic&LAYERS=countries&FORMAT=image/png",
        "/?MAP=/world&SERVICE=WMS&REQUEST=GetStyles&LAYERS=countries",
        "/?MAP=/world&SERVICE=WFS&VERSION=1.1.0&REQUEST=GetCapabilities",
        "/?MAP=/world&SERVICE=WFS&VERSION=1.1.0&REQUEST=DescribeFeatureType&TYPENAME=graticule",
        "/?MAP=/world&SERVICE=WMTS&REQUEST=GetCapabilities",
        "/ows/world/wfs3.html",
        "/ows/world/wfs3/collections.json",
        "/ows/world/wfs3/collections/graticule",
        &map,
    ];
    for target in kept {
        let (first, second) = (stack.get(target).await, stack.get(target).await);
        assert_eq!(
            (how(first.expect(200)), how(second.expect(200))),
            ("miss", "hit"),
            "{target}"
        );
        assert_eq!(first.body, second.body, "{target}");
        let tag = first.header("etag");
        let confirmed = stack.client().get_with(target, &[("if-none-match", tag)]).await;
        assert_eq!(confirmed.status, 304, "{target}");
    }
    assert_eq!(stack.get(&map).await.header("cache-control"), "max-age=60");
    for target in [
        "/?MAP=/world&SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME=graticule&MAXFEATURES=1",
        "/ows/world/wfs3/collections/graticule/items.json?limit=1",
        "/?MAP=/world&SERVICE=WMS&REQUEST=GetFeatureInfo&LAYERS=countries",
    ] {
        for _ in 0..2 {
            let answer = stack.get(target).await;
            assert_eq!((how(&answer), answer.header("etag")), ("bypass", ""), "{target}");
        }
    }
    // Failures are not kept, whatever their status.
    for _ in 0..2 {
        let wrong = stack
            .get("/?MAP=/world&SERVICE=WMS&REQUEST=GetLegendGraphic&LAYERS=nothing")
            .await;
        assert_eq!(how(&wrong), "miss", "{}", wrong.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_reach_only_whom_they_belong_to() {
    let stack = Plan::agents(1)
        .agent("CONF_WORKER__QGIS__FORWARD_HEADERS", "[\"authorization\"]")
        .agent("CONF_CACHE__VARY_HEADERS", "[\"authorization\"]")
        .start()
        .await;
    let ask = async |headers: &[(&str, &str)]| stack.client().get_with(CAPS, headers).await;

    // Each host has its own links, also when it asks second.
    for host in ["one.example.org", "two.example.org"] {
        for expected in ["miss", "hit"] {
            let answer = ask(&[("host", host)]).await;
            assert_eq!(how(answer.expect(200)), expected, "{host}");
            let own = format!("http://{host}/");
            let links = links(&answer);
            let ours: Vec<_> = links.iter().filter(|link| link.contains("example.org")).collect();
            assert!(
                !ours.is_empty() && ours.iter().all(|link| link.starts_with(&own)),
                "{links:?}"
            );
        }
    }
    // What `Accept` asks for.
    let page = async |accept: &str| {
        stack
            .client()
            .get_with("/ows/world/wfs3/collections", &[("accept", accept)])
            .await
    };
    for _ in 0..2 {
        assert_eq!(page("text/html").await.media_type(), "text/html");
        assert_eq!(page("application/json").await.media_type(), "application/json");
    }
    let again = page("text/html").await;
    assert_eq!(
        (how(&again), again.agents_vary().as_str()),
        ("hit", "accept, authorization")
    );

    for _ in 0..2 {
        let cookie = ask(&[("cookie", "session=1")]).await;
        assert_eq!((how(cookie.expect(200)), cookie.header("etag")), ("bypass", ""));
    }
    for user in ["Basic YTph", "Basic Yjpi"] {
        for expected in ["miss", "hit"] {
            let answer = ask(&[("authorization", user)]).await;
            assert_eq!(
                (how(&answer), answer.header("cache-control")),
                (expected, "private, no-cache")
            );
        }
    }
}

async fn slow_from_many(stack: &Stack, clients: usize) -> Vec<Answer> {
    join_all((0..clients).map(|_| stack.get(SLOW))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_identical_maps_are_one_render() {
    let stack = Plan::agents(1)
        .agent("CONF_SERVER__TIMEOUT", 60)
        .agent("CONF_WORKER__MAX_WAITING_REQUESTS", 4)
        .start()
        .await;
    let answers = slow_from_many(&stack, 100).await;
    for answer in &answers {
        assert_eq!(answer.expect(200).body, answers[0].body);
    }
    let agent = &stack.agents[0];
    assert_eq!(served(agent).await, 1, "one render, though only four may wait");
    assert_eq!(cache(agent).await.joined, 99);
    assert_eq!(answers.iter().filter(|answer| how(answer) == "joined").count(), 99);
    assert_eq!(stack.retries().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_render_goes_on_while_anybody_waits_and_no_longer() {
    let stack = Plan::agents(1).agent("CONF_SERVER__TIMEOUT", 60).start().await;
    let agent = &stack.agents[0];
    let busy = async || agent.stats().await.state.unwrap().busy;
    let ask = || {
        let client = stack.client().clone();
        tokio::spawn(async move { client.get(SLOW).await })
    };
    let leader = ask();
    until("the render to begin", async || busy().await == 1).await;
    let follower = ask();
    // Followers are counted when they are answered; this one is there once Envoy has two requests with the agent.
    until("two requests with the agent", async || {
        let stats = stack
            .admin()
            .get("/stats?filter=^cluster.pool/default.upstream_rq_active$")
            .await;
        stats.text().trim().ends_with(": 2")
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    leader.abort();
    let answer = follower.await.unwrap();
    assert_eq!((answer.expect(200).media_type(), how(&answer)), ("image/png", "joined"));
    assert_eq!(served(agent).await, 1);

    let last = ask();
    until("another render", async || busy().await == 1).await;
    last.abort();
    until("the worker to be free", async || {
        let workers = agent.stats().await.workers;
        workers.iter().filter(|worker| worker.state == "idle").count() == 2
    })
    .await;
    let exits = agent.stats().await.exits;
    assert!(exits.get("crash").is_none_or(|count| *count == 0), "{exits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_turned_off() {
    let stack = Plan::agents(1)
        .agent("CONF_CACHE__MAX_BYTES", 0)
        .agent("CONF_CACHE__JOIN", false)
        .start()
        .await;
    for _ in 0..2 {
        let answer = stack.get(CAPS).await;
        assert_eq!((how(answer.expect(200)), answer.header("etag")), ("bypass", ""));
    }
    let agent = &stack.agents[0];
    assert_eq!(served(agent).await, 2);
    assert!(
        String::from_utf8(agent.cli(&["stats"]).stdout)
            .unwrap()
            .contains("response cache: off")
    );

    // What shares a key with the cache on is what QGIS answers alike: another order and letter case, and no cache.
    let one = stack.get(CAPS).await;
    for same in [
        "/?SERVICE=WMS&MAP=/world&REQUEST=GetCapabilities",
        "/?request=GETCAPABILITIES&service=wms&MAP=/world&_dc=1&_ts=2",
    ] {
        assert_eq!(stack.get(same).await.text(), one.text(), "{same}");
    }
}
