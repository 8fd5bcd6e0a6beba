//! Which keys of the configuration take effect while the agent runs, and which need a restart.
//!
//! The table names parts of the tree; the longest name that a key begins with counts. A test walks every key of the
//! schema, so that a new one has to be put here.

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once; what runs already keeps what it began with.
    Now,
    /// When the agent is started anew.
    Restart,
}

use Effect::{Now, Restart};

/// The parts of the tree.
const TABLE: &[(&str, Effect)] = &[
    ("logging.level", Now),
    ("logging.format", Restart),
    ("server.http_listen", Restart),
    ("server.grpc_listen", Restart),
    ("server.metrics_listen", Restart),
    // What stands in the files that they name is followed at once.
    ("server.http_tls", Restart),
    ("server.grpc_tls", Restart),
    ("server.access", Restart),
    ("server.timeout", Now),
    ("server.timeouts", Now),
    // Chains of requests that run have been promised the workers that they need.
    ("server.max_loop_depth", Restart),
    ("server.max_body_size", Restart),
    ("server.shutdown_grace_period", Now),
    ("server.drain_delay", Restart),
    ("worker.name", Restart),
    ("worker.num_processes", Now),
    ("worker.max_waiting_requests", Now),
    ("worker.process_start_timeout", Now),
    ("worker.cancel_timeout", Now),
    ("worker.max_failure_pressure", Now),
    ("worker.failure_window", Now),
    ("worker.start_method", Restart),
    ("worker.python", Restart),
    ("worker.state_dir", Restart),
    ("worker.runtime_dir", Restart),
    ("worker.memory", Now),
    ("worker.recycle", Now),
    ("worker.lanes", Now),
    ("worker.quarantine", Now),
    ("worker.isolation", Restart),
    ("worker.storage", Restart),
    ("worker.storage.timeout", Now),
    ("worker.storage.check_interval", Now),
    ("worker.qgis", Restart),
    ("worker.qgis.max_projects", Now),
    ("worker.qgis.forward_headers", Now),
    ("worker.qgis.projects", Restart),
    ("worker.qgis.projects.load_project_on_request", Now),
    ("worker.qgis.projects.reload_outdated_project_on_request", Now),
    ("cache", Now),
    ("catalog", Now),
    ("fleet", Restart),
];

/// The longest name of the table that the key begins with.
fn part_of(key: &str) -> Option<(&'static str, Effect)> {
    let begins = |name: &str| {
        let rest = key.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let found = TABLE.iter().filter(|(name, _)| begins(name));
    found.max_by_key(|(name, _)| name.len()).copied()
}

/// When a change of this key takes effect. What the table does not know needs a restart.
#[must_use]
pub fn of(key: &str) -> Effect {
    part_of(key).map_or(Restart, |(_, effect)| effect)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_is_in_the_table_and_every_part_of_the_table_is_a_key() {
        let schema = graticule_daemon::config::schema::<crate::config::Config>();
        let keys = graticule_daemon::config::keys(&schema);
        assert!(keys.len() > 60, "{keys:?}");
        let mut used = BTreeSet::new();
        for key in &keys {
            let Some((part, _)) = part_of(key) else {
                panic!(
                    "`{key}` is in no part of the table of worker-agent/src/core/effect.rs: does it take effect at once?"
                )
            };
            used.insert(part);
        }
        let unused: Vec<_> = TABLE.iter().filter(|(name, _)| !used.contains(name)).collect();
        assert!(unused.is_empty(), "no such keys: {unused:?}");
    }

    #[test]
    fn the_longest_name_counts_and_only_whole_names() {
        assert_eq!(of("worker.storage.timeout"), Now);
        assert_eq!(of("worker.storage.s3.maps.region"), Restart);
        assert_eq!(of("server.timeouts.WMS/GetMap"), Now);
        assert_eq!(of("server.timeout_of_something"), Restart);
        assert_eq!(of("worker.lanes.heavy_rules[0].service"), Now);
    }
}
