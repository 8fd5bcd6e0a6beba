//! The agent's directory for temporary files: made, locked while the agent lives, cleared of what earlier agents left.
//!
//! The worker package and every worker's private directory lie in it. Which directories may be removed is decided in
//! [`crate::core::leftover`].

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use tempfile::TempDir;

use crate::core::leftover::{Found, LOCK, Lock, PREFIX, is_leftover};
use crate::core::message::User;

/// Others may pass through, to what is theirs, and see no names.
const TRAVERSABLE: u32 = 0o711;

/// The names of private directories begin so: of workers, of zygotes and of handlers of storages.
const PRIVATE: [char; 3] = ['w', 'z', 'h'];

/// The directory. A fresh one is removed when this is dropped; a configured one stays.
#[derive(Debug)]
pub struct Runtime {
    path: PathBuf,
    /// Before the lock: nobody else may take it for a leftover while it is being removed.
    _fresh: Option<TempDir>,
    _lock: Flock<fs::File>,
}

impl Runtime {
    /// Takes the `configured` directory, made when it is not there, or a fresh one below `base` when it is empty. For a
    /// fresh one, what killed agents have left below `base` is removed first.
    ///
    /// # Errors
    /// When it cannot be made, or another agent uses it.
    pub fn make(configured: &Path, base: &Path) -> io::Result<Self> {
        if configured.as_os_str().is_empty() {
            remove_leftovers(base);
            let fresh = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
            let path = fresh.path().to_owned();
            fs::set_permissions(&path, Permissions::from_mode(TRAVERSABLE))?;
            // It appears locked, so that no other agent finds a lock that nobody holds yet.
            let new = path.join("lock.new");
            let lock = take(&new, true)?;
            fs::rename(&new, path.join(LOCK))?;
            return Ok(Self {
                path,
                _fresh: Some(fresh),
                _lock: lock,
            });
        }
        if !configured.is_dir() {
            DirBuilder::new().recursive(true).mode(TRAVERSABLE).create(configured)?;
        }
        let lock = take(&configured.join(LOCK), true).map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::EWOULDBLOCK as i32 => {
                io::Error::other("another agent uses it: give each agent a directory of its own")
            }
            _ => error,
        })?;
        remove_private(configured)?;
        Ok(Self {
            path: configured.to_owned(),
            _fresh: None,
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a directory that only `user` can enter; without one, only the agent's own user.
///
/// # Errors
/// When it is there already, or cannot be made.
pub fn private_dir(path: &Path, user: Option<&User>) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    user.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid)))
}

/// Takes the lock; the file may be made for it.
fn take(path: &Path, make: bool) -> io::Result<Flock<fs::File>> {
    // Readable for nobody else: who can open it can lock it.
    let file = OpenOptions::new()
        .read(true)
        .write(make)
        .create(make)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is no plain file", path.display())));
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// What killed agents have left. Failures are told and harm nobody.
fn remove_leftovers(base: &Path) {
    let own = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        let (directory, owner) = (metadata.is_dir(), metadata.uid());
        if !directory || owner != own {
            continue;
        }
        // Held until the directory is gone.
        let taken = take(&path.join(LOCK), false);
        let lock = match &taken {
            Ok(_) => Lock::Free,
            Err(error) if error.raw_os_error() == Some(Errno::EWOULDBLOCK as i32) => Lock::Held,
            Err(_) => Lock::Missing,
        };
        let found = Found { directory, owner, lock };
        if is_leftover(found, own) {
            match fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(dir = %path.display(), "removed what a killed agent had left"),
                Err(error) => {
                    tracing::warn!(dir = %path.display(), %error, "could not remove what a killed agent had left");
                }
            }
        }
    }
}

/// The private directories of an earlier agent's workers and zygotes in a configured directory.
fn remove_private(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PRIVATE));
        if number.is_some_and(|number| number.parse::<u64>().is_ok()) && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "runtime_tests.rs"]
mod tests;
