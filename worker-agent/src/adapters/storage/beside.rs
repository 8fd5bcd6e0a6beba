//! The data files of projects in a directory: they count in a project's version, as QGIS may have read them when it loaded
//! the project, and kept answers were made from them.
//!
//! A project is read once for each of its versions, for the names of its files; the files are looked at at most once a second.
//! Only files below the location count, as in a bucket. Journals of databases do not: they change while somebody reads.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::core::locate::Suffix;
use crate::core::project_files;

/// How old a look at data files may be.
const EVERY: Duration = Duration::from_secs(1);

/// Projects whose files are remembered; beyond that all are forgotten.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
struct Known {
    /// The project's own version.
    version: String,
    files: Vec<PathBuf>,
    stamp: Option<u64>,
    looked: Instant,
}

/// What is known of the data files of projects, by the paths of these.
#[derive(Debug, Default)]
pub struct Beside {
    known: Mutex<HashMap<PathBuf, Known>>,
}

impl Beside {
    /// A number that changes with the data files of the project in `file`, whose own version is `version`; nothing when it
    /// has none below `fence`. A project that cannot be read has none: QGIS will say what is wrong with it.
    pub fn stamp(&self, file: &Path, version: &str, fence: &Path) -> Option<u64> {
        let now = Instant::now();
        let files = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.get(file).filter(|known| known.version == version);
            match known {
                Some(known) if now.saturating_duration_since(known.looked) < EVERY => return known.stamp,
                Some(known) => Some(known.files.clone()),
                None => None,
            }
        };
        // Read without the lock: a project may be large.
        let files = files.unwrap_or_else(|| named(file, fence));
        let stamp = look(&files);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let entry = Known {
            version: version.to_owned(),
            files,
            stamp,
            looked: now,
        };
        known.insert(file.to_owned(), entry);
        stamp
    }
}

/// The files that a project names, below the fence.
fn named(file: &Path, fence: &Path) -> Vec<PathBuf> {
    let place = file.strip_prefix(fence).ok().and_then(|place| {
        let folder = place.parent()?.to_str()?;
        let folder = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        Some((folder, place.file_name()?.to_str()?))
    });
    let Some((folder, name)) = place else { return Vec::new() };
    let zipped = Suffix::of(name) == Some(Suffix::Qgz);
    let text = fs::File::open(file)
        .ok()
        .and_then(|file| project_files::text_of(file, zipped).ok());
    let files = text.and_then(|text| project_files::of_project(&text, &folder, name).ok());
    let wanted = files.unwrap_or_default().wanted.into_iter();
    let journal = |path: &String| ["-wal", "-shm", "-journal"].iter().any(|end| path.ends_with(end));
    wanted
        .filter(|path| !journal(path))
        .map(|path| fence.join(path))
        .collect()
}

fn look(files: &[PathBuf]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let mut any = false;
    for file in files {
        let Ok(metadata) = fs::metadata(file) else { continue };
        if metadata.is_file() {
            any = true;
            (file, metadata.len(), metadata.modified().ok()).hash(&mut hasher);
        }
    }
    any.then(|| hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: &str = r#"<qgis><projectlayers><maplayer><datasource>./data/roads.gpkg|layername=x</datasource></maplayer>
        <maplayer><datasource>../outside.gpkg</datasource></maplayer></projectlayers></qgis>"#;

    #[test]
    fn a_data_file_counts_and_one_above_the_location_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let fence = dir.path().join("maps");
        fs::create_dir_all(fence.join("data")).unwrap();
        let file = fence.join("x.qgs");
        fs::write(&file, PROJECT).unwrap();
        fs::write(dir.path().join("outside.gpkg"), "1").unwrap();
        // A fresh memory looks at once.
        let stamp = || Beside::default().stamp(&file, "1", &fence);
        assert_eq!(stamp(), None, "there is no data yet");
        fs::write(fence.join("data/roads.gpkg"), "1").unwrap();
        let first = stamp();
        assert!(first.is_some() && first == stamp());
        fs::write(dir.path().join("outside.gpkg"), "22").unwrap();
        fs::write(fence.join("data/roads.gpkg-wal"), "22").unwrap();
        assert_eq!(stamp(), first);
        fs::write(fence.join("data/roads.gpkg"), "22").unwrap();
        assert_ne!(stamp(), first);
    }

    #[test]
    fn files_are_looked_at_once_a_second_and_named_once_for_each_version() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.qgs");
        fs::write(&file, PROJECT).unwrap();
        let beside = Beside::default();
        assert_eq!(beside.stamp(&file, "1", dir.path()), None);
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("data/roads.gpkg"), "1").unwrap();
        assert_eq!(beside.stamp(&file, "1", dir.path()), None, "seen a moment ago");
        assert!(beside.stamp(&file, "2", dir.path()).is_some());
        fs::write(&file, "no project").unwrap();
        assert_eq!(beside.stamp(&file, "3", dir.path()), None);
    }
}
