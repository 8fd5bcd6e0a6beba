//! Follows the projects in use: looks at the storage of each at intervals, and at once where a storage tells of a change by
//! itself, or the kernel of one in a local directory (inotify(7); it tells nothing of changes that other machines make on
//! a network file system).
//!
//! What it sees goes to the supervisor, which has workers load what has changed. Projects that nobody holds are not
//! looked at: the next request for one does that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::storage::{Change, Storage, StorageError};
use super::supervisor::{Pinned, Supervisor};
use crate::core::locate::{ProjectName, Suffix};

/// After the last word of the kernel, files are left alone for so long: whoever writes them writes more than once.
const SETTLE: Duration = Duration::from_millis(400);

/// A file that is written all the time is looked at this often all the same.
const SETTLE_AT_MOST: Duration = Duration::from_secs(3);

/// How many storages' answers are awaited at once.
const AT_ONCE: usize = 8;

/// Directories that are watched; projects in others are looked at at intervals.
const MOST_DIRECTORIES: usize = 1024;

/// What a look at one project showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// As clients name it.
    pub project: String,
    /// What the storage holds.
    pub seen: Seen,
}

/// What the storage holds of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// This version.
    Version(String),
    /// Nothing any more.
    Removed,
    /// It does not answer.
    Unavailable(String),
}

#[derive(Debug)]
struct Ask {
    /// All that are in use when empty.
    projects: Vec<ProjectName>,
    reply: oneshot::Sender<Vec<Looked>>,
}

/// Asks for a look out of turn; clones share it.
#[derive(Debug, Clone)]
pub struct Watch {
    asks: mpsc::Sender<Ask>,
}

impl Watch {
    /// Follows the projects in use and the pins named in `pins`, looking at each as often as `every` says.
    pub fn start(
        storage: Storage,
        supervisor: Supervisor,
        pins: watch::Receiver<Vec<String>>,
        every: watch::Receiver<Duration>,
    ) -> Self {
        let (asks, asked) = mpsc::channel(8);
        let watcher = Watcher {
            storage,
            supervisor,
            pins,
        };
        tokio::spawn(watcher.run(asked, every));
        Self { asks }
    }

    /// Looks at these projects now, or at all in use when there are none.
    pub async fn look(&self, projects: Vec<ProjectName>) -> Vec<Looked> {
        let (reply, answer) = oneshot::channel();
        drop(self.asks.send(Ask { projects, reply }).await);
        answer.await.unwrap_or_default()
    }
}

struct Watcher {
    storage: Storage,
    supervisor: Supervisor,
    pins: watch::Receiver<Vec<String>>,
}

/// The projects in use: each name with the uri under which it is held, where it is.
type InUse = BTreeMap<ProjectName, Option<String>>;

/// Of the projects in use those that are asked for, or all of them when none is; and what is asked for and not in use.
fn asked_for(in_use: InUse, projects: Vec<ProjectName>) -> InUse {
    if projects.is_empty() {
        return in_use;
    }
    let mut wanted = InUse::new();
    for project in projects {
        // Those in use have the file type in their names; who asks need not.
        let held = in_use.iter().filter(|(name, _)| name.key() == project.key());
        let held: InUse = held.map(|(name, uri)| (name.clone(), uri.clone())).collect();
        if held.is_empty() {
            wanted.insert(project, None);
        }
        wanted.extend(held);
    }
    wanted
}

impl Watcher {
    async fn run(self, mut asked: mpsc::Receiver<Ask>, mut every: watch::Receiver<Duration>) {
        let mut directories = Directories::new();
        let mut pause = looks(*every.borrow_and_update());
        let mut pool = self.supervisor.watch();
        let mut told = self.storage.start_following();
        loop {
            tokio::select! {
                _ = pause.tick() => {
                    let in_use = self.in_use().await;
                    directories.follow(in_use.values().flatten());
                    self.look_at(in_use).await;
                }
                Ok(()) = every.changed() => pause = looks(*every.borrow_and_update()),
                changed = directories.changed() => {
                    let in_use = self.in_use().await;
                    let lies_there = |uri: &String| Path::new(uri).parent().is_some_and(|dir| changed.contains(dir));
                    let there = in_use.into_iter().filter(|(_, uri)| uri.as_ref().is_some_and(lies_there));
                    self.look_at(there.collect()).await;
                }
                Some(change) = told.recv() => {
                    let mut in_use = self.in_use().await;
                    if let Change::Uri(changed) = change {
                        in_use.retain(|_, uri| uri.as_ref() == Some(&changed));
                    }
                    self.look_at(in_use).await;
                }
                ask = asked.recv() => {
                    let Some(Ask { projects, reply }) = ask else { break };
                    let wanted = asked_for(self.in_use().await, projects);
                    drop(reply.send(self.look_at(wanted).await));
                }
                ended = async { while pool.changed().await.is_ok() {} } => {
                    let () = ended;
                    break;
                }
            }
        }
    }

    async fn in_use(&self) -> InUse {
        let mut in_use = InUse::new();
        for cached in self.supervisor.cached().await {
            // The file type belongs to what was asked for: a project may lie there in both.
            let suffix = Suffix::of(&cached.uri).map_or("", Suffix::as_str);
            let spelled = format!("{}{suffix}", cached.record.name);
            in_use.extend(ProjectName::parse(&spelled).ok().map(|name| (name, Some(cached.uri))));
        }
        let pins = self.pins.borrow().clone();
        for name in pins.iter().filter_map(|pin| ProjectName::parse(pin).ok()) {
            if !in_use.keys().any(|held| held.key() == name.key()) {
                in_use.insert(name, None);
            }
        }
        in_use
    }

    async fn look_at(&self, projects: InUse) -> Vec<Looked> {
        let looks = projects.into_iter().map(|(name, uri)| self.look(name, uri));
        futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect().await
    }

    async fn look(&self, name: ProjectName, uri: Option<String>) -> Looked {
        let found = self.storage.find_now(&name).await;
        let project = name.key().to_owned();
        // Held while the supervisor is told, so that an unpinning comes before or after, and not in between.
        let pins = self.pins.borrow();
        let pinned = pins.contains(&project);
        let seen = match found {
            Ok(found) => {
                let version = found.version.clone();
                let seen = Pinned {
                    name: project.clone(),
                    project: found,
                };
                if pinned {
                    self.supervisor.pin_found(seen.clone());
                }
                self.supervisor.seen(seen);
                Seen::Version(version)
            }
            Err(StorageError::Unavailable { problem, .. }) => Seen::Unavailable(problem),
            Err(_) => {
                if let Some(uri) = uri {
                    if pinned {
                        self.supervisor.pin_lost(uri.clone());
                    }
                    self.supervisor.drop_project(Some(uri));
                }
                Seen::Removed
            }
        };
        Looked { project, seen }
    }
}

/// A look now, and one after each such time.
fn looks(every: Duration) -> tokio::time::Interval {
    let mut pause = tokio::time::interval(every);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pause
}

/// Watches on local directories; none where the kernel gives none.
struct Directories {
    kernel: Option<RecommendedWatcher>,
    words: mpsc::UnboundedReceiver<notify::Result<notify::Event>>,
    watched: BTreeSet<PathBuf>,
    /// Where something has happened that nobody has looked at yet.
    changed: BTreeSet<PathBuf>,
}

impl Directories {
    fn new() -> Self {
        let (tell, words) = mpsc::unbounded_channel();
        let kernel = notify::recommended_watcher(move |word| drop(tell.send(word)));
        if let Err(error) = &kernel {
            tracing::warn!(%error, "the kernel tells of no changes: projects are looked at at intervals");
        }
        Self {
            kernel: kernel.ok(),
            words,
            watched: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Watches the directories of these projects' files, and no others. One that was made anew is watched anew.
    fn follow<'a>(&mut self, uris: impl Iterator<Item = &'a String>) {
        let Some(kernel) = &mut self.kernel else { return };
        let files = uris.filter(|uri| uri.starts_with('/'));
        let wanted: BTreeSet<PathBuf> = files
            .filter_map(|uri| Path::new(uri).parent().map(Path::to_owned))
            .take(MOST_DIRECTORIES)
            .collect();
        for directory in self.watched.difference(&wanted) {
            // It may have gone by itself, with its directory.
            drop(kernel.unwatch(directory));
        }
        let mut watched = BTreeSet::new();
        for directory in wanted {
            if self.watched.contains(&directory) || kernel.watch(&directory, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(directory);
            }
        }
        self.watched = watched;
    }

    /// Waits until something has happened in watched directories and has come to rest; says which. May be dropped at any
    /// time without losing a word.
    async fn changed(&mut self) -> BTreeSet<PathBuf> {
        if self.changed.is_empty() {
            self.read().await;
        }
        let at_most = tokio::time::sleep(SETTLE_AT_MOST);
        tokio::pin!(at_most);
        loop {
            tokio::select! {
                () = self.read() => {}
                () = tokio::time::sleep(SETTLE) => break,
                () = &mut at_most => break,
            }
        }
        std::mem::take(&mut self.changed)
    }

    /// Waits for a word of the kernel that a file has changed; that one was read is none.
    async fn read(&mut self) {
        loop {
            let Some(word) = self.words.recv().await else {
                return std::future::pending().await;
            };
            let Ok(event) = word else { continue };
            if event.need_rescan() {
                self.changed.extend(self.watched.iter().cloned());
                return;
            }
            if event.kind.is_access() && event.kind != EventKind::Access(AccessKind::Close(AccessMode::Write)) {
                continue;
            }
            for path in &event.paths {
                if event.kind.is_remove() && self.watched.remove(path) {
                    self.changed.insert(path.clone());
                }
                self.changed.extend(path.parent().map(Path::to_owned));
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_found_among_what_is_in_use_whatever_its_file_type() {
        let name = |text: &str| ProjectName::parse(text).unwrap();
        let in_use = InUse::from([
            (name("/a.qgs"), Some("/srv/a.qgs".to_owned())),
            (name("/b.qgz"), Some("/srv/b.qgz".to_owned())),
        ]);
        assert_eq!(asked_for(in_use.clone(), Vec::new()), in_use);
        let asked = asked_for(in_use, vec![name("/a"), name("/c")]);
        assert_eq!(
            asked,
            InUse::from([(name("/a.qgs"), Some("/srv/a.qgs".to_owned())), (name("/c"), None)])
        );
    }
}
