//! Mistakes in a configuration, each with what is said of it; the page for those who come from QJazz.

use std::io::Write as _;

use graticule_daemon::config::{self, Loaded, Sources};

use super::*;
use crate::config::ALIASES;

const PATHS: &str = "[worker.qgis.projects]\nsearch_paths = { \"/\" = \"/srv\" }\n";

fn load(end: &str, file: &str, variables: &[(&str, &str)], set: &[&str]) -> Result<Loaded<Config>, String> {
    let mut conf = tempfile::Builder::new().suffix(end).tempfile().unwrap();
    write!(conf, "{file}").unwrap();
    let name = conf.path().display().to_string();
    let texts = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    let sources = Sources {
        conf: Some(name.clone()),
        variables: variables.iter().map(texts).collect(),
        set: set.iter().map(|&word| word.to_owned()).collect(),
        aliases: ALIASES,
        kept: None,
    };
    let loaded: Result<Loaded<Config>, ConfigError> = config::load_layers(&sources);
    let checked = loaded.and_then(|loaded| {
        check(&loaded.config).map_err(|error| loaded.locate(error))?;
        Ok(loaded)
    });
    checked.map_err(|error| error.to_string().replace(&name, "FILE"))
}

#[test]
fn mistakes_in_a_file_are_named_where_they_stand() {
    for (file, expected) in [
        (
            "[server]\ntimeuot = 1",
            "FILE, line 5: unknown key `server.timeuot`, did you mean `server.timeout`?",
        ),
        (
            "[loggin]\nlevel = 'debug'",
            "FILE, line 4: unknown key `loggin`, did you mean `logging`?",
        ),
        (
            "[logging]\nlevel = 'loud'",
            "FILE, line 5: `logging.level`: `loud` is no level",
        ),
        (
            "[logging]\nformat = 'xml'",
            "FILE, line 5: `logging.format`: expected one of text, json, journald, found `xml`",
        ),
        ("[server]\nhttp_listen = 'here'", "FILE, line 5: `server.http_listen`: "),
        (
            "[server]\nhttp_listen = 23457",
            "`server.http_listen`: expected an IP address and a port, such as 127.0.0.1:9080, found 23457",
        ),
        (
            "[server]\ntimeout = '20s'",
            "`server.timeout`: expected a number of more than 0 and at most 86400, found a text",
        ),
        (
            "[server]\ntimeout = 0",
            "FILE, line 5: `server.timeout`: expected more than 0 and at most 86400, found 0",
        ),
        (
            "[server]\ntimeouts = { 'WMS/GetMap' = 0 }",
            "`server.timeouts.WMS/GetMap`: expected more than 0",
        ),
        (
            "[server.timeouts]\nWPS = 1",
            "FILE, line 5: `server.timeouts.WPS`: `WPS` is no service",
        ),
        (
            "[server]\nshutdown_grace_period = 100000",
            "at most 86400, found 100000",
        ),
        (
            "[server]\ndrain_delay = 61",
            "`server.drain_delay`: expected at least 0 and at most 60, found 61",
        ),
        (
            "[server]\nmax_body_size = -1",
            "`server.max_body_size`: expected at least 0",
        ),
        (
            "[server]\nmax_loop_depth = 1.5",
            "`server.max_loop_depth`: expected a whole number",
        ),
        (
            "[worker]\nnum_processes = 1025",
            "FILE, line 5: `worker.num_processes`: expected at least 0 and at most 1024, found 1025",
        ),
        (
            "[worker]\nnum_processes = 'all'",
            "`worker.num_processes`: expected a whole number",
        ),
        (
            "[worker]\nmax_failure_pressure = 0",
            "`worker.max_failure_pressure`: expected more than 0, found 0",
        ),
        (
            "[worker]\nstart_method = 'frok'",
            "expected one of fork, spawn, found `frok`, did you mean `fork`?",
        ),
        (
            "[worker]\ncancel_timeout = inf",
            "line 5: `worker.cancel_timeout`: expected a number, found inf",
        ),
        (
            "[worker.memory]\nsoft_limit = 1000",
            "FILE, line 5: `worker.memory.soft_limit`: expected at least 67108864 bytes, or 0",
        ),
        (
            "[worker.memory]\nsoft_limit = 200000000\nhard_limit = 100000000",
            "FILE, line 5: `worker.memory.soft_limit`: expected no more than hard_limit",
        ),
        (
            "[worker.memory]\nhigh_water_mark = 0",
            "expected more than 0 and at most 1, found 0",
        ),
        (
            "[worker.recycle]\nmax_age = -1",
            "`worker.recycle.max_age`: expected at least 0",
        ),
        (
            "[worker.lanes.heavy]\nguaranteed = 0.75\nmaximum = 1.0",
            "FILE, line 5: `worker.lanes`: the lanes are guaranteed 1.25",
        ),
        (
            "[worker.lanes.heavy]\nguaranteed = 0.4\nmaximum = 0.3",
            "FILE, line 5: `worker.lanes.heavy.guaranteed`: 0.4 is more than",
        ),
        (
            "[[worker.lanes.heavy_rules]]\nservice = 'WXS'",
            "`worker.lanes.heavy_rules[0].service`: `WXS` is no service",
        ),
        (
            "[[worker.lanes.heavy_rules]]\nservce = 'WMS'",
            "unknown key `worker.lanes.heavy_rules[0].servce`, did you mean `worker.lanes.heavy_rules[0].service`?",
        ),
        (
            "[worker.lanes]\nheavy_rules = 'WMS'",
            "`worker.lanes.heavy_rules`: expected a list, found a text",
        ),
        (
            "[worker.quarantine]\nkills = 33",
            "`worker.quarantine.kills`: expected at least 0 and at most 32, found 33",
        ),
        (
            "[worker.isolation]\nopen_files = 5",
            "FILE, line 5: `worker.isolation.open_files`: expected 0 (as the agent) or at least 64",
        ),
        (
            "[worker.isolation]\npass_environment = ['*']",
            "FILE, line 5: `worker.isolation.pass_environment`: `*` means every variable",
        ),
        (
            "[worker.isolation]\nuser = 'nobody-of-that-name'",
            "FILE, line 5: `worker.isolation.user`: ",
        ),
        (
            "[worker.storage]\ncheck_interval = 0",
            "`worker.storage.check_interval`: expected more than 0",
        ),
        (
            "[worker.storage.postgresql]\nmax_connections = 0",
            "expected at least 1 and at most 100, found 0",
        ),
        (
            "[worker.storage.s3.maps]\nregoin = 'x'",
            "unknown key `worker.storage.s3.maps.regoin`, did you mean `worker.storage.s3.maps.region`?",
        ),
        (
            "[worker.storage.s3.maps]\nsecret_access_key = 4711",
            "`worker.storage.s3.maps.secret_access_key`: expected a text, found a number",
        ),
        (
            "[worker.qgis]\nmax_projects = 0",
            "`worker.qgis.max_projects`: expected at least 1, found 0",
        ),
        (
            "[worker.qgis]\nforward_headers = ['Host']",
            "FILE, line 5: `worker.qgis.forward_headers`: `Host` never reaches QGIS",
        ),
        (
            "[worker.qgis.plugins]\npaths = 7",
            "`worker.qgis.plugins.paths`: expected a list of directories, or a text",
        ),
        (
            "[worker.qgis.plugins]\npaths = '/nowhere/at/all'",
            "FILE, line 5: `worker.qgis.plugins.paths`: `/nowhere/at/all`: there is no such directory",
        ),
        (
            "[worker.qgis.plugins]\nrequired = ['a']",
            "FILE, line 5: `worker.qgis.plugins.required`: `a` cannot be loaded",
        ),
        (
            "[cache]\nmax_age = -1",
            "`cache.max_age`: expected at least 0 and at most 86400, found -1",
        ),
        (
            "[cache]\nvary_headers = ['x-user']",
            "FILE, line 5: `cache.vary_headers`: `x-user` does not reach plugins",
        ),
        (
            "[catalog]\nhidden = ['private']",
            "FILE, line 5: `catalog.hidden`: `private` does not begin with a slash",
        ),
        (
            "[catalog]\nenabled = 'yes'",
            "`catalog.enabled`: expected true or false, found a text",
        ),
        ("[fleet]\npool = true", "`fleet.pool`: expected a text, found true"),
        (
            "[worker]\nprocess_timeout = 3\n[server]\ntimeout = 4",
            "`worker.process_timeout` means the same as `server.timeout`",
        ),
        ("[server\n", "line 4"),
        ("[server]\ntimeout = 1\ntimeout = 2", "line 6"),
    ] {
        let said = load(".toml", &format!("{PATHS}\n{file}"), &[], &[])
            .map(|_| ())
            .unwrap_err();
        assert!(said.contains(expected), "{file}: {said}");
        assert!(!said.contains("4711"), "{said}");
    }
    let none = load(".toml", "", &[], &[]).map(|_| ()).unwrap_err();
    assert!(
        none.contains("`worker.qgis.projects.search_paths`: none is set"),
        "{none}"
    );
    for (end, file) in [(".json", "{\n\"server\": }"), (".yaml", "server:\n  timeout: [1\n")] {
        let said = load(end, file, &[], &[]).map(|_| ()).unwrap_err();
        assert!(said.contains("FILE") && said.contains("line"), "{said}");
    }
}

#[test]
fn mistakes_in_variables_and_words_are_named() {
    for (name, text, expected) in [
        (
            "CONF_SERVER__TIMEUOT",
            "1",
            "environment variable CONF_SERVER__TIMEUOT: unknown key `server.timeuot`, did you mean",
        ),
        (
            "CONF_SERVER__TIMEOUT",
            "soon",
            "CONF_SERVER__TIMEOUT: `server.timeout`: expected a number",
        ),
        (
            "CONF_SERVER__TIMEOUT",
            "-1",
            "CONF_SERVER__TIMEOUT: `server.timeout`: expected more than 0",
        ),
        ("CONF_SERVER__TIMEOUTS", "{", "expected a table written as JSON"),
        ("CONF_CATALOG__HIDDEN", "/a", "expected a list written as JSON"),
        (
            "CONF_CATALOG__HIDDEN",
            r#"["a"]"#,
            "CONF_CATALOG__HIDDEN: `catalog.hidden`: `a` does not begin with a slash",
        ),
        ("CONF_CACHE__JOIN", "perhaps", "expected yes or no, found `perhaps`"),
        (
            "CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS",
            r#"{"/x": "relative"}"#,
            "`worker.qgis.projects.search_paths`: ",
        ),
        (
            "CONF_WORKER__STORAGE__S3__MAPS__SESSION_TOKEN_FILE",
            "/nowhere/x",
            "/nowhere/x: No such file",
        ),
        ("CONF_WORKER", "7", "`worker`: expected a table"),
    ] {
        let said = load(".toml", PATHS, &[(name, text)], &[]).map(|_| ()).unwrap_err();
        assert!(said.contains(expected), "{name}: {said}");
    }
    let said = load(".toml", PATHS, &[], &["worker.memory.high_water_mark=2"])
        .map(|_| ())
        .unwrap_err();
    assert!(said.starts_with("--set worker.memory.high_water_mark: "), "{said}");
}

/// What the reference's page on installation shows, with the misprint `[loggin]` put right.
#[test]
fn qjazz_examples_are_taken_and_do_what_they_say() {
    let file = "[logging]\nlevel = \"debug\"\n[worker]\nname = \"worker\"\n[worker.projects.search_paths]\n'/' = \"/qgis-projects/france_parts\"\n";
    let config = load(".toml", file, &[], &[]).unwrap().config;
    assert_eq!(
        (config.logging.level.as_str(), config.worker.name.as_str()),
        ("debug", "worker")
    );
    assert_eq!(
        config.worker.qgis.projects.search_paths["/"],
        "/qgis-projects/france_parts"
    );
    let variables = [
        ("CONF_LOGGING__LEVEL", "trace"),
        ("CONF_WORKER__NAME", "gis-worker"),
        (
            "CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS",
            r#"{ "/": "/qgis-projects" }"#,
        ),
        ("CONF_WORKER__QGIS__PLUGINS__PATHS", "\"/\""),
        ("CONF_RPC__LISTEN__ADDRESS", "0.0.0.0:23456"),
        // A port without TLS that others can reach has to be wanted.
        ("CONF_SERVER__ACCESS__INSECURE", "yes"),
    ];
    let config = load(".toml", "", &variables, &[]).unwrap().config;
    assert_eq!(config.worker.qgis.projects.search_paths["/"], "/qgis-projects");
    assert_eq!(config.worker.qgis.plugins.paths.0, [std::path::PathBuf::from("/")]);
    assert_eq!(config.server.grpc_listen.to_string(), "0.0.0.0:23456");

    let dir = tempfile::tempdir().unwrap();
    let authority = stack::certificates::Authority::new("ca");
    let (cert, key) = authority.issue(&["rpc"]).write(dir.path(), "rpc");
    let ca = authority.write(dir.path(), "ca.crt");
    let text = |path: &std::path::Path| path.display().to_string();
    let (cert, key, ca) = (text(&cert), text(&key), text(&ca));
    let variables = [
        ("CONF_GRPC_USE_TLS", "yes"),
        ("CONF_GRPC_TLS_KEYFILE", key.as_str()),
        ("CONF_GRPC_TLS_CERTFILE", cert.as_str()),
        ("CONF_GRPC_TLS_CAFILE", ca.as_str()),
        ("CONF_RPC__LISTEN__ADDRESS", "0.0.0.0:23456"),
    ];
    let config = load(".toml", PATHS, &variables, &[]).unwrap().config;
    assert!(config.server.grpc_tls.asks_clients());
    let said = load(".toml", PATHS, &variables[..2], &[]).map(drop).unwrap_err();
    assert!(said.contains("`server.grpc_tls.cert_file`: it is not set"), "{said}");
}

#[test]
fn the_page_for_those_who_come_from_qjazz_names_keys_that_there_are() {
    let page = include_str!("../../docs/from-qjazz.md");
    let schema = config::schema::<Config>();
    let known = config::keys(&schema);
    let is_known = |key: &str| known.iter().any(|known| known == key);
    let mut walked = 0;
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (theirs, ours) = (cells[1].trim_matches('`'), cells[2].trim_matches('`'));
        let in_front = theirs.starts_with("backends.") || ours.starts_with("front.") || ours == "pools";
        let is_verb = theirs.contains(' ') || ["healthcheck", "ping", "stats"].contains(&theirs);
        if in_front || is_verb || ours == "none" {
            continue;
        }
        walked += 1;
        assert!(is_known(ours), "{line}: there is no `{ours}`");
        // What has another name here and is taken all the same is in the table of names, and the other way round.
        let alias = ALIASES.iter().find(|alias| alias.name == theirs);
        assert!(alias.is_none_or(|alias| alias.key == ours), "{line}");
    }
    assert!(walked > 30, "{walked}");
    for alias in ALIASES {
        assert!(is_known(alias.key), "{}", alias.key);
        assert!(
            page.contains(&format!("`{}`", alias.name)),
            "{} is not on the page",
            alias.name
        );
    }
}

#[test]
fn whatever_is_a_secret_has_a_name_that_says_so() {
    fn walk(schema: &serde_json::Value, name: &str, found: &mut Vec<String>) {
        if schema["writeOnly"] == true {
            found.push(name.to_owned());
            assert!(
                config::is_secret_key(name),
                "`{name}` holds a secret and would be shown"
            );
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            walk(schema, name, found);
        }
        for below in ["additionalProperties", "items"] {
            if schema[below].is_object() {
                walk(&schema[below], name, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&config::schema::<Config>(), "", &mut found);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "full_token",
            "peer_token",
            "read_token",
            "secret_access_key",
            "session_token",
            "token"
        ]
    );
}
