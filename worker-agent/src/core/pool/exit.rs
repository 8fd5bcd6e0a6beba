//! How a process ended, and what that means.

use std::fmt;

/// The number of the signal that cannot be caught.
pub(super) const SIGKILL: i32 = 9;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It never came to be.
    NotStarted,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::NotStarted => f.write_str("never started"),
        }
    }
}

/// What a worker's end means. `docs/lifecycle.md` explains each in the operator's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// A signal that the agent did not send.
    Crash {
        /// Its number.
        signal: i32,
    },
    /// It left by itself and should not have.
    Exit {
        /// Its exit code.
        code: i32,
    },
    /// It was not ready in time, or ended before it was.
    Start,
    /// Killed after the grace that follows a passed deadline.
    Deadline,
    /// Killed after the grace that follows a client's leaving, or the passed deadline of a request that got its worker late.
    Abandoned,
    /// Killed because of the memory it took, by the agent or, when memory was short, by the kernel.
    Memory,
    /// Told to go after its share of requests, time or memory; another takes its place.
    Recycled,
    /// Told to go: a newer generation, fewer workers, or shutdown.
    Retired,
}

impl ExitReason {
    /// Every name, for metrics and docs.
    pub const NAMES: [&str; 8] = [
        "crash",
        "exit",
        "start",
        "deadline",
        "abandoned",
        "memory",
        "recycled",
        "retired",
    ];

    /// The reason's name in metrics, logs and docs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash { .. } => Self::NAMES[0],
            Self::Exit { .. } => Self::NAMES[1],
            Self::Start => Self::NAMES[2],
            Self::Deadline => Self::NAMES[3],
            Self::Abandoned => Self::NAMES[4],
            Self::Memory => Self::NAMES[5],
            Self::Recycled => Self::NAMES[6],
            Self::Retired => Self::NAMES[7],
        }
    }

    /// Whether it counts in the failure pressure. A client's leaving does not: it would let any impatient browser
    /// take the agent down.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Abandoned | Self::Recycled | Self::Retired)
    }

    /// Whether the request that the worker had is to blame, as far as can be told. It is not for a SIGKILL from outside
    /// while there was memory: somebody else wanted the worker dead.
    #[must_use]
    pub const fn blames_request(self) -> bool {
        match self {
            Self::Crash { signal } => signal != SIGKILL,
            Self::Exit { .. } | Self::Deadline | Self::Memory => true,
            Self::Start | Self::Abandoned | Self::Recycled | Self::Retired => false,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash { signal } => write!(f, "crash (signal {signal})"),
            Self::Exit { code } => write!(f, "exit (code {code})"),
            other => f.write_str(other.name()),
        }
    }
}
