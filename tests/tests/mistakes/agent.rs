//! What may be wrong with an agent's configuration.

use super::Case;
use super::Source::{File, Missing, Named, Variable, Word};

/// Stands before every file: without it an agent has no projects. What follows begins in the fourth line.
pub const BEFORE: &str = "[worker.qgis.projects]\nsearch_paths = { \"/\" = \"/srv\" }\n\n";

/// Each with a part of what must be said.
pub const CASES: &[Case] = &[
    (
        File("[server]\ntimeuot = 1"),
        "FILE, line 5: unknown key `server.timeuot`, did you mean `server.timeout`?",
    ),
    (
        File("[loggin]\nlevel = 'debug'"),
        "FILE, line 4: unknown key `loggin`, did you mean `logging`?",
    ),
    (
        File("[logging]\nlevel = 'loud'"),
        "FILE, line 5: `logging.level`: `loud` is no level",
    ),
    (
        File("[logging]\nformat = 'xml'"),
        "FILE, line 5: `logging.format`: expected one of text, json, journald, found `xml`",
    ),
    (
        File("[server]\nhttp_listen = 'here'"),
        "FILE, line 5: `server.http_listen`: ",
    ),
    (
        File("[server]\nhttp_listen = 23457"),
        "FILE, line 5: `server.http_listen`: expected an IP address and a port, such as 127.0.0.1:9080, found 23457",
    ),
    (
        File("[server]\ntimeout = '20s'"),
        "`server.timeout`: expected a number of more than 0 and at most 86400, found a text",
    ),
    (
        File("[server]\ntimeout = 0"),
        "FILE, line 5: `server.timeout`: expected more than 0 and at most 86400, found 0",
    ),
    (
        File("[server]\ntimeouts = { 'WMS/GetMap' = 0 }"),
        "`server.timeouts.WMS/GetMap`: expected more than 0",
    ),
    (
        File("[server.timeouts]\nWPS = 1"),
        "FILE, line 5: `server.timeouts.WPS`: `WPS` is no service",
    ),
    (
        File("[server]\nshutdown_grace_period = 100000"),
        "at most 86400, found 100000",
    ),
    (
        File("[server]\ndrain_delay = 61"),
        "`server.drain_delay`: expected at least 0 and at most 60, found 61",
    ),
    (
        File("[server]\nmax_body_size = -1"),
        "`server.max_body_size`: expected at least 0",
    ),
    (
        File("[server]\nmax_loop_depth = 1.5"),
        "`server.max_loop_depth`: expected a whole number",
    ),
    (
        File("[worker]\nnum_processes = 1025"),
        "FILE, line 5: `worker.num_processes`: expected at least 0 and at most 1024, found 1025",
    ),
    (
        File("[worker]\nnum_processes = 'all'"),
        "`worker.num_processes`: expected a whole number",
    ),
    (
        File("[worker]\nmax_failure_pressure = 0"),
        "`worker.max_failure_pressure`: expected more than 0, found 0",
    ),
    (
        File("[worker]\nstart_method = 'frok'"),
        "expected one of fork, spawn, found `frok`, did you mean `fork`?",
    ),
    (
        File("[worker]\ncancel_timeout = inf"),
        "line 5: `worker.cancel_timeout`: expected a number, found inf",
    ),
    (
        File("[worker.memory]\nsoft_limit = 1000"),
        "FILE, line 5: `worker.memory.soft_limit`: expected at least 67108864 bytes, or 0",
    ),
    (
        File("[worker.memory]\nsoft_limit = 200000000\nhard_limit = 100000000"),
        "FILE, line 5: `worker.memory.soft_limit`: expected no more than hard_limit",
    ),
    (
        File("[worker.memory]\nhigh_water_mark = 0"),
        "expected more than 0 and at most 1, found 0",
    ),
    (
        File("[worker.recycle]\nmax_age = -1"),
        "`worker.recycle.max_age`: expected at least 0",
    ),
    (
        File("[worker.lanes.heavy]\nguaranteed = 0.75\nmaximum = 1.0"),
        "FILE, line 5: `worker.lanes`: the lanes are guaranteed 1.25",
    ),
    (
        File("[worker.lanes.heavy]\nguaranteed = 0.4\nmaximum = 0.3"),
        "FILE, line 5: `worker.lanes.heavy.guaranteed`: 0.4 is more than",
    ),
    (
        File("[[worker.lanes.heavy_rules]]\nservice = 'WXS'"),
        "`worker.lanes.heavy_rules[0].service`: `WXS` is no service",
    ),
    (
        File("[[worker.lanes.heavy_rules]]\nservce = 'WMS'"),
        "unknown key `worker.lanes.heavy_rules[0].servce`, did you mean `worker.lanes.heavy_rules[0].service`?",
    ),
    (
        File("[worker.lanes]\nheavy_rules = 'WMS'"),
        "`worker.lanes.heavy_rules`: expected a list, found a text",
    ),
    (
        File("[worker.quarantine]\nkills = 33"),
        "`worker.quarantine.kills`: expected at least 0 and at most 32, found 33",
    ),
    (
        File("[worker.isolation]\nopen_files = 5"),
        "FILE, line 5: `worker.isolation.open_files`: expected 0 (as the agent) or at least 64",
    ),
    (
        File("[worker.isolation]\npass_environment = ['*']"),
        "FILE, line 5: `worker.isolation.pass_environment`: `*` means every variable",
    ),
    (
        File("[worker.isolation]\nuser = 'nobody-of-that-name'"),
        "FILE, line 5: `worker.isolation.user`: ",
    ),
    (
        File("[worker.storage]\ncheck_interval = 0"),
        "`worker.storage.check_interval`: expected more than 0",
    ),
    (
        File("[worker.storage.postgresql]\nmax_connections = 0"),
        "expected at least 1 and at most 100, found 0",
    ),
    (
        File("[worker.storage.s3.maps]\nregoin = 'x'"),
        "unknown key `worker.storage.s3.maps.regoin`, did you mean `worker.storage.s3.maps.region`?",
    ),
    (
        File("[worker.storage.s3.maps]\nsecret_access_key = 4711"),
        "`worker.storage.s3.maps.secret_access_key`: expected a text, found a number",
    ),
    (
        File("[worker.qgis]\nmax_projects = 0"),
        "`worker.qgis.max_projects`: expected at least 1, found 0",
    ),
    (
        File("[worker.qgis]\nforward_headers = ['Host']"),
        "FILE, line 5: `worker.qgis.forward_headers`: `Host` never reaches QGIS",
    ),
    (
        File("[worker.qgis.plugins]\npaths = 7"),
        "`worker.qgis.plugins.paths`: expected a list of directories, or a text",
    ),
    (
        File("[worker.qgis.plugins]\npaths = '/nowhere/at/all'"),
        "FILE, line 5: `worker.qgis.plugins.paths`: `/nowhere/at/all`: there is no such directory",
    ),
    (
        File("[worker.qgis.plugins]\nrequired = ['a']"),
        "FILE, line 5: `worker.qgis.plugins.required`: `a` cannot be loaded",
    ),
    (
        File("[cache]\nmax_age = -1"),
        "`cache.max_age`: expected at least 0 and at most 86400, found -1",
    ),
    (
        File("[cache]\nvary_headers = ['x-user']"),
        "FILE, line 5: `cache.vary_headers`: `x-user` does not reach plugins",
    ),
    (
        File("[catalog]\nhidden = ['private']"),
        "FILE, line 5: `catalog.hidden`: `private` does not begin with a slash",
    ),
    (
        File("[catalog]\nenabled = 'yes'"),
        "`catalog.enabled`: expected true or false, found a text",
    ),
    (
        File("[fleet]\npool = true"),
        "`fleet.pool`: expected a text, found true",
    ),
    (
        File("[worker]\nprocess_timeout = 3\n[server]\ntimeout = 4"),
        "`worker.process_timeout` means the same as `server.timeout`",
    ),
    (File("[server\n"), "line 4"),
    (File("[server]\ntimeout = 1\ntimeout = 2"), "line 6"),
    (
        Named(".json", "{\n\"server\": }"),
        "configuration file FILE: expected value at line 2",
    ),
    (Named(".yaml", "server:\n  timeout: [1\n"), "configuration file FILE: "),
    (Named(".toml", ""), "`worker.qgis.projects.search_paths`: none is set"),
    (Missing, "configuration file FILE: No such file or directory"),
    (
        File("[server.grpc_tls]\ncert_file = '/nowhere/a.crt'"),
        "FILE, line 5: `server.grpc_tls.key_file`: it is not set: name the PEM file",
    ),
    (
        File("[server.http_tls]\nkey_file = '/nowhere/a.key'"),
        "FILE, line 5: `server.http_tls.key_file`: /nowhere/a.key: it counts only with",
    ),
    (
        File("[server.http_tls]\ncert_file = '/nowhere/a.crt'\nkey_file = '/nowhere/a.key'"),
        "FILE, line 5: `server.http_tls.cert_file`: /nowhere/a.crt: it cannot be read",
    ),
    (
        File("[server.access]\nread_token_file = '/nowhere/token'"),
        "FILE, line 5: `server.access.read_token_file`: /nowhere/token: it cannot be read",
    ),
    (
        File("[server.access]\nfull_token = 'short'"),
        "FILE, line 5: `server.access.full_token`: a token has at least 16 characters",
    ),
    (
        File("[server.access.certificates]\nops = 'full'"),
        "FILE, line 5: `server.access.certificates`: certificates have roles only where",
    ),
    (
        File("[server.access.certificates]\nops = 'ful'"),
        "`server.access.certificates.ops`: expected one of read, peer, full, found `ful`, did you mean `full`?",
    ),
    (
        File("[fleet]\ncontrol_plane = 'http://x'\ntls = { server_name = 'x' }"),
        "FILE, line 6: `fleet.tls`: it counts only where",
    ),
    (
        File("[fleet]\ntoken_file = '/nowhere/token'"),
        "FILE, line 5: `fleet.token_file`: /nowhere/token: it cannot be read",
    ),
    (
        Variable("CONF_SERVER__TIMEUOT", "1"),
        "environment variable CONF_SERVER__TIMEUOT: unknown key `server.timeuot`, did you mean",
    ),
    (
        Variable("CONF_SERVER__TIMEOUT", "soon"),
        "CONF_SERVER__TIMEOUT: `server.timeout`: expected a number",
    ),
    (
        Variable("CONF_SERVER__TIMEOUT", "-1"),
        "CONF_SERVER__TIMEOUT: `server.timeout`: expected more than 0",
    ),
    (
        Variable("CONF_SERVER__TIMEOUTS", "{"),
        "expected a table written as JSON",
    ),
    (
        Variable("CONF_CATALOG__HIDDEN", "/a"),
        "expected a list written as JSON",
    ),
    (
        Variable("CONF_CATALOG__HIDDEN", r#"["a"]"#),
        "CONF_CATALOG__HIDDEN: `catalog.hidden`: `a` does not begin with a slash",
    ),
    (
        Variable("CONF_CACHE__JOIN", "perhaps"),
        "expected yes or no, found `perhaps`",
    ),
    (
        Variable("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", r#"{"/x": "relative"}"#),
        "CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS: `worker.qgis.projects.search_paths./x`: search path '/x': 'relative' is not absolute",
    ),
    (
        Variable("CONF_WORKER__STORAGE__S3__MAPS__SESSION_TOKEN_FILE", "/nowhere/x"),
        "/nowhere/x: No such file",
    ),
    (Variable("CONF_WORKER", "7"), "`worker`: expected a table"),
    (
        Variable("CONF_FLEET__TOKEN", "short"),
        "environment variable CONF_FLEET__TOKEN: `fleet.token`: a token has at least 16 characters",
    ),
    (
        Variable("CONF_URL", "ftp://x"),
        "CONF_URL: expected a URL such as https://config.example.org/agent.toml",
    ),
    (
        Word("worker.memory.high_water_mark=2"),
        "--set worker.memory.high_water_mark: `worker.memory.high_water_mark`: expected more than 0 and at most 1, found 2",
    ),
    (
        Word("worker.nam=x"),
        "--set worker.nam: unknown key `worker.nam`, did you mean `worker.name`?",
    ),
    (
        Word("server.timeout"),
        "--set server.timeout: expected key=value, such as --set server.timeout=30",
    ),
    (
        Word("server.grpc_listen=0.0.0.0:23456"),
        "--set server.grpc_listen: `server.grpc_listen`: the port 0.0.0.0:23456 can be reached from other machines",
    ),
];
