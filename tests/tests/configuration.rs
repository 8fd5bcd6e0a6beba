//! A configuration from a URL, and its changes while the agent runs: by command, by SIGHUP, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Output;
use std::sync::{Arc, Mutex};

use graticule_proto::v1::SleepRequest;
use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stack::shots::get_map;
use stack::{Agent, Plan, until};
use tonic::Code;

/// A server of one document, which may be changed, or be down.
struct Document {
    url: String,
    text: Arc<Mutex<Option<String>>>,
}

impl Document {
    fn serve(text: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/agent.json", listener.local_addr().unwrap());
        let text = Arc::new(Mutex::new(Some(text.to_owned())));
        let served = Arc::clone(&text);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                drop(stream.read(&mut [0; 4096]));
                let answer = match &*served.lock().unwrap() {
                    Some(text) => format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{text}"),
                    None => "HTTP/1.1 503 Down\r\nconnection: close\r\n\r\n".to_owned(),
                };
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        Self { url, text }
    }

    fn set(&self, text: Option<&str>) {
        *self.text.lock().unwrap() = text.map(str::to_owned);
    }
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

/// What holds at a key.
fn holds(agent: &Agent, key: &str) -> Value {
    let output = agent.cli(&["config", "get", key, "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["config"].clone()
}

/// Sets what must be accepted.
fn set(agent: &Agent, patch: &str) -> String {
    let output = agent.cli(&["config", "set", patch]);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn hang_up(agent: &Agent) {
    kill(Pid::from_raw(i32::try_from(agent.pid()).unwrap()), Signal::SIGHUP).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_configured_while_it_runs() {
    let state = tempfile::tempdir().unwrap();
    let document = Document::serve(r#"{"server": {"timeout": 30}, "cache": {"max_age": 60}}"#);
    let mut stack = Plan::agents(1)
        .workers(1)
        .agent("CONF_URL", &document.url)
        .agent("XDG_STATE_HOME", state.path().display())
        .start()
        .await;
    let agent = stack.agent("agent-1");
    assert_eq!(holds(agent, "server.timeout"), 30.0);
    let shown = said(&agent.cli(&["config", "get", "server.timeout"]));
    assert!(shown.contains(&document.url), "{shown}");

    // A deadline that is set while the agent runs ends a request by it.
    set(agent, r#"{"server": {"timeout": 1.5}}"#);
    let endpoint = format!("http://{}", agent.grpc());
    let mut admin = QgisAdminClient::connect(endpoint).await.unwrap();
    let sleeping = SleepRequest {
        seconds: 20.0,
        lane: String::new(),
    };
    let late = admin.sleep(sleeping).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");

    // The number of workers, the queue and the response cache follow.
    set(agent, r#"{"worker": {"num_processes": 2}, "server": {"timeout": 20}}"#);
    until("two workers", async || agent.stats().await.state.unwrap().capacity == 2).await;
    let target = get_map("40,0,50,10", 64);
    let kept = r#"{"cache": {"map_max_age": 60}}"#;
    for (patch, expected) in [(kept, "hit"), (r#"{"cache": {"map_max_age": 0}}"#, "bypass")] {
        set(agent, patch);
        assert_eq!(stack.get(&target).await.status, 200);
        let again = stack.get(&target).await;
        assert_eq!(again.header("x-graticule-cache"), expected, "{patch}");
    }

    // Refused whole, with what is wrong.
    for (patch, expected) in [
        (
            r#"{"server": {"timeout": 9, "timeuot": 9}}"#,
            "did you mean `server.timeout`?",
        ),
        (
            r#"{"server": {"timeout": 9}, "worker": {"max_failure_pressure": 0}}"#,
            "expected more than 0",
        ),
        ("no json", "no JSON"),
    ] {
        let output = agent.cli(&["config", "set", patch]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
        assert_eq!(holds(agent, "server.timeout"), 20.0);
    }
    let restart = set(agent, r#"{"worker": {"start_method": "spawn"}}"#);
    assert!(
        restart.contains("worker.start_method: \"fork\" → \"spawn\" needs a restart"),
        "{restart}"
    );
    assert_eq!(holds(agent, "worker.start_method"), "fork");

    // The log level.
    let leveled = said(&agent.cli(&["config", "log", "debug"]));
    assert!(leveled.contains("→ debug"), "{leveled}");
    assert_eq!(stack.get(&target).await.status, 200);
    until("a line of level debug", async || agent.log().contains("DEBUG")).await;
    assert_eq!(agent.cli(&["config", "log", "loud"]).status.code(), Some(1));
    assert!(said(&agent.cli(&["config", "set", "--reset"])).contains("server.timeout: 20.0 → 30.0"));

    // SIGHUP reads the sources again; what is wrong changes nothing.
    document.set(Some(r#"{"server": {"timeout": 31}, "cache": {"max_age": 61}}"#));
    hang_up(agent);
    until("the new document", async || holds(agent, "cache.max_age") == 61.0).await;
    assert_eq!(holds(agent, "server.timeout"), 31.0);
    document.set(Some(r#"{"server": {"timeout": -1}, "cache": {"max_age": 62}}"#));
    hang_up(agent);
    let refused = async || agent.log().contains("nothing has changed");
    until("the refusal", refused).await;
    assert_eq!(holds(agent, "cache.max_age"), 61.0);
    let counted = async || {
        let page = agent.metrics().get("/metrics").await.text();
        page.contains("graticule_config_changes_total{result=\"refused\"} 4")
    };
    until("all four refusals to be counted", counted).await;

    // The URL is down at the next start: the last good copy is used.
    document.set(None);
    let agent = stack.agent_mut("agent-1");
    agent.terminate();
    agent.until_ended().await;
    agent.start();
    agent.until_ready().await;
    assert_eq!(holds(agent, "server.timeout"), 31.0);
    assert!(agent.log().contains("the last good copy is used"));
}
