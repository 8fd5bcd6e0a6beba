//! Files that change while they are in use: when they are looked at again, and how it is shown what became of that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus::{IntGaugeVec, Opts, Registry};
use sha2::{Digest as _, Sha256};

use super::files::contents;

/// How often files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// When a certificate in use ends, in seconds since 1970.
pub const CERTIFICATE_EXPIRES: &str = "graticule_tls_certificate_expires_timestamp_seconds";
/// Whether the files of a use of TLS have changed into something that cannot be used.
pub const FILES_UNUSABLE: &str = "graticule_tls_files_unusable";

/// How TLS stands, by what it is used for. Clones show together.
#[derive(Clone, Debug)]
pub struct Gauges {
    expires: IntGaugeVec,
    unusable: IntGaugeVec,
}

impl Gauges {
    /// Registers them.
    ///
    /// # Errors
    /// When names are taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), &["used_for"]);
        let gauges = Self {
            expires: gauge(
                CERTIFICATE_EXPIRES,
                "When the certificate in use ends, in seconds since 1970, by the key of the configuration that it is used for",
            )?,
            unusable: gauge(
                FILES_UNUSABLE,
                "1 while files of certificates or tokens have changed into something that cannot be used, so that what they were before counts",
            )?,
        };
        registry.register(Box::new(gauges.expires.clone()))?;
        registry.register(Box::new(gauges.unusable.clone()))?;
        Ok(gauges)
    }

    /// The certificate that is in use now.
    pub fn in_use(&self, used_for: &str, until_unix: i64) {
        self.expires.with_label_values(&[used_for]).set(until_unix);
    }

    /// Whether the files can be used.
    pub fn usable(&self, used_for: &str, usable: bool) {
        self.unusable.with_label_values(&[used_for]).set(i64::from(!usable));
    }

    /// Nothing is said any more of what is not among these.
    pub fn retain(&self, used_for: &[String], gone: &[String]) {
        for name in gone.iter().filter(|name| !used_for.contains(name)) {
            // It may never have been shown.
            let _ = self.expires.remove_label_values(&[name]);
            let _ = self.unusable.remove_label_values(&[name]);
        }
    }
}

/// What stands in these files, or why not, as a number that differs when anything does.
#[must_use]
pub fn digest<'a>(files: impl IntoIterator<Item = &'a Path>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for file in files {
        match contents(file) {
            Ok(bytes) => {
                hasher.update([1]);
                hasher.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
                hasher.update(bytes);
            }
            Err(problem) => {
                hasher.update([0]);
                hasher.update(problem);
            }
        }
    }
    hasher.finalize().into()
}

/// Files and what was last seen in them.
#[derive(Debug)]
pub(crate) struct Looked {
    files: Vec<PathBuf>,
    seen: [u8; 32],
}

impl Looked {
    /// As they are now. Take it before the files are read: then no change is missed.
    pub fn at(files: Vec<PathBuf>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().filter(|file| super::config::is_set(file)).collect();
        let seen = digest(files.iter().map(PathBuf::as_path));
        Self { files, seen }
    }

    /// Whether they have changed since.
    pub fn changed(&mut self) -> bool {
        let now = digest(self.files.iter().map(PathBuf::as_path));
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}
