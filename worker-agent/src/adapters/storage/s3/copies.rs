//! Local copies of objects, and trees of files made of them, one tree for each version of a project.
//!
//! An object is kept once, under a name made of its key and its `ETag`; trees share it by hard links. Whatever has its
//! final name is whole: it was written under another name, and renamed. Which trees go is decided in
//! [`crate::core::file_cache`]. Knows nothing of servers.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use tempfile::{NamedTempFile, TempDir};

use crate::core::file_cache::{Copy, order, outdated};
use crate::core::message::User;

/// The directory of copies; one agent has it at a time.
#[derive(Debug)]
pub struct Copies {
    dir: PathBuf,
    max_bytes: u64,
    /// The version of each project that is given out now, by the project's folder.
    served: Mutex<HashMap<PathBuf, String>>,
    /// How often each object is being used for a tree that is not there yet.
    held: Mutex<HashMap<String, usize>>,
    /// Bytes that are being fetched.
    promised: AtomicU64,
    /// One clears up at a time.
    clearing: Mutex<()>,
    _lock: Flock<File>,
}

/// Objects that stay, and room that is kept, until this goes.
#[derive(Debug)]
pub struct Hold {
    copies: Arc<Copies>,
    objects: Vec<String>,
    bytes: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.copies.promised.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut held = lock(&self.copies.held);
        for object in &self.objects {
            if let Some(count) = held.get_mut(object) {
                *count -= 1;
                if *count == 0 {
                    held.remove(object);
                }
            }
        }
    }
}

/// A copy of a version, as it lies on the disk.
struct Tree {
    path: PathBuf,
    copy: Copy,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a directory that everybody may read, whatever this process hides from others.
fn open_dir(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    }
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

impl Copies {
    /// Takes the directory, made when it is not there, and removes what an agent that was killed has left half done.
    ///
    /// # Errors
    /// When it cannot be made or written, another agent has it, or `reader` cannot reach it; the text says what to do.
    pub fn open(dir: &Path, max_bytes: u64, reader: Option<&User>) -> io::Result<Self> {
        open_dir(dir)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("lock"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| io::Error::other("another agent uses it: give each agent a directory of its own"))?;
        let tmp = dir.join("tmp");
        if tmp.is_dir() {
            fs::remove_dir_all(&tmp)?;
        }
        for name in ["tmp", "objects", "trees"] {
            open_dir(&dir.join(name))?;
        }
        if let Some(user) = reader {
            reachable(dir, user)?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            max_bytes,
            served: Mutex::default(),
            held: Mutex::default(),
            promised: AtomicU64::new(0),
            clearing: Mutex::default(),
            _lock: lock,
        })
    }

    /// Where an object is kept.
    #[must_use]
    pub fn object(&self, id: &str) -> PathBuf {
        self.dir.join("objects").join(id.get(..2).unwrap_or_default()).join(id)
    }

    /// Whether an object is there, as long as it should be.
    #[must_use]
    pub fn has(&self, id: &str, bytes: u64) -> bool {
        fs::metadata(self.object(id)).is_ok_and(|metadata| metadata.len() == bytes)
    }

    /// A file to write an object to.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn fresh(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::new_in(self.dir.join("tmp"))
    }

    /// Keeps a whole object.
    ///
    /// # Errors
    /// When it cannot be put in its place.
    pub fn keep(&self, file: NamedTempFile, id: &str) -> io::Result<()> {
        let place = self.object(id);
        // Nobody writes to it: its hard links are the same file.
        fs::set_permissions(file.path(), Permissions::from_mode(0o444))?;
        // A machine that loses its power must not find a whole name with half a content.
        file.as_file().sync_all()?;
        open_dir(place.parent().unwrap_or(&self.dir))?;
        file.persist(place)?;
        Ok(())
    }

    /// Keeps `objects` and room for `bytes` more, until the hold goes.
    ///
    /// # Errors
    /// How many bytes are missing when there is no such room, or why the disk cannot be read.
    pub fn hold(self: &Arc<Self>, objects: Vec<String>, bytes: u64) -> io::Result<Hold> {
        let mut held = lock(&self.held);
        for object in &objects {
            *held.entry(object.clone()).or_default() += 1;
        }
        drop(held);
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        let hold = Hold {
            copies: Arc::clone(self),
            objects,
            bytes,
        };
        self.clear()?;
        Ok(hold)
    }

    /// The tree of a version, when it is there; it is given out from now on.
    #[must_use]
    pub fn tree(&self, project: &str, version: &str) -> Option<PathBuf> {
        let tree = self.dir.join("trees").join(project).join(version);
        // The time of the last use is the folder's own.
        let now = FileTimes::new().set_modified(SystemTime::now());
        File::open(&tree).and_then(|folder| folder.set_times(now)).ok()?;
        lock(&self.served).insert(self.dir.join("trees").join(project), version.to_owned());
        Some(tree)
    }

    /// Makes the tree of a version from objects that are there, each by its path in the tree.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn plant(&self, project: &str, version: &str, files: &[(String, String)]) -> io::Result<()> {
        let fresh = TempDir::new_in(self.dir.join("tmp"))?;
        let top = fresh.path().join("tree");
        open_dir(&top)?;
        for (path, object) in files {
            let place = top.join(path);
            let folder = place.parent().unwrap_or(&top);
            let steps: Vec<&Path> = folder.ancestors().take_while(|step| step.starts_with(&top)).collect();
            for step in steps.into_iter().rev() {
                open_dir(step)?;
            }
            fs::hard_link(self.object(object), &place)?;
        }
        let project = self.dir.join("trees").join(project);
        for step in [project.parent(), Some(project.as_path())].into_iter().flatten() {
            open_dir(step)?;
        }
        let place = project.join(version);
        match fs::rename(&top, &place) {
            Err(_) if place.is_dir() => Ok(()),
            renamed => renamed,
        }
    }

    /// A project is not there any more: its versions may go.
    pub fn forget(&self, project: &str) {
        lock(&self.served).remove(&self.dir.join("trees").join(project));
    }

    /// Removes what is outdated, and then what was not used for longest until there is room for what is promised.
    fn clear(&self) -> io::Result<()> {
        let _clearing = lock(&self.clearing);
        let mut trees = self.trees()?;
        let mut gone = outdated(&copies(&trees));
        for at in gone.drain(..).rev() {
            self.remove(&trees.swap_remove(at).path)?;
        }
        let mut going: Vec<PathBuf> = order(&copies(&trees))
            .into_iter()
            .map(|at| trees[at].path.clone())
            .collect();
        going.reverse();
        loop {
            let needed = self.sweep()?.saturating_add(self.promised.load(Ordering::Relaxed));
            if needed <= self.max_bytes {
                return Ok(());
            }
            let Some(tree) = going.pop() else {
                return Err(io::Error::other(format!(
                    "the files of served projects need {} bytes more than worker.storage.files.max_bytes: raise it",
                    needed - self.max_bytes
                )));
            };
            self.remove(&tree)?;
        }
    }

    /// Every tree with what is known of it.
    fn trees(&self) -> io::Result<Vec<Tree>> {
        let mut trees = Vec::new();
        for bucket in folders(&self.dir.join("trees"))? {
            for project in folders(&bucket)? {
                for path in folders(&project)? {
                    let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
                    let unused = used.ok().and_then(|used| used.elapsed().ok()).unwrap_or_default();
                    let served = lock(&self.served).get(&project).map(String::as_str)
                        == path.file_name().and_then(std::ffi::OsStr::to_str);
                    trees.push(Tree {
                        path,
                        copy: Copy { unused, served },
                    });
                }
            }
        }
        Ok(trees)
    }

    /// Removes a tree; nobody ever sees half of it.
    fn remove(&self, tree: &Path) -> io::Result<()> {
        let away = TempDir::new_in(self.dir.join("tmp"))?;
        fs::rename(tree, away.path().join("tree"))?;
        if let Some(project) = tree.parent() {
            // Only an empty one goes.
            drop(fs::remove_dir(project));
        }
        away.close()
    }

    /// Removes objects that are in no tree and not being used; gives what the others take, in bytes.
    fn sweep(&self) -> io::Result<u64> {
        let mut total = 0;
        for folder in folders(&self.dir.join("objects"))? {
            for entry in fs::read_dir(&folder)?.flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                let name = entry.file_name();
                let held = name.to_str().is_some_and(|name| lock(&self.held).contains_key(name));
                if metadata.nlink() > 1 || held {
                    total += metadata.len();
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(total)
    }
}

fn copies(trees: &[Tree]) -> Vec<Copy> {
    trees.iter().map(|tree| tree.copy).collect()
}

fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.map(|entry| entry.path()).collect())
}

/// Whether a user may pass through every directory down to `dir`.
fn reachable(dir: &Path, user: &User) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    for step in dir.ancestors() {
        let metadata = fs::metadata(step)?;
        let bit = if metadata.uid() == user.uid {
            0o100
        } else if metadata.gid() == user.gid || user.groups.contains(&metadata.gid()) {
            0o010
        } else {
            0o001
        };
        if metadata.mode() & bit == 0 {
            return Err(io::Error::other(format!(
                "user {} (worker.isolation.user) may not enter {}: set worker.storage.files.dir to a folder that it can reach",
                user.name,
                step.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
