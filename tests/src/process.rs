//! A process that a test started: its log, and its end.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a process may take to end by itself once it was asked to.
const ENDING: Duration = Duration::from_secs(8);

/// How much of a log a failed test shows, in lines.
const SHOWN: usize = 60;

/// A running process; dropped, it is asked to end, and killed when it does not.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; what it says is added to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        Self::start_with(name, command, Stdio::null(), log)
    }

    /// The same, with something as its standard input.
    pub fn start_with(name: &str, command: &mut Command, input: Stdio, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(input)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} could not be started: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            ended: None,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            // The process is not reaped yet, so its number is its own.
            let _ = kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal);
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn show(&self) {
        let how = match self.ended {
            Some(status) => status
                .signal()
                .map_or_else(|| format!("{status}"), |signal| format!("signal {signal}")),
            None => "still running".to_owned(),
        };
        let log = self.log();
        // Envoy's start lists every extension it has.
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("][info][main]")).collect();
        let from = lines.len().saturating_sub(SHOWN);
        eprintln!(
            "--- {} ({how}), the last of {} lines ---\n{}",
            self.name,
            lines.len(),
            lines[from..].join("\n")
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            let _ = self.ended();
            self.show();
        }
        self.signal(Signal::SIGTERM);
        let asked = Instant::now();
        while self.ended().is_none() && asked.elapsed() < ENDING {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.ended.is_none() && !failing {
            eprintln!("{} did not end within {ENDING:?} of SIGTERM and is killed", self.name);
        }
        self.kill();
    }
}
