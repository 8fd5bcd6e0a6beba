//! The pins of one agent on disk: its own in one small JSON file, the fleet's in another, and where those are from in a
//! third; each replaced as a whole so that a crash leaves the old or the new.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::control_planes::{Counts, Origin};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// It cannot be read or written.
    #[error("pins file {}: {source}; see that worker.state_dir can be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold what was written there.
    #[error("pins file {}: {source}; repair it, or remove it and pin again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The names of pinned projects, kept on disk: those that operators of this agent pinned, and beside them those that the
/// control plane told last, so that an agent that starts without one has them too.
#[derive(Debug)]
pub struct Pins {
    own: Kept<BTreeSet<String>>,
    fleet: Kept<BTreeSet<String>>,
    /// In a file of its own: agents from before know the list alone.
    origin: Kept<Option<OriginForm>>,
}

/// As it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OriginForm {
    store: String,
    revision: u64,
}

impl Pins {
    /// Reads the pins of `state_dir`, which is made when it is not there.
    ///
    /// # Errors
    /// When a file is there and cannot be read: an agent must not start without the pins it was given.
    pub fn open(state_dir: &Path) -> Result<Self, PinsError> {
        fs::create_dir_all(state_dir).map_err(|source| PinsError::Io {
            path: state_dir.to_owned(),
            source,
        })?;
        Ok(Self {
            own: Kept::open(state_dir.join("pins.json"))?,
            fleet: Kept::open(state_dir.join("fleet-pins.json"))?,
            origin: Kept::open(state_dir.join("fleet-pins-origin.json"))?,
        })
    }

    /// All names, sorted, each once.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.own.value.union(&self.fleet.value).map(String::as_str)
    }

    /// Whether `name` is pinned, by whomever.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.own.value.contains(name) || self.is_fleets(name)
    }

    /// Whether `name` is pinned for the whole fleet.
    #[must_use]
    pub fn is_fleets(&self, name: &str) -> bool {
        self.fleet.value.contains(name)
    }

    /// Adds a name of this agent's own; false when it was there.
    ///
    /// # Errors
    /// When the file cannot be written; nothing has changed then.
    pub fn add(&mut self, name: &str) -> Result<bool, PinsError> {
        let mut names = self.own.value.clone();
        let added = names.insert(name.to_owned());
        self.own.replace(names)?;
        Ok(added)
    }

    /// Removes a name of this agent's own; false when it was not there.
    ///
    /// # Errors
    /// When the file cannot be written; nothing has changed then.
    pub fn remove(&mut self, name: &str) -> Result<bool, PinsError> {
        let mut names = self.own.value.clone();
        let removed = names.remove(name);
        self.own.replace(names)?;
        Ok(removed)
    }

    /// What control planes told last; none when that was never, or before it was written down where it is from.
    #[must_use]
    pub fn last(&self) -> Option<Counts> {
        let OriginForm { store, revision } = self.origin.value.clone()?;
        Some(Counts {
            origin: Origin { store, revision },
            projects: self.fleet.value.clone(),
        })
    }

    /// These are pinned for the whole fleet now, by whom it says there.
    ///
    /// # Errors
    /// When a file cannot be written. They count all the same: the control plane tells them again.
    pub fn set_fleet(&mut self, names: BTreeSet<String>, origin: &Origin) -> Result<(), PinsError> {
        let origin = OriginForm {
            store: origin.store.clone(),
            revision: origin.revision,
        };
        // First: a crash between the two leaves older names, which whoever tells this revision puts right.
        let written = self.origin.replace(Some(origin));
        let replaced = self.fleet.replace(names.clone());
        self.fleet.value = names;
        written.and(replaced)
    }
}

/// One file.
#[derive(Debug)]
struct Kept<T> {
    path: PathBuf,
    value: T,
}

impl<T: Clone + Default + PartialEq + Serialize + DeserializeOwned> Kept<T> {
    fn open(path: PathBuf) -> Result<Self, PinsError> {
        let value = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| PinsError::Corrupt {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => T::default(),
            Err(source) => return Err(PinsError::Io { path, source }),
        };
        Ok(Self { path, value })
    }

    fn replace(&mut self, value: T) -> Result<(), PinsError> {
        if value == self.value {
            return Ok(());
        }
        self.write(&value).map_err(|source| PinsError::Io {
            path: self.path.clone(),
            source,
        })?;
        self.value = value;
        Ok(())
    }

    fn write(&self, value: &T) -> io::Result<()> {
        let fresh = self.path.with_extension("json.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut pins = Pins::open(dir.path()).unwrap();
        assert!(pins.add("/world").unwrap());
        assert!(!pins.add("/world").unwrap());
        assert!(pins.add("/roads").unwrap());
        let mut pins = Pins::open(dir.path()).unwrap();
        assert_eq!(pins.iter().collect::<Vec<_>>(), ["/roads", "/world"]);
        assert!(pins.remove("/roads").unwrap() && !pins.remove("/roads").unwrap());
        assert!(!Pins::open(dir.path()).unwrap().contains("/roads"));
    }

    #[test]
    fn a_corrupt_file_is_an_error_and_not_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pins.json"), "[\"/wor").unwrap();
        assert!(matches!(Pins::open(dir.path()), Err(PinsError::Corrupt { .. })));
    }

    #[test]
    fn the_fleets_pins_are_kept_apart_from_the_agents_own() {
        let dir = tempfile::tempdir().unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut pins = Pins::open(dir.path()).unwrap();
        pins.add("/own").unwrap();
        pins.add("/both").unwrap();
        assert_eq!(pins.last(), None);
        let origin = |revision| Origin {
            store: "s".to_owned(),
            revision,
        };
        pins.set_fleet(names(&["/both", "/fleet"]), &origin(3)).unwrap();
        let mut pins = Pins::open(dir.path()).unwrap();
        assert_eq!(pins.iter().collect::<Vec<_>>(), ["/both", "/fleet", "/own"]);
        let last = pins.last().unwrap();
        assert_eq!((last.origin, last.projects), (origin(3), names(&["/both", "/fleet"])));
        assert!(pins.is_fleets("/both") && !pins.is_fleets("/own"));
        pins.set_fleet(BTreeSet::new(), &origin(4)).unwrap();
        assert_eq!(pins.iter().collect::<Vec<_>>(), ["/both", "/own"]);
        // What cannot be remembered counts all the same.
        fs::create_dir(dir.path().join("fleet-pins.json.new")).unwrap();
        assert!(pins.set_fleet(names(&["/fleet"]), &origin(5)).is_err() && pins.contains("/fleet"));
        assert!(!Pins::open(dir.path()).unwrap().contains("/fleet"));
        fs::write(dir.path().join("fleet-pins.json"), "?").unwrap();
        assert!(matches!(Pins::open(dir.path()), Err(PinsError::Corrupt { .. })));
    }

    #[test]
    fn a_directory_that_cannot_be_written_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut pins = Pins::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("pins.json.new")).unwrap();
        assert!(matches!(pins.add("/world"), Err(PinsError::Io { .. })));
        assert!(!pins.contains("/world"));
    }
}
