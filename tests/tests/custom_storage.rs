//! Projects in a storage that a Python class speaks to: what must hold of every storage, and what is a handler's own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stack::storage_cases::{self, Colour, Outage, Sheets, Store, map};
use stack::{Plan, until};
use tempfile::TempDir;

const SECRET: &str = "s3cret-of-the-depot";

/// A depot is a directory; it is away while it has a file that says so.
const HANDLER: &str = r#"
import os, time

class Depot:
    def __init__(self, options):
        print("the depot opens")
        self.folder = options["folder"]
        self.secret = options["password"]

    def _state(self, name):
        return os.path.join(self.folder, name)

    def _reach(self):
        if os.path.exists(self._state("refuse")):
            raise ConnectionError(f"the depot\nis closed, password={self.secret}")
        while os.path.exists(self._state("hang")):
            time.sleep(0.05)

    def look(self, url, relative, suffix):
        assert url.startswith("depot:"), url
        if relative == "environment":
            raise RuntimeError(" ".join(sorted(os.environ)))
        self._reach()
        file = os.path.join(self.folder, "projects", relative + (suffix or ".qgs"))
        try:
            seen = os.stat(file)
        except FileNotFoundError:
            return None
        return {"uri": f"{url}/{relative}", "version": f"{seen.st_mtime_ns}-{seen.st_ino}", "file": file}

class Broken:
    def __init__(self, options):
        raise ValueError("no such depot")
"#;

struct Depot {
    sheets: Sheets,
    folder: TempDir,
}

impl Depot {
    fn make() -> Self {
        let (sheets, folder) = (Sheets::make(None), tempfile::tempdir().unwrap());
        fs::write(folder.path().join("depots.py"), HANDLER).unwrap();
        Self { sheets, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("projects/{name}.qgs"))
    }

    fn state(&self, how: Outage) -> PathBuf {
        self.folder.path().join(match how {
            Outage::Refuses => "refuse",
            Outage::Hangs => "hang",
        })
    }
}

impl Store for Depot {
    fn root(&self) -> String {
        "depot:maps".into()
    }

    fn environment(&self) -> Vec<(String, String)> {
        let handler = |class: &str| {
            serde_json::json!({
                "handler": format!("depots.{class}"),
                "options": {"folder": self.folder.path(), "password": SECRET},
                "python_path": [self.folder.path()],
            })
        };
        let handlers = serde_json::json!({"depot": handler("Depot"), "broken": handler("Broken")});
        vec![
            ("CONF_WORKER__STORAGE__CUSTOM".into(), handlers.to_string()),
            ("SOME_PASSWORD".into(), SECRET.into()),
        ]
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.into()]
    }

    async fn put(&mut self, name: &str, colour: Colour) {
        let file = self.file(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let half = file.with_extension("half");
        fs::copy(self.sheets.file(colour), &half).unwrap();
        fs::rename(half, file).unwrap();
    }

    async fn remove(&mut self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    fn outages(&self) -> Vec<Outage> {
        vec![Outage::Refuses, Outage::Hangs]
    }

    async fn stop(&mut self, how: Outage) {
        fs::write(self.state(how), "").unwrap();
    }

    async fn start(&mut self) {
        for how in self.outages() {
            let _ = fs::remove_file(self.state(how));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_depot_of_projects() {
    storage_cases::run(&mut Depot::make()).await;
}

/// The process of a handler below an agent.
fn host(agent: u32) -> Option<Pid> {
    let named = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "graticule-store"
    };
    let pid = stack::memory::children(agent).into_iter().find(named)?;
    Some(Pid::from_raw(i32::try_from(pid).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_fails_is_told_and_started_anew() {
    let mut depot = Depot::make();
    depot.put("roads", Colour::Red).await;
    let paths =
        serde_json::json!({"/": "depot:maps", "/broken": "broken:x", "/plain": depot.folder.path().join("projects")});
    let mut plan = Plan::agents(1)
        .agent("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", paths)
        .agent("CONF_WORKER__STORAGE__CHECK_INTERVAL", 0.2);
    for (key, value) in depot.environment() {
        plan = plan.agent(&key, value);
    }
    let mut stack = plan.start().await;
    map(&stack, "roads").await.shows(Colour::Red);
    map(&stack, "plain/roads").await.shows(Colour::Red);

    // What it raises is told on one line, without its secret.
    depot.stop(Outage::Refuses).await;
    let (code, text) = map(&stack, "other").await.0.expect(503).exception();
    assert_eq!(code, "StorageUnavailable");
    assert!(text.contains("the depot is closed, password=***"), "{text}");
    depot.start().await;

    // One that cannot be made at all costs its own location and no other.
    let (code, text) = map(&stack, "broken/x").await.0.expect(503).exception();
    assert_eq!(code, "StorageUnavailable");
    assert!(
        text.contains("depots.Broken could not be made: ValueError: no such depot"),
        "{text}"
    );

    // It has the environment of a worker, and what it prints is in the log.
    let (_, variables) = map(&stack, "environment").await.0.expect(503).exception();
    assert!(
        variables.contains("PATH") && !variables.contains("SOME_PASSWORD"),
        "{variables}"
    );
    assert!(!variables.contains("CONF_"), "{variables}");
    assert!(stack.agents[0].log().contains("the depot opens"));

    // One that is killed while nobody asks is started anew for who asks next.
    let agent = stack.agents[0].pid();
    let first = host(agent).expect("the handler's process");
    kill(first, Signal::SIGKILL).unwrap();
    until("the handler's process to be gone", async || host(agent) != Some(first)).await;
    depot.put("new", Colour::Green).await;
    map(&stack, "new").await.shows(Colour::Green);
    let second = host(agent).expect("another process");
    assert_ne!(first, second);

    // It goes with the agent, however that ends.
    stack.agents[0].kill();
    until("the handler's process to end with the agent", async || {
        let status = fs::read_to_string(format!("/proc/{second}/status"));
        status.is_ok_and(|status| status.contains("State:\tZ")) || kill(second, None).is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheme_that_nobody_knows_ends_the_start() {
    let output = std::process::Command::new(stack::parts::binary("worker-agent"))
        .arg("serve")
        .env("CONF_SERVER__HTTP_LISTEN", "127.0.0.1:0")
        .env("CONF_SERVER__GRPC_LISTEN", "127.0.0.1:0")
        .env("CONF_SERVER__METRICS_LISTEN", "127.0.0.1:0")
        .env("CONF_WORKER__STATE_DIR", tempfile::tempdir().unwrap().path())
        .env("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", r#"{"/": "deppot:x"}"#)
        .env("CONF_WORKER__STORAGE__CUSTOM", r#"{"depot": {"handler": "a.B"}}"#)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(
        said.contains("begins with `deppot:`, which is no storage; expected a directory, or one of s3, geopackage,")
            && said.contains(", depot"),
        "{said}"
    );
}
