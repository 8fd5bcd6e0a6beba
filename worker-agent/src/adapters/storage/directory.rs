//! Projects in a local directory: from a checked name to a file that QGIS can open, and its version.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::beside::Beside;
use super::turns::Turns;
use super::{Backend, Listed, Trouble};
use crate::core::locate::{At, Candidates, Place, Suffix};
use crate::core::message::{Begun, ProjectRef};

/// More files than this below one location are not listed.
const MOST_FILES: usize = 1_000_000;

/// A local directory. Every request looks at its project's file: that costs microseconds.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// Where data files count in versions.
    beside: Option<Arc<Beside>>,
    turns: Turns,
}

impl Directory {
    /// The directory `root`, which may have dynamic segments in it. With `data_files`, files that projects name count in
    /// their versions.
    #[must_use]
    pub fn new(root: &str, data_files: bool) -> Self {
        Self {
            root: root.into(),
            beside: data_files.then(Arc::default),
            turns: Turns::default(),
        }
    }
}

#[tonic::async_trait]
impl Backend for Directory {
    async fn look(&self, place: &Place) -> Result<ProjectRef, Trouble> {
        let At::Directory(candidates) = place.at.clone() else {
            return Err(Trouble::Missing);
        };
        let beside = self.beside.clone();
        let look = move || look(&candidates, beside.as_deref());
        self.turns.take(look).await
    }

    async fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let root = self.root.clone();
        self.turns.take(move || list(&root)).await
    }

    fn believed_for(&self) -> Option<Duration> {
        None
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn down(error: io::Error) -> Trouble {
    Trouble::Down(error.to_string())
}

fn look(candidates: &Candidates, beside: Option<&Beside>) -> Result<ProjectRef, Trouble> {
    let fence = candidates.fence.canonicalize().map_err(down)?;
    for file in &candidates.files {
        let real = match file.canonicalize() {
            Ok(real) => real,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(down(error)),
        };
        if !real.starts_with(&fence) {
            return Err(Trouble::Outside);
        }
        let metadata = fs::metadata(&real).map_err(down)?;
        if metadata.is_file() {
            let uri = real.to_str().map(str::to_owned);
            let mut version = version(&metadata).map_err(down)?;
            if let Some(stamp) = beside.and_then(|beside| beside.stamp(&real, &version, &fence)) {
                version = format!("{version}-{stamp:016x}");
            }
            return Ok(ProjectRef {
                uri: uri.ok_or_else(|| Trouble::Unusable("its path is not UTF-8; rename the directory".into()))?,
                version,
                file: None,
                begun: Begun::default(),
            });
        }
    }
    Err(Trouble::Missing)
}

/// The version of a file: when it was last changed, to the nanosecond, and how long it is.
fn version(metadata: &fs::Metadata) -> io::Result<String> {
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{}-{}", changed.as_nanos(), metadata.len()))
}

/// Every project below `root`. Links to directories are not followed: they may lead out, or in a circle.
fn list(root: &Path) -> Result<Vec<Listed>, Trouble> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // One that may not be read, or went just now, hides nothing else; without the root there is nothing.
            Err(error) if directory == root => return Err(down(error)),
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            seen += 1;
            if seen > MOST_FILES {
                return Err(Trouble::Unusable(format!("it has more than {MOST_FILES} files")));
            }
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                directories.push(entry.path());
            } else if let Some(suffix) = Suffix::of(name) {
                found.extend(listed(root, &entry.path(), suffix));
            }
        }
    }
    Ok(found)
}

fn listed(root: &Path, path: &Path, suffix: Suffix) -> Option<Listed> {
    // Follows a link to a file: requests do.
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let relative = path.strip_prefix(root).ok()?.to_str()?;
    Some(Listed {
        relative: relative.strip_suffix(suffix.as_str())?.to_owned(),
        suffix: Some(suffix),
        modified: metadata.modified().ok(),
        bytes: Some(metadata.len()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::adapters::storage::{Storage, StorageError, Surroundings};
    use crate::core::locate::{ProjectName, SearchPaths};

    fn storage(root: &Path) -> Storage {
        let paths = SearchPaths::new([("/", root.to_str().unwrap())]).unwrap();
        Storage::new(paths, &crate::config::Storage::default(), &Surroundings::default()).unwrap()
    }

    fn name(text: &str) -> ProjectName {
        ProjectName::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_project_is_found_with_and_without_its_suffix() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("public")).unwrap();
        fs::write(dir.path().join("public/roads.qgs"), "one").unwrap();
        let storage = storage(dir.path());
        let found = storage.find(&name("/public/roads")).await.unwrap();
        assert!(found.uri.ends_with("/public/roads.qgs"));
        assert_eq!(storage.find(&name("/public/roads.qgs")).await.unwrap(), found);
        assert!(matches!(
            storage.find(&name("/public/roads.qgz")).await,
            Err(StorageError::Missing { .. })
        ));
        assert!(matches!(
            storage.find(&name("/public")).await,
            Err(StorageError::Missing { .. })
        ));
        fs::write(dir.path().join("public/roads.qgs"), "longer").unwrap();
        assert_ne!(
            storage.find(&name("/public/roads")).await.unwrap().version,
            found.version
        );
    }

    #[tokio::test]
    async fn a_link_may_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.qgs"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path().join("secret.qgs"), dir.path().join("link.qgs")).unwrap();
        symlink(outside.path(), dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("real.qgs"), "x").unwrap();
        symlink(dir.path().join("real.qgs"), dir.path().join("inside.qgs")).unwrap();
        let storage = storage(dir.path());
        assert!(matches!(
            storage.find(&name("/link")).await,
            Err(StorageError::Outside(_))
        ));
        assert!(matches!(
            storage.find(&name("/folder/secret")).await,
            Err(StorageError::Outside(_))
        ));
        assert!(storage.find(&name("/inside")).await.unwrap().uri.ends_with("/real.qgs"));
    }

    #[tokio::test]
    async fn a_path_is_a_name_only_where_that_is_allowed() {
        // Parts that begin with a dot are never served.
        let dir = tempfile::Builder::new().prefix("direct").tempdir().unwrap();
        fs::write(dir.path().join("x.qgs"), "x").unwrap();
        let path = format!("{}/x", dir.path().display());
        let find = async |direct| {
            let paths = SearchPaths::new([("/maps", "/nowhere")]).unwrap();
            let storage = Storage::new(
                paths,
                &crate::config::Storage::default(),
                &Surroundings {
                    any_file: direct,
                    ..Surroundings::default()
                },
            )
            .unwrap();
            storage.find(&name(&path)).await
        };
        assert!(matches!(find(false).await, Err(StorageError::Outside(_))));
        assert_eq!(find(true).await.unwrap().uri, format!("{path}.qgs"));
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_said_to_be() {
        let storage = storage(Path::new("/nowhere/at/all"));
        assert!(matches!(
            storage.find(&name("/x")).await,
            Err(StorageError::Unavailable { .. })
        ));
    }
}
