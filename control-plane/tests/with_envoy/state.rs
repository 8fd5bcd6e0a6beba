//! What the control plane keeps, and how its configuration changes while it runs: the program itself, killed at any moment, on a
//! full disk and with a file that changes; and two of them with one PostgreSQL.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ::stack::postgres::Postgres;
use control_plane::{Bound, Config};
use graticule_daemon::dice::Dice;
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::{
    FleetConfigChange, FleetConfigChangesRequest, FleetConfigRequest, FleetPinRequest, FleetReloadConfigRequest,
    FleetSetConfigRequest, ListPinsRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::ports::control_plane;
use crate::stack::{free_port, until};

pub type Admin = FleetAdminClient<Channel>;

/// A control plane as a process of its own.
struct Program {
    child: Child,
    fleet: SocketAddr,
    folder: PathBuf,
}

impl Program {
    /// Starts it with the files of this folder; through a shell, which may do something `before`.
    fn start(folder: &Path, before: &str) -> Self {
        let fleet = free_port();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        // A log that the limits bind as well would end the program; `exec`, so that it is the program that is ended.
        let quietly = if before.is_empty() { "" } else { ">/dev/null 2>&1" };
        let script = format!("{before} exec \"$0\" serve --conf \"$1\" {quietly}");
        let child = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_control-plane")])
            .arg(folder.join("conf.toml"))
            .env("CONF_FLEET__LISTEN", fleet.to_string())
            .env("CONF_XDS__LISTEN", free_port().to_string())
            .env("CONF_STATUS__LISTEN", free_port().to_string())
            .env("CONF_STORE__DIR", folder.join("store"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let folder = folder.to_owned();
        Self { child, fleet, folder }
    }

    async fn admin(&self) -> Admin {
        admin_at(self.fleet).await
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what the control plane wrote ---\n{}", self.log());
        }
    }
}

async fn admin_at(fleet: SocketAddr) -> Admin {
    until("the control plane to answer", async || {
        FleetAdminClient::connect(format!("http://{fleet}")).await.is_ok()
    })
    .await;
    FleetAdminClient::connect(format!("http://{fleet}")).await.unwrap()
}

pub async fn admin_of(bound: &Bound) -> Admin {
    admin_at(bound.addresses.fleet).await
}

pub async fn set(admin: &mut Admin, patch: &Value) -> Result<FleetConfigChange, tonic::Status> {
    let request = FleetSetConfigRequest {
        patch_json: patch.to_string(),
        validate_only: false,
    };
    Ok(admin.set_config(request).await?.into_inner())
}

/// A value that counts, and where it comes from.
async fn counts(admin: &mut Admin, key: &str) -> (Value, String) {
    let reply = admin.get_config(FleetConfigRequest {}).await.unwrap().into_inner();
    let tree: Value = serde_json::from_str(&reply.config_json).unwrap();
    let value = key.split('.').fold(&tree, |tree, part| &tree[part]).clone();
    (value, reply.origins.get(key).cloned().unwrap_or_default())
}

/// Pins; gives back when it is kept.
async fn pin(admin: &mut Admin, project: &str) -> Result<(), tonic::Status> {
    let (project, pool) = (project.to_owned(), String::new());
    let request = FleetPinRequest {
        project,
        pool,
        replicas: 0,
    };
    let mut progress = admin.pin_project(request).await?.into_inner();
    let first = progress.message().await?;
    first
        .map(drop)
        .ok_or_else(|| tonic::Status::unavailable("it ended without a word"))
}

async fn pins(admin: &mut Admin) -> Vec<String> {
    let reply = admin.list_pins(ListPinsRequest {}).await.unwrap().into_inner();
    reply.pins.into_iter().map(|pin| pin.project).collect()
}

#[tokio::test]
async fn the_configuration_changes_while_it_runs_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("conf.toml");
    let write = |text: &str| {
        // As editors do it.
        std::fs::write(folder.path().join("fresh"), text).unwrap();
        std::fs::rename(folder.path().join("fresh"), &file).unwrap();
    };
    write("[front]\ntrusted_hops = 1\n");
    let program = Program::start(folder.path(), "");
    let mut admin = program.admin().await;
    let (hops, origin) = counts(&mut admin, "front.trusted_hops").await;
    assert!(hops == 1 && origin.contains("conf.toml"), "{hops} {origin}");

    let change = set(&mut admin, &json!({"front": {"request_timeout": 90.0}}))
        .await
        .unwrap();
    assert_eq!((change.result.as_str(), change.changes.len()), ("applied", 1));
    assert_eq!(
        (change.changes[0].key.as_str(), change.changes[0].after.as_str()),
        ("front.request_timeout", "90.0")
    );
    for (patch, said) in [
        (
            json!({"front": {"connect_timeout": 1.0, "request_timeout": -1.0}}),
            "front.request_timeout",
        ),
        (
            json!({"front": {"connect_timeout": 1.0, "request_timout": 1.0}}),
            "request_timeout",
        ),
        (
            json!({"front": {"connect_timeout": 1.0}, "xds": {"listen": "127.0.0.1:1"}}),
            "xds.listen can only change with a restart",
        ),
        (
            json!({"front": {"connect_timeout": 1.0}, "logging": {"level": "loud"}}),
            "logging.level",
        ),
        (
            json!({"front": {"connect_timeout": 1.0}, "pools": {"a": {"hosts": ["x"]}, "b": {"hosts": ["X"]}}}),
            "both claim",
        ),
        (json!([1]), "expected"),
    ] {
        let refused = set(&mut admin, &patch).await.unwrap_err();
        assert!(refused.message().contains(said), "{refused:?}");
    }
    assert_eq!(
        counts(&mut admin, "front.connect_timeout").await.0,
        0.5,
        "nothing of it"
    );
    assert_eq!(
        counts(&mut admin, "front.request_timeout").await,
        (json!(90.0), "settings".to_owned())
    );

    // The file changes by itself; what is set goes over it.
    write("[front]\ntrusted_hops = 2\nrequest_timeout = 30.0\n");
    until("the file to be read again", async || {
        counts(&mut program.admin().await, "front.trusted_hops").await.0 == 2
    })
    .await;
    assert_eq!(counts(&mut admin, "front.request_timeout").await.0, 90.0);
    write("[front]\ntrusted_hops = 3\nrequest_timeout = \"long\"\n");
    until("the refusal", async || {
        program.log().contains("the configuration cannot be changed so")
    })
    .await;
    assert_eq!(counts(&mut admin, "front.trusted_hops").await.0, 2);
    let refused = admin
        .reload_config(FleetReloadConfigRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        refused.result == "refused" && refused.problem.contains("conf.toml"),
        "{refused:?}"
    );
    write("[front]\ntrusted_hops = 4\n[fleet]\nsilence_limit = 20\n");
    program.signal(Signal::SIGHUP);
    until("the signal to be heard", async || {
        counts(&mut program.admin().await, "fleet.silence_limit").await.0 == 20.0
    })
    .await;
    let log = admin
        .list_config_changes(FleetConfigChangesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(log.changes.last().unwrap().cause, "set");
    assert!(log.changes.iter().any(|change| change.result == "refused"));

    // What was set is there after a kill; what is taken back, the file says again.
    program.signal(Signal::SIGKILL);
    drop(program);
    let program = Program::start(folder.path(), "");
    let mut admin = program.admin().await;
    assert_eq!(counts(&mut admin, "front.request_timeout").await.0, 90.0);
    set(&mut admin, &json!({"front": {"request_timeout": null}}))
        .await
        .unwrap();
    assert_eq!(counts(&mut admin, "front.request_timeout").await.0, 60.0);
}

#[tokio::test]
async fn killed_at_any_moment_the_store_holds_what_was_acknowledged() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(5);
    println!("SEED={seed}");
    let mut dice = Dice::seeded(seed);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("conf.toml"), "").unwrap();
    let (mut kept, mut asked) = (0, 0);
    for round in 0..12 {
        let program = Program::start(folder.path(), "");
        let mut admin = program.admin().await;
        let there = pins(&mut admin).await.len();
        assert!(
            (kept..=asked).contains(&there),
            "round {round}: {there} of {kept} to {asked}"
        );
        let load = tokio::spawn(async move {
            let mut kept = there;
            while pin(&mut admin, &format!("/p{kept:05}")).await.is_ok() {
                kept += 1;
            }
            kept
        });
        tokio::time::sleep(Duration::from_millis(dice.roll(80))).await;
        program.signal(Signal::SIGKILL);
        kept = load.await.unwrap();
        asked = kept + 1;
    }
    println!("{kept} pins in 12 lives");
    assert!(kept > 0, "something was written");
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("conf.toml"), "").unwrap();
    // No file may be larger than a few blocks, and the signal that says so is not to kill: writes fail as on a full disk.
    let program = Program::start(folder.path(), "trap '' XFSZ; ulimit -f 8;");
    let mut admin = program.admin().await;
    let mut kept = 0;
    let refused = loop {
        match pin(&mut admin, &format!("/p{kept:05}")).await {
            Ok(()) => kept += 1,
            Err(refused) => break refused,
        }
        assert!(kept < 2000, "the disk is full at last");
    };
    assert!(
        refused.message().contains("nothing was changed: the store"),
        "{refused:?}"
    );
    assert!(refused.message().contains("has room"), "{refused:?}");
    assert_eq!(pins(&mut admin).await.len(), kept);
    drop(program);
    let program = Program::start(folder.path(), "");
    let mut admin = program.admin().await;
    assert_eq!(pins(&mut admin).await.len(), kept);
    pin(&mut admin, "/more").await.unwrap();
    drop(program);
    // What is damaged is said, and nothing is started.
    let file = folder.path().join("store/pins.json");
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    let mut program = Program::start(folder.path(), "");
    let ended = tokio::task::spawn_blocking(move || (program.child.wait().unwrap(), program.log())).await;
    let (status, log) = ended.unwrap();
    assert_eq!(status.code(), Some(64));
    assert!(
        log.contains("pins.json is damaged: ") && log.contains("move it away and pin again"),
        "{log}"
    );
}

#[tokio::test]
async fn two_control_planes_share_a_store_in_postgresql() {
    let mut postgres = Postgres::start().await;
    postgres.sql(
        "gis",
        "CREATE ROLE fleet LOGIN PASSWORD 'hush'; GRANT CREATE ON SCHEMA public TO fleet",
    );
    let url = format!("postgresql://fleet:hush@{}/gis", postgres.address());
    let shared = |config: &mut Config| {
        config.store.dir = PathBuf::new();
        config.store.url.clone_from(&url);
        config.fleet.sync_window = 0.0;
    };
    let (first, second) = tokio::join!(control_plane(shared), control_plane(shared));
    let (mut a, mut b) = (admin_of(&first).await, admin_of(&second).await);
    pin(&mut a, "/one").await.unwrap();
    until("the other to know", async || {
        pins(&mut admin_of(&second).await).await == ["/one"]
    })
    .await;
    // At once on both: neither is lost.
    let both = tokio::join!(pin(&mut a, "/two"), pin(&mut b, "/three"));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    for bound in [&first, &second] {
        until("all three", async || {
            pins(&mut admin_of(bound).await).await == ["/one", "/three", "/two"]
        })
        .await;
    }
    set(&mut b, &json!({"front": {"trusted_hops": 3}})).await.unwrap();
    until("the other to take it over", async || {
        counts(&mut admin_of(&first).await, "front.trusted_hops").await == (json!(3), "settings".to_owned())
    })
    .await;
    let shown = a.get_config(FleetConfigRequest {}).await.unwrap().into_inner();
    assert!(!format!("{shown:?}").contains("hush"), "no password is shown");

    postgres.end().await;
    let refused = pin(&mut a, "/four").await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("nothing was changed: the store PostgreSQL at"),
        "{refused:?}"
    );
    assert!(set(&mut a, &json!({"front": {"trusted_hops": 0}})).await.is_err());
    assert_eq!(pins(&mut a).await.len(), 3, "what was known last counts");
    assert_eq!(counts(&mut a, "front.trusted_hops").await.0, 3);
    postgres.begin().await;
    pin(&mut a, "/four").await.unwrap();
    until("the other to know", async || {
        pins(&mut admin_of(&second).await).await.len() == 4
    })
    .await;
    second.stop().await;
    first.stop().await;
    let later = control_plane(shared).await;
    assert_eq!(pins(&mut admin_of(&later).await).await.len(), 4);
    later.stop().await;
}
