//! Projects in local directories: from a checked name to a file that QGIS can open, and its version.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::core::locate::{LocateError, ProjectName, SearchPaths};
use crate::core::message::ProjectRef;

/// A file system that has not answered after this long is down, as NFS can be.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a project cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Its name lies outside every search path, or a link leads out of one.
    #[error(transparent)]
    Outside(#[from] LocateError),
    /// Nothing is there.
    #[error("there is no project '{project}'")]
    Missing {
        /// As clients name it.
        project: String,
    },
    /// The directory cannot be read now.
    #[error("the storage of '{location}' does not answer: {problem}")]
    Unavailable {
        /// The search path.
        location: String,
        /// What the system said.
        problem: String,
    },
}

/// The storage behind the search paths; clones share it.
#[derive(Debug, Clone)]
pub struct Storage {
    paths: Arc<SearchPaths>,
}

impl Storage {
    /// The storage behind `paths`.
    #[must_use]
    pub fn new(paths: SearchPaths) -> Self {
        Self { paths: Arc::new(paths) }
    }

    /// Finds a project and its version now.
    ///
    /// # Errors
    /// When it cannot be had; waits a bounded time for the file system.
    pub async fn find(&self, name: &ProjectName) -> Result<ProjectRef, StorageError> {
        let paths = Arc::clone(&self.paths);
        let wanted = name.clone();
        let looking = tokio::task::spawn_blocking(move || look(&paths, &wanted));
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => Err(StorageError::Unavailable {
                location: name.to_string(),
                problem: error.to_string(),
            }),
            Err(_) => Err(StorageError::Unavailable {
                location: name.to_string(),
                problem: format!("no answer within {} s", PATIENCE.as_secs()),
            }),
        }
    }
}

fn look(paths: &SearchPaths, name: &ProjectName) -> Result<ProjectRef, StorageError> {
    let candidates = paths.locate(name)?;
    let unavailable = |error: io::Error| StorageError::Unavailable {
        location: candidates.location.clone(),
        problem: error.to_string(),
    };
    let fence = candidates.fence.canonicalize().map_err(unavailable)?;
    for file in &candidates.files {
        let real = match file.canonicalize() {
            Ok(real) => real,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(unavailable(error)),
        };
        if !real.starts_with(&fence) {
            return Err(LocateError {
                project: name.to_string(),
            }
            .into());
        }
        let metadata = fs::metadata(&real).map_err(unavailable)?;
        if metadata.is_file() {
            return Ok(ProjectRef {
                uri: text(&real, name)?,
                version: version(&metadata).map_err(unavailable)?,
            });
        }
    }
    Err(StorageError::Missing {
        project: name.to_string(),
    })
}

fn text(path: &Path, name: &ProjectName) -> Result<String, StorageError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| StorageError::Unavailable {
            location: name.to_string(),
            problem: "its path is not UTF-8; rename the directory".into(),
        })
}

/// The version of a file: when it was last changed, to the nanosecond, and how long it is.
fn version(metadata: &fs::Metadata) -> io::Result<String> {
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{}-{}", changed.as_nanos(), metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn storage(root: &Path) -> Storage {
        Storage::new(SearchPaths::new([("/", root.to_str().unwrap())]).unwrap())
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
    async fn a_directory_that_is_gone_is_said_to_be() {
        let storage = storage(Path::new("/nowhere/at/all"));
        assert!(matches!(
            storage.find(&name("/x")).await,
            Err(StorageError::Unavailable { .. })
        ));
    }
}
