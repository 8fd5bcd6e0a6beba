//! `[worker.qgis]`: what QGIS is told, and where projects are.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Plugins;

/// `[worker.qgis]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Qgis {
    /// How many projects a worker keeps loaded besides pinned ones.
    #[schemars(range(min = 1))]
    pub max_projects: usize,
    /// Serve a project's good layers when others are bad.
    pub ignore_bad_layers: bool,
    /// Open layers read-only; loads large projects about four times faster. Turn it off for WFS transactions; pinned projects
    /// are then loaded by each worker for itself.
    pub force_readonly_layers: bool,
    /// Believe the extents and types that the project file states.
    pub trust_layer_metadata: bool,
    /// Leave print layouts out; `GetPrint` then fails.
    pub disable_getprint: bool,
    /// Let a zygote draw one throwaway map before it is forked from: first maps are faster and take less memory.
    pub warm_up: bool,
    /// Headers of clients that reach QGIS and its plugins besides Accept, Content-Type and X-Qgis-*; `name*` means all that
    /// begin so.
    pub forward_headers: Vec<String>,
    /// QGIS's server plugins: docs/plugins.md.
    pub plugins: Plugins,
    /// Where projects are.
    pub projects: Projects,
}

/// `[worker.qgis.projects]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Projects {
    /// Public location → directory or URL of a storage; at least one has to be set. A location may have dynamic segments, as in
    /// `"/{user}/maps" = "/srv/{user}/maps"`; the longest that matches counts. docs/projects.md.
    #[schemars(extend("examples" = [{"/": "/srv/projects"}]))]
    pub search_paths: BTreeMap<String, String>,
    /// Whether a request may name any project file of this machine by its path, whatever the search paths say. Only where every
    /// client is trusted.
    pub allow_direct_path_resolution: bool,
    /// Whether the first request for a project has it loaded; else only projects that are pinned or were checked out are
    /// served.
    pub load_project_on_request: bool,
    /// Whether a changed project is loaded by the next request, which waits for that; else it is loaded between requests, while
    /// the old version is served.
    pub reload_outdated_project_on_request: bool,
    /// For so many seconds after its start the agent is not ready while a project that was pinned before cannot be found.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub pins_patience: f64,
}

impl Default for Projects {
    fn default() -> Self {
        Self {
            search_paths: BTreeMap::new(),
            allow_direct_path_resolution: false,
            load_project_on_request: true,
            reload_outdated_project_on_request: false,
            pins_patience: 30.0,
        }
    }
}

impl Default for Qgis {
    fn default() -> Self {
        Self {
            max_projects: 50,
            ignore_bad_layers: true,
            force_readonly_layers: true,
            trust_layer_metadata: true,
            disable_getprint: false,
            warm_up: true,
            forward_headers: Vec::new(),
            plugins: Plugins::default(),
            projects: Projects::default(),
        }
    }
}
