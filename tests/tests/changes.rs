//! Projects that change, break and go while they are served, and what operators do about it by the command line.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use stack::client::Client;
use stack::{Agent, Plan, Stack, parts, until};
use tempfile::TempDir;

const MAP: &str = "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=countries&STYLES=&CRS=EPSG:4326\
                   &BBOX=40,0,60,20&WIDTH=64&HEIGHT=64&FORMAT=image/png";
const CAPABILITIES: &str = "/?MAP=/world&SERVICE=WMS&REQUEST=GetCapabilities";

/// A directory with a copy of the world project, which the test may change.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("changes").tempdir().unwrap();
        for file in ["world.qgs", "world.gpkg"] {
            fs::copy(parts::projects().join(file), dir.path().join(file)).unwrap();
        }
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes the project with another title, as QGIS does: beside it, then in its place.
    fn retitle(&self, title: &str) {
        let text = fs::read_to_string(parts::projects().join("world.qgs")).unwrap();
        let start = text.find("<WMSServiceTitle").unwrap();
        let start = start + text[start..].find('>').unwrap() + 1;
        let end = start + text[start..].find('<').unwrap();
        self.write(&format!("{}{title}{}", &text[..start], &text[end..]));
    }

    fn write(&self, text: &str) {
        let fresh = self.path().join("world.qgs~");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.path().join("world.qgs")).unwrap();
    }

    fn remove(&self) {
        fs::remove_file(self.path().join("world.qgs")).unwrap();
    }
}

async fn start(folder: &Folder) -> Stack {
    Plan::agents(1).projects(folder.path()).start().await
}

fn cli(agent: &Agent, arguments: &[&str], code: i32) -> String {
    let output = agent.cli(arguments);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

fn dump(agent: &Agent) -> Vec<Value> {
    let dump: Value = serde_json::from_str(&cli(agent, &["cache", "dump", "--json"], 0)).unwrap();
    let workers = dump["workers"].as_array().unwrap().iter();
    workers.map(|worker| worker["projects"]["/world"].clone()).collect()
}

/// Asks for maps without a pause until it is stopped, and at least eleven times; every answer must be one.
fn keep_asking(client: &Client) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let (client, stop) = (client.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let asking = tokio::spawn(async move {
        let mut count = 0;
        while count <= 10 || !stopped.load(Ordering::SeqCst) {
            client.get(MAP).await.expect(200);
            count += 1;
        }
    });
    (stop, asking)
}

async fn until_title(stack: &Stack, title: &str) {
    until(&format!("the title {title}"), async || {
        let answer = stack.get(CAPABILITIES).await;
        answer.expect(200).text().contains(&format!("<Title>{title}</Title>"))
    })
    .await;
}

/// Both workers hold one and the same version.
async fn until_everywhere(agent: &Agent) {
    until("every worker to hold the project", async || {
        let held = dump(agent);
        held.len() == 2 && held[0].is_string() && held[0] == held[1]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_project_is_loaded_anew_while_the_old_one_is_served() {
    let folder = Folder::new();
    let stack = start(&folder).await;
    let agent = &stack.agents[0];
    stack.get(MAP).await.expect(200);
    cli(agent, &["cache", "checkout", "--pull", "/world"], 0);
    until_everywhere(agent).await;
    let before = dump(agent);
    let workers: Vec<u32> = agent.workers().await.iter().map(|worker| worker.pid).collect();

    let (stop, asking) = keep_asking(stack.client());
    for title in ["First", "Second", "Third"] {
        folder.retitle(title);
        until_title(&stack, title).await;
    }
    until_everywhere(agent).await;
    stop.store(true, Ordering::SeqCst);
    asking.await.unwrap();
    assert_ne!(dump(agent), before);
    let after: Vec<u32> = agent.workers().await.iter().map(|worker| worker.pid).collect();
    assert_eq!(after, workers, "no worker was replaced for it");

    // Nobody asks: the change is seen all the same.
    let before = dump(agent);
    folder.retitle("Fourth");
    until("the workers to hold the new version", async || {
        let held = dump(agent);
        held[0] == held[1] && held != before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_data_file_makes_a_new_version() {
    let folder = Folder::new();
    let stack = start(&folder).await;
    let agent = &stack.agents[0];
    cli(agent, &["cache", "checkout", "--pull", "/world"], 0);
    let before = dump(agent);
    let (data, fresh) = (folder.path().join("world.gpkg"), folder.path().join("world.gpkg~"));
    fs::copy(&data, &fresh).unwrap();
    fs::rename(fresh, data).unwrap();
    until("the workers to hold the new version", async || {
        let held = dump(agent);
        held[0] == held[1] && held != before
    })
    .await;
    stack.get(MAP).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_projects_one_that_changes_is_loaded_anew_and_no_other() {
    let folder = Folder::new();
    for number in 0..1000 {
        // Nobody asks for them, so nobody looks into them.
        let name = folder.path().join(format!("other{number:03}.qgs"));
        fs::copy(parts::projects().join("points.qgs"), name).unwrap();
    }
    fs::copy(folder.path().join("world.qgs"), folder.path().join("second.qgs")).unwrap();
    let stack = start(&folder).await;
    let agent = &stack.agents[0];
    for project in ["/world", "/second"] {
        cli(agent, &["cache", "checkout", "--pull", project], 0);
    }
    let loads = async || {
        let metrics = agent.metrics().get("/metrics").await.text();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("graticule_project_loads_total{result=\"ok\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok())
            .unwrap_or_default()
    };
    let before = (loads().await, dump(agent));
    folder.retitle("Touched");
    until("the workers to hold the new version", async || {
        let held = dump(agent);
        held[0] == held[1] && held != before.1
    })
    .await;
    // Long enough for another look at everything.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(
        loads().await,
        before.0 + 2,
        "each of the two workers loaded one project"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_version_leaves_the_old_one_and_is_said_to_be() {
    let folder = Folder::new();
    let stack = start(&folder).await;
    let agent = &stack.agents[0];
    cli(agent, &["cache", "checkout", "--pull", "/world"], 0);
    let (stop, asking) = keep_asking(stack.client());

    folder.write("this is no project");
    until("the breakage to be seen", async || {
        let metrics = agent.metrics().get("/metrics").await.text();
        metrics.contains("graticule_projects_broken 1")
    })
    .await;
    let list: Value = serde_json::from_str(&cli(agent, &["cache", "list", "--json"], 0)).unwrap();
    let problem = list["projects"][0]["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("could not read"), "{list}");
    tokio::time::sleep(Duration::from_secs(1)).await;

    folder.retitle("Repaired");
    until_title(&stack, "Repaired").await;
    until_everywhere(agent).await;
    stop.store(true, Ordering::SeqCst);
    asking.await.unwrap();
    let metrics = agent.metrics().get("/metrics").await.text();
    assert!(metrics.contains("graticule_projects_broken 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_project_is_gone_and_comes_back() {
    let folder = Folder::new();
    let stack = start(&folder).await;
    let agent = &stack.agents[0];
    stack.get(MAP).await.expect(200);
    folder.remove();
    let answer = stack.get(MAP).await;
    assert_eq!(answer.expect(410).exception().0, "ProjectGone");
    assert_eq!(stack.get(&MAP.replace("/world", "/never")).await.status, 404);
    until("the workers to drop it", async || {
        dump(agent).iter().all(Value::is_null)
    })
    .await;
    folder.retitle("Back");
    until_title(&stack, "Back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_project_changes_by_generations_and_a_broken_version_makes_none() {
    let folder = Folder::new();
    let stack = start(&folder).await;
    let agent = &stack.agents[0];
    cli(agent, &["cache", "pin", "/world"], 0);
    let (stop, asking) = keep_asking(stack.client());
    let generation = async || agent.stats().await.state.unwrap().generation;
    until("the pin's generation", async || generation().await == 2).await;
    until_everywhere(agent).await;
    let all_forked = async || agent.workers().await.iter().all(|worker| worker.generation == 2);
    until("every worker to be of it", all_forked).await;

    folder.write("this is no project");
    until("the breakage to be seen", async || {
        let metrics = agent.metrics().get("/metrics").await.text();
        metrics.contains("graticule_projects_broken 1")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(generation().await, 2, "the one that holds the old version");

    folder.retitle("Repaired");
    until_title(&stack, "Repaired").await;
    assert!(generation().await > 2);
    stop.store(true, Ordering::SeqCst);
    asking.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_check_out_update_drop_and_clear() {
    let folder = Folder::new();
    let stack = start(&folder).await;
    let agent = &stack.agents[0];
    assert_eq!(
        cli(agent, &["cache", "checkout", "/world"], 0),
        "/world is in 0 of 2 workers\n"
    );
    assert_eq!(
        cli(agent, &["cache", "checkout", "--pull", "/world"], 0),
        "/world is in 2 of 2 workers\n"
    );
    let said = cli(agent, &["cache", "list", "--json"], 0);
    let list: Value = serde_json::from_str(&said).unwrap();
    assert!(list["projects"][0]["slow_layers"][0]["load_ms"].is_number(), "{list}");
    assert!(cli(agent, &["cache", "checkout", "--pull", "/nowhere"], 1).contains("there is no project"));

    let said = cli(agent, &["cache", "update"], 0);
    assert!(said.contains("/world") && said.contains("current"), "{said}");
    folder.remove();
    let said = cli(agent, &["cache", "update", "/world"], 0);
    assert!(said.contains("removed"), "{said}");
    until("the workers to drop it", async || {
        dump(agent).iter().all(Value::is_null)
    })
    .await;
    assert_eq!(cli(agent, &["cache", "drop", "/world"], 0), "no worker held /world\n");

    folder.retitle("Back");
    cli(agent, &["cache", "checkout", "--pull", "/world"], 0);
    assert_eq!(
        cli(agent, &["cache", "drop", "/world"], 0),
        "/world is gone from 2 workers\n"
    );
    assert!(dump(agent).iter().all(Value::is_null));

    cli(agent, &["cache", "checkout", "--pull", "/world"], 0);
    assert_eq!(
        cli(agent, &["cache", "clear"], 0),
        "1 projects were dropped; pinned ones stay\n"
    );
    assert!(dump(agent).iter().all(Value::is_null));
    cli(agent, &["cache", "pin", "/world"], 0);
    until_everywhere(agent).await;
    assert!(cli(agent, &["cache", "drop", "/world"], 1).contains("is pinned"));
    cli(agent, &["cache", "clear"], 0);
    until_everywhere(agent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_requests_load_nothing_only_what_was_checked_out_is_served() {
    let folder = Folder::new();
    let plan = Plan::agents(1).projects(folder.path());
    let stack = plan
        .agent("CONF_WORKER__QGIS__PROJECTS__LOAD_PROJECT_ON_REQUEST", false)
        .start()
        .await;
    let answer = stack.get(MAP).await;
    assert_eq!(answer.expect(403).exception().0, "ProjectNotLoaded");
    cli(&stack.agents[0], &["cache", "checkout", "--pull", "/world"], 0);
    stack.get(MAP).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_project_that_is_missing_is_waited_for_and_then_named() {
    let folder = Folder::new();
    let plan = Plan::agents(1).projects(folder.path());
    let mut stack = plan
        .agent("CONF_WORKER__QGIS__PROJECTS__PINS_PATIENCE", 4)
        .start()
        .await;
    cli(&stack.agents[0], &["cache", "pin", "/world"], 0);
    folder.remove();
    stack.agents[0].kill();
    stack.agents[0].start();
    let metrics = stack.agents[0].metrics();
    until("the agent to say what it waits for", async || {
        let asked = metrics.ask(http::Method::GET, "/readyz", &[], "").await;
        asked.is_ok_and(|answer| answer.status == 503 && answer.text().contains("pins"))
    })
    .await;
    stack.agents[0].until_ready().await;
    let state = stack.agents[0].stats().await.state.unwrap();
    assert_eq!(state.missing_pins, ["/world"]);

    folder.retitle("Back");
    let agent = &stack.agents[0];
    until("the pin to be found", async || {
        let state = agent.stats().await.state.unwrap();
        state.missing_pins.is_empty() && state.pins == ["/world"]
    })
    .await;
    stack.until_in_service(1).await;
    until_title(&stack, "Back").await;
}
