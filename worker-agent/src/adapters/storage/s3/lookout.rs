//! Looks at projects in a bucket, and brings what is new to this machine.
//!
//! A look runs in a task of its own: who asks may lose patience, and whoever asks next joins the same look. So a large
//! project comes in whole, however short the patience is.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::client::{Client, Object};
use super::copies::Copies;
use crate::adapters::storage::{Trouble, blocking};
use crate::core::bucket::Spot;
use crate::core::locate::Suffix;
use crate::core::message::{Begun, ProjectRef};
use crate::core::project_files::{Files, FilesError, of_project, text_of};

/// Objects that are looked at at the same time.
const LOOKS_AT_ONCE: usize = 16;

/// Objects that are fetched at the same time.
const FETCHES_AT_ONCE: usize = 4;

/// Projects that one project may embed, they and what they embed.
const MOST_EMBEDDED: usize = 20;

/// Projects whose text has been read; beyond that they are read again.
const REMEMBERED: usize = 10_000;

/// How far a look has come.
#[derive(Debug, Clone)]
enum Stage {
    /// It asks the bucket.
    Looking,
    /// It fetches.
    Fetching { got: u64, of: u64 },
    /// It has ended.
    Ended(Result<ProjectRef, Trouble>),
}

/// Looks at one bucket; clones share it.
#[derive(Debug, Clone)]
pub struct Lookout {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    bucket: String,
    copies: Arc<Copies>,
    max_file_bytes: u64,
    patience: Duration,
    /// Looks that have not ended, by the first key looked for.
    running: Mutex<HashMap<String, watch::Receiver<Stage>>>,
    /// What each version of a project's text names, by the object's name.
    named: Mutex<HashMap<String, Arc<Files>>>,
}

/// A project with all its files, as the bucket has it now.
struct Seen {
    project: Object,
    /// By their paths below the fence.
    files: BTreeMap<String, Object>,
    outside: Vec<String>,
}

/// Takes a look off the list when its task has ended, however that was.
struct Ending {
    inner: Arc<Inner>,
    key: String,
}

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.inner.running).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lookout {
    /// Looks at `bucket` by `client`, and keeps copies in `copies`. An answer is given after three quarters of `patience` at
    /// the latest.
    #[must_use]
    pub fn new(client: Client, bucket: String, copies: Arc<Copies>, max_file_bytes: u64, patience: Duration) -> Self {
        let inner = Inner {
            client,
            bucket,
            copies,
            max_file_bytes,
            // Before the caller's own is over: what is said here says more.
            patience: patience * 3 / 4,
            running: Mutex::default(),
            named: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The bucket.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Looks at a project, or joins who does.
    ///
    /// # Errors
    /// When it cannot be had, or not yet.
    pub async fn look(&self, spot: Spot) -> Result<ProjectRef, Trouble> {
        let mut stage = self.join(spot);
        let ended = stage.wait_for(|stage| matches!(stage, Stage::Ended(_)));
        if let Ok(Ok(ended)) = tokio::time::timeout(self.inner.patience, ended).await {
            return match &*ended {
                Stage::Ended(result) => result.clone(),
                _ => Err(Trouble::Down("a look has not ended".into())),
            };
        }
        let so_far = stage.borrow().clone();
        Err(match so_far {
            Stage::Ended(result) => return result,
            Stage::Looking => self.inner.client.silence(),
            Stage::Fetching { got, of } => {
                Trouble::Down(format!("the project is still being fetched, {got} of {of} bytes"))
            }
        })
    }

    fn join(&self, spot: Spot) -> watch::Receiver<Stage> {
        let key = spot.keys.join("\n");
        let mut running = lock(&self.inner.running);
        if let Some(stage) = running.get(&key) {
            return stage.clone();
        }
        let (tell, stage) = watch::channel(Stage::Looking);
        running.insert(key.clone(), stage.clone());
        let ending = Ending {
            inner: Arc::clone(&self.inner),
            key,
        };
        tokio::spawn(async move {
            let result = ending.inner.look(&spot, &tell).await;
            drop(ending);
            tell.send_replace(Stage::Ended(result));
        });
        stage
    }
}

impl Inner {
    async fn look(&self, spot: &Spot, tell: &watch::Sender<Stage>) -> Result<ProjectRef, Trouble> {
        let mut found = None;
        for key in &spot.keys {
            found = self.client.head(key).await?;
            if found.is_some() {
                break;
            }
        }
        let Some(project) = found else {
            spot.keys.iter().for_each(|key| self.copies.forget(&self.folder(key)));
            return Err(match spot.keys.last() {
                Some(key) => self.client.why_missing(key).await,
                None => Trouble::Missing,
            });
        };
        let seen = self.see(project, &spot.fence, tell).await?;
        let uri = format!("s3://{}/{}", self.bucket, seen.project.key);
        let (folder, version) = (self.folder(&seen.project.key), seen.version());
        let mut tree = self.copies.tree(&folder, &version);
        if tree.is_none() {
            if !seen.outside.is_empty() {
                let files = seen.outside.join(", ");
                tracing::warn!(
                    project = uri,
                    files,
                    "files outside the search path's prefix are not fetched"
                );
            }
            self.bring(&seen, &spot.fence, &folder, &version, tell).await?;
            tree = self.copies.tree(&folder, &version);
        }
        let tree = tree.ok_or_else(|| Trouble::Down("its local copy was removed".into()))?;
        let file = tree.join(below(&seen.project.key, &spot.fence));
        let file = file.to_str().map(str::to_owned);
        Ok(ProjectRef {
            uri,
            version,
            file: Some(
                file.ok_or_else(|| Trouble::Unusable("worker.storage.files.dir is not UTF-8; rename it".into()))?,
            ),
            begun: Begun::default(),
        })
    }

    /// Looks at every file of a project, and at those of projects that it embeds.
    async fn see(&self, project: Object, fence: &str, tell: &watch::Sender<Stage>) -> Result<Seen, Trouble> {
        let mut seen = Seen {
            files: BTreeMap::new(),
            outside: Vec::new(),
            project: project.clone(),
        };
        let (mut to_read, mut read) = (vec![project], 0);
        let mut looked = std::collections::BTreeSet::new();
        while let Some(project) = to_read.pop() {
            read += 1;
            if read > MOST_EMBEDDED {
                return Err(Trouble::Unusable(format!(
                    "it embeds more than {MOST_EMBEDDED} projects"
                )));
            }
            let named = match self.named(&project, fence, tell).await {
                Ok(named) => named,
                // An embedded project that QGIS cannot read either costs its layers and nothing else.
                Err(Trouble::Unusable(_)) if read > 1 => continue,
                Err(trouble) => return Err(trouble),
            };
            seen.outside.extend(named.outside.iter().cloned());
            let new: Vec<String> = named
                .wanted
                .iter()
                .filter(|path| looked.insert((*path).clone()))
                .cloned()
                .collect();
            let own = below(&seen.project.key, fence).to_owned();
            let looks = new.into_iter().filter(|path| *path != own).map(|path| async move {
                let object = self.client.head_if_allowed(&format!("{fence}{path}")).await?;
                Ok::<_, Trouble>(object.map(|object| (path, object)))
            });
            let found: Vec<_> = futures::stream::iter(looks)
                .buffer_unordered(LOOKS_AT_ONCE)
                .try_collect()
                .await?;
            for (path, object) in found.into_iter().flatten() {
                if Suffix::of(&path).is_some() {
                    to_read.push(object.clone());
                }
                seen.files.insert(path, object);
            }
        }
        Ok(seen)
    }

    /// What a project's text names; it is fetched for that where it is not here.
    async fn named(&self, project: &Object, fence: &str, tell: &watch::Sender<Stage>) -> Result<Arc<Files>, Trouble> {
        let id = self.id(project);
        if let Some(named) = lock(&self.named).get(&id) {
            return Ok(Arc::clone(named));
        }
        let _hold = self.hold(vec![id.clone()], 0).await?;
        self.fetch(std::slice::from_ref(project), tell).await?;
        let path = below(&project.key, fence).to_owned();
        let copy = self.copies.object(&id);
        let read = blocking(move || {
            let zipped = Suffix::of(&path) == Some(Suffix::Qgz);
            let (folder, name) = path.rfind('/').map_or(("", path.as_str()), |at| path.split_at(at + 1));
            let file = std::fs::File::open(copy).map_err(|error| disk(&error))?;
            let files = text_of(io::BufReader::new(file), zipped).and_then(|text| of_project(&text, folder, name));
            match files {
                Ok(files) => Ok(files),
                // QGIS says it better, and to the right people.
                Err(FilesError::Malformed(_) | FilesError::Archive(_)) => Ok(Files::default()),
                Err(error) => Err(Trouble::Unusable(error.to_string())),
            }
        });
        let read = Arc::new(read.await?);
        let mut named = lock(&self.named);
        if named.len() >= REMEMBERED {
            named.clear();
        }
        named.insert(id, Arc::clone(&read));
        Ok(read)
    }

    /// Makes the tree of a version, and fetches what it has that is not here.
    async fn bring(
        &self,
        seen: &Seen,
        fence: &str,
        folder: &str,
        version: &str,
        tell: &watch::Sender<Stage>,
    ) -> Result<(), Trouble> {
        let own = (below(&seen.project.key, fence).to_owned(), seen.project.clone());
        let all: Vec<(String, Object)> = seen.files.clone().into_iter().chain([own]).collect();
        if let Some((_, large)) = all.iter().find(|(_, object)| object.bytes > self.max_file_bytes) {
            return Err(Trouble::Unusable(format!(
                "'{}' has {} bytes, more than worker.storage.files.max_file_bytes",
                large.key, large.bytes
            )));
        }
        let objects: Vec<Object> = all.iter().map(|(_, object)| object.clone()).collect();
        let ids: Vec<String> = objects.iter().map(|object| self.id(object)).collect();
        let missing = objects
            .iter()
            .filter(|object| !self.copies.has(&self.id(object), object.bytes));
        let _hold = self.hold(ids, missing.map(|object| object.bytes).sum()).await?;
        self.fetch(&objects, tell).await?;
        let files: Vec<(String, String)> = all
            .iter()
            .map(|(path, object)| (path.clone(), self.id(object)))
            .collect();
        let (copies, folder, version) = (Arc::clone(&self.copies), folder.to_owned(), version.to_owned());
        blocking(move || copies.plant(&folder, &version, &files).map_err(|error| disk(&error))).await
    }

    async fn hold(&self, objects: Vec<String>, bytes: u64) -> Result<super::copies::Hold, Trouble> {
        let copies = Arc::clone(&self.copies);
        blocking(move || copies.hold(objects, bytes).map_err(|error| disk(&error))).await
    }

    /// Fetches those of `objects` that are not here.
    async fn fetch(&self, objects: &[Object], tell: &watch::Sender<Stage>) -> Result<(), Trouble> {
        let missing: Vec<Object> = objects
            .iter()
            .filter(|object| !self.copies.has(&self.id(object), object.bytes))
            .cloned()
            .collect();
        if let Some(large) = missing.iter().find(|object| object.bytes > self.max_file_bytes) {
            return Err(Trouble::Unusable(format!(
                "'{}' has {} bytes, more than worker.storage.files.max_file_bytes",
                large.key, large.bytes
            )));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let of = missing.iter().map(|object| object.bytes).sum();
        tell.send_replace(Stage::Fetching { got: 0, of });
        let came = |more: u64| {
            tell.send_modify(|stage| {
                if let Stage::Fetching { got, .. } = stage {
                    *got += more;
                }
            });
        };
        let fetches = missing.into_iter().map(|object| async move {
            let mut file = self.copies.fresh().map_err(|error| disk(&error))?;
            self.client.fetch(&object, &mut file, came).await?;
            let (copies, id) = (Arc::clone(&self.copies), self.id(&object));
            blocking(move || copies.keep(file, &id).map_err(|error| disk(&error))).await
        });
        futures::stream::iter(fetches)
            .buffer_unordered(FETCHES_AT_ONCE)
            .try_collect::<()>()
            .await
    }

    /// The name of an object's copy.
    fn id(&self, object: &Object) -> String {
        digest([
            self.bucket.as_str(),
            &object.key,
            &object.tag,
            &object.bytes.to_string(),
        ])
    }

    /// The folder of a project's versions.
    fn folder(&self, key: &str) -> String {
        format!("{}/{}", self.bucket, digest([key]))
    }
}

impl Seen {
    /// What changes with the project or with any of its files.
    fn version(&self) -> String {
        let files = self
            .files
            .iter()
            .flat_map(|(path, object)| [path.as_str(), &object.tag]);
        digest([self.project.tag.as_str()].into_iter().chain(files))
    }
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let bytes = hash.finalize();
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A key from the fence on.
fn below<'a>(key: &'a str, fence: &str) -> &'a str {
    key.strip_prefix(fence).unwrap_or(key)
}

fn disk(error: &io::Error) -> Trouble {
    Trouble::Down(format!("a local copy cannot be made: {error}"))
}
