//! Lanes: which requests are heavy, and how workers are shared between the lanes.

use serde::{Deserialize, Serialize};

/// `[worker.lanes]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lanes {
    /// Everything that no rule calls heavy.
    pub interactive: Share,
    /// What a rule calls heavy.
    pub heavy: Share,
    /// A request that one of them describes is heavy.
    pub heavy_rules: Vec<Rule>,
}

/// A lane's share of the workers, as parts of their number. At least one worker is always within a lane's reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Share {
    /// What no other lane may take.
    pub guaranteed: f64,
    /// What it may take at most.
    pub maximum: f64,
}

/// Describes requests: all that it names must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// `WMS`, `WFS`, `WCS`, `WMTS`, or an API's root such as `wfs3`; empty: any.
    pub service: String,
    /// Such as `GetPrint`, in any letter case; empty: any.
    pub request: String,
    /// Width times height in pixels from which on it holds; 0: whatever the size.
    pub min_pixels: u64,
    /// Only requests for features that name no limit (`COUNT`, `MAXFEATURES`, `limit`), no feature ids and no extent.
    pub unlimited: bool,
    /// Only this project, as clients name it; empty: any.
    pub project: String,
}

impl Default for Lanes {
    fn default() -> Self {
        let rule = |service: &str, request: &str| Rule {
            service: service.to_owned(),
            request: request.to_owned(),
            ..Rule::default()
        };
        Self {
            interactive: Share {
                guaranteed: 0.5,
                maximum: 1.0,
            },
            heavy: Share {
                guaranteed: 0.0,
                maximum: 0.5,
            },
            heavy_rules: vec![
                rule("WMS", "GetPrint"),
                Rule {
                    min_pixels: 4_000_000,
                    ..rule("WMS", "GetMap")
                },
                Rule {
                    unlimited: true,
                    ..rule("WFS", "GetFeature")
                },
                rule("WCS", "GetCoverage"),
            ],
        }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self {
            guaranteed: 0.0,
            maximum: 1.0,
        }
    }
}
