//! The response cache, and which requests share one render.

use std::time::Duration;

use graticule_daemon::config::ConfigError;
use http::HeaderName;
use http::header::HOST;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, wrong};
use crate::core::ogc::SharingRules;
use crate::core::response_cache::Limits;

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// All answers together, in bytes; 0 turns the cache off.
    pub max_bytes: u64,
    /// One answer, in bytes; larger ones are not kept.
    pub max_entry_bytes: u64,
    /// Capabilities, descriptions, legends, styles and the like are kept for so many seconds, as they may depend on data
    /// that changes without the project.
    #[schemars(range(min = 0, max = 86400))]
    pub max_age: f64,
    /// Maps are kept for so many seconds; 0: not at all.
    #[schemars(range(min = 0, max = 86400))]
    pub map_max_age: f64,
    /// Only maps of at most so many pixels, width times height, are kept.
    pub map_max_pixels: u64,
    /// Whether identical safe requests in flight share one render.
    pub join: bool,
    /// Request headers that plugins answer by. A request with credentials (`Authorization`, `Cookie`) is only kept or
    /// shared when the header is named here; their values are part of what makes two requests the same.
    pub vary_headers: Vec<String>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_entry_bytes: 4 << 20,
            max_age: 300.0,
            map_max_age: 0.0,
            map_max_pixels: 1 << 20,
            join: true,
            vary_headers: Vec::new(),
        }
    }
}

/// How long something may be kept: nothing, for not at all, up to a day.
fn age(key: &str, value: f64) -> Result<Duration, ConfigError> {
    const DAY: f64 = 86_400.0;
    if (0.0..=DAY).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(wrong(
            key,
            format!("expected 0 (not kept) to {DAY} seconds, found {value}"),
        ))
    }
}

fn bytes(key: &str, value: u64) -> Result<usize, ConfigError> {
    usize::try_from(value).map_err(|_| wrong(key, format!("{value} bytes are more than this machine can address")))
}

impl Config {
    /// Which requests share an answer, and how much of answers is kept.
    ///
    /// # Errors
    /// The first value that is out of its range, or a header's name that HTTP does not allow or that reaches no plugin.
    pub fn sharing_rules(&self) -> Result<(SharingRules, Limits), ConfigError> {
        let cache = &self.cache;
        let forwarded = self.forwarded()?;
        let vary_headers = cache
            .vary_headers
            .iter()
            .map(|name| {
                let name = HeaderName::try_from(name.as_str())
                    .map_err(|_| format!("`{name}` is no header's name; write such as \"authorization\""))?;
                if name == HOST || forwarded.passes(&name) {
                    Ok(name)
                } else {
                    Err(format!(
                        "`{name}` does not reach plugins: name it in worker.qgis.forward_headers as well"
                    ))
                }
            })
            .map(|name| name.map_err(|problem: String| wrong("cache.vary_headers", problem)))
            .collect::<Result<Vec<_>, _>>()?;
        let rules = SharingRules {
            max_age: age("cache.max_age", cache.max_age)?,
            map_max_age: age("cache.map_max_age", cache.map_max_age)?,
            map_max_pixels: cache.map_max_pixels,
            join: cache.join,
            vary_headers,
            forwarded,
        };
        let limits = Limits {
            max_bytes: bytes("cache.max_bytes", cache.max_bytes)?,
            max_entry_bytes: bytes("cache.max_entry_bytes", cache.max_entry_bytes)?,
        };
        Ok((rules, limits))
    }
}
