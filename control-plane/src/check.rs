//! How the configuration is read for every command, and `check-config`.

use std::process::ExitCode;

use control_plane::adapters::envoy::fragments;
use control_plane::adapters::fragment_files;
use control_plane::config::ALIASES;
use control_plane::{Config, check_files};
use graticule_cli::exit::USAGE;
use graticule_daemon::config::{self, Loaded, Sources};
use graticule_daemon::telemetry;
use serde_json::json;

use crate::fail;

/// Where the configuration is read from.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// A TOML, JSON or YAML file, or a URL of one; CONF_ variables go over it
    #[arg(short = 'C', long, value_name = "FILE|URL")]
    conf: Option<String>,
    /// Set one key, over file and variables; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// One file, with the variables over it.
    #[must_use]
    pub fn of(conf: String) -> Self {
        Self {
            conf: Some(conf),
            set: Vec::new(),
        }
    }

    /// The layers in which it is read.
    #[must_use]
    pub fn sources(&self) -> Sources {
        Sources::of_process(self.conf.clone(), self.set.clone(), ALIASES)
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// The first thing that is wrong, with where it stands.
    pub fn load(&self) -> anyhow::Result<Loaded<Config>> {
        read(&self.sources())
    }
}

fn read(sources: &Sources) -> anyhow::Result<Loaded<Config>> {
    let mut loaded: Loaded<Config> = config::load_layers(sources)?;
    telemetry::filter(&loaded.config.logging.level).map_err(|problem| anyhow::anyhow!("`logging.level`: {problem}"))?;
    loaded.tree = fragment_files::filled(&loaded.tree).map_err(|problem| located(&loaded, &problem))?;
    loaded.config = config::from_tree(&loaded.tree, "the files of fragments")?;
    let checked = loaded.config.check().map_err(|error| error.to_string());
    let checked = checked.and_then(|()| fragments::check(&loaded.config).map_err(|error| error.to_string()));
    checked.map_err(|problem| located(&loaded, &problem))?;
    Ok(loaded)
}

/// The error with the file or variable of the key that it names, when somebody has set that.
fn located(loaded: &Loaded<Config>, problem: &str) -> anyhow::Error {
    let key = problem.split('`').nth(1).unwrap_or_default();
    let error = anyhow::anyhow!("{problem}");
    match loaded.origin_of(key) {
        Some(origin) => error.context(origin),
        None => error,
    }
}

/// Shows the configuration with where each value comes from.
pub fn show(loaded: &Loaded<Config>, json: bool) -> ExitCode {
    let warnings = match check_files(&loaded.config) {
        Ok(of_files) => [loaded.warnings.clone(), of_files].concat(),
        Err(error) => return fail(&located(loaded, &error.to_string()), USAGE),
    };
    if json {
        let tree = config::redacted(&loaded.tree);
        let means = loaded.config.says_of_tls();
        let shown = json!({ "config": tree, "origins": loaded.origins, "means": means, "warnings": warnings });
        println!("{shown:#}");
        return ExitCode::SUCCESS;
    }
    print!("{}", config::listing(&loaded.tree, &loaded.origins, None));
    println!("\nthe configuration is sound");
    loaded.config.says_of_tls().iter().for_each(|line| println!("{line}"));
    for warning in &warnings {
        eprintln!("control-plane: {warning}");
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use control_plane::config::Pool;

    use super::*;

    fn said(file: &str, variables: &[(&str, &str)], set: &[&str]) -> String {
        let mut conf = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        write!(conf, "{file}").unwrap();
        let texts = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        let sources = Sources {
            conf: Some(conf.path().display().to_string()),
            variables: variables.iter().map(texts).collect(),
            set: set.iter().map(|&word| word.to_owned()).collect(),
            aliases: ALIASES,
            kept: None,
        };
        match read(&sources) {
            Ok(_) => "sound".into(),
            Err(error) => format!("{error:#}").replace(&conf.path().display().to_string(), "FILE"),
        }
    }

    #[test]
    fn mistakes_are_named_where_they_stand() {
        for (file, expected) in [
            (
                "[xds]\nlisten = 18000",
                "FILE, line 2: `xds.listen`: expected an IP address and a port, such as 127.0.0.1:9080, found 18000",
            ),
            ("[xds]\nlisten = 'here'", "FILE, line 2: `xds.listen`: "),
            (
                "[xds]\nlisen = ''",
                "FILE, line 2: unknown key `xds.lisen`, did you mean `xds.listen`?",
            ),
            ("[xsd]", "FILE, line 1: unknown key `xsd`, did you mean `xds`?"),
            ("[xds\n", "line 1"),
            (
                "[fleet]\ndisconnect_grace = 61",
                "FILE, line 2: `fleet.disconnect_grace`: expected at least 0 and at most 60, found 61",
            ),
            (
                "[fleet]\nsilence_limit = 5.9",
                "`fleet.silence_limit`: expected at least 6 and at most 600, found 5.9",
            ),
            (
                "[fleet]\nsync_window = nan",
                "line 2: `fleet.sync_window`: expected a number, found NaN",
            ),
            (
                "[front]\nrequest_timeout = 0",
                "`front.request_timeout`: expected at least 0.1",
            ),
            (
                "[front]\nconnect_timeout = '1s'",
                "expected a number of at least 0.01 and at most 60, found a text",
            ),
            (
                "[front]\ntrusted_hops = -1",
                "`front.trusted_hops`: expected at least 0",
            ),
            ("[front]\ntrusted_hops = 1.5", "expected a whole number"),
            (
                "[front]\naffinity = 'yes'",
                "`front.affinity`: expected true or false, found a text",
            ),
            (
                "[front]\naccess_log = true",
                "`front.access_log`: expected a text, found true",
            ),
            ("[pools]\na = []", "`pools.a`: expected a table, found a list"),
            (
                "[pools.a]\nhosts = 'x'",
                "FILE, line 2: `pools.a.hosts`: expected a list, found a text",
            ),
            (
                "[pools.a]\nhost = ['x']",
                "unknown key `pools.a.host`, did you mean `pools.a.hosts`?",
            ),
            (
                "[pools.a]\nhosts = ['x', 1]",
                "`pools.a.hosts[1]`: expected a text, found 1",
            ),
            ("[pools.a]\nhosts = []", "FILE, line 2: `pools.a.hosts` is empty"),
            (
                "[pools.a]\nhosts = ['x']\n[pools.b]\nhosts = ['X']",
                "pools `a` and `b` both claim",
            ),
            ("[pools.'a/b']", "the pool name `a/b` cannot be used"),
            (
                "[logging]\nformat = 'jsn'",
                "`logging.format`: expected one of text, json, journald, found `jsn`, did you mean `json`?",
            ),
            (
                "[front]\nlisten = '127.0.0.1:1'\n[server]\naddress = '127.0.0.1:2'",
                "`server.address` means the same as `front.listen`",
            ),
        ] {
            let said = said(file, &[], &[]);
            assert!(said.contains(expected), "{file}: {said}");
        }
        let variables = [
            (
                "CONF_XDS__LISEN",
                "x",
                "environment variable CONF_XDS__LISEN: unknown key",
            ),
            (
                "CONF_FRONT__AFFINITY",
                "perhaps",
                "CONF_FRONT__AFFINITY: `front.affinity`: expected yes or no",
            ),
            (
                "CONF_POOLS",
                "{",
                "CONF_POOLS: `pools`: expected a table written as JSON",
            ),
            ("CONF_URL", "ftp://x", "CONF_URL: expected a URL"),
        ];
        for (name, text, expected) in variables {
            let said = said("", &[(name, text)], &[]);
            assert!(said.contains(expected), "{name}: {said}");
        }
        assert!(said("", &[], &["front.affinty=no"]).contains("--set front.affinty: unknown key"));
        assert!(said("", &[], &["front.affinity"]).contains("expected key=value"));
    }

    #[test]
    fn the_page_for_those_who_come_from_qjazz_names_keys_that_there_are() {
        let page = include_str!("../../docs/from-qjazz.md");
        let known = config::keys(&config::schema::<Config>());
        let of_pools = config::keys(&config::schema::<Pool>());
        let of_map = page.split("\n## ").find(|part| part.starts_with("qjazz-map")).unwrap();
        let rows = of_map.lines().filter(|line| line.starts_with("| `"));
        let rows: Vec<Vec<&str>> = rows.map(|line| line.split(" | ").map(str::trim).collect()).collect();
        assert!(rows.len() > 15, "{rows:?}");
        for row in &rows {
            let (theirs, ours) = (row[0].trim_matches(['|', ' ', '`']), row[1].trim_matches('`'));
            let is_table = known.iter().any(|key| key.starts_with(&format!("{ours}.")));
            let of_pool = ours.strip_prefix("pools.KEY.");
            let is_of_pool = of_pool.is_some_and(|key| of_pools.iter().any(|other| other == key));
            assert!(
                ours == "none" || is_table || is_of_pool || known.iter().any(|key| key == ours),
                "there is no `{ours}`"
            );
            let alias = ALIASES.iter().find(|alias| alias.name == theirs);
            assert!(alias.is_none_or(|alias| alias.key == ours), "{row:?}");
        }
        for alias in ALIASES {
            assert!(
                of_map.contains(&format!("| `{}` | `{}` | also", alias.name, alias.key)),
                "{alias:?}"
            );
        }
    }

    #[test]
    fn what_is_said_on_the_page_for_qjazz_is_taken() {
        let file = "[server]\naddress = '127.0.0.1:9081'\nbackends_request_timeout = 30\n[logging]\nlevel = 'INFO'\n";
        assert_eq!(said(file, &[], &[]), "sound");
        let tls = "[server]\nenable_tls = true\ntls_cert_file = '/certs/web.crt'\ntls_key_file = '/certs/web.key'\n";
        assert_eq!(said(tls, &[], &[]), "sound");
        let variables = [
            ("CONF_SERVER__ENABLE_TLS", "yes"),
            ("CONF_SERVER__TLS_KEY_FILE", "/certs/web.key"),
        ];
        assert!(said("", &variables, &[]).contains("`front.tls.cert_file`: it is not set"));
        assert_eq!(
            said(
                "",
                &[("CONF_SERVER__ADDRESS", "127.0.0.1:9082")],
                &["xds.node_cluster="]
            ),
            "sound"
        );
    }
}
