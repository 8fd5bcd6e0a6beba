//! Commands that go on until they are ended: watches, and the full-screen view.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use stack::{Stack, parts};

use super::{check, text};

/// A command that goes on; ended when it is dropped.
struct Going {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Going {
    fn start(program: &str, words: &[&str]) -> Self {
        let mut command = Command::new(parts::binary(program));
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        // The child is not reaped yet, so that its number is its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What goes on tells what is new, and ends when nobody reads it.
pub fn watching(stack: &Stack) {
    let (agent, fleet) = (stack.agents[0].grpc().to_string(), stack.fleet().to_string());
    let mut health = Going::start("worker-agent", &["healthcheck", "-w", "--fleet", &fleet]);
    assert_eq!(health.line(), "agent-1: ready");
    check(
        "worker-agent",
        &agent,
        &[("healthcheck --set-error slow", 0, "in error")],
    );
    assert_eq!(health.line(), "agent-1: not ready");
    check("worker-agent", &agent, &[("healthcheck --clear-error", 0, "ok")]);
    assert_eq!(health.line(), "agent-1: ready");
    let mut stats = Going::start(
        "worker-agent",
        &["stats", "-w", "--every", "1", "--json", "--host", &agent],
    );
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&stats.line()).unwrap();
        assert_eq!(line["phase"], "ready");
    }
    let mut agents = Going::start("control-plane", &["fleet", "-w", "--json", "--host", &fleet]);
    let line: Value = serde_json::from_str(&agents.line()).unwrap();
    assert_eq!(line["agents"][0]["agent"], "agent-1");
}

/// `top` on a terminal of its own: it shows workers, and `q` ends it and gives the terminal back.
pub fn screen(agent: &str) {
    let script = r#"
import os, pty, struct, sys, fcntl, termios
pid, screen = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while b"interactive" not in seen or b"workers live" not in seen:
    seen += os.read(screen, 65536)
os.write(screen, b"sq")
try:
    while piece := os.read(screen, 65536):
        seen += piece
except OSError:
    pass
assert b"\x1b[?1049h" in seen and b"\x1b[?1049l" in seen, seen
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let mut command = Command::new("timeout");
    command.args(["60", "python3", "-c", script]);
    command
        .arg(parts::binary("worker-agent"))
        .args(["top", "--host", agent]);
    let said = command.env("TERM", "xterm").stdin(Stdio::null()).output().unwrap();
    assert!(said.status.success(), "{}", text(&said));
}
