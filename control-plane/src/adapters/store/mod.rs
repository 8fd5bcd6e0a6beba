//! What outlives the control plane: the fleet's pins, operators' settings, and the quarantine. Each is one small document
//! ([`documents`]) that is replaced as a whole; where they are is the business of [`files`] and [`postgresql`].
//!
//! A document that cannot be understood is never taken for an empty one: the control plane does not start then. It knows
//! nothing of agents.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::StoreConfig;
use crate::core::pins::Desired;
use crate::core::quarantine::Quarantine;
use crate::core::settings::Settings;
use crate::metrics::Metrics;

mod documents;
mod files;
mod postgresql;

use documents::{Document, Now};
use files::Files;
use postgresql::PostgreSql;

/// How often a document is written that others get in the way of.
const TRIES: usize = 5;

/// What is kept. The three change at different rates and are worth differently, so none is written for another's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What the fleet is to keep loaded: seldom changed, and safe before it counts.
    Pins,
    /// What operators have set: the same.
    Settings,
    /// What agents have against requests: often changed, written now and then; what is lost, most agents tell again.
    Quarantine,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Pins, Self::Settings, Self::Quarantine];

    /// Its name in files, tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pins => "pins",
            Self::Settings => "settings",
            Self::Quarantine => "quarantine",
        }
    }

    /// What is gone with it, in words for who has to repair it.
    const fn without(self) -> &'static str {
        match self {
            Self::Pins => "pin again",
            Self::Settings => "set what was set with `control-plane config set` again",
            Self::Quarantine => "agents that run tell what they know again",
        }
    }
}

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read or written.
    #[error("the store {}: {source}; see that store.dir can be written and has room", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold what was written there.
    #[error("the store {place} is damaged: {problem}; repair it, or move it away and {}", kind.without())]
    Damaged {
        /// The file, or the row.
        place: String,
        /// What it should hold.
        kind: Kind,
        /// What is wrong.
        problem: String,
    },
    /// A later version of this program wrote it.
    #[error(
        "the store {place} has the format {found}, this version knows {known}: use the version that wrote it, or a later one"
    )]
    Later {
        /// The file, or the row.
        place: String,
        /// Its format.
        found: u64,
        /// The latest that this version reads.
        known: u64,
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
    /// The database cannot be asked in the way that is configured, until somebody repairs one or the other.
    #[error("the store {place}: {problem}")]
    Unusable {
        /// The database, without its password; or the key.
        place: String,
        /// What is wrong and what to change.
        problem: String,
    },
    /// The database cannot be asked now.
    #[error("the store {place}: {problem}; what was known last goes on to count")]
    Away {
        /// The database, without its password.
        place: String,
        /// What is wrong and what to change.
        problem: String,
    },
    /// It has lost changes that were in it.
    #[error(
        "the store {place} has revision {there} of the {}, and {known} was known here: it was put back, or a failover has lost \
         changes. What is known here goes on to count. Stop all control planes, delete its row `identity` and start them: what is in \
         the store counts then",
        kind.name()
    )]
    WentBack {
        /// The database, without its password.
        place: String,
        /// What has gone back.
        kind: Kind,
        /// Its revision.
        there: u64,
        /// The revision that was there.
        known: u64,
    },
    /// Another control plane has changed the same since it was read.
    #[error("another control plane has just changed the {} in the store, ask again", kind.name())]
    Conflict {
        /// What was to be written.
        kind: Kind,
    },
}

impl StoreError {
    /// Whether it may be over by itself, as when the database is just starting.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Away { .. })
    }
}

/// What a store held.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Whose revisions these are: the same for all that share the store. `None` where nobody else can, so that each run may
    /// count as a store of its own: what is there at its start is what is meant, older revisions from a copy too.
    pub identity: Option<String>,
    /// What the fleet is to keep loaded.
    pub pins: Desired,
    /// What operators have set.
    pub settings: Settings,
    /// What there was against requests.
    pub quarantine: Quarantine,
}

/// Where the documents are. Clones lead to the same.
#[derive(Clone)]
pub struct Store {
    place: Place,
    metrics: Metrics,
}

#[derive(Clone)]
enum Place {
    Files(Arc<Files>),
    PostgreSql(Arc<PostgreSql>),
}

impl fmt::Debug for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Store({self})")
    }
}

/// For people; without secrets.
impl fmt::Display for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Files(files) => files.dir().display().fmt(out),
            Place::PostgreSql(database) => database.place().fmt(out),
        }
    }
}

impl Store {
    /// Opens what is configured and reads what it holds. In files, everything is written once more: a directory that cannot
    /// be written is noticed now and not with the first pin. The port tells control planes of one machine apart.
    ///
    /// # Errors
    /// When it is in use, damaged, or cannot be read or written.
    pub async fn open(config: &StoreConfig, port: u16, metrics: Metrics) -> Result<(Self, Contents), StoreError> {
        let place = if config.url.is_empty() {
            let dir = directory(&config.dir, port)?;
            let opened = tokio::task::spawn_blocking(move || Files::open(&dir)).await;
            Place::Files(Arc::new(opened.map_err(|error| broken(&error))??))
        } else {
            Place::PostgreSql(PostgreSql::open(config).await?)
        };
        let store = Self { place, metrics };
        let identity = match &store.place {
            Place::Files(_) => None,
            Place::PostgreSql(database) => Some(database.identity().await?),
        };
        let contents = Contents {
            identity,
            pins: store.pins().await?,
            settings: store.settings().await?,
            quarantine: store.quarantine().await?,
        };
        if matches!(store.place, Place::Files(_)) {
            store.write(&contents.pins).await?;
            store.write(&contents.settings).await?;
            store.write(&contents.quarantine).await?;
        }
        Ok((store, contents))
    }

    /// Nothing more will be written: another control plane may have it, though clones are still about.
    pub fn release(&self) {
        if let Place::Files(files) = &self.place {
            files.release();
        }
    }

    /// Waits until somebody else may have changed something; for ever where nobody else can.
    pub async fn changed(&self) {
        match &self.place {
            Place::Files(_) => std::future::pending().await,
            Place::PostgreSql(database) => database.changed().await,
        }
    }

    /// What the fleet is to keep loaded, as it is there now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn pins(&self) -> Result<Desired, StoreError> {
        self.read().await
    }

    /// What operators have set, as it is there now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn settings(&self) -> Result<Settings, StoreError> {
        self.read().await
    }

    async fn quarantine(&self) -> Result<Quarantine, StoreError> {
        self.read().await
    }

    /// Looks at a revision that was read.
    ///
    /// # Errors
    /// When it is before one that was known.
    pub fn still_has(&self, kind: Kind, there: u64, known: u64) -> Result<(), StoreError> {
        if there >= known {
            return Ok(());
        }
        let place = self.to_string();
        Err(StoreError::WentBack {
            place,
            kind,
            there,
            known,
        })
    }

    /// Puts this in the place of what was there, when that is the revision before; returns when a crash cannot take it any
    /// more.
    ///
    /// # Errors
    /// When it cannot be written, or somebody else was first; what was there before is there still.
    pub async fn save_pins(&self, pins: &Desired) -> Result<(), StoreError> {
        self.save(pins).await
    }

    /// The same for settings.
    ///
    /// # Errors
    /// The same.
    pub async fn save_settings(&self, settings: &Settings) -> Result<(), StoreError> {
        self.save(settings).await
    }

    /// Puts the quarantine there. Where others write as well, what they know is kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn save_quarantine(&self, quarantine: &Quarantine) -> Result<(), StoreError> {
        self.save(quarantine).await
    }

    async fn read<D: Document>(&self) -> Result<D, StoreError> {
        let text = match &self.place {
            Place::Files(files) => files.read(D::KIND)?,
            Place::PostgreSql(database) => database.read(D::KIND).await?.map(|(_, text)| text),
        };
        text.map_or_else(
            || Ok(D::default()),
            |text| documents::parse(&text, Now::read(), &self.place_of(D::KIND)),
        )
    }

    async fn save<D: Document>(&self, document: &D) -> Result<(), StoreError> {
        let result = self.write(document).await;
        let outcome = match &result {
            Ok(()) => "ok",
            Err(StoreError::Conflict { .. }) => "conflict",
            Err(_) => "failed",
        };
        self.metrics
            .store_writes
            .with_label_values(&[D::KIND.name(), outcome])
            .inc();
        result
    }

    async fn write<D: Document>(&self, document: &D) -> Result<(), StoreError> {
        let (kind, now) = (D::KIND, Now::read());
        match &self.place {
            Place::Files(files) => {
                let (files, text) = (Arc::clone(files), documents::text(document, now));
                let written = tokio::task::spawn_blocking(move || files.write(kind, &text)).await;
                written.map_err(|error| broken(&error))?
            }
            Place::PostgreSql(database) => match document.revision() {
                Some(revision) => database.write(kind, revision, &documents::text(document, now)).await,
                None => {
                    // Nobody counts its revisions: whoever comes second adds what the first has written.
                    let add = || async {
                        let (before, text) = database.read(kind).await?.unwrap_or_default();
                        let mut both = document.clone();
                        if !text.is_empty() {
                            both.add(documents::parse(&text, now, &self.place_of(kind))?, now);
                        }
                        database.write(kind, before + 1, &documents::text(&both, now)).await
                    };
                    despite_others(add).await
                }
            },
        }
    }

    fn place_of(&self, kind: Kind) -> String {
        match &self.place {
            Place::Files(files) => files.path(kind).display().to_string(),
            Place::PostgreSql(database) => format!("{}, document {}", database.place(), kind.name()),
        }
    }
}

/// Does it again when others got in the way, a few times: all of them write when they hear of the same.
async fn despite_others<F>(once: impl Fn() -> F) -> Result<(), StoreError>
where
    F: Future<Output = Result<(), StoreError>>,
{
    for _ in 1..TRIES {
        match once().await {
            Err(StoreError::Conflict { .. }) => {}
            done => return done,
        }
    }
    once().await
}

/// A task that panicked; a defect of this program.
fn broken(error: &tokio::task::JoinError) -> StoreError {
    let (path, source) = (PathBuf::new(), io::Error::other(error.to_string()));
    StoreError::Io { path, source }
}

/// The configured directory, else one below the user's own, as the XDG Base Directory Specification has it.
fn directory(configured: &Path, fleet_port: u16) -> Result<PathBuf, StoreError> {
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
mod tests;
