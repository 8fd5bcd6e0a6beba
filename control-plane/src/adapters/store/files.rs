//! The documents as files of one directory. Each is replaced as a whole, by a fresh file that is on the disk before it takes the
//! old one's name: a crash at any moment leaves the old or the new. docs/control-plane.md says why this and no database.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};

use super::{Kind, StoreError};

/// The directory; this control plane's alone until it is given back. A process that dies gives it back, too.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    claim: Mutex<Option<Flock<File>>>,
}

impl Files {
    /// Claims the directory, which is made when it is not there.
    ///
    /// # Errors
    /// When it is in use, or cannot be made or written.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
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
        let (dir, claim) = (dir.to_owned(), Mutex::new(Some(claim)));
        Ok(Self { dir, claim })
    }

    /// Gives the directory back.
    pub fn release(&self) {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of a document.
    pub fn path(&self, kind: Kind) -> PathBuf {
        self.dir.join(format!("{}.json", kind.name()))
    }

    /// A document's text; none when it has never been written.
    ///
    /// # Errors
    /// When it cannot be read. Text that is none is damage.
    pub fn read(&self, kind: Kind) -> Result<Option<String>, StoreError> {
        let path = self.path(kind);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(StoreError::Damaged {
                place: path.display().to_string(),
                kind,
                problem: error.to_string(),
            }),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    /// Puts this in the place of what was there; returns when a crash cannot take it any more.
    ///
    /// # Errors
    /// When it cannot be written; what was there before is there still.
    pub fn write(&self, kind: Kind, text: &str) -> Result<(), StoreError> {
        let path = self.path(kind);
        self.replace(&path, text)
            .map_err(|source| StoreError::Io { path, source })
    }

    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        let fresh = path.with_extension("json.new");
        // What is set may hold secrets.
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // What is half there takes room, on a disk that may have none; the next one would write over it.
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
        fs::rename(&fresh, path)?;
        File::open(&self.dir)?.sync_all()
    }
}
