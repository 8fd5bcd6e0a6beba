//! What workers of a real agent may do and see, as the kernel tells it, and what is left after an agent was killed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use graticule_proto::v1::WorkerInfo;
use nix::sys::signal::Signal;
use stack::shots::get_map;
use stack::{Agent, PATIENCE, Plan, parts, until};
use tempfile::TempDir;

/// The numbers of the user and group `nobody` of this machine.
fn nobody() -> (u32, u32) {
    let user = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    (user.uid.as_raw(), user.gid.as_raw())
}

/// A line of `/proc/PID/status`.
fn field(pid: i64, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in\n{status}"))
        .trim()
        .to_owned()
}

fn limit(pid: i64, name: &str) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn environment(pid: i64) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let variables = text.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    variables
        .map(|variable| String::from_utf8_lossy(variable).into_owned())
        .collect()
}

/// The process ids of an agent's workers, and their private directories below its runtime directory.
async fn workers(agent: &Agent, runtime: &Path) -> Vec<(i64, PathBuf)> {
    let with_dir = |worker: WorkerInfo| (i64::from(worker.pid), runtime.join(format!("w{}", worker.id)));
    agent.workers().await.into_iter().map(with_dir).collect()
}

fn alive(pid: i64) -> bool {
    // A zombie that waits to be reaped has ended.
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

/// A directory that every user may enter.
fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_have_given_up_what_they_do_not_need() {
    for method in ["fork", "spawn"] {
        let runtime = tempfile::tempdir().unwrap();
        let stack = Plan::agents(1)
            .agent("CONF_WORKER__START_METHOD", method)
            .agent("CONF_WORKER__RUNTIME_DIR", runtime.path().display())
            .agent("CONF_WORKER__ISOLATION__OPEN_FILES", 1000)
            .agent("CONF_WORKER__ISOLATION__FILE_SIZE", 100_000_000)
            .agent("CONF_WORKER__ISOLATION__PASS_ENVIRONMENT", r#"["AWS_*"]"#)
            .agent("SOME_PASSWORD", "hidden")
            .agent("CONF_CACHE__MAX_AGE", 77)
            .agent("AWS_REGION", "north")
            .agent("QGIS_SERVER_SERVICE_URL", "")
            .start()
            .await;
        let agent = &stack.agents[0];
        stack.get(&get_map("40,0,60,20", 64)).await.expect(200);
        let workers = workers(agent, runtime.path()).await;
        assert_eq!(workers.len(), 2);
        for (pid, dir) in &workers {
            for kind in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(
                    field(*pid, kind).trim_start_matches('0'),
                    "",
                    "{kind} of a worker by {method}"
                );
            }
            assert_eq!(field(*pid, "NoNewPrivs"), "1");
            assert_eq!(limit(*pid, "Max core file size"), "0 0");
            assert_eq!(limit(*pid, "Max open files"), "1000 1000");
            assert_eq!(limit(*pid, "Max file size"), "100000000 100000000");
            let score = |pid: i64| -> i64 {
                let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
                text.trim().parse().unwrap()
            };
            assert_eq!(score(*pid), (score(i64::from(agent.pid())) + 500).min(1000));

            let environment = environment(*pid);
            let has = |name: &str| {
                environment
                    .iter()
                    .any(|variable| variable.starts_with(&format!("{name}=")))
            };
            assert!(
                has("PATH") && has("AWS_REGION") && has("QGIS_SERVER_SERVICE_URL"),
                "{environment:?}"
            );
            assert!(!has("SOME_PASSWORD") && !environment.iter().any(|variable| variable.starts_with("CONF_")));
            assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
        }

        // What a worker leaves goes with it.
        let (ended, dir) = &workers[0];
        fs::create_dir(dir.join("left")).unwrap();
        fs::write(dir.join("left/file"), "x").unwrap();
        let info = agent.workers().await;
        let worker = info.iter().find(|worker| i64::from(worker.pid) == *ended).unwrap();
        agent.signal_worker(worker, Signal::SIGKILL);
        until("its directory to be gone", async || !dir.exists()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_end_with_a_killed_agent_and_the_next_one_clears_up() {
    for method in ["fork", "spawn"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut stack = Plan::agents(1)
            .agent("CONF_WORKER__START_METHOD", method)
            .agent("CONF_WORKER__RUNTIME_DIR", "")
            .agent("TMPDIR", temporary.path().display())
            .start()
            .await;
        let left = || -> Vec<PathBuf> {
            let entries = fs::read_dir(temporary.path()).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let before = left();
        assert_eq!(before.len(), 1, "{before:?}");
        let workers = workers(&stack.agents[0], temporary.path()).await;
        assert_eq!(workers.len(), 2);
        stack.agents[0].kill();
        until("every worker to end", async || {
            workers.iter().all(|(pid, _)| !alive(*pid))
        })
        .await;
        assert_eq!(left(), before, "nobody was there to remove it");

        stack.agents[0].start();
        stack.agents[0].until_ready().await;
        let after = left();
        assert_eq!(after.len(), 1, "{after:?}");
        assert_ne!(after, before);
        stack.agents[0].terminate();
        stack.agents[0].until_ended().await;
        assert_eq!(left(), [""; 0].map(PathBuf::from));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_an_agent_of_root_run_as_the_configured_user() {
    if !nix::unistd::geteuid().is_root() {
        return only_root_can_name_a_user();
    }
    let (uid, gid) = nobody();
    for method in ["fork", "spawn"] {
        let (runtime, projects) = (open_dir(), open_dir());
        for file in ["world.qgs", "world.gpkg"] {
            let copy = projects.path().join(file);
            fs::copy(parts::projects().join(file), &copy).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o644)).unwrap();
        }
        let mut stack = Plan::agents(1)
            .projects(projects.path())
            .agent("CONF_WORKER__START_METHOD", method)
            .agent("CONF_WORKER__RUNTIME_DIR", runtime.path().display())
            .agent("CONF_WORKER__ISOLATION__USER", "nobody")
            .start()
            .await;
        let agent = &stack.agents[0];
        for _ in 0..4 {
            let answer = stack.get(&get_map("40,0,60,20", 64)).await;
            assert!(answer.expect(200).body.starts_with(b"\x89PNG"));
        }
        let workers = workers(agent, runtime.path()).await;
        assert_eq!(workers.len(), 2);
        for (pid, dir) in &workers {
            assert_eq!(field(*pid, "Uid"), [uid.to_string().as_str(); 4].join("\t"));
            assert_eq!(field(*pid, "Gid"), [gid.to_string().as_str(); 4].join("\t"));
            assert_eq!(field(*pid, "CapBnd").trim_start_matches('0'), "");
            let metadata = fs::metadata(dir).unwrap();
            assert_eq!(
                (metadata.uid(), metadata.gid(), metadata.mode() & 0o777),
                (uid, gid, 0o700)
            );
            assert!(environment(*pid).contains(&"USER=nobody".to_owned()));
        }
        assert_eq!(agent.stats().await.exits.values().sum::<u64>(), 0, "{}", agent.log());
        // The kernel ends them with the agent, although they are another user's.
        stack.agents[0].kill();
        until("every worker to end", async || {
            workers.iter().all(|(pid, _)| !alive(*pid))
        })
        .await;
    }
}

#[test]
fn workers_of_the_same_user_cannot_read_the_agents_environment() {
    let dir = open_dir();
    let binary = dir.path().join("worker-agent");
    fs::copy(parts::binary("worker-agent"), &binary).unwrap();
    let folder = dir.path().join("own");
    fs::create_dir(&folder).unwrap();
    let mut command = Command::new(binary);
    if nix::unistd::geteuid().is_root() {
        let (uid, gid) = nobody();
        std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
        command.uid(uid).gid(gid);
    }
    command
        .arg("serve")
        .env("TMPDIR", &folder)
        .env("CONF_WORKER__PYTHON", "/bin/false")
        .env("CONF_WORKER__STATE_DIR", &folder)
        .env("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", r#"{"/": "/"}"#)
        .env("CONF_SERVER__HTTP_LISTEN", "127.0.0.1:0")
        .env("CONF_SERVER__GRPC_LISTEN", "127.0.0.1:0")
        .env("CONF_SERVER__METRICS_LISTEN", "127.0.0.1:0")
        .stderr(Stdio::null())
        .stdout(Stdio::null());
    let mut agent = command.spawn().unwrap();
    // The kernel gives what it closes to the superuser. It has done so once the agent has made its directory.
    let started = Instant::now();
    while fs::read_dir(&folder).unwrap().next().is_none() && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let owner = fs::metadata(format!("/proc/{}/environ", agent.id())).map(|metadata| metadata.uid());
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(owner.unwrap(), 0);
}

fn only_root_can_name_a_user() {
    let (said, code) = check("serve", &[("CONF_WORKER__ISOLATION__USER", "nobody")]);
    assert!(
        code != 0 && said.contains("only root can run workers as `nobody`"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_kept_is_said_before_anything_starts() {
    for (variable, value, said) in [
        (
            "USER",
            "no-such-user",
            "`worker.isolation.user`: there is no user `no-such-user`",
        ),
        ("USER", "root", "superuser"),
        (
            "OPEN_FILES",
            "3",
            "`worker.isolation.open_files`: expected 0 (as the agent) or at least 64",
        ),
        ("FILE_SIZE", "4096", "`worker.isolation.file_size`: expected 0 (any)"),
        (
            "PASS_ENVIRONMENT",
            r#"["*"]"#,
            "`worker.isolation.pass_environment`: `*` means every variable",
        ),
    ] {
        for command in ["check-config", "serve"] {
            let (output, code) = check(command, &[(&format!("CONF_WORKER__ISOLATION__{variable}"), value)]);
            assert_eq!(code, 64, "{command}: {output}");
            assert!(output.contains(said), "{command}: {output}");
        }
    }
    let (output, code) = check("check-config", &[("CONF_WORKER__ISOLATION__USER", "nobody")]);
    assert_eq!(code, 0, "{output}");
}

/// Runs the agent's command line to its end; gives what it said and its exit code.
fn check(command: &str, variables: &[(&str, &str)]) -> (String, i32) {
    let output = Command::new(parts::binary("worker-agent"))
        .arg(command)
        .env("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", r#"{"/": "/srv/projects"}"#)
        .env("CONF_SERVER__HTTP_LISTEN", "127.0.0.1:0")
        .env("CONF_SERVER__GRPC_LISTEN", "127.0.0.1:0")
        .env("CONF_SERVER__METRICS_LISTEN", "127.0.0.1:0")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (said, output.status.code().unwrap_or(-1))
}
