//! Names that QJazz has for keys of ours; docs/from-qjazz.md lists them with the rest.

use graticule_daemon::config::Alias;

const fn alias(name: &'static str, key: &'static str) -> Alias {
    Alias { name, key }
}

/// What means the same under another name.
pub const ALIASES: &[Alias] = &[
    alias("worker.projects.search_paths", "worker.qgis.projects.search_paths"),
    alias("rpc.listen.address", "server.grpc_listen"),
    alias("worker.process_timeout", "server.timeout"),
    alias("worker.process_grace_period", "worker.cancel_timeout"),
    alias("worker.shutdown_grace_period", "server.shutdown_grace_period"),
    alias("worker.max_processes_failure_pressure", "worker.max_failure_pressure"),
    alias("worker.config.max_projects", "worker.qgis.max_projects"),
    alias(
        "worker.qgis.load_project_on_request",
        "worker.qgis.projects.load_project_on_request",
    ),
    alias(
        "worker.qgis.reload_outdated_project_on_request",
        "worker.qgis.projects.reload_outdated_project_on_request",
    ),
    alias(
        "worker.qgis.projects.trust_layer_metadata",
        "worker.qgis.trust_layer_metadata",
    ),
    alias("worker.qgis.projects.disable_getprint", "worker.qgis.disable_getprint"),
    alias(
        "worker.qgis.projects.force_readonly_layers",
        "worker.qgis.force_readonly_layers",
    ),
    alias(
        "worker.qgis.projects.ignore_bad_layers",
        "worker.qgis.ignore_bad_layers",
    ),
    alias("CONF_GRPC_USE_TLS", "server.grpc_tls.enabled"),
    alias("CONF_GRPC_TLS_CERTFILE", "server.grpc_tls.cert_file"),
    alias("CONF_GRPC_TLS_KEYFILE", "server.grpc_tls.key_file"),
    alias("CONF_GRPC_TLS_CAFILE", "server.grpc_tls.client_ca_file"),
    alias("worker.qgis.plugins.install", "worker.qgis.plugins.allowed"),
];
