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

/// How a zygote's channel came to its end.
#[derive(Debug)]
pub struct Lost {
    /// What was wrong with it.
    pub error: ChannelError,
    /// The uri of the project that it was loading before it was ready.
    pub loading: Option<String>,
}

impl Lost {
    /// Whether it was there and said nothing.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self.error, ChannelError::Unexpected(SILENCE))
    }
}

impl From<ChannelError> for Lost {
    fn from(error: ChannelError) -> Self {
        Self { error, loading: None }
    }
}

const SILENCE: &str = "silence";

/// How long a zygote may say nothing before it is ready.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// While QGIS and its plugins start.
    pub start: Duration,
    /// While it loads one project.
    pub load: Duration,
}

/// Runs a zygote's channel until it breaks, or until nobody holds the sender of orders any more.
///
/// # Errors
/// What was wrong with the channel. The caller ends the process.
pub async fn run(
    mut channel: Channel,
    patience: Patience,
    ready: impl FnOnce(Image),
    orders: mpsc::UnboundedReceiver<ForkOrder>,
) -> Result<(), Lost> {
    let mut loading = None;
    match until_ready(&mut channel, patience, &mut loading).await {
        Ok(image) => ready(image),
        Err(error) => return Err(Lost { error, loading }),
    }
    Ok(take_orders(channel, orders).await?)
}

async fn until_ready(
    channel: &mut Channel,
    patience: Patience,
    loading: &mut Option<String>,
) -> Result<Image, ChannelError> {
    loop {
        let longest = if loading.is_some() {
            patience.load
        } else {
            patience.start
        };
        let word = tokio::time::timeout(longest, channel.read_json::<FromWorker>(Kind::Head)).await;
        match word.map_err(|_| ChannelError::Unexpected(SILENCE))?? {
            FromWorker::Preloading { uri } => *loading = Some(uri),
            FromWorker::Ready {
                qgis,
                versions,
                projects,
                failed,
                not_preloaded,
                plugins,
            } => {
                return Ok(Image {
                    qgis,
                    versions,
                    projects,
                    failed,
                    not_preloaded,
                    plugins,
                });
            }
            _ => return Err(ChannelError::Unexpected("first message")),
        }
    }
}

async fn take_orders(mut channel: Channel, mut orders: mpsc::UnboundedReceiver<ForkOrder>) -> Result<(), ChannelError> {
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
        let told = answer.map_err(|_| ChannelError::Unexpected(SILENCE))??;
        let forked = Forked::read(told, order.worker)?;
        // Whoever ordered may have gone; the child then sees the end of its channel and leaves.
        drop(order.answer.send(forked));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::core::frame::encode;

    const READY: &str = r#"{"event": "ready", "pid": 7, "qgis": "3.40"}"#;
    const PATIENCE: Patience = Patience {
        start: Duration::from_millis(300),
        load: Duration::from_millis(300),
    };

    fn begins(uri: &str) -> String {
        format!(r#"{{"event": "preloading", "uri": "{uri}"}}"#)
    }

    /// How a zygote ends that says these words and then leaves, or hangs; and whether it was ready.
    async fn end(words: &[String], leaves: bool) -> (Lost, bool) {
        let (channel, theirs) = Channel::pair().unwrap();
        let mut zygote = UnixStream::from(theirs);
        for word in words {
            zygote.write_all(&encode(Kind::Head, word.as_bytes())).unwrap();
        }
        let stays = (!leaves).then_some(zygote);
        let (_orders, inbox) = mpsc::unbounded_channel();
        let mut was_ready = false;
        let lost = run(channel, PATIENCE, |_| was_ready = true, inbox).await.unwrap_err();
        drop(stays);
        (lost, was_ready)
    }

    #[tokio::test]
    async fn a_start_that_fails_names_the_project_that_was_being_loaded() {
        let words = [begins("/a"), begins("/b")];
        for (words, leaves, loading) in [
            (&words[..0], true, None),
            (&words[..0], false, None),
            (&words[..1], true, Some("/a")),
            (&words[..], true, Some("/b")),
            (&words[..], false, Some("/b")),
        ] {
            let (lost, was_ready) = end(words, leaves).await;
            assert_eq!(
                (lost.loading.as_deref(), lost.is_silence()),
                (loading, !leaves),
                "{words:?}"
            );
            assert!(!was_ready);
        }
    }

    #[tokio::test]
    async fn nothing_is_being_loaded_by_one_that_is_ready() {
        let (lost, was_ready) = end(&[begins("/a"), READY.to_owned()], true).await;
        assert!(was_ready && lost.loading.is_none() && !lost.is_silence());
    }

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
