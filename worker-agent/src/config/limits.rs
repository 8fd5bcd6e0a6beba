//! What bounds a worker's life and what it may use: memory, age, privileges, and requests that kill it.

use std::time::Duration;

use graticule_daemon::config::ConfigError;
use graticule_daemon::quarantine::{MAX_KILLS, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{seconds, wrong};
use crate::core::environment::Environment;
use crate::core::pool::MemoryLimits;

/// `[worker.memory]`. A worker's memory is what only it uses: its private dirty pages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// A worker above so many bytes is replaced once it has answered; 0: half of `hard_limit`.
    #[schemars(extend("x-expected" = "0, or a whole number of at least 67108864"))]
    pub soft_limit: u64,
    /// A worker above so many bytes is killed; 0: `high_water_mark` of the total over the number of workers, at least 256 MiB.
    #[schemars(extend("x-expected" = "0, or a whole number of at least 67108864"))]
    pub hard_limit: u64,
    /// Above this part of the total, workers are ended one at a time, the largest first. The total is the control group's
    /// limit, else the host's memory.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub high_water_mark: f64,
}

/// `[worker.recycle]`. Each worker draws its own limits from the last fifth below these, so that they never go together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Recycle {
    /// A worker is replaced after so many requests; 0: never.
    pub max_requests: u64,
    /// A worker is replaced after so many seconds; 0: never.
    #[schemars(range(min = 0, max = 86_400))]
    pub max_age: f64,
}

/// `[worker.quarantine]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quarantine {
    /// A request is refused once it has killed so many workers in the whole fleet; 0: never.
    #[schemars(range(max = 32))]
    pub kills: u32,
    /// A kill counts for so many seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub window: f64,
    /// A request is refused for at least so many seconds, and for as long as that many kills count.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub duration: f64,
}

impl Quarantine {
    /// The rule to judge by.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn rule(&self) -> Result<Rule, ConfigError> {
        if self.kills as usize > MAX_KILLS {
            return Err(wrong(
                "worker.quarantine.kills",
                format!("expected at most {MAX_KILLS}, found {}", self.kills),
            ));
        }
        Ok(Rule {
            limit: self.kills,
            window: seconds("worker.quarantine.window", self.window)?,
            duration: seconds("worker.quarantine.duration", self.duration)?,
        })
    }
}

/// `[worker.isolation]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Isolation {
    /// The user that workers run as when the agent runs as root; empty: root without any capability.
    pub user: String,
    /// Open files that a worker may have; 0: as the agent.
    #[schemars(extend("x-expected" = "0, or a whole number of at least 64"))]
    pub open_files: u64,
    /// The largest file that a worker may write, in bytes; 0: any.
    #[schemars(extend("x-expected" = "0, or a whole number of at least 1048576"))]
    pub file_size: u64,
    /// Environment variables that workers get besides QGIS's, GDAL's, PROJ's, PostgreSQL's and the language's own. A
    /// name that ends with `*` means all that begin so.
    pub pass_environment: Vec<String>,
}

/// Below this a worker could not even start, in bytes.
const LEAST_LIMIT: u64 = 64 << 20;

impl Memory {
    /// What the pool is to keep to.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn limits(&self) -> Result<MemoryLimits, ConfigError> {
        let given = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
        for (key, bytes) in [("soft_limit", self.soft_limit), ("hard_limit", self.hard_limit)] {
            if bytes > 0 && bytes < LEAST_LIMIT {
                return Err(wrong(
                    &format!("worker.memory.{key}"),
                    format!("expected at least {LEAST_LIMIT} bytes, or 0, found {bytes}"),
                ));
            }
        }
        if self.soft_limit > 0 && self.hard_limit > 0 && self.soft_limit > self.hard_limit {
            return Err(wrong("worker.memory.soft_limit", "expected no more than hard_limit"));
        }
        let mark = self.high_water_mark;
        if !(mark > 0.0 && mark <= 1.0) {
            return Err(wrong(
                "worker.memory.high_water_mark",
                format!("expected more than 0 and at most 1, found {mark}"),
            ));
        }
        Ok(MemoryLimits {
            soft: given(self.soft_limit),
            hard: given(self.hard_limit),
            high_water_mark: mark,
        })
    }
}

impl Recycle {
    /// The greatest age of a worker; none when it is not limited.
    ///
    /// # Errors
    /// When it is out of its range.
    pub fn max_age(&self) -> Result<Option<Duration>, ConfigError> {
        if self.max_age == 0.0 {
            return Ok(None);
        }
        seconds("worker.recycle.max_age", self.max_age).map(Some)
    }
}

impl Isolation {
    /// Which of the agent's variables workers get.
    ///
    /// # Errors
    /// The first name that cannot be meant.
    pub fn environment(&self) -> Result<Environment, ConfigError> {
        Environment::new(&self.pass_environment).map_err(|problem| wrong("worker.isolation.pass_environment", problem))
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// The first with which QGIS could not even start.
    pub fn check(&self) -> Result<(), ConfigError> {
        const FEWEST_FILES: u64 = 64;
        const SMALLEST_FILE: u64 = 1 << 20;
        if self.open_files != 0 && self.open_files < FEWEST_FILES {
            return Err(wrong(
                "worker.isolation.open_files",
                format!(
                    "expected 0 (as the agent) or at least {FEWEST_FILES}, found {}",
                    self.open_files
                ),
            ));
        }
        if self.file_size != 0 && self.file_size < SMALLEST_FILE {
            return Err(wrong(
                "worker.isolation.file_size",
                format!(
                    "expected 0 (any) or at least {SMALLEST_FILE} bytes, found {}",
                    self.file_size
                ),
            ));
        }
        Ok(())
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            soft_limit: 0,
            hard_limit: 0,
            high_water_mark: 0.9,
        }
    }
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            kills: 2,
            window: 600.0,
            duration: 300.0,
        }
    }
}

impl Default for Isolation {
    fn default() -> Self {
        Self {
            user: String::new(),
            open_files: 4096,
            file_size: 4 << 30,
            pass_environment: Vec::new(),
        }
    }
}
