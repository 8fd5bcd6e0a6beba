//! One bucket on one server: looks at objects, fetches and lists them. Every answer is bounded in time, and every error is
//! in our words, without URLs and secrets.

use std::error::Error as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{ClientOptions, Error, GetOptions, ObjectStore as _, RetryConfig};
use tempfile::NamedTempFile;

use crate::adapters::storage::Trouble;
use crate::config::{Bucket, ConfigError};
use crate::core::bucket_fault::{Failure, explain};

/// A listing of more objects than this is refused.
const MOST_OBJECTS: usize = 100_000;

/// The settings for buckets without settings of their own.
const DEFAULT: &str = "default";

/// An object as a look or a listing sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// What changes with its content: the `ETag`, or when it was changed.
    pub tag: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was changed.
    pub modified: SystemTime,
}

/// A bucket.
#[derive(Debug)]
pub struct Client {
    store: AmazonS3,
    bucket: String,
    /// As errors name it.
    server: String,
    /// Whether credentials are asked of the machine that runs this.
    by_machine: bool,
    patience: Duration,
}

impl Client {
    /// A client of `bucket` by its configured settings, or those of `default`. Nothing is connected to yet.
    ///
    /// # Errors
    /// The setting that cannot be meant.
    pub fn new(
        bucket: &str,
        settings: &std::collections::BTreeMap<String, Bucket>,
        patience: Duration,
    ) -> Result<Self, ConfigError> {
        // Somebody else may have chosen the same before.
        drop(rustls::crypto::ring::default_provider().install_default());
        let name = if settings.contains_key(bucket) { bucket } else { DEFAULT };
        let settings = settings.get(name).cloned().unwrap_or_default();
        let secret = settings.secret(name)?;
        let environment = AmazonS3Builder::from_env();
        let given = |key| environment.get_config_value(&key);
        let endpoint = Some(settings.endpoint.clone())
            .filter(|endpoint| !endpoint.is_empty())
            .or_else(|| given(AmazonS3ConfigKey::Endpoint));
        let region = Some(settings.region.clone())
            .filter(|region| !region.is_empty())
            .or_else(|| given(AmazonS3ConfigKey::Region))
            .unwrap_or_else(|| "us-east-1".into());
        let by_machine = secret.is_none()
            && !settings.anonymous
            && [
                AmazonS3ConfigKey::AccessKeyId,
                AmazonS3ConfigKey::WebIdentityTokenFile,
                AmazonS3ConfigKey::SkipSignature,
            ]
            .into_iter()
            .all(|key| given(key).is_none_or(|value| value == "false"));
        // What the environment says of who asks goes with its own key only.
        let mut builder = match secret {
            Some(secret) => AmazonS3Builder::new()
                .with_access_key_id(&settings.access_key_id)
                .with_secret_access_key(secret.reveal()),
            None => environment,
        };
        if !settings.session_token.is_empty() {
            builder = builder.with_token(settings.session_token.reveal());
        }
        // A name with dots would not fit Amazon's certificate.
        let path_style = settings
            .path_style
            .unwrap_or(endpoint.is_some() || bucket.contains('.'));
        let server = endpoint.clone().unwrap_or_else(|| "Amazon S3".into());
        if let Some(endpoint) = endpoint {
            let host = match endpoint.split_once("://") {
                Some((scheme, host)) if !path_style => format!("{scheme}://{bucket}.{host}"),
                _ => endpoint,
            };
            builder = builder.with_endpoint(host);
        }
        if settings.anonymous {
            builder = builder.with_skip_signature(true);
        }
        let retry = RetryConfig {
            max_retries: 1,
            retry_timeout: patience,
            ..RetryConfig::default()
        };
        let options = ClientOptions::new()
            .with_allow_http(settings.allow_http)
            // A whole object may take long; each piece of it may not.
            .with_timeout_disabled()
            .with_connect_timeout(patience)
            .with_read_timeout(patience);
        let built = builder
            .with_bucket_name(bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(!path_style)
            .with_retry(retry)
            .with_client_options(options)
            .build();
        let store = built.map_err(|_| ConfigError::Invalid {
            origin: "configuration".into(),
            key: format!("worker.storage.s3.{name}"),
            problem: "no client can be made of this: see endpoint and region, the AWS_… variables, and that this machine has certificates (ca-certificates)".into(),
        })?;
        Ok(Self {
            store,
            bucket: bucket.to_owned(),
            server,
            by_machine,
            patience,
        })
    }

    /// Looks at an object; nothing when it is not there.
    ///
    /// # Errors
    /// Why the bucket does not say.
    pub async fn head(&self, key: &str) -> Result<Option<Object>, Trouble> {
        match self.peek(key).await? {
            Ok(object) => Ok(Some(object)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.reason(key, &error).await),
        }
    }

    /// The same for a file that may well be missing: S3 denies that to who may not list the bucket.
    ///
    /// # Errors
    /// Why the bucket does not say.
    pub async fn head_if_allowed(&self, key: &str) -> Result<Option<Object>, Trouble> {
        match self.peek(key).await? {
            Ok(object) => Ok(Some(object)),
            Err(Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) => Ok(None),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    /// Why an object is missing: because the bucket is.
    pub async fn why_missing(&self, key: &str) -> Trouble {
        let Ok(path) = Path::parse(key) else {
            return Trouble::Missing;
        };
        match self.in_time(self.store.get_opts(&path, GetOptions::default())).await {
            // An answer to a HEAD has no words; this one has.
            Ok(Err(error @ Error::NotFound { .. })) if !words(&error).contains("NoSuchBucket") => Trouble::Missing,
            Ok(Err(error)) => self.trouble(&error),
            Ok(Ok(_)) => Trouble::Down("it appears just now".into()),
            Err(trouble) => trouble,
        }
    }

    /// Fetches an object as it was seen into `file`, and tells how many bytes came each time some did.
    ///
    /// # Errors
    /// When it changed meanwhile, broke off, or cannot be written.
    pub async fn fetch(&self, object: &Object, file: &mut NamedTempFile, came: impl Fn(u64)) -> Result<(), Trouble> {
        let changed = || Trouble::Down(format!("'{}' changed while it was read", object.key));
        let path = Path::parse(&object.key).map_err(|_| Trouble::Missing)?;
        let options = GetOptions {
            if_match: object.tag.starts_with(['"', 'W']).then(|| object.tag.clone()),
            ..GetOptions::default()
        };
        let found = self.in_time(self.store.get_opts(&path, options)).await?;
        let found = found.map_err(|error| match error {
            Error::Precondition { .. } | Error::NotFound { .. } => changed(),
            error => self.trouble(&error),
        })?;
        let mut pieces = found.into_stream();
        let mut got = 0;
        while let Some(piece) = self.in_time(pieces.next()).await? {
            let piece = piece.map_err(|error| self.trouble(&error))?;
            got += piece.len() as u64;
            if got > object.bytes {
                return Err(changed());
            }
            // Pieces are small, and the page cache takes them.
            file.write_all(&piece)
                .map_err(|error| Trouble::Down(format!("a local copy cannot be written: {error}")))?;
            came(piece.len() as u64);
        }
        if got < object.bytes {
            let problem = format!("'{}' broke off after {got} of {} bytes", object.key, object.bytes);
            return Err(Trouble::Down(problem));
        }
        Ok(())
    }

    /// Every object whose key begins with `folder`, which is empty or ends with a slash, and which `wanted` takes.
    ///
    /// # Errors
    /// Why the bucket does not say, or that there are too many.
    pub async fn list(&self, folder: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Object>, Trouble> {
        let prefix = Path::parse(folder).map_err(|_| Trouble::Missing)?;
        let mut objects = self.store.list(Some(&prefix).filter(|_| !folder.is_empty()));
        let (mut found, mut seen) = (Vec::new(), 0_usize);
        while let Some(meta) = self
            .in_time(objects.try_next())
            .await?
            .map_err(|error| self.trouble(&error))?
        {
            seen += 1;
            if seen > MOST_OBJECTS {
                return Err(Trouble::Unusable(format!(
                    "it has more than {MOST_OBJECTS} objects: let the search path lead to a longer prefix"
                )));
            }
            if wanted(meta.location.as_ref()) {
                found.push(object(meta));
            }
        }
        Ok(found)
    }

    /// What is told of a server that has not answered.
    #[must_use]
    pub fn silence(&self) -> Trouble {
        self.told(Failure::Silence, "")
    }

    async fn peek(&self, key: &str) -> Result<Result<Object, Error>, Trouble> {
        let path = Path::parse(key).map_err(|_| Trouble::Missing)?;
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let found = self.in_time(self.store.get_opts(&path, options)).await?;
        Ok(found.map(|found| object(found.meta)))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        let done = tokio::time::timeout(self.patience, work).await;
        done.map_err(|_| self.silence())
    }

    /// Asks once more in a way that is answered with words, where the first answer had none.
    async fn reason(&self, key: &str, error: &Error) -> Trouble {
        let silent = matches!(failure(error), Failure::Answer) && !words(error).contains("<Code>");
        if silent && let Trouble::Down(reason) = self.why_missing(key).await {
            return Trouble::Down(reason);
        }
        self.trouble(error)
    }

    fn trouble(&self, error: &Error) -> Trouble {
        if matches!(error, Error::InvalidPath { .. }) {
            return Trouble::Unusable(format!(
                "bucket '{}' has a key with an empty segment or a control character: rename that object",
                self.bucket
            ));
        }
        self.told(failure(error), &words(error))
    }

    fn told(&self, failure: Failure, words: &str) -> Trouble {
        if self.by_machine && failure != Failure::Answer {
            return Trouble::Down(explain(failure, "instance metadata", &self.bucket, &self.server));
        }
        Trouble::Down(explain(failure, words, &self.bucket, &self.server))
    }
}

fn object(meta: object_store::ObjectMeta) -> Object {
    Object {
        key: meta.location.to_string(),
        tag: meta
            .e_tag
            .unwrap_or_else(|| meta.last_modified.timestamp_millis().to_string()),
        bytes: meta.size,
        modified: meta.last_modified.into(),
    }
}

/// Everything that an error and what caused it say. It may hold secrets.
fn words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push('\n');
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

fn failure(error: &Error) -> Failure {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return match error.kind() {
                HttpErrorKind::Connect => Failure::Connect,
                HttpErrorKind::Decode => Failure::Answer,
                _ => Failure::Silence,
            };
        }
        cause = error.source();
    }
    Failure::Answer
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
