//! Log output: one line per event on standard error, as text, as JSON or for the journal, at a level that may differ per
//! module and may be changed while the process runs.

use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::journal::{self, Journal};

/// The filter that decides what is written; there once [`init`] was called.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// The `[logging]` part of either daemon's configuration.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug` or `trace`, and per module as in `info,worker_agent::adapters=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
    /// For systemd's journal, which knows the time itself. `text` becomes this where standard error leads there.
    Journald,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

/// Reads a level. Words of other loggers are understood: `warning`, `critical`, `notset`, in any letter case.
///
/// # Errors
/// When it cannot be read; the text says what can.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    // Spans are for those who know tracing's own language.
    if level.contains('[') {
        return EnvFilter::try_new(level).map_err(|error| format!("{error}; see tracing's EnvFilter"));
    }
    let words = level.split(',').map(|part| {
        let (module, word) = part
            .rsplit_once('=')
            .map_or(("", part), |(module, word)| (module, word));
        let word = match word.trim().to_ascii_lowercase().as_str() {
            "warning" => "warn".to_owned(),
            "critical" => "error".to_owned(),
            "notset" => "trace".to_owned(),
            plain @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => plain.to_owned(),
            other => return Err(format!("`{other}` is no level")),
        };
        Ok(match module {
            "" => word,
            module => format!("{}={word}", module.trim()),
        })
    });
    words
        .collect::<Result<Vec<_>, _>>()
        .and_then(|words| EnvFilter::try_new(words.join(",")).map_err(|error| error.to_string()))
        .map_err(|problem| format!("{problem}; use error, warn, info, debug or trace, and per module as in info,worker_agent::adapters=debug"))
}

/// Sends this process's events to standard error from now on. Call it once.
///
/// # Errors
/// When `level` cannot be read, or a subscriber is already set; the text says which.
pub fn init(logging: &Logging) -> Result<(), String> {
    let (filter, handle) =
        reload::Layer::new(filter(&logging.level).map_err(|problem| format!("`logging.level`: {problem}"))?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let format = match logging.format {
        LogFormat::Text if journal::listens() => LogFormat::Journald,
        format => format,
    };
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Journald => lines.event_format(Journal::default()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    subscriber.try_init().map_err(|error| error.to_string())?;
    drop(FILTER.set(handle));
    Ok(())
}

/// Changes the level from now on.
///
/// # Errors
/// When it cannot be read, or [`init`] was not called.
pub fn set_level(level: &str) -> Result<(), String> {
    let filter = filter(level)?;
    let handle = FILTER.get().ok_or("this process writes no log")?;
    handle.reload(filter).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_other_loggers_are_understood() {
        for (level, expected) in [
            ("INFO", "info"),
            ("Warning", "warn"),
            ("CRITICAL", "error"),
            (
                "info, worker_agent::adapters=WARNING",
                "worker_agent::adapters=warn,info",
            ),
        ] {
            assert_eq!(filter(level).unwrap().to_string(), expected, "{level}");
        }
        for level in ["loud", "", "info,a=loud", "info,"] {
            let said = filter(level).unwrap_err();
            assert!(said.contains("is no level; use error, warn"), "{said}");
        }
    }
}
