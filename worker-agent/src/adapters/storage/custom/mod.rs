//! Projects in a storage that an operator's own Python class speaks to, in a process of its own.

mod host;

use std::time::{Duration, UNIX_EPOCH};

use super::{Backend, Listed, Surroundings, Trouble};
use crate::config::{self, ConfigError};
use crate::core::handler::{Question, Said};
use crate::core::locate::{At, Place, Suffix};
use crate::core::message::ProjectRef;
use host::Host;
pub use host::Hosts;

/// A root of a scheme that `[worker.storage.custom]` names.
#[derive(Debug)]
pub struct Custom {
    url: String,
    host: Host,
    timeout: Duration,
    believed: Duration,
}

impl Custom {
    /// Reads the settings of a scheme.
    ///
    /// # Errors
    /// When its handler cannot be meant.
    pub fn read<'a>(scheme: &str, config: &'a config::Storage) -> Result<&'a config::Handler, ConfigError> {
        let handler = config.custom.get(scheme).ok_or_else(|| wrong(scheme, "is missing"))?;
        let dotted = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
        if !handler.handler.contains('.') || !handler.handler.split('.').all(dotted) {
            return Err(wrong(
                scheme,
                "expected a class with its module, such as `package.module.Class`",
            ));
        }
        Ok(handler)
    }

    /// The root `url` of a configured scheme. The process of its handler begins to start.
    ///
    /// # Errors
    /// When its handler cannot be meant.
    pub fn new(
        scheme: &str,
        url: &str,
        config: &config::Storage,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let handler = Self::read(scheme, config)?;
        let hosts = surroundings.hosts.as_ref();
        let hosts =
            hosts.ok_or_else(|| wrong(scheme, "cannot be used here: there is no agent that starts its process"))?;
        Ok(Self {
            url: url.to_owned(),
            host: hosts.get(scheme, handler),
            timeout: config.timeout()?,
            believed: config.check_interval()?,
        })
    }
}

fn wrong(scheme: &str, problem: &str) -> ConfigError {
    ConfigError::Invalid {
        origin: "configuration".into(),
        key: format!("worker.storage.custom.{scheme}.handler"),
        problem: problem.into(),
    }
}

#[tonic::async_trait]
impl Backend for Custom {
    async fn look(&self, place: &Place) -> Result<ProjectRef, Trouble> {
        let At::Store(url) = &place.at else {
            return Err(Trouble::Missing);
        };
        let question = Question::Look {
            url: url.clone(),
            relative: place.relative.clone(),
            suffix: place.suffix.map(Suffix::as_str),
        };
        match self.host.ask(question, self.timeout).await? {
            Said::Found(project) => Ok(project),
            Said::Failed(problem) => Err(Trouble::Down(problem)),
            Said::Missing | Said::Listed(_) => Err(Trouble::Missing),
        }
    }

    async fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let question = Question::List { url: self.url.clone() };
        // As long as who asks waits for a listing.
        match self.host.ask(question, self.timeout * super::LISTING).await? {
            Said::Listed(entries) => Ok(entries
                .into_iter()
                .map(|entry| Listed {
                    suffix: entry.suffix.as_deref().and_then(Suffix::of),
                    modified: entry
                        .modified
                        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                        .and_then(|since| UNIX_EPOCH.checked_add(since)),
                    bytes: entry.bytes,
                    relative: entry.relative,
                })
                .collect()),
            Said::Failed(problem) => Err(Trouble::Down(problem)),
            Said::Found(_) | Said::Missing => Err(Trouble::Missing),
        }
    }

    fn believed_for(&self) -> Option<Duration> {
        Some(self.believed)
    }
}
