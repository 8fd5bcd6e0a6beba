//! What is said on a worker's channel between requests: load a project, drop some, draw one for nobody.

use crate::adapters::channel::{Channel, ChannelError};
use crate::core::frame::Kind;
use crate::core::message::{End, FailedProject, LoadedProject, ProjectRef, ToWorker};

/// What came of it.
#[derive(Debug)]
pub(super) enum Errand {
    /// The project is held at this version.
    Loaded(LoadedProject),
    /// It cannot be loaded; a version that was held still is.
    Failed(FailedProject),
    /// There was nothing to load.
    Done,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Order {
    /// Drop projects, then load one at this version, if there is one.
    Load(Vec<String>, Option<ProjectRef>),
    /// Draw a map of a project that is held, which is thrown away.
    Warm(String),
}

/// Does it.
///
/// # Errors
/// When the channel is of no further use.
pub(super) async fn run(channel: &mut Channel, order: Order) -> Result<Errand, ChannelError> {
    let (evict, project) = match order {
        Order::Load(evict, project) => (evict, project),
        Order::Warm(uri) => {
            channel
                .send(Kind::Head, &ToWorker::Warm { id: &uri, uri: &uri })
                .await?;
            let end: End = channel.read_json(Kind::End).await?;
            if let Some(error) = end.error {
                tracing::debug!(project = uri, problem = error.message, "a first map for nobody failed");
            }
            return Ok(Errand::Done);
        }
    };
    for uri in &evict {
        channel.send(Kind::Head, &ToWorker::Unload { id: uri, uri }).await?;
        channel.read_json::<End>(Kind::End).await?;
    }
    match &project {
        Some(project) => load(channel, project).await,
        None => Ok(Errand::Done),
    }
}

/// Loads a project that is not held at this version.
///
/// # Errors
/// When the channel is of no further use.
pub(super) async fn load(channel: &mut Channel, project: &ProjectRef) -> Result<Errand, ChannelError> {
    let id = &project.uri;
    channel.send(Kind::Head, &ToWorker::Load { id, project }).await?;
    let end: End = channel.read_json(Kind::End).await?;
    match (end.result, end.error) {
        (Some(loaded), _) => Ok(Errand::Loaded(serde_json::from_value(loaded)?)),
        (_, Some(error)) => Ok(Errand::Failed(FailedProject {
            uri: project.uri.clone(),
            message: error.message,
        })),
        (None, None) => Err(ChannelError::Unexpected("end")),
    }
}
