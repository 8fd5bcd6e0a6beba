//! Every command of both programs against a running stack: what succeeds, what is refused, and what nobody answers; and the
//! fleet by one command. The lists of commands are the programs' own, so none is forgotten.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod live;

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stack::reference::with_examples;
use stack::shots::PNG;
use stack::{PATIENCE, Plan, parts, until};

use self::cases::{
    Case, DONE_BY_A_CONTROL_PLANE, DONE_BY_AN_AGENT, MAP, REFUSED_BY_A_CONTROL_PLANE, REFUSED_BY_AN_AGENT,
};

/// A port on which nobody listens.
const NOBODY: &str = "127.0.0.1:1";

/// Commands that ask nobody.
const ALONE: [&str; 12] = [
    "worker-agent",
    "worker-agent-serve",
    "worker-agent-check-config",
    "worker-agent-config-schema",
    "worker-agent-config-reference",
    "worker-agent-completions",
    "control-plane",
    "control-plane-serve",
    "control-plane-check-config",
    "control-plane-config-schema",
    "control-plane-config-reference",
    "control-plane-openapi",
];

fn run(program: &str, words: &[&str]) -> Output {
    let mut command = Command::new(parts::binary(program));
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

fn words(line: &'static str) -> Vec<&'static str> {
    line.split_whitespace().collect()
}

/// Runs them against `host` and checks what comes of each.
fn check(program: &str, host: &str, cases: &[Case]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let started = Instant::now();
            loop {
                let Err(wrong) = fits(program, host, case) else {
                    return None;
                };
                // Health is told to the health service a moment after it was set.
                if !case.0.starts_with("healthcheck") || started.elapsed() > PATIENCE {
                    return Some(wrong);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a command ends as it should, and says what it should where it should.
fn fits(program: &str, host: &str, (line, code, part): &Case) -> Result<(), String> {
    let said = run(program, &[&words(line)[..], &["--host", host]].concat());
    let all = text(&said);
    let ended = said.status.code();
    if ended != Some(*code) || !all.contains(part) {
        return Err(format!("{program} {line}: {ended:?}, not {code} and {part:?}: {all}"));
    }
    // What went well is on standard output; what did not, on standard error.
    let (good, bad) = (&said.stdout, &said.stderr);
    if (![0, 2].contains(code) && bad.is_empty()) || (*code == 64 && !good.is_empty()) {
        return Err(format!("{program} {line}: not where it belongs: {all}"));
    }
    if *code == 0 && line.contains("--json") {
        serde_json::from_slice::<Value>(good).map_err(|error| format!("{program} {line}: {error}: {all}"))?;
    }
    Ok(())
}

#[test]
fn the_openapi_document_is_printed_as_it_is_kept() {
    let said = run("control-plane", &["openapi"]);
    assert!(said.status.success(), "{}", text(&said));
    let kept = std::fs::read(parts::root().join("docs/reference/openapi.json")).unwrap();
    assert!(
        said.stdout == kept,
        "write it anew: control-plane openapi > docs/reference/openapi.json"
    );
}

/// The names of a program's commands that do something themselves, as its manual pages have them.
fn leaves(program: &str) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let made = run(program, &["man", folder.path().to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    let files = std::fs::read_dir(folder.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.map(|name| name.trim_end_matches(".1").to_owned()).collect();
    let inner = |name: &str| names.iter().any(|other| other.starts_with(&format!("{name}-")));
    // The list of agents is a command, and has further ones.
    names
        .iter()
        .filter(|name| !inner(name) || name.ends_with("-fleet"))
        .cloned()
        .collect()
}

/// The first case of each command; every command that asks somebody has one.
fn firsts(program: &str, cases: &[Case]) -> Vec<&'static str> {
    let firsts: Vec<(String, &'static str)> = leaves(program)
        .into_iter()
        .filter(|name| !ALONE.contains(&name.as_str()) && !name.ends_with("-man") && !name.ends_with("-completions"))
        .filter(|name| name != "control-plane-healthcheck")
        .map(|name| {
            let of = |line: &str| format!("{program}-{}-", words_joined(line)).starts_with(&format!("{name}-"));
            let case = cases.iter().find(|(line, ..)| of(line));
            (
                name.clone(),
                case.unwrap_or_else(|| panic!("{name} is not exercised")).0,
            )
        })
        .collect();
    firsts.into_iter().map(|(_, line)| line).collect()
}

fn words_joined(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join("-")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_does_what_it_says_or_says_why_not() {
    let stack = Plan::agents(1).start().await;
    let (agent, fleet) = (stack.agents[0].grpc().to_string(), stack.fleet().to_string());
    check("worker-agent", &agent, DONE_BY_AN_AGENT);
    check("worker-agent", &agent, REFUSED_BY_AN_AGENT);
    stack.until_in_service(1).await;
    check("control-plane", &fleet, DONE_BY_A_CONTROL_PLANE);
    check("control-plane", &fleet, REFUSED_BY_A_CONTROL_PLANE);

    // A map goes into a file as it is, and with --json its head to programs.
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = ["--json", "--host", &agent, "-o", file.path().to_str().unwrap()];
    let said = run("worker-agent", &[&words(MAP)[..], &output].concat());
    let head: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&said)));
    let map = std::fs::read(file.path()).unwrap();
    assert_eq!((&head["status"], &head["bytes"]), (&200.into(), &map.len().into()));
    assert!(map.starts_with(PNG));

    // The health of the control plane is asked at its operations port.
    let status = stack.status().base().replace("http://", "status.listen=");
    let ready = run("control-plane", &["healthcheck", "--json", "--set", &status]);
    assert!(
        ready.status.success() && text(&ready).contains("\"ready\": true"),
        "{}",
        text(&ready)
    );
    let mut by_variable = Command::new(parts::binary("control-plane"));
    by_variable
        .args(["fleet", "resume", "agent-1"])
        .env("GRATICULE_FLEET", &fleet);
    assert!(by_variable.output().unwrap().status.success());
    live::watching(&stack);
    live::screen(&agent);
}

#[test]
fn nobody_there_is_said_by_every_command() {
    for (program, cases) in [
        ("worker-agent", DONE_BY_AN_AGENT),
        ("control-plane", DONE_BY_A_CONTROL_PLANE),
    ] {
        for line in firsts(program, cases) {
            let said = run(program, &[&words(line)[..], &["--host", NOBODY]].concat());
            let all = text(&said);
            assert_eq!(said.status.code(), Some(69), "{program} {line}: {all}");
            assert!(
                said.stdout.is_empty() && all.contains("answers at 127.0.0.1:1: is it running"),
                "{line}: {all}"
            );
        }
    }
    for line in ["stats --watch", "healthcheck --watch", "top --once", "ping"] {
        let said = run("worker-agent", &[&words(line)[..], &["--fleet", NOBODY]].concat());
        assert_eq!(said.status.code(), Some(69), "{line}: {}", text(&said));
        assert!(text(&said).contains("no control plane answers"), "{line}");
    }
    let said = run("control-plane", &["healthcheck", "--set", "status.listen=127.0.0.1:1"]);
    assert_eq!(said.status.code(), Some(69), "{}", text(&said));
}

#[test]
fn usage_errors_end_with_64_and_help_with_0() {
    let projects = "worker.qgis.projects.search_paths={\"/\": \"/srv\"}";
    let sound = run("worker-agent", &["check-config", "--json", "--set", projects]);
    assert!(sound.status.success(), "{}", text(&sound));
    assert!(run("control-plane", &["check-config", "--json"]).status.success());
    for program in ["worker-agent", "control-plane"] {
        for (words, code) in [
            (&[][..], 64),
            (&["nonsense"], 64),
            (&["serve", "--set", "nonsense.key=1"], 64),
            (&["check-config", "--set", "nonsense.key=1"], 64),
            (&["config", "schema"], 0),
            (&["config", "reference"], 0),
            (&["completions", "bash"], 0),
            (&["completions", "zsh"], 0),
            (&["completions", "fish"], 0),
            (&["completions", "cmd"], 64),
            (&["man"], 0),
            (&["man", "/proc/nowhere"], 1),
            (&["--help"], 0),
            (&["--version"], 0),
        ] {
            let said = run(program, words);
            assert_eq!(said.status.code(), Some(code), "{program} {words:?}: {}", text(&said));
            assert_eq!(
                said.stdout.is_empty(),
                code != 0,
                "{program} {words:?}: {}",
                text(&said)
            );
        }
    }
}

#[test]
fn a_printed_reference_is_a_configuration_that_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // An agent cannot do without projects.
    let projects = ["--set", "worker.qgis.projects.search_paths={\"/\": \"/srv/projects\"}"];
    for (program, needs) in [("worker-agent", &projects[..]), ("control-plane", &[])] {
        let printed = run(program, &["config", "reference"]);
        let printed = String::from_utf8(printed.stdout).unwrap();
        let (whole, used) = (folder.path().join("whole.toml"), folder.path().join("used.toml"));
        std::fs::write(&whole, &printed).unwrap();
        std::fs::write(&used, with_examples(&printed)).unwrap();
        let tree = |words: &[&str]| {
            let said = run(program, &[&["check-config", "--json"], words].concat());
            assert!(said.status.success(), "{program} {words:?}: {}", text(&said));
            serde_json::from_slice::<Value>(&said.stdout).unwrap()["config"].clone()
        };
        let whole = ["--conf", whole.to_str().unwrap()];
        assert_eq!(tree(&[&whole[..], needs].concat()), tree(needs), "{program}");
        assert_ne!(tree(&["--conf", used.to_str().unwrap()]), tree(needs), "{program}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_asked_by_one_command_and_who_cannot_is_named() {
    let mut stack = Plan::agents(3).start().await;
    // The third one has other projects.
    let folder = serde_json::json!({"/": parts::failing_projects()}).to_string();
    let odd = &mut stack.agents[2];
    odd.terminate();
    odd.until_ended().await;
    odd.set("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", &folder);
    odd.start();
    odd.until_ready().await;
    stack.until_in_service(3).await;
    let fleet = stack.fleet().to_string();

    // A pin of the fleet: progress by agent, and who cannot is named with the reason; the others have it.
    let said = stack.cli(&["pins", "add", "/world"]);
    let (good, bad) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert_eq!(said.status.code(), Some(1), "{good}{bad}");
    assert!(good.starts_with("/world is pinned for every pool\n"), "{good}");
    for line in ["\nagent-1: loaded\n", "\nagent-2: loaded\n", "agent-3: loading\n"] {
        assert!(good.contains(line), "{line}: {good}");
    }
    assert!(
        bad.starts_with("agent-3 has no such project: ") && bad.contains("2 of 3 agents have loaded /world"),
        "{bad}"
    );
    let said = stack.cli(&["pins", "add", "/world", "--json"]);
    let value: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((said.status.code(), &value["well"]), (Some(1), &false.into()));
    let states: Vec<_> = value["agents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|agent| &agent["state"])
        .collect();
    assert_eq!(states, ["loaded", "loaded", "missing"]);
    for agent in &stack.agents[..2] {
        until("both workers to hold it", async || {
            let workers = agent.workers().await;
            workers.len() == 2 && workers.iter().all(|worker| worker.projects == ["/world"])
        })
        .await;
    }
    assert!(stack.cli(&["pins", "remove", "/world"]).status.success());

    // The same with agents' own pins, and with some agents only.
    let fleet_wide = |line: &'static str| run("worker-agent", &[&words(line)[..], &["--fleet", &fleet]].concat());
    let said = fleet_wide("cache pin /points");
    assert_eq!(said.status.code(), Some(1), "{}", text(&said));
    let (good, bad) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(
        good.contains("agent-1: /points is pinned") && good.contains("agent-2: /points is pinned"),
        "{good}"
    );
    assert!(
        bad.starts_with("worker-agent: agent-3: the agent refused: there is no project"),
        "{bad}"
    );
    let said = fleet_wide("cache pin /points --json");
    let value: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(
        (&value["agents"][0]["exit"], &value["agents"][2]["exit"]),
        (&0.into(), &1.into())
    );
    assert_eq!(value["agents"][1]["answer"]["already"], true);

    for (line, code, part) in [
        (
            "cache unpin /points --agent agent-1 --agent agent-2",
            0,
            "agent-2: /points is no longer pinned",
        ),
        ("stats --agent agent-9", 69, "attached: agent-1, agent-2, agent-3"),
        ("ping", 0, "agent-3: answers after "),
        ("healthcheck", 0, "agent-1: ready\n"),
        ("drain --agent agent-2 --wait 20", 0, "agent-2: drained: nothing runs"),
        ("healthcheck", 2, "agent-2: not ready\n"),
        ("resume", 0, "agent-2: takes requests again"),
        ("stats", 0, "agent-3:\nready for "),
        ("top --once", 0, "3 of 3 agents ready, 6 of 6 workers live"),
        ("env --agent agent-3", 0, "qgis"),
        ("cache list --json", 0, "\"agent\": \"agent-3\""),
        ("config get server.timeout", 0, "agent-1: server.timeout = "),
        ("plugin list", 0, "agent-1: there is no server plugin"),
        (
            "request ows /world -p SERVICE=WMS -p REQUEST=GetCapabilities --agent agent-1",
            0,
            "WMS_Capabilities",
        ),
        (
            "request ows /world",
            64,
            "choose with --agent, from agent-1, agent-2, agent-3",
        ),
    ] {
        let said = fleet_wide(line);
        let all = text(&said);
        assert!(
            said.status.code() == Some(code) && all.contains(part),
            "{line}: {:?}\n{all}",
            said.status.code()
        );
    }
}
