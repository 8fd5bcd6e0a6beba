//! A real Prometheus, configured as in compose.yaml but for the addresses, scrapes the real stack under load: every query
//! of the dashboard answers with data, every alert can be evaluated, and every metric is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use stack::{Client, Load, Plan, Stack, parts, shots, until};

use crate::reading::{items, string};
use crate::{ALERTS, DASHBOARD, defined, documented, panels, prometheus, queries, reading, rules};

/// Long enough for rates over [`RATE`] to see the load begin and go on.
const LOAD: Duration = Duration::from_secs(15);

/// What takes the place of Grafana's `$__rate_interval`.
const RATE: &str = "10s";

/// Alerts that a short load may bring near their limits; the others must be silent on a healthy stack.
const MAY_FIRE: [&str; 2] = ["GraticuleRequestPressure", "GraticuleQueueFull"];

struct Prometheus {
    client: Client,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It keeps nothing that is wanted later.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    /// Starts it and waits until it has scraped everybody.
    async fn start(stack: &Stack) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.json");
        std::fs::write(&config, config_for(stack).to_string()).unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(prometheus("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={listen}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let prometheus = Self {
            client: Client::new(listen),
            process,
            _folder: folder,
        };
        let targets = stack.agents.len() + 2;
        until("Prometheus to scrape everybody", async || {
            prometheus.up().await == targets
        })
        .await;
        prometheus
    }

    /// How many targets answer; 0 while Prometheus does not.
    async fn up(&self) -> usize {
        let answer = self
            .client
            .ask(http::Method::GET, "/api/v1/query?query=up%3D%3D1", &[], "")
            .await;
        match answer {
            Ok(answer) if answer.status == 200 => items(&answer.json()["data"]["result"]).len(),
            _ => 0,
        }
    }

    /// The series that an expression gives now.
    async fn query(&self, what: &str, expression: &str) -> Vec<Value> {
        let query: String = form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let answer = self.client.get(&format!("/api/v1/query?query={query}")).await;
        assert_eq!(answer.status, 200, "{what}: {expression}: {}", answer.text());
        items(&answer.json()["data"]["result"]).to_vec()
    }

    async fn label_values(&self, label: &str) -> BTreeSet<String> {
        let answer = self
            .client
            .get(&format!("/api/v1/label/{label}/values?match[]=graticule_ready"))
            .await;
        items(&answer.expect(200).json()["data"])
            .iter()
            .map(|value| value.as_str().unwrap().to_owned())
            .collect()
    }
}

/// The repository's configuration with the addresses of this stack and a quicker pace.
fn config_for(stack: &Stack) -> Value {
    let mut config = reading::yaml("grafana/prometheus/prometheus.yml");
    config["global"] = json!({"scrape_interval": "1s", "evaluation_interval": "1s"});
    config["rule_files"] = json!([parts::root().join(ALERTS)]);
    let host = |client: &Client| client.base().trim_start_matches("http://").to_owned();
    for job in config["scrape_configs"].as_array_mut().unwrap() {
        let targets: Vec<String> = match string(job, "job_name") {
            "worker-agent" => stack.agents.iter().map(|agent| host(&agent.metrics())).collect(),
            "control-plane" => vec![host(&stack.status())],
            "envoy" => vec![host(&stack.admin())],
            other => panic!("what is the job {other} here?"),
        };
        job.as_object_mut().unwrap().remove("dns_sd_configs");
        job["static_configs"] = json!([{"targets": targets}]);
    }
    config
}

/// An expression with Grafana's variables as they are for "All".
fn filled(expression: &str) -> String {
    let filled = expression
        .replace("$pool", ".*")
        .replace("$instance", ".*")
        .replace("$__rate_interval", RATE);
    assert!(!filled.contains('$'), "an unknown variable in {expression}");
    filled
}

/// Maps, features and API pages from several clients, some refusals, and a worker that is killed.
async fn load(stack: &Stack) {
    let load = Load::start(stack.client(), 4, &shots::mix());
    stack
        .get("/?MAP=/nowhere&SERVICE=WMS&REQUEST=GetCapabilities")
        .await
        .expect(404);
    tokio::time::sleep(LOAD / 3).await;
    let agent = &stack.agents[0];
    let worker = agent.workers().await.into_iter().next().expect("a worker");
    agent.signal_worker(&worker, nix::sys::signal::Signal::SIGKILL);
    for _ in 0..10 {
        stack
            .get("/?MAP=/nowhere&SERVICE=WMS&REQUEST=GetCapabilities")
            .await
            .expect(404);
        tokio::time::sleep(LOAD / 15).await;
    }
    let tally = load.stop().await;
    println!("{tally}");
    assert!(tally.answered() > 50, "too little load to mean anything: {tally}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_answers_and_every_metric_is_there() {
    // HTTPS, so that there is a certificate to be told of; on whichever port is free.
    let stack = Plan::agents(2)
        .control_plane("CONF_FRONT__TLS__AUTO", "yes")
        .control_plane("CONF_FRONT__TLS__LISTEN", "127.0.0.1:0")
        .start()
        .await;
    let prometheus = Prometheus::start(&stack).await;
    load(&stack).await;

    every_panel_has_data(&prometheus).await;
    main_numbers_are_right(&prometheus).await;
    alerts_can_be_evaluated(&prometheus).await;
    assert_eq!(
        prometheus.label_values("pool").await,
        BTreeSet::from(["default".to_owned()])
    );
    assert_eq!(prometheus.label_values("instance").await.len(), 2);
    every_metric_is_there(&stack).await;
}

async fn every_panel_has_data(prometheus: &Prometheus) {
    let dashboard = reading::json(DASHBOARD);
    let mut empty = Vec::new();
    for (panel, query) in queries(&dashboard) {
        let expression = filled(string(query, "expr"));
        let series = prometheus.query(panel, &expression).await;
        if series.is_empty() {
            empty.push(format!("{panel}: {expression}"));
        }
        // A label in the legend that no series has would show as nothing.
        for label in string(query, "legendFormat")
            .split("{{")
            .skip(1)
            .filter_map(|rest| rest.split_once("}}"))
        {
            let has = |series: &Value| series["metric"][label.0].is_string();
            assert!(
                series.iter().all(has),
                "{panel}: the legend names `{}`, but {expression} has it not",
                label.0
            );
        }
    }
    assert!(empty.is_empty(), "queries without data:\n{}", empty.join("\n"));
    println!(
        "{} panels, {} queries, all with data",
        panels(&dashboard).count(),
        queries(&dashboard).len()
    );
}

async fn main_numbers_are_right(prometheus: &Prometheus) {
    let dashboard = reading::json(DASHBOARD);
    let mut first: BTreeMap<&str, f64> = BTreeMap::new();
    for (panel, query) in queries(&dashboard) {
        let series = prometheus.query(panel, &filled(string(query, "expr"))).await;
        let total = series
            .iter()
            .filter_map(|series| series["value"][1].as_str()?.parse::<f64>().ok())
            .sum();
        first.entry(panel).or_insert(total);
    }
    println!("{first:#?}");
    assert!((first["Agents ready"] - 2.0).abs() < 0.1, "{first:?}");
    assert!((first["Envoys attached"] - 1.0).abs() < 0.1, "{first:?}");
    assert!((first["Workers, by state"] - 4.0).abs() < 0.1, "{first:?}");
    assert!((first["Agents in a pool"] - 2.0).abs() < 0.1, "{first:?}");
    for busy in [
        "Requests",
        "Requests, by service and status",
        "Refusals, by code",
        "Slow requests (p95)",
        "Time to answer, p99",
        "Processor time of a request",
        "Worker start, p95",
        "Private memory of workers",
        "Failure pressure",
        "Failure pressure and its limit",
        "Requests, by class of status",
        "Time to answer, as clients see it",
    ] {
        assert!(
            first[busy] > 0.0,
            "{busy} shows nothing after load, refusals and a killed worker: {first:?}"
        );
    }
}

async fn alerts_can_be_evaluated(prometheus: &Prometheus) {
    let alerts = reading::yaml(ALERTS);
    for rule in rules(&alerts) {
        let name = string(rule, "alert");
        let fires = prometheus.query(name, string(rule, "expr")).await;
        assert!(
            fires.is_empty() || MAY_FIRE.contains(&name),
            "{name} on a healthy stack: {fires:?}"
        );
    }
    let groups = prometheus.client.get("/api/v1/rules").await.expect(200).json();
    let loaded: Vec<&Value> = items(&groups["data"]["groups"])
        .iter()
        .flat_map(|group| items(&group["rules"]))
        .collect();
    assert_eq!(loaded.len(), rules(&alerts).len());
    for rule in loaded {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

async fn every_metric_is_there(stack: &Stack) {
    let mut seen = BTreeSet::new();
    for agent in &stack.agents {
        seen.extend(reading::scraped(&agent.metrics().get("/metrics").await.expect(200).text()).into_keys());
    }
    seen.extend(reading::scraped(&stack.status().get("/metrics").await.expect(200).text()).into_keys());
    assert_eq!(defined(), seen, "left the code, right what the daemons show after load");

    let envoy = reading::scraped(&stack.admin().get("/stats/prometheus").await.expect(200).text());
    for name in documented().iter().filter(|name| name.starts_with("envoy_")) {
        assert!(envoy.contains_key(name), "Envoy has no {name}");
    }
}
