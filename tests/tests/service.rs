//! The daemons as services: what they tell systemd, played by a socket; how signals end them; and the units.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use graticule_proto::v1::SleepRequest;
use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use stack::{Plan, parts, until};

/// A service manager's socket, and what was told over it.
struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let told = Vec::new();
        Self { socket, told }
    }

    /// Whether this word was told since the beginning.
    fn heard(&mut self, word: &str) -> bool {
        let mut buffer = [0; 4096];
        while let Ok(size) = self.socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..size]);
            self.told.extend(message.lines().map(str::to_owned));
        }
        self.told.iter().any(|told| told.starts_with(word))
    }

    async fn until(&mut self, word: &str) {
        let mut heard = false;
        until(&format!("the word {word}"), async || {
            heard = self.heard(word);
            heard
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemons_tell_systemd_how_they_stand_and_a_second_signal_hurries() {
    let folder = tempfile::tempdir().unwrap();
    let (of_agent, of_control_plane) = (folder.path().join("agent"), folder.path().join("control-plane"));
    let mut agent = Manager::listen(&of_agent);
    let mut control_plane = Manager::listen(&of_control_plane);
    let plan = Plan::agents(1)
        .agent("NOTIFY_SOCKET", of_agent.display())
        .agent("WATCHDOG_USEC", 3_000_000)
        .agent("CONF_LOGGING__FORMAT", "journald")
        .agent("CONF_SERVER__SHUTDOWN_GRACE_PERIOD", 60)
        .control_plane("NOTIFY_SOCKET", of_control_plane.display())
        .control_plane("WATCHDOG_USEC", 3_000_000);
    let mut stack = plan.start().await;
    for manager in [&mut agent, &mut control_plane] {
        manager.until("READY=1").await;
        manager.until("STATUS=").await;
        manager.until("WATCHDOG=1").await;
        assert!(!manager.heard("STOPPING=1"));
    }
    assert!(
        agent
            .told
            .iter()
            .any(|told| told.starts_with("STATUS=ready: 2 of 2 workers")),
        "{:?}",
        agent.told
    );
    let log = stack.agents[0].log();
    let informed = log.lines().find(|line| line.contains("a worker is ready")).unwrap();
    assert!(informed.starts_with("<6>worker_agent"), "{informed}");

    // The first signal lets a request run on; the second does not.
    let mut admin = QgisAdminClient::connect(format!("http://{}", stack.agents[0].grpc()))
        .await
        .unwrap();
    let (seconds, lane) = (15.0, String::new());
    let running = tokio::spawn(async move { admin.sleep(SleepRequest { seconds, lane }).await });
    until("a busy worker", async || {
        stack.agents[0].stats().await.state.unwrap().busy == 1
    })
    .await;
    stack.agents[0].terminate();
    agent.until("STOPPING=1").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(stack.agents[0].ended().is_none(), "it does not wait for what runs");
    let hurried = Instant::now();
    stack.agents[0].terminate();
    assert_eq!(stack.agents[0].until_ended().await.code(), Some(0));
    running.await.unwrap().expect_err("what runs is cut short");
    let log = stack.agents[0].log();
    assert!(
        log.contains("told again: what runs is cut short"),
        "after {:?}: {log}",
        hurried.elapsed()
    );
    let left = std::fs::read_dir(stack.agents[0].runtime_dir())
        .map(Iterator::count)
        .unwrap_or_default();
    let workers = std::fs::read_dir(stack.agents[0].runtime_dir())
        .into_iter()
        .flatten()
        .flatten();
    let workers: Vec<_> = workers
        .map(|file| file.file_name())
        .filter(|name| name.to_string_lossy().starts_with('w'))
        .collect();
    assert!(workers.is_empty(), "temporary files are left among {left}: {workers:?}");

    stack.terminate_control_plane();
    control_plane.until("STOPPING=1").await;
    let (ended, _) = stack.until_control_plane_ended().await;
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn the_units_are_sound_and_hardened() {
    let folder = tempfile::tempdir().unwrap();
    let units = ["worker-agent", "control-plane"].map(|name| {
        let text = std::fs::read_to_string(parts::root().join(format!("systemd/{name}.service"))).unwrap();
        let binary = parts::binary(name).display().to_string();
        let there = text.replace(&format!("/usr/local/bin/{name}"), &binary);
        assert!(there != text, "{name}: the unit starts another binary");
        // SIGHUP has either of them read its configuration again.
        let reload = "\nExecReload=/bin/kill -HUP $MAINPID\n";
        assert!(text.contains(reload), "{name}: `systemctl reload` does nothing");
        let unit = folder.path().join(format!("{name}.service"));
        std::fs::write(&unit, there).unwrap();
        unit
    });
    let analyze = |arguments: &[&str], units: &[std::path::PathBuf]| {
        let mut command = Command::new("systemd-analyze");
        let said = command.args(arguments).args(units).output();
        let said = said.expect("systemd-analyze is missing: apt-get install systemd");
        let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{arguments:?}: {text}");
    };
    analyze(&["verify", "--man=no"], &units);
    for unit in units {
        // In tenths, of 100.
        analyze(&["security", "--offline=true", "--threshold=30"], &[unit]);
    }
}
