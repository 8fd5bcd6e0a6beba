//! The response cache, and which requests share one render.

use serde::{Deserialize, Serialize};

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// All answers together, in bytes; 0 turns the cache off.
    pub max_bytes: u64,
    /// One answer, in bytes; larger ones are not kept.
    pub max_entry_bytes: u64,
    /// Capabilities, descriptions, legends, styles and the like are kept for so many seconds, as they may depend on data
    /// that changes without the project.
    pub max_age: f64,
    /// Maps are kept for so many seconds; 0: not at all.
    pub map_max_age: f64,
    /// Only maps of at most so many pixels are kept.
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
