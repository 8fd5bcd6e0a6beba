//! What those who come from QJazz have written is taken, and the page for them names keys that there are; secrets have names that
//! say so. Mistakes in a configuration are in `tests/tests/mistakes`.

use std::io::Write as _;

use graticule_daemon::config::{self, Loaded, Sources};

use super::*;
use crate::config::ALIASES;

const PATHS: &str = "[worker.qgis.projects]\nsearch_paths = { \"/\" = \"/srv\" }\n";

fn load(file: &str, variables: &[(&str, &str)], set: &[&str]) -> Result<Loaded<Config>, String> {
    let mut conf = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
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

/// What the reference's page on installation shows, with the misprint `[loggin]` put right.
#[test]
fn qjazz_examples_are_taken_and_do_what_they_say() {
    let file = "[logging]\nlevel = \"debug\"\n[worker]\nname = \"worker\"\n[worker.projects.search_paths]\n'/' = \"/qgis-projects/france_parts\"\n";
    let config = load(file, &[], &[]).unwrap().config;
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
    let config = load("", &variables, &[]).unwrap().config;
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
    let config = load(PATHS, &variables, &[]).unwrap().config;
    assert!(config.server.grpc_tls.asks_clients());
    let said = load(PATHS, &variables[..2], &[]).map(drop).unwrap_err();
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
