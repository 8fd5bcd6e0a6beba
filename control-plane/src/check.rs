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
    telemetry::filter(&loaded.config.logging.level)
        .map_err(|problem| located(&loaded, &format!("`logging.level`: {problem}")))?;
    loaded.tree = fragment_files::filled(&loaded.tree).map_err(|problem| located(&loaded, &problem))?;
    loaded.config = config::from_tree(&loaded.tree, "the files of fragments")?;
    let checked = loaded.config.check().map_err(|error| error.to_string());
    let checked = checked.and_then(|()| fragments::check(&loaded.config).map_err(|error| error.to_string()));
    checked.map_err(|problem| located(&loaded, &problem))?;
    Ok(loaded)
}

/// The error with the file or variable of the key that it names, when somebody has set that.
pub fn located(loaded: &Loaded<Config>, problem: &str) -> anyhow::Error {
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
