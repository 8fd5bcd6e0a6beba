//! Lanes: which requests are heavy, and how workers are shared between the lanes.

use graticule_daemon::config::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wrong;
use crate::core::ogc::HeavyRule;

/// `[worker.lanes]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lanes {
    /// The lane of everything that no rule calls heavy. Shares are parts of the number of workers.
    pub interactive: Share,
    /// The lane of what a rule calls heavy. At least one worker is always within its reach.
    pub heavy: Share,
    /// A request that one of them describes is heavy; all that an entry names must hold, and it must name something. A list of
    /// your own replaces this one.
    pub heavy_rules: Vec<Rule>,
}

/// A lane's share of the workers, as parts of their number. At least one worker is always within a lane's reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Share {
    /// The part of the workers that no other lane may take. Those of both lanes are 1 together at most.
    #[schemars(range(min = 0, max = 1))]
    pub guaranteed: f64,
    /// The part of the workers that it may take at most.
    #[schemars(range(min = 0, max = 1))]
    pub maximum: f64,
}

/// Describes requests: all that it names must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// `WMS`, `WFS`, `WCS`, `WMTS`, or an API's root such as `wfs3`; empty: any.
    pub service: String,
    /// A request such as `GetPrint`, in any letter case, or an API's method; empty: any.
    pub request: String,
    /// Width times height in pixels from which on it holds; 0: whatever the size.
    pub min_pixels: u64,
    /// Only WFS requests for features that nothing bounds which QGIS heeds: `MAXFEATURES`, `FEATUREID`, `BBOX`, `FILTER`,
    /// `EXP_FILTER`, or a filter in each query of an XML body.
    pub unlimited: bool,
    /// Only this project, as clients name it; empty: any.
    pub project: String,
}

impl Lanes {
    /// The rules as the classes of requests take them.
    pub(super) fn rules(&self) -> Vec<HeavyRule> {
        let rules = self.heavy_rules.iter().cloned();
        rules
            .map(|rule| HeavyRule {
                service: rule.service,
                request: rule.request,
                min_pixels: rule.min_pixels,
                unlimited: rule.unlimited,
                project: rule.project,
            })
            .collect()
    }

    /// Checks that the shares can be given.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut guaranteed = 0.0;
        for (lane, share) in [("interactive", self.interactive), ("heavy", self.heavy)] {
            let key = |field: &str| format!("worker.lanes.{lane}.{field}");
            for (field, part) in [("guaranteed", share.guaranteed), ("maximum", share.maximum)] {
                if !(0.0..=1.0).contains(&part) {
                    let problem = format!("expected a part of the workers from 0 to 1, found {part}");
                    return Err(wrong(&key(field), problem));
                }
            }
            if share.guaranteed > share.maximum {
                let problem = format!(
                    "{} is more than the lane's maximum of {}; lower it, or raise the maximum",
                    share.guaranteed, share.maximum
                );
                return Err(wrong(&key("guaranteed"), problem));
            }
            guaranteed += share.guaranteed;
        }
        // Tenths do not add up to 1 exactly.
        if guaranteed > 1.0 + 1e-9 {
            let problem =
                format!("the lanes are guaranteed {guaranteed} of the workers together; lower it to 1 at most");
            return Err(wrong("worker.lanes", problem));
        }
        Ok(())
    }
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
