//! One worker as the pool's policy sees it.

use std::time::{Duration, Instant};

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
        /// Which request.
        ticket: Ticket,
        /// Since when.
        since: Instant,
        /// When the request must have answered.
        deadline: Instant,
    },
    /// Asked to stop its request.
    Cancelling {
        /// Which request.
        ticket: Ticket,
        /// Since when it has been busy.
        since: Instant,
        /// When its grace ends.
        kill_at: Instant,
        /// What its end will mean if it has to be killed.
        verdict: ExitReason,
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
            Self::Leaving { .. } => "leaving",
        }
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    pub state: WorkerState,
    pub start: Start,
    pub served: u64,
    /// What its end means, when the agent brought it about.
    pub verdict: Option<ExitReason>,
    /// Inherited or loaded before it was ready; never evicted.
    pub pinned: Vec<String>,
    /// Loaded for requests; the one used last stands last.
    pub loaded: Vec<String>,
}

impl Worker {
    pub fn starting(start: Start, until: Instant) -> Self {
        let state = WorkerState::Starting { until };
        Self {
            state,
            start,
            served: 0,
            verdict: None,
            pinned: Vec::new(),
            loaded: Vec::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.state, WorkerState::Idle { .. })
    }

    pub fn is_starting(&self) -> bool {
        matches!(self.state, WorkerState::Starting { .. })
    }

    pub fn is_leaving(&self) -> bool {
        matches!(self.state, WorkerState::Leaving { .. })
    }

    pub fn is_serving(&self) -> bool {
        matches!(self.state, WorkerState::Busy { .. } | WorkerState::Cancelling { .. })
    }

    #[cfg(test)]
    pub fn ticket(&self) -> Option<Ticket> {
        match self.state {
            WorkerState::Busy { ticket, .. } | WorkerState::Cancelling { ticket, .. } => Some(ticket),
            _ => None,
        }
    }

    pub fn holds(&self, project: &str) -> bool {
        self.pinned.iter().chain(&self.loaded).any(|held| held == project)
    }

    /// Marks `project` as used now and names what must go so that at most `max` unpinned ones stay.
    pub fn take(&mut self, project: &str, max: usize) -> Vec<String> {
        if let Some(at) = self.loaded.iter().position(|held| held == project) {
            let held = self.loaded.remove(at);
            self.loaded.push(held);
            return Vec::new();
        }
        if self.pinned.iter().any(|held| held == project) {
            return Vec::new();
        }
        let excess = (self.loaded.len() + 1).saturating_sub(max.max(1));
        self.loaded.drain(..excess).collect()
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
            WorkerState::Starting { until } => Some(until),
            WorkerState::Idle { .. } => None,
            WorkerState::Busy { deadline, .. } => Some(deadline),
            WorkerState::Cancelling { kill_at, .. } => Some(kill_at),
            WorkerState::Leaving { kill_at } => kill_at,
        }
    }

    pub fn view(&self, id: WorkerId, now: Instant) -> WorkerView {
        let busy_for = match self.state {
            WorkerState::Busy { since, .. } | WorkerState::Cancelling { since, .. } => {
                now.saturating_duration_since(since)
            }
            _ => Duration::ZERO,
        };
        WorkerView {
            id,
            state: self.state.name(),
            start: self.start,
            served: self.served,
            busy_for,
            projects: self.pinned.iter().chain(&self.loaded).cloned().collect(),
        }
    }
}
