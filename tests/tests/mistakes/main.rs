//! Configurations that cannot be used, of both daemons: each ends `check-config` and `serve` with 64 and a message that says
//! where, what, and what to change; and nothing was started. The ports are taken by the test: whoever opened one before looking
//! would end otherwise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod control_plane;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use stack::{PATIENCE, parts};
use tempfile::TempDir;

/// Where a mistake is.
pub enum Source {
    /// In a TOML file, after what every file needs.
    File(&'static str),
    /// In a file whose name ends so, with nothing else in it.
    Named(&'static str, &'static str),
    /// The file is not there.
    Missing,
    /// In an environment variable.
    Variable(&'static str, &'static str),
    /// In a `--set` of the command line.
    Word(&'static str),
}

/// A mistake, and a part of what must be said of it, with FILE for the file's name.
pub type Case = (Source, &'static str);

/// What is said of the mistake that is in no place: a key that somebody has to set, where nobody has set anything beside it.
const IN_NO_PLACE: &str = "`worker.qgis.projects.search_paths`: none";

/// How many processes run at once.
const AT_ONCE: usize = 4;

/// A daemon that is to start nothing.
struct Daemon {
    program: &'static str,
    before: &'static str,
    /// Keys of its ports, as variables.
    ports: [&'static str; 3],
    folder: TempDir,
    taken: Vec<TcpListener>,
}

impl Daemon {
    fn new(program: &'static str, before: &'static str, ports: [&'static str; 3]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // What stands for Python in an agent leaves a trace.
        let python = folder.path().join("python");
        let script = format!("#!/bin/sh\ntouch {}\n", folder.path().join("ran").display());
        std::fs::write(&python, script).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        let taken = ports
            .iter()
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        Self {
            program,
            before,
            ports,
            folder,
            taken,
        }
    }

    fn agent() -> Self {
        let ports = [
            "CONF_SERVER__HTTP_LISTEN",
            "CONF_SERVER__GRPC_LISTEN",
            "CONF_SERVER__METRICS_LISTEN",
        ];
        Self::new("worker-agent", agent::BEFORE, ports)
    }

    fn control_plane() -> Self {
        let ports = ["CONF_XDS__LISTEN", "CONF_FLEET__LISTEN", "CONF_STATUS__LISTEN"];
        Self::new("control-plane", "", ports)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// It with its ports where the test listens already, and with everything that it would write below one folder.
    fn command(&self, verb: &str, conf: &Path) -> Command {
        let mut command = Command::new(parts::binary(self.program));
        command.args([verb, "--conf"]).arg(conf).stdin(Stdio::null());
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        for (key, port) in self.ports.iter().zip(&self.taken) {
            command.env(key, port.local_addr().unwrap().to_string());
        }
        if self.program == "worker-agent" {
            command.env("CONF_WORKER__PYTHON", self.place("python"));
            command.env("CONF_WORKER__STATE_DIR", self.place("state"));
            command.env("CONF_WORKER__RUNTIME_DIR", self.place("run"));
        } else {
            command.env("CONF_STORE__DIR", self.place("state"));
        }
        command
    }

    /// What is wrong with how it ends with this mistake.
    fn fault(&self, number: usize, (source, part): &Case) -> Option<String> {
        let (end, text) = match source {
            Source::File(text) => (".toml", format!("{}{text}", self.before)),
            Source::Named(end, text) => (*end, (*text).to_owned()),
            Source::Missing | Source::Variable(..) | Source::Word(_) => (".toml", self.before.to_owned()),
        };
        let conf = self.place(&format!("{number}{end}"));
        std::fs::write(&conf, text).unwrap();
        if matches!(source, Source::Missing) {
            std::fs::remove_file(&conf).unwrap();
        }
        ["check-config", "serve"].into_iter().find_map(|verb| {
            let mut command = self.command(verb, &conf);
            match source {
                Source::Variable(name, value) => command.env(name, value),
                Source::Word(word) => command.args(["--set", word]),
                Source::File(_) | Source::Named(..) | Source::Missing => &mut command,
            };
            let output = command.output().unwrap();
            let said = said(&output).replace(&conf.display().to_string(), "FILE");
            let place = match source {
                Source::File(_) | Source::Named(..) | Source::Missing => "FILE".to_owned(),
                Source::Variable(name, _) => (*name).to_owned(),
                Source::Word(word) => format!("--set {}", word.split('=').next().unwrap_or_default()),
            };
            let in_a_place = said.contains(&place) || part.starts_with(IN_NO_PLACE);
            let by_the_program = said.starts_with(&format!("{}: ", self.program));
            // What stands for a secret in the tables.
            let discreet = !said.contains("4711");
            let ended = output.status.code() == Some(64) && output.stdout.is_empty();
            let fits = ended && in_a_place && by_the_program && discreet && said.contains(part);
            let shown = || format!("{verb}: {:?}, not 64 and {part:?}: {said}", output.status.code());
            (!fits).then(shown)
        })
    }

    /// Runs every case, some at once.
    fn check(&self, cases: &[Case]) {
        let faults = std::thread::scope(|scope| {
            let run = |first: usize| {
                let mine = cases.iter().enumerate().skip(first).step_by(AT_ONCE);
                mine.filter_map(|(number, case)| self.fault(number, case))
                    .collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..AT_ONCE).map(|first| scope.spawn(move || run(first))).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
        for trace in ["ran", "state", "run"] {
            assert!(!self.place(trace).exists(), "something was started: `{trace}` is there");
        }
    }

    /// A sound configuration gets as far as the ports, which are taken.
    fn gets_to_its_ports(&self) -> PathBuf {
        let sound = self.place("sound.toml");
        std::fs::write(&sound, self.before).unwrap();
        let checked = self.command("check-config", &sound).output().unwrap();
        assert!(checked.status.success(), "{}", said(&checked));
        let output = self.command("serve", &sound).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("in use"), "{}", said(&output));
        sound
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_agent_with_a_mistake_in_its_configuration_starts_nothing() {
    let daemon = Daemon::agent();
    daemon.check(agent::CASES);
    // Without a mistake it would have: the traces are those that it leaves.
    let sound = daemon.gets_to_its_ports();
    let mut command = daemon.command("serve", &sound);
    command.envs(daemon.ports.map(|key| (key, "127.0.0.1:0")));
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    let all = || ["ran", "state", "run"].iter().all(|trace| daemon.place(trace).exists());
    while !all() && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let there = all();
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(there, "a sound configuration starts no worker");
}

#[test]
fn a_control_plane_with_a_mistake_in_its_configuration_starts_nothing() {
    let daemon = Daemon::control_plane();
    daemon.check(control_plane::CASES);
    daemon.gets_to_its_ports();
}

/// Every kind of mistake, in every source.
#[test]
fn the_tables_are_whole() {
    for cases in [agent::CASES, control_plane::CASES] {
        assert!(cases.len() >= 40, "{}", cases.len());
        for kind in [
            "unknown key",
            "did you mean",
            "expected a",
            "at most",
            "No such file",
            "it is not set",
        ] {
            let there = cases.iter().any(|(_, part)| part.contains(kind));
            assert!(there, "no mistake of the kind `{kind}`");
        }
        let count = |of: fn(&Source) -> bool| cases.iter().filter(|(source, _)| of(source)).count();
        assert!(count(|source| matches!(source, Source::File(_))) > 20);
        assert!(count(|source| matches!(source, Source::Variable(..))) > 3);
        assert!(count(|source| matches!(source, Source::Word(_))) > 2);
    }
}
