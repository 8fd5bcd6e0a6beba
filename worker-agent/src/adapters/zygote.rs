//! One zygote, from the agent's side: a task that owns its channel, waits until it is ready, then orders forks one by one.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::channel::{Channel, ChannelError};
use crate::core::frame::Kind;
use crate::core::message::{FailedProject, FromWorker, LoadedProject, NotPreloaded, ToWorker};
use crate::core::plugins::Plugin;

/// An answer to a fork takes milliseconds; a zygote that needs this long hangs.
const FORK_PATIENCE: Duration = Duration::from_secs(10);

/// What a zygote has when it is ready.
#[derive(Debug)]
pub struct Image {
    /// QGIS's version.
    pub qgis: String,
    /// What it runs, by name.
    pub versions: BTreeMap<String, String>,
    /// What its children inherit.
    pub projects: Vec<LoadedProject>,
    /// What could not be loaded.
    pub failed: Vec<FailedProject>,
    /// What each worker has to load by itself.
    pub not_preloaded: Vec<NotPreloaded>,
    /// QGIS's server plugins, those that are not loaded as well.
    pub plugins: Vec<Plugin>,
}

/// An order for a worker.
#[derive(Debug)]
pub struct ForkOrder {
    /// The new worker's number.
    pub worker: u64,
    /// Its private directory for temporary files.
    pub tmpdir: PathBuf,
    /// Its end of its channel.
    pub channel: OwnedFd,
    /// Where its standard output and error go.
    pub output: OwnedFd,
    /// Gets the answer; dropped when the zygote has gone.
    pub answer: oneshot::Sender<Forked>,
}

/// What became of an order.
#[derive(Debug)]
pub enum Forked {
    /// The worker's process id.
    Pid(i32),
    /// Why forking would not be safe.
    Refused(String),
    /// Why the machine had no room for it; the next order may do.
    Failed(String),
}

impl Forked {
    /// What the zygote's answer to an order for this worker means.
    fn read(told: FromWorker, ordered: u64) -> Result<Self, ChannelError> {
        match told {
            FromWorker::Forked { worker, pid } if worker == ordered => Ok(Self::Pid(pid)),
            FromWorker::Refused {
                worker,
                reason,
                transient,
            } if worker == ordered => Ok(if transient {
                Self::Failed(reason)
            } else {
                Self::Refused(reason)
            }),
            _ => Err(ChannelError::Unexpected("answer to a fork")),
        }
    }
}

/// Runs a zygote's channel until it breaks, or until nobody holds the sender of orders any more.
///
/// # Errors
/// What was wrong with the channel. The caller ends the process.
pub async fn run(
    mut channel: Channel,
    patience: Duration,
    ready: impl FnOnce(Image),
    mut orders: mpsc::UnboundedReceiver<ForkOrder>,
) -> Result<(), ChannelError> {
    let first = tokio::time::timeout(patience, channel.read_json::<FromWorker>(Kind::Head)).await;
    let Ok(FromWorker::Ready {
        qgis,
        versions,
        projects,
        failed,
        not_preloaded,
        plugins,
    }) = first.map_err(|_| ChannelError::Unexpected("silence"))?
    else {
        return Err(ChannelError::Unexpected("first message"));
    };
    ready(Image {
        qgis,
        versions,
        projects,
        failed,
        not_preloaded,
        plugins,
    });
    loop {
        // The zygote says nothing unasked, so anything that comes without an order is its end.
        let order = tokio::select! {
            order = orders.recv() => order,
            frame = channel.read() => return frame.and(Err(ChannelError::Unexpected("message"))),
        };
        let Some(order) = order else { return Ok(()) };
        let tmpdir = order.tmpdir.to_string_lossy();
        let fork = ToWorker::Fork {
            worker: order.worker,
            tmpdir: &tmpdir,
        };
        channel.send_with(&fork, &[order.channel, order.output]).await?;
        let answer = tokio::time::timeout(FORK_PATIENCE, channel.read_json::<FromWorker>(Kind::Head)).await;
        let told = answer.map_err(|_| ChannelError::Unexpected("silence"))??;
        let forked = Forked::read(told, order.worker)?;
        // Whoever ordered may have gone; the child then sees the end of its channel and leaves.
        drop(order.answer.send(forked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(told: &str) -> Result<Forked, ChannelError> {
        Forked::read(serde_json::from_str(told).unwrap(), 12)
    }

    #[test]
    fn a_fork_that_failed_is_not_one_that_is_not_safe() {
        let forked = read(r#"{"event":"forked","worker":12,"pid":4712}"#);
        assert!(matches!(forked, Ok(Forked::Pid(4712))));
        let unsafe_now = read(r#"{"event":"refused","worker":12,"reason":"threads","transient":false}"#);
        assert!(matches!(unsafe_now, Ok(Forked::Refused(reason)) if reason == "threads"));
        let no_room = read(r#"{"event":"refused","worker":12,"reason":"no room","transient":true}"#);
        assert!(matches!(no_room, Ok(Forked::Failed(reason)) if reason == "no room"));
        assert!(read(r#"{"event":"forked","worker":13,"pid":4712}"#).is_err());
    }
}
