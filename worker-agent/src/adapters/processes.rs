//! The agent's child processes: starting, killing and reaping them.
//!
//! The agent is a subreaper (`prctl(2)`, `PR_SET_CHILD_SUBREAPER`), so a worker that a zygote forked twice becomes its
//! own child. One thread reaps, and a process id is signalled only under the lock that a reap takes: the kernel cannot
//! have given it to somebody else meanwhile. What a child is for is the caller's knowledge.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
// Not nix's: it has no word for real-time signals, and takes a child that ended by one for an error.
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid};
use tokio::sync::mpsc::UnboundedSender;

use crate::core::pool::ExitStatus;

/// How long the reaper sleeps when there is no child at all.
const NO_CHILD_PAUSE: Duration = Duration::from_millis(20);

/// How many ends of children that nobody has asked for yet are remembered.
const REMEMBERED: usize = 256;

/// A child process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its process id; it may be in use again by now.
    pub pid: i32,
    /// How it ended.
    pub status: ExitStatus,
}

#[derive(Debug, Default)]
struct Children {
    /// Started or adopted, and not reaped.
    known: HashSet<i32>,
    /// Reaped before they were adopted, the oldest first.
    strangers: VecDeque<Ended>,
}

/// A handle to all child processes; clones share them.
#[derive(Debug, Clone)]
pub struct Processes {
    children: Arc<Mutex<Children>>,
}

impl Processes {
    /// Makes this process a subreaper and starts the thread that reaps. The ends of known children go to `ended`.
    ///
    /// # Errors
    /// When the kernel refuses the role, or a thread.
    pub fn start(ended: UnboundedSender<Ended>) -> io::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let processes = Self {
            children: Arc::default(),
        };
        let reaper = processes.clone();
        std::thread::Builder::new()
            .name("reaper".into())
            .spawn(move || reaper.reap(&ended))?;
        Ok(processes)
    }

    /// Starts a process of its own. Call it from a thread that lives as long as the agent: the child asks the kernel to
    /// be told when the thread that started it ends.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<i32> {
        let mut children = self.lock();
        let pid = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
        children.known.insert(pid);
        Ok(pid)
    }

    /// Takes in a child that a zygote forked; gives its end when it has ended already.
    #[must_use]
    pub fn adopt(&self, pid: i32) -> Option<Ended> {
        let mut children = self.lock();
        if let Some(at) = children.strangers.iter().position(|ended| ended.pid == pid) {
            return children.strangers.remove(at);
        }
        children.known.insert(pid);
        None
    }

    /// Ends a child with SIGKILL, unless it has been reaped.
    pub fn kill(&self, pid: i32) {
        let children = self.lock();
        if children.known.contains(&pid)
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL)
        {
            tracing::warn!(pid, %error, "could not kill a child process");
        }
    }

    fn reap(&self, ended: &UnboundedSender<Ended>) {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::All, look) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => {
                    if error != Errno::CHILD {
                        tracing::error!(%error, "could not wait for child processes");
                    }
                    if ended.is_closed() {
                        return;
                    }
                    std::thread::sleep(NO_CHILD_PAUSE);
                    continue;
                }
            }
            let mut children = self.lock();
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else {
                continue;
            };
            let Some(status) = exit_status(status) else { continue };
            let end = Ended {
                pid: pid.as_raw_nonzero().get(),
                status,
            };
            if children.known.remove(&end.pid) {
                // Nobody listens any more once the agent is leaving.
                let _ = ended.send(end);
            } else {
                if children.strangers.len() == REMEMBERED {
                    children.strangers.pop_front();
                }
                children.strangers.push_back(end);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None for a child that has not ended.
fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    let code = status.exit_status().map(ExitStatus::Code);
    code.or_else(|| status.terminating_signal().map(ExitStatus::Signal))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    /// One test: its reaper takes in every child of this process.
    #[tokio::test]
    async fn children_are_reaped_however_they_ended() {
        let (report, mut ended) = unbounded_channel();
        let processes = Processes::start(report).unwrap();
        let run = |script: &str| {
            let mut command = Command::new("/bin/sh");
            // Workers and zygotes leave the agent's group as well.
            command.args(["-c", script]).process_group(0);
            processes.spawn(&mut command).unwrap()
        };
        // The first real-time signal that C libraries leave to programs; the younger ones come after it.
        let first = run("kill -34 $$");
        let mut wanted = vec![(first, ExitStatus::Signal(34))];
        wanted.push((run("sleep 0.2; exit 7"), ExitStatus::Code(7)));
        wanted.push((run("sleep 0.2; kill -9 $$"), ExitStatus::Signal(9)));
        wanted.push((run("sleep 0.2; kill -64 $$"), ExitStatus::Signal(64)));
        let mut seen = Vec::new();
        while seen.len() < wanted.len() {
            let end = tokio::time::timeout(Duration::from_secs(20), ended.recv()).await;
            let end = end.expect("a child was not reaped").unwrap();
            seen.push((end.pid, end.status));
        }
        seen.sort_unstable_by_key(|(pid, _)| *pid);
        wanted.sort_unstable_by_key(|(pid, _)| *pid);
        assert_eq!(seen, wanted);
    }
}
