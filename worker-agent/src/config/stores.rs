//! The storages of `[worker.storage]` one by one: buckets, handlers of one's own, and where local copies are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use graticule_daemon::config::ConfigError;
pub use graticule_daemon::config::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wrong;

/// `[worker.storage.files]`: local copies of projects and of the files that they name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// Where they are kept; empty: `files` in `worker.state_dir`. Workers must be able to read it.
    pub dir: PathBuf,
    /// All together, in bytes. Versions that are no longer served go first, those not used for longest before others.
    pub max_bytes: u64,
    /// A larger file is not fetched, in bytes; its project cannot be had.
    pub max_file_bytes: u64,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            max_bytes: 10 << 30,
            max_file_bytes: 4 << 30,
        }
    }
}

/// A bucket. What is not set comes from the usual `AWS_…` variables, or from the machine that runs this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bucket {
    /// The server, such as `https://s3.example.org`; empty: Amazon's.
    pub endpoint: String,
    /// The region; empty: `AWS_REGION`, else `us-east-1`.
    pub region: String,
    /// The id of the key to sign requests with.
    pub access_key_id: String,
    /// The key's secret.
    pub secret_access_key: Secret,
    /// A file with the key's secret, read at the start; in place of `secret_access_key`.
    pub secret_access_key_file: PathBuf,
    /// The token of temporary credentials.
    pub session_token: Secret,
    /// Whether the bucket stands in the path and not in the host; left out: when there is an endpoint.
    pub path_style: Option<bool>,
    /// Whether the endpoint may be `http://…`.
    pub allow_http: bool,
    /// Whether requests go without a signature, as for a public bucket.
    pub anonymous: bool,
}

/// A storage that a Python class speaks to: search paths such as `"/depot" = "depot:anything"` lead there.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Handler {
    /// The class with its module, such as `package.module.Class`.
    pub handler: String,
    /// What the class is made with. They are shown nowhere, for they may hold secrets.
    pub options: BTreeMap<String, serde_json::Value>,
    /// Directories in which its module is looked for first.
    pub python_path: Vec<PathBuf>,
}

/// Options may hold secrets.
impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("handler", &self.handler)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// The secret, from where it stands; nothing when none is configured.
    ///
    /// # Errors
    /// When its file cannot be read, or values contradict each other; no text holds a secret.
    pub fn secret(&self, name: &str) -> Result<Option<Secret>, ConfigError> {
        let key = |field: &str| format!("worker.storage.s3.{name}.{field}");
        let file: &Path = &self.secret_access_key_file;
        let secret = match (self.secret_access_key.is_empty(), file.as_os_str().is_empty()) {
            (true, true) => None,
            (false, true) => Some(self.secret_access_key.clone()),
            (true, false) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| wrong(&key("secret_access_key_file"), format!("{}: {error}", file.display())))?;
                Some(Secret::from(text.trim().to_owned()))
            }
            (false, false) => {
                let problem = "stands beside `secret_access_key`: write one of them";
                return Err(wrong(&key("secret_access_key_file"), problem));
            }
        };
        if secret.is_some() == self.access_key_id.is_empty() {
            let problem =
                "expected both a key and its secret (secret_access_key or secret_access_key_file), or neither";
            return Err(wrong(&key("access_key_id"), problem));
        }
        if self.endpoint.starts_with("http://") && !self.allow_http {
            let problem = "is not encrypted: write https://, or set `allow_http` where that does not matter";
            return Err(wrong(&key("endpoint"), problem));
        }
        let known =
            self.endpoint.is_empty() || self.endpoint.starts_with("https://") || self.endpoint.starts_with("http://");
        if !known || self.endpoint.contains('@') {
            return Err(wrong(
                &key("endpoint"),
                "expected such as https://s3.example.org, without a user",
            ));
        }
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::config::Config;

    fn load(text: &str) -> Result<Config, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        graticule_daemon::config::load(Some(file.path()), []).map_err(|error| error.to_string())
    }

    fn bucket(lines: &str) -> Bucket {
        let mut config = load(&format!("[worker.storage.s3.maps]\n{lines}")).unwrap();
        config.worker.storage.s3.remove("maps").unwrap()
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let bucket = bucket("access_key_id = \"who\"\nsecret_access_key = \"s3cret\"\nsession_token = 't0ken'");
        assert_eq!(bucket.secret("maps").unwrap().unwrap().reveal(), "s3cret");
        let told = format!("{bucket:?} {}", serde_json::to_string(&bucket).unwrap());
        assert!(!told.contains("s3cret") && !told.contains("t0ken"), "{told}");
        for wrong in ["4711", "4711.5", "true", "-4711", "[4711]"] {
            let said = load(&format!("[worker.storage.s3.maps]\nsecret_access_key = {wrong}")).unwrap_err();
            assert!(said.contains("secret_access_key") && said.contains("a text"), "{said}");
            assert!(!said.contains("4711"), "{said}");
        }
    }

    #[test]
    fn a_secret_may_stand_in_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "s3cret").unwrap();
        let lines = format!("access_key_id = \"who\"\nsecret_access_key_file = {:?}", file.path());
        assert_eq!(bucket(&lines).secret("maps").unwrap().unwrap().reveal(), "s3cret");
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        for (lines, expected) in [
            (
                "access_key_id = 'x'",
                "worker.storage.s3.maps.access_key_id`: expected both",
            ),
            ("secret_access_key = 's3cret'", "expected both a key and its secret"),
            (
                "access_key_id = 'x'\nsecret_access_key = 's3cret'\nsecret_access_key_file = '/x'",
                "stands beside `secret_access_key`",
            ),
            ("secret_access_key_file = '/nowhere/x'", "/nowhere/x: No such file"),
            ("endpoint = 'http://localhost:9000'", "set `allow_http`"),
            ("endpoint = 'localhost:9000'", "expected such as https://"),
            ("endpoint = 'https://me:s3cret@host'", "without a user"),
        ] {
            let said = bucket(lines).secret("maps").unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
        assert!(bucket("region = 'x'").secret("maps").unwrap().is_none());
        let said = load("[worker.storage.s3.maps]\nregoin = 'x'").unwrap_err();
        assert!(said.contains("regoin") && said.contains("region"), "{said}");
    }

    #[test]
    fn a_handler_takes_options_of_any_kind() {
        let text = "[worker.storage.custom.git]\nhandler = 'a.B'\noptions = { url = 'x', depth = 3, tags = ['a'] }";
        let config = load(text).unwrap();
        let options = &config.worker.storage.custom["git"].options;
        assert_eq!(
            serde_json::to_value(options).unwrap(),
            serde_json::json!({"url": "x", "depth": 3, "tags": ["a"]})
        );
    }
}
