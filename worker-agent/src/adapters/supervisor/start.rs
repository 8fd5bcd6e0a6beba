//! How a worker comes up: from its process to the message that it is ready, pinned projects included.

use std::collections::BTreeMap;
use std::fmt;

use tokio::sync::oneshot;

use super::errand::{Errand, load};
use crate::adapters::channel::{Channel, ChannelError};
use crate::adapters::zygote::Forked;
use crate::core::frame::Kind;
use crate::core::message::{FailedProject, FromWorker, LoadedProject, ProjectRef};
use crate::core::plugins::Plugin;

/// A worker that is ready.
#[derive(Debug)]
pub(super) struct Up {
    pub channel: Channel,
    pub qgis: String,
    pub versions: BTreeMap<String, String>,
    /// What it holds: inherited, and loaded here.
    pub held: Vec<LoadedProject>,
    /// Pinned projects that it could not load.
    pub failed: Vec<FailedProject>,
    /// QGIS's server plugins, those that are not loaded as well.
    pub plugins: Vec<Plugin>,
}

/// How far a start came.
#[derive(Debug)]
pub(super) enum Stage {
    /// The process is there and QGIS starts.
    Qgis,
    /// QGIS is there and this pinned project loads.
    Pin(ProjectRef),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qgis => f.write_str("while QGIS started"),
            Self::Pin(project) => write!(f, "while the pinned project {} was loaded", project.uri),
        }
    }
}

/// Waits for the zygote's answer; `None` when it has gone.
pub(super) async fn forked(answer: oneshot::Receiver<Forked>) -> Option<Forked> {
    answer.await.ok()
}

/// Waits until the worker is ready, and lets it load those of `pins` that it did not inherit.
///
/// # Errors
/// How far it came, and what was wrong with its channel.
pub(super) async fn bring_up(mut channel: Channel, pins: &[ProjectRef]) -> Result<Up, (Stage, ChannelError)> {
    let first = channel
        .read_json(Kind::Head)
        .await
        .map_err(|error| (Stage::Qgis, error))?;
    let FromWorker::Ready {
        qgis,
        versions,
        projects: mut held,
        plugins,
        ..
    } = first
    else {
        return Err((Stage::Qgis, ChannelError::Unexpected("first message")));
    };
    let mut failed = Vec::new();
    for project in pins {
        if held
            .iter()
            .any(|inherited| inherited.uri == project.uri && inherited.version == project.version)
        {
            continue;
        }
        let came = load(&mut channel, project)
            .await
            .map_err(|error| (Stage::Pin(project.clone()), error))?;
        match came {
            Errand::Loaded(loaded) => {
                held.retain(|other| other.uri != loaded.uri);
                held.push(loaded);
            }
            Errand::Failed(failure) => failed.push(failure),
            Errand::Done => {}
        }
    }
    Ok(Up {
        channel,
        qgis,
        versions,
        held,
        failed,
        plugins,
    })
}
