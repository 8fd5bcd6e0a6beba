//! Projects in S3 buckets. A project and the files that it names beside it are copied to this machine, where QGIS opens them;
//! its version changes with any of them.

mod client;
mod copies;
mod lookout;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Backend, Listed, Surroundings, Trouble};
use crate::config::{self, ConfigError};
use crate::core::bucket::BucketRoot;
use crate::core::locate::{At, Place};
use crate::core::message::ProjectRef;
use client::Client;
use copies::Copies;
use lookout::Lookout;

/// A prefix of a bucket.
#[derive(Debug)]
pub struct S3 {
    url: String,
    root: BucketRoot,
    lookout: Lookout,
    believed: Duration,
}

/// What all buckets share: the directory of local copies, taken when the first bucket needs it.
#[derive(Debug, Default)]
pub struct SharedCopies(Mutex<Option<Arc<Copies>>>);

impl SharedCopies {
    fn get(&self, config: &config::Storage, surroundings: &Surroundings) -> Result<Arc<Copies>, ConfigError> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copies) = &*shared {
            return Ok(Arc::clone(copies));
        }
        let files = &config.files;
        let dir = if files.dir.as_os_str().is_empty() {
            surroundings.state_dir.join("files")
        } else {
            files.dir.clone()
        };
        let opened = Copies::open(&dir, files.max_bytes, surroundings.user.as_ref());
        let copies = Arc::new(opened.map_err(|error| ConfigError::Invalid {
            origin: "configuration".into(),
            key: "worker.storage.files.dir".into(),
            problem: format!("{}: {error}", dir.display()),
        })?);
        *shared = Some(Arc::clone(&copies));
        Ok(copies)
    }
}

impl S3 {
    /// Reads the URL and the settings of its bucket.
    ///
    /// # Errors
    /// When they cannot be meant.
    pub fn read(
        location: &str,
        url: &str,
        config: &config::Storage,
    ) -> Result<(BucketRoot, Client, Duration), ConfigError> {
        let root = BucketRoot::parse(url).map_err(|problem| ConfigError::Invalid {
            origin: "configuration".into(),
            key: config::search_path_key(location),
            problem: format!("search path '{location}': `{url}` {problem}"),
        })?;
        let patience = config.timeout()?;
        let client = Client::new(&root.bucket, &config.s3, patience)?;
        Ok((root, client, patience))
    }

    /// The prefix that `url` names. Nothing is connected to yet.
    ///
    /// # Errors
    /// When the URL or a setting cannot be meant, or there is no place for local copies.
    pub fn new(
        location: &str,
        url: &str,
        config: &config::Storage,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let (root, client, patience) = Self::read(location, url, config)?;
        let copies = surroundings.copies.get(config, surroundings)?;
        let bucket = root.bucket.clone();
        Ok(Self {
            url: url.to_owned(),
            root,
            lookout: Lookout::new(client, bucket, copies, config.files.max_file_bytes, patience),
            believed: config.check_interval()?,
        })
    }
}

#[tonic::async_trait]
impl Backend for S3 {
    async fn look(&self, place: &Place) -> Result<ProjectRef, Trouble> {
        let At::Store(url) = &place.at else {
            return Err(Trouble::Missing);
        };
        let spot = self.root.spot(url, &place.relative, place.suffix);
        self.lookout.look(spot.ok_or(Trouble::Missing)?).await
    }

    async fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let named = |key: &str| {
            let hidden = key.split('/').any(|segment| segment.starts_with('.'));
            self.root.relative(&self.url, key).filter(|_| !hidden)
        };
        let folder = self.root.listed(&self.url);
        let objects = self.lookout.client().list(&folder, |key| named(key).is_some()).await?;
        let listed = objects.into_iter().filter_map(|object| {
            let (relative, suffix) = named(&object.key)?;
            Some(Listed {
                relative,
                suffix: Some(suffix),
                modified: Some(object.modified),
                bytes: Some(object.bytes),
            })
        });
        Ok(listed.collect())
    }

    fn believed_for(&self) -> Option<Duration> {
        Some(self.believed)
    }
}
