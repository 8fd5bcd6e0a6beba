//! Pins, by the command line that operators use: kept by every worker, through the death of a worker and the restart of
//! the agent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Output;

use nix::sys::signal::Signal;
use serde_json::Value;
use stack::{Agent, Plan, parts, until};

/// Runs a command and checks its exit code; gives what it printed.
fn cli(agent: &Agent, arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = agent.cli(arguments);
    let (said, wrong) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{arguments:?}: {said}{wrong}");
    // What went well is on standard output, what did not on standard error, and never both.
    assert!(said.is_empty() != wrong.is_empty(), "{arguments:?}: {said:?} {wrong:?}");
    said + &wrong
}

fn cached(agent: &Agent) -> Vec<Value> {
    let list: Value = serde_json::from_str(&cli(agent, &["cache", "list", "--json"], 0)).unwrap();
    list["projects"].as_array().unwrap().clone()
}

fn project(agent: &Agent, name: &str) -> Option<Value> {
    cached(agent).into_iter().find(|project| project["project"] == name)
}

/// Waits until every worker has the project.
async fn until_held(agent: &Agent, name: &str) {
    until(&format!("every worker to hold {name}"), async || {
        let workers = agent.workers().await;
        workers.len() == 2
            && workers
                .iter()
                .all(|worker| worker.projects.iter().any(|held| held == name))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_survives_the_restart_of_a_worker_and_of_the_agent() {
    let mut stack = Plan::agents(1).start().await;
    let agent = &stack.agents[0];
    assert_eq!(cli(agent, &["cache", "list"], 0), "no project is loaded or pinned\n");
    assert_eq!(cli(agent, &["healthcheck"], 0), "ready\n");

    let said = cli(agent, &["cache", "pin", "/world"], 0);
    assert!(said.starts_with("/world is pinned; it loaded in "), "{said}");
    until_held(agent, "/world").await;
    assert!(cli(agent, &["cache", "pin", "world.qgs"], 0).contains("pinned before"));
    let pinned = project(agent, "/world").unwrap();
    assert_eq!(
        (&pinned["pinned"], &pinned["workers"]),
        (&Value::Bool(true), &Value::from(2))
    );
    assert!(cli(agent, &["cache", "list"], 0).contains("/world"));

    // A worker that is killed: its successor has the project before its first request.
    let killed = agent.workers().await[0].clone();
    agent.signal_worker(&killed, Signal::SIGKILL);
    until("another worker", async || {
        let workers = agent.workers().await;
        workers.len() == 2 && workers.iter().all(|worker| worker.pid != killed.pid)
    })
    .await;
    for worker in agent.workers().await {
        assert_eq!(worker.projects, ["/world"], "{worker:?}");
    }

    // The agent stops, and starts again; and once more without warning.
    stack.agents[0].terminate();
    assert_eq!(stack.agents[0].until_ended().await.code(), Some(0));
    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    until_held(&stack.agents[0], "/world").await;
    stack.agents[0].kill();
    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    until_held(&stack.agents[0], "/world").await;
    stack.until_in_service(1).await;
    stack
        .get("/?MAP=/world&SERVICE=WMS&REQUEST=GetCapabilities")
        .await
        .expect(200);

    let agent = &stack.agents[0];
    let said = cli(agent, &["stats"], 0);
    assert!(said.starts_with("ready for ") && said.contains("/world"), "{said}");
    let stats: Value = serde_json::from_str(&cli(agent, &["stats", "--json"], 0)).unwrap();
    assert_eq!(
        (&stats["phase"], &stats["pins"]),
        (&Value::from("ready"), &serde_json::json!(["/world"]))
    );
    assert_eq!(stats["workers"].as_array().unwrap().len(), 2);

    assert_eq!(
        cli(agent, &["cache", "unpin", "/world"], 0),
        "/world is no longer pinned\n"
    );
    assert_eq!(cli(agent, &["cache", "unpin", "/world"], 0), "/world was not pinned\n");
    until("no worker to hold it", async || {
        let workers = agent.workers().await;
        workers.len() == 2 && workers.iter().all(|worker| worker.projects.is_empty())
    })
    .await;
    // An end of a pin lasts as well.
    stack.agents[0].kill();
    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    assert!(cached(&stack.agents[0]).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pinned_is_refused_and_not_kept() {
    let mut stack = Plan::agents(1).projects(parts::failing_projects()).start().await;
    let agent = &stack.agents[0];
    for (name, why) in [
        ("/unreadable", "cannot be loaded"),
        ("/nowhere", "there is no project"),
        ("/../outside", "steps through"),
        ("", "empty"),
    ] {
        let said = cli(agent, &["cache", "pin", name], 1);
        assert!(
            said.starts_with("worker-agent: the agent refused: ") && said.contains(why),
            "{name}: {said}"
        );
    }
    assert!(
        cached(agent).iter().all(|project| project["pinned"] == false),
        "{:?}",
        cached(agent)
    );
    // One with bad layers is pinned with its good ones, and the bad ones are named.
    cli(agent, &["cache", "pin", "/broken"], 0);
    assert_eq!(
        project(agent, "/broken").unwrap()["bad_layers"],
        serde_json::json!(["lost"])
    );

    stack.agents[0].kill();
    let said = cli(&stack.agents[0], &["healthcheck"], 69);
    assert!(said.contains("no agent answers at 127.0.0.1:"), "{said}");
    cli(&stack.agents[0], &["cache", "pin", "/broken"], 69);

    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    until_held(&stack.agents[0], "/broken").await;
    assert_eq!(cached(&stack.agents[0]).len(), 1, "{:?}", cached(&stack.agents[0]));

    // With bad layers not allowed, such a project is refused as a whole; a pin of before is kept and its problem said.
    stack.agents[0].kill();
    stack.agents[0].set("CONF_WORKER__QGIS__IGNORE_BAD_LAYERS", "false");
    stack.agents[0].start();
    let agent = &mut stack.agents[0];
    agent.until_ready().await;
    // The agent serves other projects before it has tried this one.
    until("the pin's problem to be said", async || {
        let kept = project(agent, "/broken").unwrap();
        kept["pinned"] == true && kept["problem"].as_str().unwrap().contains("lost")
    })
    .await;
}

/// Ends QGIS while it reads certain projects.
const PLUGIN: &str = r#"
import os
import signal

from qgis.core import QgsProject

read = QgsProject.read


def read_or_die(project, *arguments):
    if arguments:
        with open(str(arguments[0])) as file:
            if "ends QGIS" in file.read():
                os.kill(os.getpid(), signal.SIGSEGV)
    return read(project, *arguments)


def serverClassFactory(interface):
    QgsProject.read = read_or_die
    return object()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_that_ends_qgis_takes_nothing_else_along() {
    let folder = tempfile::tempdir().unwrap();
    let (projects, plugins) = (folder.path().join("projects"), folder.path().join("plugins"));
    fs::create_dir_all(&projects).unwrap();
    fs::create_dir_all(plugins.join("ends_qgis")).unwrap();
    fs::write(plugins.join("ends_qgis/__init__.py"), PLUGIN).unwrap();
    let about = "[general]\nname=Ends QGIS\nversion=1.0\nqgisMinimumVersion=3.28\nserver=True\n";
    fs::write(plugins.join("ends_qgis/metadata.txt"), about).unwrap();
    let sound = fs::read_to_string(parts::failing_projects().join("broken.qgs")).unwrap();
    let fatal = format!("{sound}<!-- ends QGIS -->\n");
    fs::write(projects.join("sound.qgs"), &sound).unwrap();
    fs::write(projects.join("fatal.qgs"), &fatal).unwrap();
    fs::write(projects.join("other.qgs"), &fatal).unwrap();
    let mut stack = Plan::agents(1)
        .projects(&projects)
        .agent(
            "CONF_WORKER__QGIS__PLUGINS__PATHS",
            format!("\"{}\"", plugins.display()),
        )
        .agent("CONF_WORKER__QGIS__PLUGINS__ALLOWED", "nothing_yet")
        .start()
        .await;
    cli(&stack.agents[0], &["cache", "pin", "/sound"], 0);
    cli(&stack.agents[0], &["cache", "pin", "/fatal"], 0);
    stack.agents[0].terminate();
    stack.agents[0].until_ended().await;

    // From now on QGIS does not survive it.
    stack.agents[0].set("CONF_WORKER__QGIS__PLUGINS__ALLOWED", "ends_qgis");
    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    let agent = &stack.agents[0];
    until_held(agent, "/sound").await;
    let kept = project(agent, "/fatal").unwrap();
    let problem = kept["problem"].as_str().unwrap();
    assert!(kept["pinned"] == true && problem.contains("signal 11"), "{kept}");
    until("workers that are forked", async || {
        let workers = agent.workers().await;
        workers.len() == 2 && workers.iter().all(|worker| worker.start == "fork")
    })
    .await;

    // Another one is refused, and not kept; what is there stays.
    let said = cli(agent, &["cache", "pin", "/other"], 1);
    assert!(
        said.contains("so it is not pinned") && said.contains("signal 11"),
        "{said}"
    );
    assert!(project(agent, "/other").is_none_or(|other| other["pinned"] == false));
    until_held(agent, "/sound").await;

    // A version that does no harm is loaded by itself.
    fs::write(projects.join("fatal.qgs"), format!("{sound}\n")).unwrap();
    until_held(agent, "/fatal").await;
    assert_eq!(project(agent, "/fatal").unwrap()["problem"], "");
}
