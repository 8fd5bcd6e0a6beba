//! Where projects are kept: from a checked name to what QGIS can open, and its version, whatever stands behind the
//! search path.
//!
//! Each location has a [`Backend`]. What backends saw last is remembered ([`Known`]), so that one which is slow or down
//! costs a request nothing while there is a version to serve. Backends know no public names, and nothing of workers.

mod beside;
mod custom;
mod directory;
mod geopackage;
mod postgresql;
mod s3;
mod turns;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{ConfigError, search_path_key};
use crate::core::known::{Known, Sight, Verdict};
use crate::core::locate::{LocateError, Place, ProjectName, Root, SearchPaths, Suffix, direct};
use crate::core::message::{Begun, ProjectRef, User};
pub use custom::Hosts;
use graticule_daemon::current::Current;
pub use postgresql::{servers as postgresql_servers, worker_variables};
use tokio::sync::mpsc;
use turns::blocking;

/// What stands behind a location.
#[tonic::async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// Looks for a project now. Where QGIS cannot open it there, a local copy is made. Callers bound the time, and drop
    /// the future when it has passed.
    async fn look(&self, place: &Place) -> Result<ProjectRef, Trouble>;

    /// Every project of a location without dynamic segments, in any order. Callers bound the time.
    async fn list(&self) -> Result<Vec<Listed>, Trouble>;

    /// For how long requests may use what was seen without another look; `None`: every request looks, as that costs
    /// nothing.
    fn believed_for(&self) -> Option<Duration>;

    /// Tells of changes as soon as the storage does, for as long as it is polled; ends when nobody listens any more. A
    /// storage that tells of none says nothing.
    async fn follow(&self, _changed: mpsc::UnboundedSender<Change>) {
        std::future::pending::<()>().await;
    }
}

/// What a storage says has changed, at some time before now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The project with this uri: written or removed.
    Uri(String),
    /// Anything may have.
    Everything,
}

/// A project as a listing has it, before anybody has opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name below the location, without suffix.
    pub relative: String,
    /// The file type, where it has one.
    pub suffix: Option<Suffix>,
    /// When it was last changed, where the storage knows.
    pub modified: Option<SystemTime>,
    /// The size of the project itself in bytes, where the storage knows.
    pub bytes: Option<u64>,
}

/// What backends need of the agent that they are part of.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Where the agent keeps what outlives it.
    pub state_dir: PathBuf,
    /// The user that workers become, and that must be able to read local copies.
    pub user: Option<User>,
    /// What starts the processes of handlers.
    pub hosts: Option<Hosts>,
    /// What buckets share.
    pub copies: s3::SharedCopies,
    /// Whether a request may name any project file of this machine by its path.
    pub any_file: bool,
    /// Whether data files beside a project in a directory count in its version. They must not where QGIS opens them for
    /// writing: it touches them when it opens and closes them.
    pub data_files: bool,
}

/// Why a backend has no answer. Texts go to clients: they hold no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing is there.
    Missing,
    /// A link leads out of the location's root.
    Outside,
    /// It does not answer now.
    Down(String),
    /// What is there cannot be used, and why.
    Unusable(String),
}

/// Why a project cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// It was there, and has been removed.
    #[error("the project '{project}' has been removed")]
    Gone {
        /// As clients name it.
        project: String,
    },
    /// The storage cannot be read now.
    #[error("the storage of '{location}' does not answer: {problem}")]
    Unavailable {
        /// The search path.
        location: String,
        /// What it said; no secrets.
        problem: String,
    },
}

/// The storage behind the search paths; clones share it.
#[derive(Debug, Clone)]
pub struct Storage {
    inner: Arc<Inner>,
}

/// What may change while the agent runs.
#[derive(Debug)]
struct Times {
    /// A storage that has not answered by then is down.
    timeout: Duration,
    /// What a storage that does not tell of changes said is believed for so long.
    believed: Duration,
}

#[derive(Debug)]
struct Inner {
    paths: SearchPaths,
    backends: HashMap<String, Arc<dyn Backend>>,
    known: Mutex<Known>,
    /// One look at a time for each name.
    looking: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Locations whose storage did not answer at the last look.
    silent: Mutex<HashSet<String>>,
    times: Current<Times>,
    /// The file system itself, when requests may name any file of it.
    direct: Option<directory::Directory>,
}

impl Storage {
    /// The storage behind `paths`. Nothing is connected to yet.
    ///
    /// # Errors
    /// When a root cannot be meant; the text says which, and what to change.
    pub fn new(
        paths: SearchPaths,
        config: &crate::config::Storage,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let timeout = config.timeout()?;
        let shared = Shared::new(config)?;
        let mut backends = HashMap::new();
        for (location, root) in paths.iter() {
            backends.insert(
                location.to_owned(),
                backend(location, root, config, surroundings, &shared)?,
            );
        }
        let inner = Inner {
            paths,
            backends,
            known: Mutex::default(),
            looking: Mutex::default(),
            silent: Mutex::default(),
            times: Current::new(Times {
                timeout,
                believed: config.check_interval()?,
            }),
            direct: surroundings
                .any_file
                .then(|| directory::Directory::new("/", surroundings.data_files)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Reads the roots and the settings of storages as [`Storage::new`] does, and starts and takes nothing.
    ///
    /// # Errors
    /// When a root cannot be meant; the text says which, and what to change.
    pub fn check(paths: &SearchPaths, config: &crate::config::Storage) -> Result<(), ConfigError> {
        let shared = Shared::new(config)?;
        for (location, root) in paths.iter() {
            match (root.scheme(), root) {
                (Some(scheme), _) if config.custom.contains_key(scheme) => drop(custom::Custom::read(scheme, config)?),
                (Some("s3"), Root::Store(url)) => drop(s3::S3::read(location, url, config)?),
                _ => drop(backend(location, root, config, &Surroundings::default(), &shared)?),
            }
        }
        config.timeout().map(drop)
    }

    /// Waits and believes for other times from now on.
    pub fn adopt(&self, timeout: Duration, believed: Duration) {
        self.inner.times.set(Times { timeout, believed });
    }

    fn timeout(&self) -> Duration {
        self.inner.times.get().timeout
    }

    /// Finds a project and its version. What was seen a moment ago is believed; what was seen before is used while another
    /// look is on its way, and while the storage does not answer.
    ///
    /// # Errors
    /// When it cannot be had; waits a bounded time for the storage.
    pub async fn find(&self, name: &ProjectName) -> Result<ProjectRef, StorageError> {
        self.or_directly(name, self.find_within(name).await).await
    }

    /// Looks at the storage itself, whatever is known.
    ///
    /// # Errors
    /// As for [`Storage::find`].
    pub async fn find_now(&self, name: &ProjectName) -> Result<ProjectRef, StorageError> {
        let found = match self.inner.paths.locate(name) {
            Ok(place) => self.look(name, &place).await,
            Err(error) => Err(error.into()),
        };
        self.or_directly(name, found).await
    }

    /// Where that is allowed, a name that leads nowhere is taken for a path.
    async fn or_directly(
        &self,
        name: &ProjectName,
        found: Result<ProjectRef, StorageError>,
    ) -> Result<ProjectRef, StorageError> {
        match (&self.inner.direct, found) {
            (Some(files), Err(error @ (StorageError::Outside(_) | StorageError::Missing { .. }))) => {
                let place = direct(name);
                let looked = tokio::time::timeout(self.timeout(), files.look(&place)).await;
                looked.ok().and_then(Result::ok).ok_or(error)
            }
            (_, found) => found,
        }
    }

    async fn find_within(&self, name: &ProjectName) -> Result<ProjectRef, StorageError> {
        let place = self.inner.paths.locate(name)?;
        match self.judge(name, &place) {
            Verdict::Believe(sight) => self.tell(name, &place, sight),
            Verdict::UseAndLook(project) => {
                let (storage, name) = (self.clone(), name.clone());
                tokio::spawn(async move { storage.look(&name, &place).await });
                Ok(project)
            }
            Verdict::Look => self.look_in_turn(name, &place).await,
        }
    }

    /// Each location without dynamic segments, and whether it is a directory or which scheme.
    pub fn locations(&self) -> impl Iterator<Item = (&str, &Root)> {
        let listed = |location: &str| !location.contains('{');
        self.inner.paths.iter().filter(move |(location, _)| listed(location))
    }

    /// The location that takes a name, whether or not a project is there.
    #[must_use]
    pub fn location_of(&self, name: &ProjectName) -> Option<String> {
        self.inner.paths.locate(name).ok().map(|place| place.location)
    }

    /// Every project of a location, in any order, without a name twice.
    ///
    /// # Errors
    /// When the storage does not answer in a bounded time.
    pub async fn list(&self, location: &str) -> Result<Vec<Listed>, StorageError> {
        let unavailable = |problem: String| StorageError::Unavailable {
            location: location.to_owned(),
            problem,
        };
        let Some(backend) = self.inner.backends.get(location) else {
            return Ok(Vec::new());
        };
        match tokio::time::timeout(self.timeout() * LISTING, backend.list()).await {
            Ok(Ok(listed)) => Ok(listed),
            Ok(Err(Trouble::Missing | Trouble::Outside)) => Err(unavailable("it is not there".into())),
            Ok(Err(Trouble::Down(problem) | Trouble::Unusable(problem))) => Err(unavailable(problem)),
            Err(_) => Err(unavailable(no_answer(self.timeout() * LISTING))),
        }
    }

    /// Listens to storages that tell of changes, from now on: what has changed is not believed any more. Gives the changes
    /// after that; nobody need read them.
    #[must_use]
    pub fn start_following(&self) -> mpsc::UnboundedReceiver<Change> {
        let (sender, mut changes) = mpsc::unbounded_channel();
        for backend in self.inner.backends.values() {
            let (backend, sender) = (Arc::clone(backend), sender.clone());
            tokio::spawn(async move { backend.follow(sender).await });
        }
        let (told, tell) = mpsc::unbounded_channel();
        let storage = self.clone();
        tokio::spawn(async move {
            while let Some(change) = changes.recv().await {
                tracing::debug!(?change, "a storage tells of a change");
                let mut known = storage.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
                match &change {
                    Change::Uri(uri) => known.forget(uri),
                    Change::Everything => known.forget_all(),
                }
                drop(known);
                let _ = told.send(change);
            }
        });
        tell
    }

    fn judge(&self, name: &ProjectName, place: &Place) -> Verdict {
        let believed = self.backend(place).believed_for();
        let believed = believed.map(|_| self.inner.times.get().believed);
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.judge(&name.spelled(), believed, Instant::now())
    }

    /// Looks after whoever is looking for the same, or takes what that one has seen.
    async fn look_in_turn(&self, name: &ProjectName, place: &Place) -> Result<ProjectRef, StorageError> {
        if self.backend(place).believed_for().is_none() {
            return self.look(name, place).await;
        }
        let turn = {
            let mut looking = self.inner.looking.lock().unwrap_or_else(PoisonError::into_inner);
            looking.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(looking.entry(name.spelled()).or_default())
        };
        let _mine = turn.lock().await;
        match self.judge(name, place) {
            Verdict::Believe(sight) => self.tell(name, place, sight),
            Verdict::UseAndLook(project) => Ok(project),
            Verdict::Look => self.look(name, place).await,
        }
    }

    async fn look(&self, name: &ProjectName, place: &Place) -> Result<ProjectRef, StorageError> {
        let begun = Instant::now();
        let looked = tokio::time::timeout(self.timeout(), self.backend(place).look(place)).await;
        let sight = match looked {
            Ok(Ok(project)) => Sight::There(ProjectRef {
                begun: Begun(Some(begun)),
                ..project
            }),
            Ok(Err(Trouble::Missing)) => Sight::Missing,
            Ok(Err(Trouble::Outside)) => {
                let project = name.to_string();
                return Err(LocateError { project }.into());
            }
            Ok(Err(Trouble::Down(problem) | Trouble::Unusable(problem))) => Sight::Trouble(problem),
            Err(_) => Sight::Trouble(no_answer(self.timeout())),
        };
        self.log(name, &place.location, &sight);
        let sight = {
            let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.saw(&name.spelled(), sight, begun, Instant::now())
        };
        self.tell(name, place, sight)
    }

    /// Says when a storage falls silent and when it answers again, and not at every look between.
    fn log(&self, name: &ProjectName, location: &str, sight: &Sight) {
        let mut silent = self.inner.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match sight {
            Sight::Trouble(problem) if silent.insert(location.to_owned()) => {
                tracing::warn!(project = %name, location, problem, "the storage does not answer");
            }
            Sight::Trouble(problem) => {
                tracing::debug!(project = %name, location, problem, "the storage does not answer");
            }
            _ if silent.remove(location) => tracing::info!(location, "the storage answers again"),
            _ => {}
        }
    }

    fn tell(&self, name: &ProjectName, place: &Place, sight: Sight) -> Result<ProjectRef, StorageError> {
        let project = name.to_string();
        match sight {
            Sight::There(project) => Ok(project),
            Sight::Missing => Err(StorageError::Missing { project }),
            Sight::Gone => Err(StorageError::Gone { project }),
            Sight::Trouble(problem) => Err(StorageError::Unavailable {
                location: place.location.clone(),
                problem,
            }),
        }
    }

    fn backend(&self, place: &Place) -> &dyn Backend {
        &*self.inner.backends[&place.location]
    }
}

/// So many times as long as a look a listing may take.
const LISTING: u32 = 4;

fn no_answer(after: Duration) -> String {
    format!("no answer within {} s", after.as_secs_f64())
}

/// What backends of several locations have in common.
struct Shared {
    check_interval: Duration,
    postgresql: postgresql::Shared,
}

impl Shared {
    fn new(config: &crate::config::Storage) -> Result<Self, ConfigError> {
        Ok(Self {
            check_interval: config.check_interval()?,
            postgresql: postgresql::Shared::new(config)?,
        })
    }
}

fn backend(
    location: &str,
    root: &Root,
    config: &crate::config::Storage,
    surroundings: &Surroundings,
    shared: &Shared,
) -> Result<Arc<dyn Backend>, ConfigError> {
    let url = match root {
        Root::Directory(root) => return Ok(Arc::new(directory::Directory::new(root, surroundings.data_files))),
        Root::Store(url) => url,
    };
    let believed = shared.check_interval;
    let made: Result<Arc<dyn Backend>, String> = match root.scheme().unwrap_or_default() {
        // First, so that a handler of one's own may take the place of ours.
        scheme if config.custom.contains_key(scheme) => {
            return Ok(Arc::new(custom::Custom::new(scheme, url, config, surroundings)?));
        }
        "s3" => return Ok(Arc::new(s3::S3::new(location, url, config, surroundings)?)),
        scheme if postgresql::SCHEMES.contains(&scheme) => {
            postgresql::PostgreSql::new(url, &shared.postgresql, believed).map(|made| Arc::new(made) as _)
        }
        geopackage::SCHEME => geopackage::GeoPackage::new(url, believed).map(|made| Arc::new(made) as _),
        scheme => {
            let ours = ["s3", geopackage::SCHEME]
                .into_iter()
                .chain(postgresql::SCHEMES.iter().copied());
            let known: Vec<&str> = ours.chain(config.custom.keys().map(String::as_str)).collect();
            Err(format!(
                "begins with `{scheme}:`, which is no storage; expected a directory, or one of {}",
                known.join(", ")
            ))
        }
    };
    made.map_err(|problem| ConfigError::Invalid {
        origin: "configuration".into(),
        key: search_path_key(location),
        problem: format!("search path '{location}': its root {problem}"),
    })
}
