//! What all storages list, as of a moment ago: listed once for all who ask at the same time, and never for longer waited
//! for than need be.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt as _;
use futures::future::{Shared, join_all};
use tokio::sync::oneshot;

use crate::adapters::storage::{Listed, Storage, StorageError};
use crate::core::catalog::{Problem, Snapshot, entry, sorted};

/// A listing is used at least so long, and ten times as long as it took, but no longer than `OLDEST`: storages then spend
/// a tenth of their time on it at most.
const FRESH: Duration = Duration::from_secs(1);
const OLDEST: Duration = Duration::from_secs(15);

/// Who has an older listing waits so long for a new one. A storage that does not answer takes its time each time.
const PATIENCE: Duration = Duration::from_secs(1);

/// The listings of a storage; clones share them.
#[derive(Debug, Clone)]
pub struct Listing {
    storage: Storage,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    latest: Option<Latest>,
    running: Option<Shared<oneshot::Receiver<Arc<Snapshot>>>>,
}

#[derive(Debug, Clone)]
struct Latest {
    snapshot: Arc<Snapshot>,
    until: Instant,
}

impl Listing {
    /// Nothing is listed yet.
    #[must_use]
    pub fn new(storage: Storage) -> Self {
        let state = Arc::default();
        Self { storage, state }
    }

    /// What there is.
    pub async fn snapshot(&self) -> Arc<Snapshot> {
        let (latest, running) = {
            let mut state = lock(&self.state);
            if let Some(latest) = state.latest.as_ref().filter(|latest| Instant::now() < latest.until) {
                return Arc::clone(&latest.snapshot);
            }
            let running = state.running.take().filter(|running| running.peek().is_none());
            let running = running.unwrap_or_else(|| self.begin());
            state.running = Some(running.clone());
            (state.latest.clone(), running)
        };
        let taken = match &latest {
            None => running.await.ok(),
            Some(_) => tokio::time::timeout(PATIENCE, running).await.ok().and_then(Result::ok),
        };
        taken.or(latest.map(|latest| latest.snapshot)).unwrap_or_else(|| {
            let problem = Problem {
                location: "/".into(),
                problem: "the listing ended without a result".into(),
            };
            Arc::new(assembled(Vec::new(), vec![problem], SystemTime::now()))
        })
    }

    /// Lists in a task of its own, so that it ends whoever goes meanwhile.
    fn begin(&self) -> Shared<oneshot::Receiver<Arc<Snapshot>>> {
        let (tell, told) = oneshot::channel();
        let listing = self.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let snapshot = Arc::new(list(&listing.storage).await);
            let used = (begun.elapsed() * 10).clamp(FRESH, OLDEST);
            let latest = Latest {
                snapshot: Arc::clone(&snapshot),
                until: Instant::now() + used,
            };
            lock(&listing.state).latest = Some(latest);
            drop(tell.send(snapshot));
        });
        told.shared()
    }
}

/// The state is whole after every change, so a panic elsewhere does not spoil it.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

type Found = (String, String, Result<Vec<Listed>, StorageError>);

async fn list(storage: &Storage) -> Snapshot {
    let taken = SystemTime::now();
    let locations = storage.locations().map(|(location, root)| async move {
        let kind = root.scheme().unwrap_or("directory").to_owned();
        (location.to_owned(), kind, storage.list(location).await)
    });
    let found: Vec<Found> = join_all(locations).await;
    let storage = storage.clone();
    // Ten thousand names are some work.
    let done = tokio::task::spawn_blocking(move || named(&storage, found, taken)).await;
    done.unwrap_or_else(|_| assembled(Vec::new(), Vec::new(), taken))
}

/// Names what was found, without what lies under a longer location and is shadowed there.
fn named(storage: &Storage, found: Vec<Found>, taken: SystemTime) -> Snapshot {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for (location, kind, listed) in found {
        match listed {
            Ok(listed) => {
                let named = listed.into_iter().filter_map(|listed| {
                    let Listed {
                        relative,
                        suffix,
                        modified,
                        bytes,
                    } = listed;
                    let (name, entry) = entry((&location, &kind), (&relative, suffix), modified, bytes)?;
                    let own = storage.location_of(&name).is_some_and(|owner| owner == location);
                    own.then_some(entry)
                });
                entries.extend(named);
            }
            Err(error) => problems.push(Problem {
                location,
                problem: match error {
                    StorageError::Unavailable { problem, .. } => problem,
                    other => other.to_string(),
                },
            }),
        }
    }
    assembled(entries, problems, taken)
}

fn assembled(entries: Vec<crate::core::catalog::Entry>, mut problems: Vec<Problem>, taken: SystemTime) -> Snapshot {
    problems.sort_by(|a, b| a.location.cmp(&b.location));
    Snapshot {
        entries: sorted(entries),
        problems,
        taken,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::core::locate::SearchPaths;

    fn listing(paths: &[(&str, &str)]) -> Listing {
        let paths = SearchPaths::new(paths.iter().copied()).unwrap();
        Listing::new(
            Storage::new(
                paths,
                &crate::config::Storage::default(),
                &crate::adapters::storage::Surroundings::default(),
            )
            .unwrap(),
        )
    }

    fn ids(snapshot: &Snapshot) -> Vec<&str> {
        snapshot.entries.iter().map(|entry| entry.id.as_str()).collect()
    }

    #[tokio::test]
    async fn a_project_is_listed_where_requests_find_it_and_nowhere_else() {
        let (root, public) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(root.path().join("public")).unwrap();
        for file in [
            "a.qgs",
            "a.qgz",
            "public/shadowed.qgs",
            "public/roads.qgs",
            ".hidden.qgs",
            "b.txt",
        ] {
            fs::write(root.path().join(file), "x").unwrap();
        }
        fs::write(public.path().join("roads.qgz"), "longer").unwrap();
        let listing = listing(&[
            ("/", root.path().to_str().unwrap()),
            ("/public", public.path().to_str().unwrap()),
            ("/users/{user}", "/srv/{user}"),
            ("/gone", "/nowhere/at/all"),
        ]);
        let snapshot = listing.snapshot().await;
        assert_eq!(ids(&snapshot), ["/a", "/public/roads"]);
        assert_eq!(
            (snapshot.entries[1].bytes, snapshot.entries[1].location.as_str()),
            (Some(6), "/public")
        );
        assert_eq!(snapshot.problems.len(), 1);
        assert_eq!(snapshot.problems[0].location, "/gone");
    }

    #[tokio::test]
    async fn all_who_ask_at_once_get_one_listing() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.qgs"), "x").unwrap();
        let listing = listing(&[("/", root.path().to_str().unwrap())]);
        let all = join_all((0..20).map(|_| listing.snapshot())).await;
        assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
        assert!(
            Arc::ptr_eq(&listing.snapshot().await, &all[0]),
            "and who comes a moment later"
        );
    }
}
