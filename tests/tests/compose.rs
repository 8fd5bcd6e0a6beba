//! `compose.yaml`, the Dockerfiles and Envoy's bootstrap for them, as data: every file they name is there, every port is
//! the daemons' own, every variable is documented, and nobody is root. `tests/docker/run.sh` runs them for real.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use reading::{fields, items, string};
use serde_json::{Value, json};
use stack::parts;

const DAEMONS: [&str; 2] = ["control-plane", "worker-agent"];

fn compose() -> Value {
    reading::with_defaults(&reading::yaml("compose.yaml"))
}

fn services(compose: &Value) -> BTreeMap<&str, &Value> {
    fields(&compose["services"]).collect()
}

/// The `KEY=value` pairs that a Dockerfile sets with its one ENV.
fn environment_of(dockerfile: &str) -> BTreeMap<String, String> {
    let text = reading::text(dockerfile).replace("\\\n", " ");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("ENV "))
        .expect("an ENV")
        .to_owned();
    let mut pairs = BTreeMap::new();
    let mut rest = line.as_str();
    while let Some((name, after)) = rest.trim_start().split_once('=') {
        let (value, next) = match after.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').expect("a quote ends"),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        pairs.insert(name.to_owned(), value.to_owned());
        rest = next;
    }
    pairs
}

/// What a daemon is told in its container when no variable is set.
fn environment(daemon: &str) -> BTreeMap<String, String> {
    let compose = compose();
    let mut environment = environment_of(&format!("{daemon}/Dockerfile"));
    for (name, value) in fields(&services(&compose)[daemon]["environment"]) {
        environment.insert(
            name.to_owned(),
            value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        );
    }
    environment
}

fn port(address: &str) -> u16 {
    address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or_else(|| panic!("no port in {address}"))
}

#[test]
fn the_daemons_accept_what_they_are_told() {
    for daemon in DAEMONS {
        let mut command = Command::new(parts::binary(daemon));
        let output = command
            .arg("check-config")
            .env_clear()
            .envs(environment(daemon))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{daemon}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_file_is_there() {
    let root = parts::root();
    for file in ["compose.yaml", "compose-twin.yaml", "tests/docker/compose.yaml"] {
        let compose = reading::with_defaults(&reading::yaml(file));
        for (name, service) in services(&compose) {
            let build = &service["build"];
            if let Some(dockerfile) = build["dockerfile"].as_str() {
                let context = root.join(build["context"].as_str().unwrap_or("."));
                assert!(context.join(dockerfile).is_file(), "{file}, {name}: no {dockerfile}");
            }
            for volume in items(&service["volumes"]) {
                let source = volume["source"].as_str().or_else(|| volume.as_str()?.split(':').next());
                let source = source.expect("a source");
                // .parts is made by who uses it, and what does not start with a dot is a volume's name or a path inside.
                if source.starts_with("./") && !source.starts_with("./.parts") {
                    assert!(root.join(source).exists(), "{file}, {name}: no {source}");
                }
            }
        }
    }
    let named = |compose: &Value| {
        services(compose)
            .into_keys()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    let over = named(&reading::yaml("tests/docker/compose.yaml"));
    assert!(
        over.is_subset(&named(&compose())),
        "tests/docker/compose.yaml names other services: {over:?}"
    );
    assert!(
        Command::new("bash")
            .args(["-n", "tests/docker/run.sh"])
            .current_dir(&root)
            .status()
            .unwrap()
            .success()
    );
    assert!(
        Command::new("bash")
            .args(["-n", "tests/docker/engine.sh"])
            .current_dir(&root)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn the_build_context_holds_the_workspace() {
    let ignored = reading::text(".dockerignore");
    assert!(
        ignored.lines().any(|line| line == "*"),
        "everything is left out but what is named"
    );
    let let_in = |path: &str| {
        ignored
            .lines()
            .any(|line| line.strip_prefix('!').is_some_and(|kept| path.starts_with(kept)))
    };
    let manifest = reading::text("Cargo.toml");
    let members = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = "))
        .expect("members");
    let members: Vec<String> = serde_json::from_str(members).unwrap();
    for member in &members {
        assert!(
            let_in(&format!("{member}/Cargo.toml")) && let_in(&format!("{member}/src/lib.rs")),
            "{member} is left out"
        );
    }
    assert!(let_in("Cargo.lock") && let_in("Cargo.toml"));
    for left_out in ["target/debug/x", ".parts/envoy", ".git/HEAD"] {
        assert!(!let_in(left_out), "{left_out} is sent to the engine");
    }
}

#[test]
fn ports_are_the_daemons_own() {
    let (agent, control_plane) = (environment("worker-agent"), environment("control-plane"));
    for (daemon, told) in [("worker-agent", &agent), ("control-plane", &control_plane)] {
        let listens: BTreeSet<u16> = told
            .iter()
            .filter(|(name, _)| name.ends_with("LISTEN") && !name.contains("FRONT"))
            .map(|(_, address)| port(address))
            .collect();
        let dockerfile = reading::text(&format!("{daemon}/Dockerfile"));
        let exposed = dockerfile
            .lines()
            .find_map(|line| line.strip_prefix("EXPOSE "))
            .expect("EXPOSE");
        let exposed: BTreeSet<u16> = exposed.split(' ').map(|port| port.parse().unwrap()).collect();
        assert_eq!(listens, exposed, "{daemon}/Dockerfile");
        assert!(
            told.values().all(|value| !value.starts_with("127.")),
            "{daemon} would not be reached"
        );
    }
    // The same numbers as without containers.
    let output = Command::new(parts::binary("control-plane"))
        .args(["check-config", "--json"])
        .env_clear()
        .output()
        .unwrap();
    let defaults: Value = serde_json::from_slice::<Value>(&output.stdout).unwrap()["config"].clone();
    for part in ["xds", "fleet", "status", "front"] {
        let told = &control_plane[&format!("CONF_{}__LISTEN", part.to_uppercase())];
        assert_eq!(port(told), port(string(&defaults[part], "listen")), "{part}.listen");
    }

    assert_eq!(
        agent["CONF_FLEET__CONTROL_PLANE"],
        format!("http://control-plane:{}", port(&control_plane["CONF_FLEET__LISTEN"]))
    );
    let xds = &reading::yaml("envoy/bootstrap-compose.yaml")["static_resources"]["clusters"][0]["load_assignment"];
    let address = &xds["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
    assert_eq!(
        *address,
        json!({"address": "control-plane", "port_value": port(&control_plane["CONF_XDS__LISTEN"])})
    );

    let compose = compose();
    let services = services(&compose);
    let published = string_of(&services["envoy"]["ports"][0]);
    assert_eq!(published, "127.0.0.1:9080:9080");
    assert_eq!(port(&published), port(&control_plane["CONF_FRONT__LISTEN"]));
    assert_eq!(
        string_of(&services["control-plane"]["ports"][0]),
        "127.0.0.1:18002:18002"
    );
}

fn string_of(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

#[test]
fn prometheus_scrapes_where_metrics_are() {
    let config = reading::yaml("grafana/prometheus/prometheus.yml");
    let job = |name: &str| {
        let found = items(&config["scrape_configs"])
            .iter()
            .find(|job| job["job_name"] == name);
        found.unwrap_or_else(|| panic!("no job {name}")).clone()
    };
    let (agent, control_plane) = (environment("worker-agent"), environment("control-plane"));
    let agents = &job("worker-agent")["dns_sd_configs"][0];
    assert_eq!(agents["names"], json!(["worker-agent"]));
    assert_eq!(agents["type"], "A");
    assert_eq!(agents["port"], port(&agent["CONF_SERVER__METRICS_LISTEN"]));
    let status = format!("control-plane:{}", port(&control_plane["CONF_STATUS__LISTEN"]));
    assert_eq!(job("control-plane")["static_configs"][0]["targets"], json!([status]));

    let envoy = job("envoy");
    let listener = &reading::yaml("envoy/bootstrap-compose.yaml")["static_resources"]["listeners"][0];
    let at = &listener["address"]["socket_address"]["port_value"];
    assert_eq!(envoy["static_configs"][0]["targets"], json!([format!("envoy:{at}")]));
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    let routes = &manager["route_config"]["virtual_hosts"][0]["routes"];
    assert_eq!(items(routes).len(), 1, "only the statistics are shown");
    assert_eq!(routes[0]["match"]["path"], envoy["metrics_path"]);

    let source = reading::yaml("grafana/provisioning/datasources/prometheus.yaml");
    assert_eq!(source["datasources"][0]["url"], "http://prometheus:9090");
}

#[test]
fn the_two_bootstraps_say_the_same() {
    let plain = reading::yaml("envoy/bootstrap.yaml");
    let mut ours = reading::yaml("envoy/bootstrap-compose.yaml");
    assert_eq!(plain["admin"], ours["admin"], "the admin page stays on loopback");
    let resources = ours["static_resources"].as_object_mut().unwrap();
    assert!(resources.remove("listeners").is_some());
    let clusters = resources["clusters"].as_array_mut().unwrap();
    clusters.retain(|cluster| cluster["name"] != "admin");
    let endpoint = &mut clusters[0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    endpoint["address"]["socket_address"]["address"] = "127.0.0.1".into();
    assert_eq!(plain, ours);
}

/// The first cluster of a bootstrap, which is the control planes'.
fn control_planes(bootstrap: &Value) -> &Value {
    &bootstrap["static_resources"]["clusters"][0]
}

#[test]
fn the_bootstraps_for_two_control_planes_say_the_same_but_for_these() {
    for (one, two) in [
        ("bootstrap.yaml", "bootstrap-twin.yaml"),
        ("bootstrap-compose.yaml", "bootstrap-compose-twin.yaml"),
    ] {
        let one = reading::yaml(&format!("envoy/{one}"));
        let mut two = reading::yaml(&format!("envoy/{two}"));
        let cluster = two["static_resources"]["clusters"][0].as_object_mut().unwrap();
        for more in ["health_checks", "outlier_detection"] {
            assert!(cluster.remove(more).is_some());
        }
        let endpoints = cluster["load_assignment"]["endpoints"].as_array_mut().unwrap();
        let second = endpoints.pop().unwrap();
        assert_eq!((&second["priority"], endpoints.len()), (&json!(1), 1));
        assert_eq!(endpoints[0].as_object_mut().unwrap().remove("priority"), Some(json!(0)));
        assert_eq!(one, two);
    }
    let (plain, ours) = (
        reading::yaml("envoy/bootstrap-twin.yaml"),
        reading::yaml("envoy/bootstrap-compose-twin.yaml"),
    );
    for checks in ["health_checks", "outlier_detection"] {
        assert_eq!(control_planes(&plain)[checks], control_planes(&ours)[checks]);
    }
}

#[test]
fn the_twin_of_the_control_plane_is_told_the_same() {
    let (one, over) = (compose(), reading::with_defaults(&reading::yaml("compose-twin.yaml")));
    let (one, over) = (services(&one), services(&over));
    let (first, twin) = (one["control-plane"], over["control-plane-twin"]);
    let mut told = first["environment"].clone();
    let more = fields(&over["control-plane"]["environment"]);
    more.for_each(|(name, value)| told[name] = value.clone());
    assert_eq!(told, twin["environment"]);
    for key in [
        "image",
        "build",
        "user",
        "healthcheck",
        "mem_limit",
        "read_only",
        "cap_drop",
        "security_opt",
    ] {
        assert_eq!(first[key], twin[key], "{key}");
    }
    // Nobody is root, and nothing is open to everybody.
    for service in ["control-plane-twin", "store"] {
        assert!(
            string(over[service], "user")
                .split(':')
                .all(|id| id.parse::<u32>().is_ok_and(|id| id > 0))
        );
        assert_eq!(over[service]["cap_drop"], json!(["ALL"]));
    }
    assert!(over["store"]["ports"].is_null());
    for published in items(&twin["ports"]) {
        assert!(string_of(published).starts_with("127.0.0.1:"));
    }
    let addresses = string(&over["worker-agent"]["environment"], "CONF_FLEET__CONTROL_PLANE");
    let addresses: Vec<String> = serde_json::from_str(addresses).unwrap();
    assert_eq!(
        addresses,
        ["http://control-plane:18001", "http://control-plane-twin:18001"]
    );
    let bootstrap = reading::yaml("envoy/bootstrap-compose-twin.yaml");
    let endpoints = items(&control_planes(&bootstrap)["load_assignment"]["endpoints"]);
    let hosts = endpoints.iter().map(|endpoints| {
        let address = &endpoints["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
        string(address, "address")
    });
    assert_eq!(hosts.collect::<Vec<_>>(), ["control-plane", "control-plane-twin"]);

    // Both daemons take what they are told.
    for (daemon, service) in [
        ("control-plane", "control-plane-twin"),
        ("worker-agent", "worker-agent"),
    ] {
        let mut environment = environment(daemon);
        for (name, value) in fields(&over[service]["environment"]) {
            environment.insert(name.to_owned(), string_of(value));
        }
        let mut command = Command::new(parts::binary(daemon));
        let output = command
            .arg("check-config")
            .env_clear()
            .envs(environment)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{daemon}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn envoy_accepts_the_bootstraps() {
    for bootstrap in [
        "bootstrap-compose.yaml",
        "bootstrap-compose-twin.yaml",
        "bootstrap-twin.yaml",
    ] {
        let output = Command::new(parts::envoy())
            .args(["--mode", "validate", "--config-path"])
            .arg(parts::root().join("envoy").join(bootstrap))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{bootstrap}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_variable_is_documented_with_its_default() {
    let source = reading::text("compose.yaml") + &reading::text("compose-twin.yaml");
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|l| format!("{l}\n"))
        .collect();
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for (name, default) in reading::variables(&code) {
        let before = used.insert(name.clone(), default.clone());
        assert!(before.is_none_or(|before| before == default), "{name} has two defaults");
    }
    let mut documented = BTreeMap::new();
    for row in reading::text("docs/compose.md")
        .lines()
        .filter(|line| line.starts_with("| `GRATICULE_"))
    {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let names = cells[1].split(", ").map(|name| name.trim_matches('`').to_owned());
        let defaults: Vec<&str> = cells[2].split(", ").map(|default| default.trim_matches('`')).collect();
        documented.extend(names.enumerate().map(|(at, name)| (name, defaults[at].to_owned())));
    }
    assert_eq!(used, documented, "left the compose files, right docs/compose.md");
}

#[test]
fn services_are_confined_and_end_in_order() {
    let compose = compose();
    for (name, service) in services(&compose) {
        let user = string(service, "user");
        assert!(
            user.parse::<u32>().is_ok() || !matches!(user.split(':').next(), Some("" | "0" | "root")),
            "{name} is root"
        );
        for (key, value) in [
            ("init", json!(true)),
            ("read_only", json!(true)),
            ("cap_drop", json!(["ALL"])),
            ("security_opt", json!(["no-new-privileges:true"])),
        ] {
            assert_eq!(service[key], value, "{name}: {key}");
        }
        for published in items(&service["ports"]) {
            assert!(
                string_of(published).starts_with("127.0.0.1:"),
                "{name} publishes {published} to everybody"
            );
        }
        if name == "demo-projects" {
            assert_eq!(
                service["profiles"],
                json!(["demo"]),
                "it runs only when it is asked for"
            );
            continue;
        }
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert!(service["healthcheck"]["test"].is_array(), "{name} has no health check");
        assert!(
            service["mem_limit"].is_string() && service["pids_limit"].is_number(),
            "{name} has no limits"
        );
        assert!(service["stop_grace_period"].is_string(), "{name}");
    }

    let agent = services(&compose)["worker-agent"];
    assert!(
        agent["ports"].is_null() && agent["container_name"].is_null(),
        "one of several agents could have it only"
    );
    assert!(
        items(&services(&compose)["control-plane"]["volumes"])
            .iter()
            .any(|volume| *volume == "control-plane-data:/var/lib/graticule"),
        "the fleet's pins would be lost"
    );
    let state = format!("{}/", environment("worker-agent")["HOME"]);
    assert!(environment("worker-agent")["CONF_WORKER__STATE_DIR"].starts_with(&state));
    assert!(
        items(&agent["volumes"])
            .iter()
            .any(|volume| *volume == state.trim_end_matches('/')),
        "pins would be lost"
    );
    let projects = items(&agent["volumes"])
        .iter()
        .find(|volume| volume["target"] == "/srv/projects")
        .unwrap();
    assert_eq!(projects["read_only"], true);

    let seconds = |text: &str| text.trim_end_matches('s').parse::<u64>().unwrap();
    let grace = seconds(&environment("worker-agent")["CONF_SERVER__SHUTDOWN_GRACE_PERIOD"]);
    assert!(
        seconds(string(agent, "stop_grace_period")) >= grace + 5,
        "the engine would kill what still drains"
    );
}
