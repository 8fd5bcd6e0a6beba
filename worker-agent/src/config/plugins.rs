//! QGIS's server plugins, and which of clients' headers reach them.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use graticule_daemon::config::ConfigError;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use super::texts::{text_or_list, texts};
use super::{Config, seconds, wrong};
use crate::core::message::PluginSettings;
use crate::core::ogc::Forwarded;

/// What trying one plugin may take at most.
const LONGEST_TRY: Duration = Duration::from_secs(10);

/// `[worker.qgis.plugins]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    /// Directories that hold plugins' folders; empty: none.
    pub paths: Paths,
    /// Which of the plugins found there may be loaded; as a text, with commas between names.
    pub allowed: Allowed,
    /// Plugins without which nothing may be served, such as those that control access.
    pub required: Vec<String>,
}

/// Folders: a list, or a text with `:` between them, as `PATH` has it.
///
/// The default counts as a text, so that a variable may have either form; a list is then written as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths(pub Vec<PathBuf>);

/// Names of plugins: `all`, or a list. As a text, names have commas between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Allowed {
    /// All that are found.
    #[default]
    All,
    /// Those, and no others.
    These(Vec<String>),
}

impl Plugins {
    /// What zygotes and workers are told of plugins.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn settings(&self, start_timeout: Duration) -> Result<PluginSettings, ConfigError> {
        for path in &self.paths.0 {
            let problem = if path.is_relative() {
                "write the whole path, from the root"
            } else if !path.is_dir() {
                "there is no such directory; is it mounted?"
            } else {
                continue;
            };
            let text = format!("`{}`: {problem}", path.display());
            return Err(wrong("worker.qgis.plugins.paths", text));
        }
        let allowed = match &self.allowed {
            Allowed::All => None,
            Allowed::These(names) => Some(names.clone()),
        };
        if let Some(names) = &allowed {
            check_names("worker.qgis.plugins.allowed", names)?;
        }
        check_names("worker.qgis.plugins.required", &self.required)?;
        let is_allowed = |name: &&String| allowed.as_ref().is_none_or(|names| names.contains(*name));
        if let Some(name) = self.required.iter().find(|name| !is_allowed(name)) {
            let text = format!("`{name}` is not in worker.qgis.plugins.allowed: name it there as well");
            return Err(wrong("worker.qgis.plugins.required", text));
        }
        if let (Some(name), true) = (self.required.first(), self.paths.0.is_empty()) {
            let text = format!("`{name}` cannot be loaded: worker.qgis.plugins.paths names no folder");
            return Err(wrong("worker.qgis.plugins.required", text));
        }
        // Two such times must leave room for the rest of a start.
        let patience = LONGEST_TRY.min(start_timeout / 4);
        Ok(PluginSettings {
            paths: self.paths.0.clone(),
            allowed,
            required: self.required.clone(),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

fn check_names(key: &str, names: &[String]) -> Result<(), ConfigError> {
    match names.iter().find(|name| name.is_empty() || name.contains(['/', '*'])) {
        Some(name) => Err(wrong(
            key,
            format!("`{name}` is no plugin's name; write the name of its folder, such as \"lizmap_server\""),
        )),
        None => Ok(()),
    }
}

impl Config {
    /// What zygotes and workers are told of plugins.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn plugins(&self) -> Result<PluginSettings, ConfigError> {
        let start_timeout = seconds("worker.process_start_timeout", self.worker.process_start_timeout)?;
        self.worker.qgis.plugins.settings(start_timeout)
    }

    /// Which headers reach QGIS and its plugins.
    ///
    /// # Errors
    /// The first name that cannot be meant.
    pub fn forwarded(&self) -> Result<Forwarded, ConfigError> {
        let patterns = self.worker.qgis.forward_headers.iter().map(String::as_str);
        Forwarded::new(patterns).map_err(|problem| wrong("worker.qgis.forward_headers", problem))
    }
}

const PATHS: &str = "a list of directories, or a text such as `/plugins:/more/plugins`";

impl JsonSchema for Paths {
    fn schema_name() -> Cow<'static, str> {
        "Paths".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text_or_list(PATHS)
    }
}

impl JsonSchema for Allowed {
    fn schema_name() -> Cow<'static, str> {
        "Allowed".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text_or_list(ALLOWED)
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let texts = texts(from, PATHS, ':')?;
        Ok(Self(texts.into_iter().map(PathBuf::from).collect()))
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            to.serialize_str("")
        } else {
            self.0.serialize(to)
        }
    }
}

const ALLOWED: &str = "`all`, or a list of plugins' names such as [\"lizmap_server\"], or [] for none";

impl<'de> Deserialize<'de> for Allowed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "`all`, or a list of plugins' names such as [\"lizmap_server\"], or [] for none"
        )]
        enum Form {
            Text(String),
            List(Vec<String>),
        }
        let text = match Form::deserialize(from)? {
            Form::List(names) => return Ok(Self::These(names)),
            Form::Text(text) => text,
        };
        let word = text.trim().trim_matches('"');
        if word.eq_ignore_ascii_case("all") || word == "null" {
            return Ok(Self::All);
        }
        if word.is_empty() {
            let empty = de::Unexpected::Str(&text);
            return Err(de::Error::invalid_value(empty, &ALLOWED));
        }
        let names = texts(de::value::StrDeserializer::new(&text), ALLOWED, ',')?;
        Ok(Self::These(names))
    }
}

impl Serialize for Allowed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => to.serialize_str("all"),
            Self::These(names) => names.serialize(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn with_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let pairs = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        graticule_daemon::config::load(None, pairs)
    }

    fn with_file(text: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{text}").unwrap();
        graticule_daemon::config::load(Some(file.path()), [])
    }

    fn paths(config: Result<Config, ConfigError>) -> Vec<String> {
        let paths = config.unwrap().worker.qgis.plugins.paths.0;
        paths.into_iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn paths_are_a_list_or_a_text() {
        let env = |text| paths(with_env(&[("CONF_WORKER__QGIS__PLUGINS__PATHS", text)]));
        for (text, expected) in [
            ("/plugins", vec!["/plugins"]),
            ("/a:/b c", vec!["/a", "/b c"]),
            (r#""/plugins""#, vec!["/plugins"]),
            (r#"["/a", "/b:c"]"#, vec!["/a", "/b:c"]),
            ("", vec![]),
            ("[]", vec![]),
        ] {
            assert_eq!(env(text), expected, "{text}");
        }
        assert_eq!(
            paths(with_file("[worker.qgis.plugins]\npaths = [\"/a\", \"/b\"]")),
            ["/a", "/b"]
        );
        assert_eq!(
            paths(with_file("[worker.qgis.plugins]\npaths = \"/a:/b\"")),
            ["/a", "/b"]
        );
        let table = [("CONF_WORKER__QGIS__PLUGINS", r#"{"paths": ["/a"]}"#)];
        assert_eq!(paths(with_env(&table)), ["/a"]);
        for wrong in ["[1]", "[\"/a\"", "\"/a"] {
            let said = with_env(&[("CONF_WORKER__QGIS__PLUGINS__PATHS", wrong)]).unwrap_err();
            assert!(said.to_string().contains("a list of directories"), "{said}");
        }
    }

    #[test]
    fn allowed_are_all_or_those_that_are_named() {
        let env = |text| {
            let config = with_env(&[("CONF_WORKER__QGIS__PLUGINS__ALLOWED", text)]);
            config.map(|config| config.worker.qgis.plugins.allowed)
        };
        let these = |names: &[&str]| Ok(Allowed::These(names.iter().map(|&name| name.to_owned()).collect()));
        assert_eq!(Config::default().worker.qgis.plugins.allowed, Allowed::All);
        for text in ["all", "ALL", "\"all\"", "null"] {
            assert_eq!(env(text), Ok(Allowed::All), "{text}");
        }
        assert_eq!(env("[]"), these(&[]));
        assert_eq!(env(r#"["a", "b"]"#), these(&["a", "b"]));
        assert_eq!(env("a, b"), these(&["a", "b"]));
        assert_eq!(env(r#""a""#), these(&["a"]));
        for wrong in ["", "[1]"] {
            let said = env(wrong).unwrap_err().to_string();
            assert!(
                said.contains("or [] for none") && said.contains("worker.qgis.plugins.allowed"),
                "{said}"
            );
        }
        let file = with_file("[worker.qgis.plugins]\nallowed = [\"a\"]").unwrap();
        assert_eq!(Ok(file.worker.qgis.plugins.allowed), these(&["a"]));
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        let there = tempfile::tempdir().unwrap();
        let said = |plugins: Plugins| match plugins.settings(Duration::from_secs(30)) {
            Ok(settings) => format!("{} ms", settings.patience_ms),
            Err(error) => error.to_string(),
        };
        let paths = |path: &str| Paths(vec![path.into()]);
        let sound = Plugins {
            paths: Paths(vec![there.path().to_owned()]),
            ..Plugins::default()
        };
        assert_eq!(said(sound.clone()), "7500 ms");
        let wrong_paths = |path| Plugins {
            paths: paths(path),
            ..Plugins::default()
        };
        let missing = said(wrong_paths("/nowhere/at/all"));
        assert!(
            missing.contains("`worker.qgis.plugins.paths`: `/nowhere/at/all`: there is no such"),
            "{missing}"
        );
        assert!(said(wrong_paths("plugins")).contains("whole path"));
        let named = said(Plugins {
            allowed: Allowed::These(vec!["/plugins/a".into()]),
            ..sound.clone()
        });
        assert!(named.contains("`/plugins/a` is no plugin's name"), "{named}");
        let required = |allowed| Plugins {
            required: vec!["a".into()],
            allowed,
            ..sound.clone()
        };
        assert_eq!(said(required(Allowed::All)), "7500 ms");
        assert!(said(required(Allowed::These(Vec::new()))).contains("name it there as well"));
        let nowhere = Plugins {
            paths: Paths::default(),
            ..required(Allowed::All)
        };
        assert!(said(nowhere).contains("names no folder"));
    }

    #[test]
    fn headers_that_cannot_be_meant_are_named() {
        let mut config = Config::default();
        assert_eq!(config.forwarded().unwrap(), Forwarded::default());
        config.worker.qgis.forward_headers = vec!["Host".into()];
        let said = config.forwarded().unwrap_err().to_string();
        assert!(
            said.contains("`worker.qgis.forward_headers`: `Host` never reaches QGIS"),
            "{said}"
        );
    }
}
