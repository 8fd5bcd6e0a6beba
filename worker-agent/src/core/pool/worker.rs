//! One worker as the pool's policy sees it.

use std::time::{Duration, Instant};

use super::lanes::Charged;
use super::tending::Chores;
use super::{ExitReason, ExitStatus, Generation, Ticket, WorkerView};
use crate::core::pool::WorkerId;

/// How a worker is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Forked from the zygote of this generation.
    Fork(Generation),
    /// A process of its own, which loads the pinned projects of this generation by itself.
    Spawn(Generation),
}

impl Start {
    /// The generation it belongs to.
    #[must_use]
    pub const fn generation(self) -> Generation {
        match self {
            Self::Fork(generation) | Self::Spawn(generation) => generation,
        }
    }

    /// The way's name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fork(_) => "fork",
            Self::Spawn(_) => "spawn",
        }
    }
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Not ready yet.
    Starting {
        /// When it must be.
        until: Instant,
    },
    /// Free since then.
    Idle {
        /// When it became free.
        since: Instant,
    },
    /// Serving.
    Busy {
        /// When the request must have answered.
        deadline: Instant,
    },
    /// Asked to stop its request.
    Cancelling {
        /// When its grace ends.
        kill_at: Instant,
        /// What its end will mean if it has to be killed.
        verdict: ExitReason,
    },
    /// Loading or dropping projects, between requests.
    Tending {
        /// When it must have finished.
        until: Instant,
    },
    /// Told to quit, killed, or broken; its process has not ended yet.
    Leaving {
        /// When it is killed if it has not left by then; `None` when it was killed already.
        kill_at: Option<Instant>,
    },
}

impl WorkerState {
    /// The state's name in metrics, logs and docs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Idle { .. } => "idle",
            Self::Busy { .. } => "busy",
            Self::Cancelling { .. } => "cancelling",
            Self::Tending { .. } => "loading",
            Self::Leaving { .. } => "leaving",
        }
    }
}

/// The request that a worker has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub ticket: Ticket,
    pub since: Instant,
    /// What it might take, its wait for this worker included.
    pub allowed: Duration,
    pub charged: Charged,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub state: WorkerState,
    pub start: Start,
    /// When it was started.
    pub born: Instant,
    /// There while it is busy or cancelling.
    pub job: Option<Job>,
    pub served: u64,
    /// What its end means, when the agent brought it about.
    pub verdict: Option<ExitReason>,
    /// Inherited or loaded before it was ready; never evicted.
    pub pinned: Vec<String>,
    /// Loaded for requests; the one used last stands last.
    pub loaded: Vec<String>,
    /// What it is to load or drop when it is idle.
    pub chores: Chores,
    /// Private dirty memory in bytes, as last looked at.
    pub private_bytes: u64,
    /// It takes more memory than it should, and goes when it is idle.
    pub outgrown: bool,
    /// After so many requests it is recycled.
    pub max_requests: u64,
    /// When it is recycled; its age counts from its start.
    pub expires: Option<Instant>,
}

impl Worker {
    pub fn starting(start: Start, born: Instant, until: Instant) -> Self {
        Self {
            state: WorkerState::Starting { until },
            start,
            born,
            job: None,
            served: 0,
            verdict: None,
            pinned: Vec::new(),
            loaded: Vec::new(),
            chores: Chores::default(),
            private_bytes: 0,
            outgrown: false,
            max_requests: u64::MAX,
            expires: None,
        }
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.state, WorkerState::Idle { .. })
    }

    pub fn is_starting(&self) -> bool {
        matches!(self.state, WorkerState::Starting { .. })
    }

    /// Whether it can serve now or soon.
    pub fn is_up(&self) -> bool {
        self.is_idle() || self.is_serving() || self.is_tending()
    }

    pub fn is_tending(&self) -> bool {
        matches!(self.state, WorkerState::Tending { .. })
    }

    pub fn is_leaving(&self) -> bool {
        matches!(self.state, WorkerState::Leaving { .. })
    }

    pub fn is_serving(&self) -> bool {
        matches!(self.state, WorkerState::Busy { .. } | WorkerState::Cancelling { .. })
    }

    /// Whether it has had its share and should make room for a fresh one.
    pub fn is_spent(&self, now: Instant) -> bool {
        self.outgrown || self.served >= self.max_requests || self.expires.is_some_and(|at| at <= now)
    }

    pub fn holds(&self, project: &str) -> bool {
        self.pinned.iter().chain(&self.loaded).any(|held| held == project)
    }

    /// Whether its request is for this project, so that it will hold it.
    pub fn serves(&self, project: &str) -> bool {
        self.job.as_ref().is_some_and(|job| job.charged.project == project)
    }

    /// How many projects it would have to drop for `project` so that at most `max` unpinned ones stay.
    pub fn excess(&self, project: &str, max: usize) -> usize {
        if self.holds(project) {
            0
        } else {
            (self.loaded.len() + 1).saturating_sub(max.max(1))
        }
    }

    /// Marks `project` as used now.
    pub fn touch(&mut self, project: &str) {
        if let Some(at) = self.loaded.iter().position(|held| held == project) {
            let held = self.loaded.remove(at);
            self.loaded.push(held);
        }
    }

    /// Sends it away; its process is killed at `kill_at`, or has been.
    pub fn leave(&mut self, verdict: Option<ExitReason>, kill_at: Option<Instant>) -> Option<Job> {
        self.verdict = verdict.or(self.verdict);
        self.state = WorkerState::Leaving { kill_at };
        self.job.take()
    }

    /// What the end of its process means.
    pub fn reason(&self, status: ExitStatus) -> ExitReason {
        match (self.verdict, status) {
            (Some(verdict), _) => verdict,
            _ if self.is_starting() => ExitReason::Start,
            (None, ExitStatus::Code(code)) => ExitReason::Exit { code },
            (None, ExitStatus::Signal(signal)) => ExitReason::Crash { signal },
            (None, ExitStatus::NotStarted) => ExitReason::Start,
        }
    }

    /// When something about it becomes due.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            WorkerState::Starting { until } | WorkerState::Tending { until } => Some(until),
            WorkerState::Idle { .. } => self.expires,
            WorkerState::Busy { deadline } => Some(deadline),
            WorkerState::Cancelling { kill_at, .. } => Some(kill_at),
            WorkerState::Leaving { kill_at } => kill_at,
        }
    }

    pub fn view(&self, id: WorkerId, now: Instant) -> WorkerView {
        WorkerView {
            id,
            state: self.state.name(),
            start: self.start,
            served: self.served,
            busy_for: self
                .job
                .as_ref()
                .map_or(Duration::ZERO, |job| now.saturating_duration_since(job.since)),
            private_bytes: self.private_bytes,
            projects: self.pinned.iter().chain(&self.loaded).cloned().collect(),
        }
    }
}
