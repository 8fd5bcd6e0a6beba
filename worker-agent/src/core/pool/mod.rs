//! The pool's policy as a state machine: it takes events and the time, and returns actions for a shell to carry out.
//!
//! Theory of operation. Every worker is in one of six states: starting, idle, busy, cancelling, loading, leaving. A request
//! that arrives is given to an idle worker, waits in a bounded queue, or is refused. What a worker's end means is
//! decided here as well: a worker that was told to go went for that reason, any other end is a failure and counts in
//! the failure pressure. After each event the machine does, in this order, what has become due: expire deadlines, kill
//! what outlived its grace, end who takes too much memory, move one worker to a newer generation or recycle one, start
//! what is missing, hand out what waits.
//!
//! | file | decides |
//! |---|---|
//! | `machine` | what each event means for workers and requests |
//! | `starts` | zygotes, generations, how and when workers are started and sent away |
//! | `lanes`, `fair`, `costs` | who of those that wait goes next |
//! | `overload` | who is refused as time is short, and who is to blame for being late |
//! | `choice` | which idle worker takes it |
//! | `tending` | when workers load and drop projects between requests |
//! | `warming` | when workers draw a first map that nobody waits for |
//! | `adopt` | what changes when an operator decides anew |
//! | `memory` | which worker takes too much memory |
//! | `exit` | what an end means |
//!
//! It knows no process ids, sockets or clocks, and nothing of OGC requests but the project they want, their lane, and
//! how many requests of this server led to them.

mod adopt;
mod choice;
mod costs;
mod exit;
mod fair;
mod lanes;
mod machine;
mod memory;
mod overload;
mod starts;
mod tending;
mod warming;
mod worker;

#[cfg(test)]
mod affinity_tests;
#[cfg(test)]
mod fairness_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tending_tests;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use crate::core::lane::Lane;

pub use exit::{ExitReason, ExitStatus};
pub use machine::Pool;
pub use tending::{Chore, Tended};
pub use worker::{Start, WorkerState};

/// Numbers workers in the order of their start, from 1; never used twice.
pub type WorkerId = u64;

/// Numbers requests that want a worker; never used twice.
pub type Ticket = u64;

/// Numbers what workers are made from, from 1: QGIS and the pinned projects at their versions, held by one zygote.
pub type Generation = u64;

/// The most workers that one agent may have.
pub const MOST_WORKERS: usize = 1024;

/// What a worker should have of the memory at least, in bytes, when their number is chosen.
const ROOM: u64 = 512 << 20;

/// How many workers a machine has room for: one for each processor, fewer where memory is short.
#[must_use]
pub fn workers_for(processors: usize, memory: Option<u64>) -> usize {
    let room = memory.map_or(usize::MAX, |memory| {
        usize::try_from(memory / ROOM).unwrap_or(usize::MAX)
    });
    processors.min(room).clamp(1, MOST_WORKERS)
}

/// What an operator decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How many workers there should be; at least 1.
    pub workers: usize,
    /// How many requests may wait for one.
    pub max_waiting: usize,
    /// How long a start may take until the worker is ready.
    pub start_timeout: Duration,
    /// How long a cancelled request may take to stop.
    pub grace: Duration,
    /// How long a failure counts.
    pub failure_window: Duration,
    /// The failure pressure above which the agent gives up.
    pub max_failure_pressure: f64,
    /// Whether workers are forked from a zygote.
    pub fork: bool,
    /// How many projects a worker keeps that it did not inherit; at least 1.
    pub max_projects: usize,
    /// The interactive lane's share of the workers.
    pub interactive: Share,
    /// The heavy lane's share.
    pub heavy: Share,
    /// How many requests of this server may lead to one; each step may use one worker beyond the configured ones.
    pub max_depth: u32,
    /// What workers may take.
    pub memory: MemoryLimits,
    /// Whether forked workers draw what they inherited once, for nobody.
    pub warm_up: bool,
    /// A worker is recycled after so many requests.
    pub max_requests: Option<u64>,
    /// A worker is recycled after so long.
    pub max_age: Option<Duration>,
    /// Where the jitter of pauses and recycling comes from; any number.
    pub seed: u64,
}

impl Policy {
    /// The share of a lane.
    #[must_use]
    pub const fn share(&self, lane: Lane) -> Share {
        match lane {
            Lane::Interactive => self.interactive,
            Lane::Heavy => self.heavy,
            Lane::Inner => Share {
                guaranteed: 0.0,
                maximum: 1.0,
            },
        }
    }
}

/// A lane's share of the workers, in parts of their number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// What no other lane may take.
    pub guaranteed: f64,
    /// What it may take at most.
    pub maximum: f64,
}

/// What workers may take of the memory, in bytes of private dirty pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryLimits {
    /// Above this a worker is recycled once it has answered; `None`: half of the hard limit.
    pub soft: Option<u64>,
    /// Above this it is killed; `None`: an equal part of what the high-water mark leaves, at least 256 MiB.
    pub hard: Option<u64>,
    /// The part of the total above which workers are ended, one at a time, the largest first.
    pub high_water_mark: f64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request wants a worker.
    Arrived {
        /// Its number.
        ticket: Ticket,
        /// What it renders from: the project's uri.
        project: String,
        /// Its class.
        lane: Lane,
        /// How many requests of this server led to it; 0 outside of the inner lane.
        depth: u32,
        /// When it must have answered.
        deadline: Instant,
        /// It had a worker before, which died; it goes to the front of its project's queue.
        again: bool,
    },
    /// Its client has gone.
    Left {
        /// The request.
        ticket: Ticket,
    },
    /// A worker has done with its request and can take the next one.
    Finished {
        /// The worker.
        worker: WorkerId,
        /// Whether it has answered; else what it took says nothing of other requests.
        answered: bool,
        /// The project that it loaded for the request, if it did, and how long that took.
        loaded: Option<(String, Duration)>,
    },
    /// A worker's channel is of no further use.
    Broken {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker has started.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// The projects it inherited or loaded before; they are never evicted.
        pinned: Vec<String>,
    },
    /// A worker could not be started from the zygote, which said why; it is to be spawned.
    ForkRefused {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker's process has ended, or never came to be.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        status: ExitStatus,
    },
    /// A newer version of a project is there: workers that hold it load it anew, one at a time, and serve what they have
    /// until then.
    Changed {
        /// The project's uri.
        project: String,
    },
    /// The newest version of a project cannot be loaded; older ones are served where they are held.
    Unloadable {
        /// The project's uri.
        project: String,
    },
    /// Every worker should hold a project; those that do not load it, one at a time.
    CheckOut {
        /// The project's uri.
        project: String,
    },
    /// No worker should hold a project any more, unless it is asked for again.
    Drop {
        /// The project's uri; `None`: all but what they were started with.
        project: Option<String>,
    },
    /// A worker has done a chore.
    Tended {
        /// The worker.
        worker: WorkerId,
        /// What came of it.
        outcome: Tended,
    },
    /// What the zygote should hold has changed.
    PreloadChanged,
    /// A zygote can be forked from.
    ZygoteReady {
        /// Which.
        generation: Generation,
    },
    /// A zygote was started, and is of no use: what is there already serves better.
    ZygoteRejected {
        /// Which.
        generation: Generation,
    },
    /// A zygote has ended, before or after it was ready.
    ZygoteExited {
        /// Which.
        generation: Generation,
    },
    /// There should be this many workers from now on.
    Resize {
        /// At least 1.
        workers: usize,
    },
    /// An operator has decided anew, but for the number of workers and how they are started.
    Adopt {
        /// What holds from now on.
        policy: Box<Policy>,
    },
    /// A worker's memory was looked at.
    Weighed {
        /// The worker.
        worker: WorkerId,
        /// Its private dirty memory, in bytes.
        bytes: u64,
    },
    /// The machine's memory was looked at.
    Machine {
        /// What the agent and its workers may use, in bytes.
        total: u64,
        /// What is in use, in bytes.
        used: u64,
    },
    /// All workers should leave when they have finished; nothing new is started.
    Close,
    /// Time has passed.
    Tick,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a zygote with what it should hold now.
    StartZygote {
        /// Its number.
        generation: Generation,
    },
    /// Tell a zygote to leave.
    StopZygote {
        /// Which.
        generation: Generation,
    },
    /// Start a worker.
    StartWorker {
        /// Its number.
        worker: WorkerId,
        /// How.
        start: Start,
    },
    /// Give a request to an idle worker.
    Assign {
        /// The request.
        ticket: Ticket,
        /// The worker.
        worker: WorkerId,
        /// Projects that it should drop first.
        evict: Vec<String>,
    },
    /// Have an idle worker do a chore.
    Tend {
        /// The worker.
        worker: WorkerId,
        /// What to do.
        chore: Chore,
    },
    /// Answer a waiting request that it will get no worker.
    Refuse {
        /// The request.
        ticket: Ticket,
        /// Why.
        why: Refused,
    },
    /// Ask a worker to stop its request; with `expired`, tell the client that the deadline has passed.
    Cancel {
        /// The worker.
        worker: WorkerId,
        /// Whether the deadline is the cause, and not the client's leaving.
        expired: bool,
        /// Whether the request is to blame for being late, and not the wait for its worker.
        blamed: bool,
    },
    /// Ask an idle worker to leave.
    Quit {
        /// The worker.
        worker: WorkerId,
    },
    /// End a worker with SIGKILL.
    Kill {
        /// The worker.
        worker: WorkerId,
    },
    /// Say that a worker has gone, and why.
    Gone {
        /// The worker.
        worker: WorkerId,
        /// What its end means.
        reason: ExitReason,
    },
    /// Failure pressure has gone above its limit: say so to everybody, finish what runs, and exit.
    GiveUp {
        /// The pressure.
        pressure: f64,
    },
}

/// Why a request gets no worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many are waiting as may, or it would not be answered in the time that is left.
    QueueFull {
        /// When what waits will have been served, about.
        retry_after: Duration,
    },
    /// Its deadline passed while it waited.
    Deadline,
    /// No worker holds its project, and requests may not have one loaded. The pool itself never says so.
    NotLoaded,
    /// The agent has given up or is closing.
    Closing,
}

/// The pool as an operator sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// Every worker, in the order of their start.
    pub workers: Vec<WorkerView>,
    /// Workers configured.
    pub capacity: usize,
    /// Workers that can take or are serving a request.
    pub live: usize,
    /// Workers that serve a request or are being cancelled.
    pub busy: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Each lane.
    pub lanes: Vec<LaneView>,
    /// The memory that workers are judged by.
    pub memory: MemoryView,
    /// Failed workers within the window over configured workers.
    pub failure_pressure: f64,
    /// Whether it is above half of its limit.
    pub degraded: bool,
    /// How new workers are started; `None` while the first zygote is on its way.
    pub start: Option<Start>,
    /// Whether requests should be sent here: all workers have been up once, and starts do not keep failing.
    pub ready: bool,
    /// Whether every worker was started as new ones are, no newer generation is being made, and first maps are drawn that will be.
    pub settled: bool,
}

/// A lane as an operator sees it; counts of requests and of workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneView {
    /// Which.
    pub lane: Lane,
    /// Requests that have a worker.
    pub running: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// Workers that no other lane may take.
    pub guaranteed: usize,
    /// The most workers that it may take.
    pub maximum: usize,
}

/// Memory as an operator sees it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryView {
    /// What the agent and its workers may use; 0 before it was looked at.
    pub total: u64,
    /// What is in use.
    pub used: u64,
    /// Above this a worker is recycled; 0 before the total is known.
    pub soft_limit: u64,
    /// Above this it is killed.
    pub hard_limit: u64,
}

/// One worker as an operator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerView {
    /// Its number.
    pub id: WorkerId,
    /// The state's name.
    pub state: &'static str,
    /// How it was started.
    pub start: Start,
    /// Requests it has served.
    pub served: u64,
    /// How long it has been in its request; zero when it has none.
    pub busy_for: Duration,
    /// Its private dirty memory in bytes, as last looked at.
    pub private_bytes: u64,
    /// The uris of the projects it holds.
    pub projects: Vec<String>,
}
