//! `[worker]`: the pool of QGIS processes.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Isolation, Lanes, Memory, Qgis, Quarantine, Recycle, Storage};

/// `[worker]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Names the agent in the fleet, in logs and in the header `x-graticule-agent`; made of host name and HTTP port when empty.
    pub name: String,
    /// How many QGIS processes; 0: one for each processor, and no more than one for each 512 MiB of memory.
    #[schemars(range(max = 1024))]
    pub num_processes: usize,
    /// How many requests may wait for a worker. What comes over it is answered with 503 and Retry-After, to be tried on
    /// another agent.
    pub max_waiting_requests: usize,
    /// A worker's start may take so many seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub process_start_timeout: f64,
    /// A cancelled request has so many seconds to stop before its worker is killed.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub cancel_timeout: f64,
    /// When failed workers within `failure_window`, over configured workers, are more than this, the agent exits with code 3.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_failure_pressure: f64,
    /// A worker's failure counts for so many seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub failure_window: f64,
    /// How workers are started.
    pub start_method: StartMethod,
    /// The Python that has QGIS's bindings: the distribution's, for which they are built.
    pub python: PathBuf,
    /// The directory that pins are kept in; empty: `graticule-<http port>` in `$XDG_STATE_HOME` or `~/.local/state`.
    pub state_dir: PathBuf,
    /// The directory for temporary files of the agent and its workers; empty: a fresh one that is removed at the end.
    pub runtime_dir: PathBuf,
    /// What memory workers may use. A worker's memory is what only it uses: its private dirty pages.
    pub memory: Memory,
    /// When sound workers are replaced. Each draws its own limits from the last fifth below these, so that they never go
    /// together.
    pub recycle: Recycle,
    /// Which requests are heavy, and what part of the workers each lane may take: docs/limits.md.
    pub lanes: Lanes,
    /// Requests that kill workers: docs/quarantine.md.
    pub quarantine: Quarantine,
    /// What workers may do: docs/isolation.md.
    pub isolation: Isolation,
    /// How storages of projects are spoken to: docs/projects.md.
    pub storage: Storage,
    /// What QGIS is told.
    pub qgis: Qgis,
}

/// How workers are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartMethod {
    /// Forked from a zygote: milliseconds, and shared memory.
    Fork,
    /// Each a process of its own: half a second, and about 200 MB each.
    Spawn,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            name: String::new(),
            num_processes: 0,
            max_waiting_requests: 50,
            process_start_timeout: 30.0,
            cancel_timeout: 3.0,
            max_failure_pressure: 5.0,
            failure_window: 60.0,
            start_method: StartMethod::Fork,
            python: "/usr/bin/python3".into(),
            state_dir: PathBuf::new(),
            runtime_dir: PathBuf::new(),
            memory: Memory::default(),
            recycle: Recycle::default(),
            lanes: Lanes::default(),
            quarantine: Quarantine::default(),
            isolation: Isolation::default(),
            storage: Storage::default(),
            qgis: Qgis::default(),
        }
    }
}
