//! Log output: one line per event on standard error, as text or JSON, at a level that may differ per module.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// The `[logging]` part of either daemon's configuration.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug` or `trace`, and per module as in `info,worker_agent::adapters=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

/// Sends this process's events to standard error from now on. Call it once.
///
/// # Errors
/// When `level` cannot be read, or a subscriber is already set; the text says which.
pub fn init(logging: &Logging) -> Result<(), String> {
    let filter = EnvFilter::try_new(&logging.level).map_err(|error| {
        format!(
            "logging.level `{}`: {error}; use error, warn, info, debug or trace",
            logging.level
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match logging.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| error.to_string())
}
