//! The shell around the pool's policy: one task owns the state machine, carries out its actions and feeds it events.
//!
//! Others hold a [`Supervisor`], ask it for a worker and get a [`Lease`]. Which worker that is, how long to wait and
//! when to kill is decided in [`crate::core::pool`]; how processes come and go stands in [`task`].

mod errand;
mod lease;
mod reload;
mod scales;
mod start;
mod task;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

pub use lease::{Lease, Stop};
pub use reload::Reloaded;

use super::memory::Machine;
use super::processes::Processes;
use super::python::Python;
use crate::core::index::Record;
use crate::core::lane::Lane;
use crate::core::message::ProjectRef;
use crate::core::plugins::Plugin;
use crate::core::pool::{Event, ExitReason, Policy, Refused, Ticket, View, WorkerId};
use task::{Message, Task};

/// Where the supervisor tells what it sees, for metrics. Calls come from one task and must not block.
pub trait Observer: Send + Sync + 'static {
    /// A worker has become ready after `took`.
    fn started(&self, how: &'static str, took: Duration);
    /// A worker has gone, and with it the request that it had, if it had one that was not told as late before.
    fn gone(&self, reason: ExitReason, request: Option<&Wanted>);
    /// A request that had its worker for most of its time has passed its deadline: the worker has a grace to stop, and then it is
    /// killed.
    fn late(&self, request: &Wanted);
    /// A worker has answered, or has stopped a late request in time.
    fn served(&self, request: &Wanted);
    /// A worker has loaded a project, or could not.
    fn loaded(&self, sound: bool);
    /// A worker had to be spawned because its zygote may not be forked from.
    fn fork_refused(&self);
    /// A zygote or worker tells of all its server plugins, before it is used.
    fn plugins(&self, list: Vec<Plugin>);
}

/// The pool and what outlives its workers, as last seen.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The pool.
    pub view: View,
    /// Process ids by worker.
    pub pids: BTreeMap<WorkerId, i32>,
    /// The failure pressure at which the pool gave up.
    pub gave_up: Option<f64>,
    /// QGIS's version, once a process has told it.
    pub qgis: String,
    /// What workers run, by name, once a process has told it.
    pub versions: BTreeMap<String, String>,
    /// Why the zygote that was tried last did not come to be, or has ended; none when it is there.
    pub zygote_problem: Option<String>,
    /// The uris of pinned projects.
    pub pinned: Vec<String>,
    /// The names of pinned projects that could be found.
    pub found_pins: Vec<String>,
    /// The names of pinned projects that every worker that can serve holds.
    pub held_pins: Vec<String>,
    /// Why pinned projects cannot be loaded, by name.
    pub pin_problems: BTreeMap<String, String>,
    /// How many projects could not be loaded when that was tried last.
    pub broken: usize,
}

/// When projects are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loading {
    /// For the first request that asks for one; else only pinned and checked out ones are served.
    pub load_on_request: bool,
    /// A new version by the next request; else between requests, while the old one is served.
    pub reload_on_request: bool,
}

/// What a request asks of the pool.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its project, as clients name it.
    pub name: String,
    /// What to render from.
    pub project: ProjectRef,
    /// Its class.
    pub lane: Lane,
    /// How many requests of this server led to it.
    pub depth: u32,
    /// When it must have answered.
    pub deadline: Instant,
    /// It had a worker before, which died.
    pub again: bool,
    /// The same for the same question.
    pub fingerprint: Arc<str>,
    /// The request as it came, for the log when it kills its worker.
    pub line: Arc<Line>,
}

/// A request as it came.
#[derive(Debug)]
pub struct Line {
    /// The method.
    pub method: String,
    /// The path, not decoded.
    pub path: String,
    /// The query, not decoded.
    pub query: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// A project that every worker is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// As clients name it.
    pub name: String,
    /// What QGIS opens.
    pub project: ProjectRef,
}

/// A project that a worker has loaded or that is pinned.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    /// What QGIS opened.
    pub uri: String,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Whether a worker holds an older version than the storage.
    pub outdated: bool,
    /// How many live workers hold it.
    pub workers: usize,
    /// What is known of it.
    pub record: Record,
}

/// What one worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The worker.
    pub worker: WorkerId,
    /// Projects as clients name them, with their versions.
    pub projects: BTreeMap<String, String>,
}

/// A handle to the pool; clones share it.
#[derive(Debug, Clone)]
pub struct Supervisor {
    messages: mpsc::UnboundedSender<Message>,
    status: watch::Receiver<Arc<Status>>,
    tickets: Arc<AtomicU64>,
    machine: Machine,
    processes: Processes,
}

/// Why a request got no worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLease {
    /// The pool says why.
    Refused(Refused),
    /// The pool has ended.
    Ended,
}

impl Supervisor {
    /// Makes the pool; it starts processes from [`Supervisor::begin`] on.
    ///
    /// # Errors
    /// When the kernel refuses the role of a subreaper, or a thread, or does not say how much memory there is.
    pub fn new(policy: Policy, loading: Loading, python: Python, observer: Arc<dyn Observer>) -> std::io::Result<Self> {
        let (messages, inbox) = mpsc::unbounded_channel();
        let (publish, status) = watch::channel(Arc::default());
        let task = Task::new(policy, loading, python, observer, messages.clone(), publish)?;
        let machine = scales::start(messages.clone(), status.clone())?;
        let processes = task.processes();
        tokio::spawn(task.run(inbox));
        Ok(Self {
            messages,
            status,
            tickets: Arc::default(),
            machine,
            processes,
        })
    }

    /// The agent's child processes; the pool leaves those alone that others start.
    #[must_use]
    pub fn processes(&self) -> Processes {
        self.processes.clone()
    }

    /// Where the memory's bound comes from.
    #[must_use]
    pub fn memory_source(&self) -> &'static str {
        self.machine.source().name()
    }

    /// Starts the pool, with the pinned projects that have been set by now.
    pub fn begin(&self) {
        self.tell(Message::Begin);
    }

    /// Waits for a worker. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// When there is none to be had before the deadline.
    pub async fn lease(&self, wanted: Wanted) -> Result<Lease, NoLease> {
        let ticket: Ticket = self.tickets.fetch_add(1, Ordering::Relaxed) + 1;
        let (reply, answer) = oneshot::channel();
        let wanted = Message::Wanted {
            ticket,
            wanted: Box::new(wanted),
            reply,
        };
        self.messages.send(wanted).map_err(|_| NoLease::Ended)?;
        let mut place = lease::Place::new(ticket, self.messages.clone());
        let answer = answer.await;
        place.leave_quietly();
        match answer {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(refused)) => Err(NoLease::Refused(refused)),
            Err(_) => Err(NoLease::Ended),
        }
    }

    /// Sets the number of workers, at least 1: up at once, down as workers fall idle.
    pub fn resize(&self, workers: usize) {
        self.tell(Message::Event(Event::Resize { workers }));
    }

    /// Makes a new generation of what there is and waits until every worker is of it.
    ///
    /// # Errors
    /// Why not; what was there serves on.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        let mut watch = self.watch();
        let before = self.status().view.start;
        self.tell(Message::Reload);
        // Once this is answered, the pool that is shown has heard of the reload.
        self.cached().await;
        loop {
            let seen = watch.borrow_and_update().clone();
            if let Some(end) = reload::judge(before, &seen) {
                return end;
            }
            if watch.changed().await.is_err() {
                return Err("the agent is stopping".into());
            }
        }
    }

    /// Takes what an operator has decided anew, but for the number of workers and how they are started.
    pub fn adopt(&self, policy: Policy, loading: Loading) {
        let policy = Box::new(policy);
        self.tell(Message::Adopt { policy, loading });
    }

    /// Sets the pinned projects, which every worker is to hold.
    pub fn set_pinned(&self, projects: Vec<Pinned>) {
        self.tell(Message::Pinned(projects));
    }

    /// Pins some projects and unpins others, by name; does not wait.
    pub fn repin(&self, pin: Vec<Pinned>, unpin: Vec<String>) {
        self.tell(Message::Repin { pin, unpin });
    }

    /// Adds a pinned project and waits until it has been loaded; gives how long that took, in milliseconds.
    ///
    /// # Errors
    /// What QGIS said of it; it is not pinned then.
    pub async fn pin(&self, pinned: Pinned) -> Result<f64, String> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Pin { pinned, reply });
        answer.await.unwrap_or_else(|_| Err("the agent is stopping".into()))
    }

    /// The storage has this version of a project: who holds an older one loads it anew, without a request having to wait.
    pub fn seen(&self, project: Pinned) {
        self.tell(Message::Seen(project));
    }

    /// A pinned project is there, which may have been missing.
    pub fn pin_found(&self, project: Pinned) {
        self.tell(Message::PinFound(project));
    }

    /// A pinned project is not there any more; the pin stays.
    pub fn pin_lost(&self, uri: String) {
        self.tell(Message::PinLost(uri));
    }

    /// Has every worker load a project, one at a time.
    pub fn check_out(&self, project: Pinned) {
        self.tell(Message::CheckOut(project));
    }

    /// Has every worker drop the project at `uri`, or all that they were not started with.
    pub fn drop_project(&self, uri: Option<String>) {
        self.tell(Message::Event(Event::Drop { project: uri }));
    }

    /// What each worker holds.
    pub async fn holdings(&self) -> Vec<Holding> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Dump { reply });
        answer.await.unwrap_or_default()
    }

    /// Every project that a worker holds or that is pinned.
    pub async fn cached(&self) -> Vec<Cached> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::List { reply });
        answer.await.unwrap_or_default()
    }

    /// The pool as last seen.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Follows the pool.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// Lets what runs finish, then ends every process; kills what is left after `patience`.
    pub async fn close(&self, patience: Duration) {
        self.tell(Message::Close);
        let mut status = self.watch();
        let ended = async { while status.changed().await.is_ok() {} };
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!(
                "requests still run after {} s; their workers are killed",
                patience.as_secs()
            );
            self.tell(Message::KillAll);
            let mut status = self.watch();
            while status.changed().await.is_ok() {}
        }
    }

    fn tell(&self, message: Message) {
        // Once the pool has ended, nobody needs to hear.
        drop(self.messages.send(message));
    }
}
