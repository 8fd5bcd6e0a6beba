//! `[worker.storage]`: how storages of projects are spoken to.

use std::collections::BTreeMap;
use std::time::Duration;

use graticule_daemon::config::ConfigError;
use serde::{Deserialize, Serialize};

use super::{Bucket, Files, Handler, seconds};

/// `[worker.storage]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// A storage that has not answered after so many seconds is down; a listing may take four times as long.
    pub timeout: f64,
    /// What a storage other than a directory said of a project is believed for so many seconds; after that requests use it
    /// while it is asked again.
    pub check_interval: f64,
    /// Local copies of what QGIS cannot open where it is.
    pub files: Files,
    /// Buckets by their names; `default` is for those that are not named.
    pub s3: BTreeMap<String, Bucket>,
    /// Storages that a Python class speaks to, by the scheme of their search paths.
    pub custom: BTreeMap<String, Handler>,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            timeout: 5.0,
            check_interval: 5.0,
            files: Files::default(),
            s3: BTreeMap::new(),
            custom: BTreeMap::new(),
        }
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
