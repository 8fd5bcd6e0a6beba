//! The dashboard, the alerts and `docs/metrics.md` against the code, against Prometheus's own tools, and against a real
//! Prometheus that scraped the real stack.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alerts;
mod live;
#[path = "../reading/mod.rs"]
mod reading;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use reading::{items, string};
use serde_json::Value;
use stack::parts;

const DASHBOARD: &str = "grafana/dashboards/graticule.json";
const ALERTS: &str = "grafana/prometheus/alerts.yml";

/// Grafana's kinds of panel that the dashboard uses.
const KINDS: [&str; 4] = ["row", "stat", "timeseries", "gauge"];

/// Grafana's names of the units that the dashboard uses.
const UNITS: [&str; 7] = ["none", "short", "s", "ms", "bytes", "percentunit", "reqps"];

/// Prometheus or promtool, fetched when it is not there.
fn prometheus(program: &str) -> PathBuf {
    let installed = Command::new("sh")
        .arg(parts::root().join("tests/prometheus/install.sh"))
        .status()
        .unwrap();
    assert!(
        installed.success(),
        "tests/prometheus/install.sh failed; it says why above"
    );
    parts::root().join(".parts/prometheus").join(program)
}

/// The panels that show something.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    items(&dashboard["panels"])
        .iter()
        .filter(|panel| panel["type"] != "row")
}

/// Each query of the dashboard with its panel's title.
fn queries(dashboard: &Value) -> Vec<(&str, &Value)> {
    panels(dashboard)
        .flat_map(|panel| {
            items(&panel["targets"])
                .iter()
                .map(|query| (string(panel, "title"), query))
        })
        .collect()
}

/// Each alert.
fn rules(alerts: &Value) -> Vec<&Value> {
    items(&alerts["groups"])
        .iter()
        .flat_map(|group| items(&group["rules"]))
        .collect()
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = reading::json(DASHBOARD);
    assert_eq!(dashboard["uid"], "graticule");
    assert!(
        dashboard["schemaVersion"].as_u64().unwrap() >= 39,
        "Grafana 11's schema"
    );
    let variables: BTreeSet<&str> = items(&dashboard["templating"]["list"])
        .iter()
        .map(|v| string(v, "name"))
        .collect();
    assert_eq!(variables, BTreeSet::from(["datasource", "instance", "pool"]));

    let all = items(&dashboard["panels"]);
    let ids: BTreeSet<u64> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "ids are unique");
    let titles: BTreeSet<&str> = panels(&dashboard).map(|panel| string(panel, "title")).collect();
    assert_eq!(titles.len(), panels(&dashboard).count(), "titles are unique");
    let rows: Vec<&str> = all
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|row| string(row, "title"))
        .collect();
    for about in [
        "Failure pressure",
        "Traffic",
        "Latency",
        "Queue",
        "Memory and pins",
        "Fleet",
        "Envoy",
    ] {
        assert!(rows.iter().any(|row| row.starts_with(about)), "no row about {about}");
    }

    let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
    for panel in all {
        let title = string(panel, "title");
        assert!(KINDS.contains(&string(panel, "type")), "{title}: {}", panel["type"]);
        let at = |key: &str| {
            panel["gridPos"][key]
                .as_u64()
                .unwrap_or_else(|| panic!("{title}: no gridPos.{key}"))
        };
        assert!(at("x") + at("w") <= 24, "{title} is wider than the page");
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies over another panel");
        }
        assert!(
            items(&panel["targets"])
                .iter()
                .all(|query| query["datasource"]["uid"] == "${datasource}"),
            "{title}"
        );
    }
    for panel in panels(&dashboard) {
        let title = string(panel, "title");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(
            UNITS.contains(&string(&panel["fieldConfig"]["defaults"], "unit")),
            "{title}"
        );
        assert!(
            string(panel, "description").len() > 40,
            "{title}: say what it shows and what to do"
        );
        assert!(
            !items(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]).is_empty(),
            "{title}"
        );
        assert!(!items(&panel["targets"]).is_empty(), "{title} asks for nothing");
        let refs: BTreeSet<&str> = items(&panel["targets"])
            .iter()
            .map(|query| string(query, "refId"))
            .collect();
        assert_eq!(refs.len(), items(&panel["targets"]).len(), "{title}: refIds are unique");
    }
}

#[test]
fn grafana_is_given_what_is_there() {
    let dashboards = reading::yaml("grafana/provisioning/dashboards/graticule.yaml");
    let mounted = string(&dashboards["providers"][0]["options"], "path");
    let compose = reading::yaml("compose.yaml");
    let grafana = &compose["services"]["grafana"];
    assert!(
        items(&grafana["volumes"])
            .iter()
            .any(|v| *v == format!("./grafana/dashboards:{mounted}:ro")),
        "{mounted}"
    );
    let home = string(&grafana["environment"], "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH");
    assert_eq!(home.replace(mounted, "grafana/dashboards"), DASHBOARD);
}

/// The metrics of the table rows of `docs/metrics.md`, each with its "means".
fn documented() -> BTreeSet<String> {
    let page = reading::text("docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert!(
            cells.len() == 6 && cells[3].len() > 10,
            "{row}: name, type, meaning and what to do"
        );
        cells[1].trim_matches('`').to_owned()
    })
    .collect()
}

fn shown() -> BTreeSet<String> {
    let (dashboard, alerts) = (reading::json(DASHBOARD), reading::yaml(ALERTS));
    let queries = queries(&dashboard).into_iter().map(|(_, query)| string(query, "expr"));
    let variables = items(&dashboard["templating"]["list"])
        .iter()
        .filter_map(|variable| variable["definition"].as_str());
    let rules = rules(&alerts);
    let expressions = queries
        .chain(variables)
        .chain(rules.into_iter().map(|rule| string(rule, "expr")));
    expressions.flat_map(reading::metrics_in).collect()
}

/// The metrics of both daemons, as their code names them.
fn defined() -> BTreeSet<String> {
    let files = [
        "worker-agent/src/serve/metrics.rs",
        "control-plane/src/metrics.rs",
        "daemon/src/tls/watch.rs",
    ];
    files.into_iter().flat_map(reading::metrics_of).collect()
}

#[test]
fn names_are_the_same_everywhere() {
    let (defined, documented, shown) = (defined(), documented(), shown());
    let of = |names: &BTreeSet<String>, prefix: &str| -> BTreeSet<String> {
        names.iter().filter(|name| name.starts_with(prefix)).cloned().collect()
    };
    assert_eq!(
        defined,
        of(&documented, "graticule_"),
        "left the code, right docs/metrics.md"
    );
    let unknown: Vec<_> = of(&shown, "graticule_").difference(&defined).cloned().collect();
    assert!(
        unknown.is_empty(),
        "the dashboard or an alert asks for what no daemon has: {unknown:?}"
    );
    let unseen: Vec<_> = defined.difference(&shown).cloned().collect();
    assert!(unseen.is_empty(), "neither the dashboard nor an alert shows {unseen:?}");
    assert_eq!(
        of(&shown, "envoy_"),
        of(&documented, "envoy_"),
        "left dashboard and alerts, right docs/metrics.md"
    );
}

#[test]
fn metrics_are_found_in_expressions() {
    let found = reading::metrics_in(
        r#"sum by (graticule_label, le) (rate(graticule_a_bucket{graticule_b="envoy_c"}[5m])) / on (envoy_d) envoy_e_total"#,
    );
    assert_eq!(
        found,
        BTreeSet::from(["envoy_e_total".to_owned(), "graticule_a".to_owned()])
    );
}
