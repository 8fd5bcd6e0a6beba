//! `[worker.storage]`: how storages of projects are spoken to.

use std::collections::BTreeMap;
use std::time::Duration;

use graticule_daemon::config::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bucket, Files, Handler, seconds, wrong};

/// `[worker.storage]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// A storage that has not answered after so many seconds is down; a listing may take four times as long.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub timeout: f64,
    /// What a storage other than a directory said of a project is believed for so many seconds; after that requests use it
    /// while it is asked again.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub check_interval: f64,
    /// Local copies of projects in buckets and of the files that they name, which QGIS cannot open where they are.
    pub files: Files,
    /// Buckets by their names; `default` is for those that are not named here.
    #[schemars(extend("examples" = [{"maps": {"endpoint": "https://s3.example.org", "path_style": true}}]))]
    pub s3: BTreeMap<String, Bucket>,
    /// Storages that a Python class of your own speaks to, by the scheme of their search paths.
    #[schemars(extend("examples" = [{"depot": {
        "handler": "package.module.Class",
        "options": {"url": "https://depot.example.org"},
    }}]))]
    pub custom: BTreeMap<String, Handler>,
    /// Projects in PostgreSQL.
    pub postgresql: PostgreSql,
}

/// `[worker.storage.postgresql]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostgreSql {
    /// How many connections the agent itself has to a database at most, besides one that listens for changes. Workers have
    /// their own.
    #[schemars(range(min = 1, max = 100))]
    pub max_connections: usize,
    /// A connection must be there after so many seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub connect_timeout: f64,
    /// The channel on which databases notify of changed projects, of at most 63 bytes; empty: nobody listens.
    pub channel: String,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            timeout: 5.0,
            check_interval: 5.0,
            files: Files::default(),
            s3: BTreeMap::new(),
            custom: BTreeMap::new(),
            postgresql: PostgreSql::default(),
        }
    }
}

impl Default for PostgreSql {
    fn default() -> Self {
        Self {
            max_connections: 2,
            connect_timeout: 3.0,
            channel: "graticule_projects".into(),
        }
    }
}

impl PostgreSql {
    /// Connections to a database for queries.
    ///
    /// # Errors
    /// When it is out of its range.
    pub fn max_connections(&self) -> Result<usize, ConfigError> {
        match self.max_connections {
            1..=100 => Ok(self.max_connections),
            other => Err(wrong(
                "worker.storage.postgresql.max_connections",
                format!("expected from 1 to 100, found {other}"),
            )),
        }
    }

    /// How long a connection may take.
    ///
    /// # Errors
    /// When it is out of its range.
    pub fn connect_timeout(&self) -> Result<Duration, ConfigError> {
        seconds("worker.storage.postgresql.connect_timeout", self.connect_timeout)
    }

    /// The channel.
    ///
    /// # Errors
    /// When PostgreSQL would cut its name short.
    pub fn channel(&self) -> Result<String, ConfigError> {
        if self.channel.len() > 63 {
            let problem = "expected at most 63 bytes, the longest name that PostgreSQL has";
            return Err(wrong("worker.storage.postgresql.channel", problem));
        }
        Ok(self.channel.clone())
    }
}

impl Storage {
    /// How long a storage may take.
    ///
    /// # Errors
    /// When it is out of its range.
    pub fn timeout(&self) -> Result<Duration, ConfigError> {
        seconds("worker.storage.timeout", self.timeout)
    }

    /// For how long its word is believed.
    ///
    /// # Errors
    /// When it is out of its range.
    pub fn check_interval(&self) -> Result<Duration, ConfigError> {
        seconds("worker.storage.check_interval", self.check_interval)
    }
}
