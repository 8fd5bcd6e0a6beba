//! The pins of the fleet on disk: one small JSON file, replaced as a whole so that a crash leaves the old or the new.
//!
//! A file that cannot be understood is never taken for an empty one: the control plane does not start then. It knows
//! nothing of agents.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::core::pins::{Desired, Key, Pin};

/// The format that is written.
const FORMAT: u64 = 1;

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read or written.
    #[error("the store {}: {source}; see that store.dir can be written", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold what was written there.
    #[error("the store {} is damaged: {problem}; repair it, or move it away and pin again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A later version of this program wrote it.
    #[error("the store {} has the format {found}, this version knows {FORMAT}: use the version that wrote it, or a later one", path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// Another control plane uses it.
    #[error("the store {} is in use by another control plane: stop that one, or set store.dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No directory is configured and the user has none.
    #[error("store.dir is not set and there is no HOME: set it")]
    NoHome,
}

/// The format alone, which every version of this program can read.
#[derive(Deserialize)]
struct Head {
    format: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u64,
    revision: u64,
    pins: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    project: String,
    pool: String,
    since: u64,
    revision: u64,
}

/// The directory is this control plane's alone for as long as this lives; a process that dies gives it back.
#[derive(Debug)]
pub struct Claim {
    _file: Flock<File>,
}

/// Where pins are kept.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Claims the directory, which is made when it is not there, reads what it holds, and writes that once more: a
    /// directory that cannot be written is noticed now and not with the first pin.
    ///
    /// # Errors
    /// When it is in use, damaged, or cannot be read or written.
    pub fn open(dir: &Path) -> Result<(Self, Claim, Desired), StoreError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(io(dir))?;
        let lock = dir.join("lock");
        let options = File::options().create(true).truncate(false).write(true).open(&lock);
        let claim = Flock::lock(options.map_err(io(&lock))?, FlockArg::LockExclusiveNonblock);
        let claim = claim.map_err(|(_, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => StoreError::InUse { path: dir.to_owned() },
            error => StoreError::Io {
                path: lock.clone(),
                source: error.into(),
            },
        })?;
        let store = Self {
            path: dir.join("pins.json"),
        };
        let desired = match fs::read(&store.path) {
            Ok(text) => store.parse(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Desired::default(),
            Err(error) => return Err(io(&store.path)(error)),
        };
        store.save(&desired)?;
        Ok((store, Claim { _file: claim }, desired))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts this in the place of what was there; returns when a crash cannot take it any more.
    ///
    /// # Errors
    /// When it cannot be written; what was there before is there still.
    pub fn save(&self, desired: &Desired) -> Result<(), StoreError> {
        self.write(desired).map_err(|source| StoreError::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn write(&self, desired: &Desired) -> io::Result<()> {
        let entries = desired.pins.iter().map(|(key, pin)| Entry {
            project: key.project.clone(),
            pool: key.pool.clone(),
            since: pin.since,
            revision: pin.revision,
        });
        let contents = Contents {
            format: FORMAT,
            revision: desired.revision,
            pins: entries.collect(),
        };
        let mut text = serde_json::to_vec_pretty(&contents)?;
        text.push(b'\n');
        let fresh = self.path.with_extension("json.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    fn parse(&self, text: &[u8]) -> Result<Desired, StoreError> {
        let damaged = |problem: String| StoreError::Damaged {
            path: self.path.clone(),
            problem,
        };
        let Head { format } = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        if format > FORMAT {
            let path = self.path.clone();
            return Err(StoreError::Later { path, found: format });
        }
        let contents: Contents = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        let mut desired = Desired {
            revision: contents.revision,
            ..Desired::default()
        };
        for entry in contents.pins {
            let (since, revision) = (entry.since, entry.revision);
            if !(1..=contents.revision).contains(&revision) {
                let (project, all) = (entry.project, contents.revision);
                return Err(damaged(format!(
                    "the pin of {project} has revision {revision} of {all}"
                )));
            }
            let key = Key {
                project: entry.project,
                pool: entry.pool,
            };
            if desired.pins.contains_key(&key) {
                return Err(damaged(format!("{} is in it twice", key.project)));
            }
            desired.pins.insert(key, Pin { since, revision });
        }
        Ok(desired)
    }
}

/// The configured directory, else one below the user's own, as the XDG Base Directory Specification has it. The port tells
/// control planes of one machine apart.
///
/// # Errors
/// When none is configured and there is no `HOME`.
pub fn directory(configured: &Path, fleet_port: u16) -> Result<PathBuf, StoreError> {
    if !configured.as_os_str().is_empty() {
        return Ok(configured.to_owned());
    }
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = base.or_else(home).ok_or(StoreError::NoHome)?;
    Ok(base.join(format!("graticule-control-plane-{fleet_port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> Desired {
        let key = Key {
            project: "/world".to_owned(),
            pool: "maps".to_owned(),
        };
        Desired::default().with(key, 7).unwrap()
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/on/demand");
        let (store, claim, desired) = Store::open(&dir).unwrap();
        assert_eq!(desired, Desired::default());
        store.save(&world()).unwrap();
        assert!(matches!(Store::open(&dir), Err(StoreError::InUse { .. })));
        drop(claim);
        assert_eq!(Store::open(&dir).unwrap().2, world());
    }

    #[test]
    fn a_damaged_store_is_an_error_and_never_an_empty_fleet() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pins.json");
        for text in [
            "",
            "{}",
            "[]",
            "{\"format\": 1",
            "{\"format\": 1, \"revision\": 1}",
            "{\"format\": 1, \"revision\": 1, \"pins\": [{\"project\": \"/a\", \"pool\": \"\", \"since\": 1, \"revision\": 2}]}",
            "{\"format\": 1, \"revision\": 1, \"pins\": [], \"more\": 1}",
        ] {
            fs::write(&file, text).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{text}: {error}");
            assert!(error.to_string().contains("pins.json is damaged: "), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text, "it is left as it was");
        }
        fs::write(&file, "{\"format\": 2, \"something\": []}").unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Later { found: 2, .. }), "{error}");
    }

    #[test]
    fn what_cannot_be_written_is_said_at_once_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, claim, _) = Store::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("pins.json.new")).unwrap();
        assert!(matches!(store.save(&world()), Err(StoreError::Io { .. })));
        drop(claim);
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Io { .. })));
        fs::remove_dir(dir.path().join("pins.json.new")).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().2, Desired::default());
    }

    #[test]
    fn a_configured_directory_is_taken_as_it_is() {
        assert_eq!(directory(Path::new("/var/lib/x"), 1).unwrap(), Path::new("/var/lib/x"));
    }
}
