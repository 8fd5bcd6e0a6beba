//! The alerts, judged by promtool: their form, that each fires when it should, and that none does while all is well.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};
use stack::parts;

use crate::reading::string;
use crate::{ALERTS, prometheus, reading, rules};

/// A series for half an hour, four values a minute, while all is well.
const WELL: &[(&str, &str)] = &[
    (r#"up{job="worker-agent",instance="a",pool="p"}"#, "1+0x130"),
    (r#"up{job="control-plane",instance="c"}"#, "1+0x130"),
    (r#"up{job="envoy",instance="e"}"#, "1+0x130"),
    (r#"graticule_cp_agents{phase="ready"}"#, "2+0x130"),
    (r#"graticule_cp_agents{phase="starting"}"#, "0+0x130"),
    ("graticule_cp_agents_astray", "0+0x130"),
    ("graticule_cp_agents_lost", "0+0x130"),
    ("graticule_cp_pools_awaited", "0+0x130"),
    ("graticule_cp_addresses", "0+0x130"),
    ("graticule_fleet_pins_lacking", "0+0x130"),
    ("graticule_cp_snapshots_inconsistent_total", "0+0x130"),
    ("graticule_cp_config_refused", "0+0x130"),
    (r#"graticule_cp_store_writes_total{result="failed"}"#, "0+0x130"),
    ("graticule_cp_store_away", "0+0x130"),
    (r#"graticule_memory_used_bytes{instance="a",pool="p"}"#, "50+0x130"),
    (r#"graticule_memory_total_bytes{instance="a",pool="p"}"#, "100+0x130"),
    (
        r#"graticule_cp_quarantine_entries{instance="c",state="refused"}"#,
        "0+0x130",
    ),
    (
        r#"graticule_cp_quarantine_entries{instance="c",state="suspected"}"#,
        "3+0x130",
    ),
    ("graticule_xds_clients", "1+0x130"),
    ("graticule_xds_unknown_nodes_total", "0+0x130"),
    (r#"graticule_xds_nacks_total{type="eds"}"#, "0+0x130"),
    (
        r#"graticule_requests_total{instance="a",pool="p",service="WMS",status="200"}"#,
        "0+10x130",
    ),
    (
        r#"graticule_requests_total{instance="a",pool="p",service="WMS",status="504"}"#,
        "0+0x130",
    ),
    (
        r#"graticule_request_duration_seconds_bucket{instance="a",pool="p",le="5"}"#,
        "0+10x130",
    ),
    (
        r#"graticule_request_duration_seconds_bucket{instance="a",pool="p",le="10"}"#,
        "0+10x130",
    ),
    (
        r#"graticule_request_duration_seconds_bucket{instance="a",pool="p",le="+Inf"}"#,
        "0+10x130",
    ),
    (r#"graticule_failure_pressure{instance="a",pool="p"}"#, "0+0x130"),
    (r#"graticule_failure_pressure_limit{instance="a",pool="p"}"#, "5+0x130"),
    (r#"graticule_request_pressure{instance="a",pool="p"}"#, "1+0x130"),
    (
        r#"graticule_refusals_total{instance="a",pool="p",code="ServerBusy"}"#,
        "0+0x130",
    ),
    (
        r#"graticule_refusals_total{instance="a",pool="p",code="UnknownProject"}"#,
        "0+10x130",
    ),
    (
        r#"graticule_worker_exits_total{instance="a",pool="p",reason="crash"}"#,
        "0+0x130",
    ),
    (
        r#"graticule_worker_exits_total{instance="a",pool="p",reason="retired"}"#,
        "0+10x130",
    ),
    (r#"graticule_fork_refused_total{instance="a",pool="p"}"#, "0+0x130"),
    (r#"graticule_projects_broken{instance="a",pool="p"}"#, "0+0x130"),
    (r#"graticule_plugins{instance="a",pool="p",state="failed"}"#, "0+0x130"),
    (r#"graticule_plugins{instance="a",pool="p",state="loaded"}"#, "2+0x130"),
    (r#"graticule_ready{instance="a",pool="p"}"#, "1+0x130"),
    (
        r#"graticule_control_plane_connected{instance="a",pool="p",control_plane="http://c:18001"}"#,
        "1+0x130",
    ),
    (
        r#"graticule_control_plane_pins_ignored{instance="a",pool="p",control_plane="http://c:18001"}"#,
        "0+0x130",
    ),
    (
        r#"graticule_tls_certificate_expires_timestamp_seconds{instance="c",used_for="front.tls"}"#,
        "4000000+0x130",
    ),
    (
        r#"graticule_tls_files_unusable{instance="c",used_for="front.tls"}"#,
        "0+0x130",
    ),
    (
        r#"envoy_cluster_membership_healthy{envoy_cluster_name="pool/p"}"#,
        "2+0x130",
    ),
    (
        r#"envoy_cluster_upstream_rq_retry_overflow{envoy_cluster_name="pool/p"}"#,
        "0+0x130",
    ),
];

/// For each alert the series that makes it fire, and its values.
const ILL: &[(&str, &str, &str)] = &[
    (
        "GraticuleNoReadyAgent",
        r#"graticule_cp_agents{phase="ready"}"#,
        "2+0x100 0+0x20",
    ),
    (
        "GraticuleEnvoyGone",
        r#"up{job="envoy",instance="e"}"#,
        "1+0x100 0+0x20",
    ),
    (
        "GraticuleEnvoyHasNoAgent",
        r#"envoy_cluster_membership_healthy{envoy_cluster_name="pool/p"}"#,
        "2+0x100 0+0x20",
    ),
    (
        "GraticuleErrors",
        r#"graticule_requests_total{instance="a",pool="p",service="WMS",status="504"}"#,
        "0+1x130",
    ),
    (
        "GraticuleSlow",
        r#"graticule_request_duration_seconds_bucket{instance="a",pool="p",le="5"}"#,
        "0+1x130",
    ),
    (
        "GraticuleAgentGone",
        r#"up{job="worker-agent",instance="a",pool="p"}"#,
        "1+0x100 0+0x20",
    ),
    (
        "GraticuleFleetShrank",
        r#"graticule_cp_agents{phase="ready"}"#,
        "2+0x90 1+0x40",
    ),
    (
        "GraticuleFailurePressure",
        r#"graticule_failure_pressure{instance="a",pool="p"}"#,
        "0+0x115 2.6+0x1 0+0x10",
    ),
    (
        "GraticuleWorkersFail",
        r#"graticule_worker_exits_total{instance="a",pool="p",reason="crash"}"#,
        "0+0x100 0+1x20",
    ),
    (
        "GraticuleRequestQuarantined",
        r#"graticule_cp_quarantine_entries{instance="c",state="refused"}"#,
        "0+0x100 1+0x20",
    ),
    (
        "GraticuleMemory",
        r#"graticule_memory_used_bytes{instance="a",pool="p"}"#,
        "50+0x90 95+0x40",
    ),
    (
        "GraticuleAgentFlaps",
        r#"graticule_ready{instance="a",pool="p"}"#,
        "1+0x100 0 1 0 1 0 1+0x20",
    ),
    (
        "GraticuleForksRefused",
        r#"graticule_fork_refused_total{instance="a",pool="p"}"#,
        "0+0x50 1+0x80",
    ),
    (
        "GraticuleProjectBroken",
        r#"graticule_projects_broken{instance="a",pool="p"}"#,
        "0+0x100 1+0x20",
    ),
    (
        "GraticulePluginFailed",
        r#"graticule_plugins{instance="a",pool="p",state="failed"}"#,
        "0+0x100 1+0x20",
    ),
    (
        "GraticuleQueueFull",
        r#"graticule_refusals_total{instance="a",pool="p",code="ServerBusy"}"#,
        "0+0x90 0+4x40",
    ),
    (
        "GraticuleRequestPressure",
        r#"graticule_request_pressure{instance="a",pool="p"}"#,
        "1+0x90 4+0x40",
    ),
    (
        "GraticuleControlPlaneGone",
        r#"up{job="control-plane",instance="c"}"#,
        "1+0x100 0+0x20",
    ),
    (
        "GraticuleControlPlaneNotReached",
        r#"graticule_control_plane_connected{instance="a",pool="p",control_plane="http://c:18001"}"#,
        "1+0x90 0+0x40",
    ),
    (
        "GraticuleControlPlanesDisagree",
        r#"graticule_control_plane_pins_ignored{instance="a",pool="p",control_plane="http://c:18001"}"#,
        "0+0x100 1+0x20",
    ),
    (
        "GraticuleNack",
        r#"graticule_xds_nacks_total{type="eds"}"#,
        "0+0x100 1+0x20",
    ),
    (
        "GraticuleSnapshotWithheld",
        "graticule_cp_snapshots_inconsistent_total",
        "0+0x100 1+0x20",
    ),
    ("GraticuleAgentsAstray", "graticule_cp_agents_astray", "0+0x100 1+0x20"),
    ("GraticuleAgentsLost", "graticule_cp_agents_lost", "0+0x100 2+0x20"),
    ("GraticulePoolAwaited", "graticule_cp_pools_awaited", "0+0x90 1+0x40"),
    (
        "GraticuleConfigurationRefused",
        "graticule_cp_config_refused",
        "0+0x90 1+0x40",
    ),
    (
        // Time begins at 0 there.
        "GraticuleCertificateExpires",
        r#"graticule_tls_certificate_expires_timestamp_seconds{instance="c",used_for="front.tls"}"#,
        "1000000+0x130",
    ),
    (
        "GraticuleTlsFilesUnusable",
        r#"graticule_tls_files_unusable{instance="c",used_for="front.tls"}"#,
        "0+0x100 1+0x20",
    ),
    (
        "GraticuleStoreNotWritten",
        r#"graticule_cp_store_writes_total{result="failed"}"#,
        "0+0x100 1+0x20",
    ),
    (
        "GraticuleFleetPinLacking",
        "graticule_fleet_pins_lacking",
        "0+0x90 1+0x40",
    ),
    ("GraticuleNoEnvoyAttached", "graticule_xds_clients", "1+0x100 0+0x20"),
    (
        "GraticuleUnknownEnvoy",
        "graticule_xds_unknown_nodes_total",
        "0+0x100 1+0x20",
    ),
    (
        "GraticuleRetryOverflow",
        r#"envoy_cluster_upstream_rq_retry_overflow{envoy_cluster_name="pool/p"}"#,
        "0+0x100 0+1x20",
    ),
];

/// What promtool is to evaluate: the well series, some of them replaced, and the alerts that fire after half an hour.
fn case(name: &str, replaced: &[(&str, &str)], expression: &str, fires: &[&str]) -> Value {
    let mut series: BTreeMap<&str, &str> = WELL.iter().copied().collect();
    for (key, values) in replaced.iter().copied() {
        assert!(
            series.insert(key, values).is_some(),
            "{name} replaces no series of WELL"
        );
    }
    let series: Vec<_> = series
        .iter()
        .map(|(series, values)| json!({"series": series, "values": values}))
        .collect();
    let samples: Vec<_> = fires
        .iter()
        .map(|alert| json!({"labels": format!("{{alertname=\"{alert}\"}}"), "value": 1}))
        .collect();
    json!({"name": name, "interval": "15s", "input_series": series,
        "promql_expr_test": [{"expr": expression, "eval_time": "30m", "exp_samples": samples}]})
}

#[test]
fn each_alert_fires_when_it_should_and_none_while_all_is_well() {
    let alerts = reading::yaml(ALERTS);
    let mut names: Vec<&str> = rules(&alerts).into_iter().map(|rule| string(rule, "alert")).collect();
    let mut tried: Vec<&str> = ILL.iter().map(|(alert, ..)| *alert).collect();
    names.sort_unstable();
    tried.sort_unstable();
    assert_eq!(names, tried, "left alerts.yml, right the cases here");

    let all = "sum by (alertname) (ALERTS)";
    let listed = [
        (r#"graticule_cp_agents{phase="ready"}"#, "0+0x130"),
        ("graticule_cp_addresses", "2+0x130"),
    ];
    let mut cases = vec![
        case("all is well", &[], all, &[]),
        case("all agents are listed by address", &listed, all, &[]),
    ];
    for (alert, series, values) in ILL {
        let expression = format!("sum by (alertname) (ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}})");
        cases.push(case(alert, &[(series, values)], &expression, &[alert]));
    }
    let test = json!({"rule_files": [parts::root().join(ALERTS)], "evaluation_interval": "15s", "tests": cases});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alerts.test.yml");
    std::fs::write(&file, test.to_string()).unwrap();
    let output = Command::new(prometheus("promtool"))
        .args(["test", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn promtool_accepts_the_configuration() {
    let config = parts::root().join("grafana/prometheus/prometheus.yml");
    let output = Command::new(prometheus("promtool"))
        .args(["check", "config", "--lint-fatal"])
        .arg(config)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn each_alert_says_what_to_do() {
    let alerts = reading::yaml(ALERTS);
    for rule in rules(&alerts) {
        let name = string(rule, "alert");
        assert!(
            ["critical", "warning", "info"].contains(&string(&rule["labels"], "severity")),
            "{name}"
        );
        assert!(
            string(&rule["annotations"], "summary").ends_with('.'),
            "{name}: a summary is a sentence"
        );
        assert!(
            string(&rule["annotations"], "runbook").len() > 60,
            "{name}: a runbook says what to do"
        );
    }
}
