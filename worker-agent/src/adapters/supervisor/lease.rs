//! A request's claim on the pool: first a place in the queue, then a worker. Both are given up by dropping them.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::task::Message;
use crate::adapters::channel::Channel;
use crate::core::message::{LoadedProject, ProjectRef, Report};
use crate::core::pool::{Event, ExitReason, Ticket, WorkerId};

/// How long the end of a worker that was lost is waited for. It was killed, if it had not ended by itself.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What the pool tells a request that has a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The deadline has passed: tell the client, and the worker.
    Expired,
    /// The client has gone: tell the worker.
    Cancelled,
}

/// A place in the queue.
pub(super) struct Place {
    ticket: Ticket,
    messages: Option<mpsc::UnboundedSender<Message>>,
}

impl Place {
    pub fn new(ticket: Ticket, messages: mpsc::UnboundedSender<Message>) -> Self {
        Self {
            ticket,
            messages: Some(messages),
        }
    }

    /// The place has become a worker or a refusal.
    pub fn leave_quietly(&mut self) {
        self.messages = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(messages) = self.messages.take() {
            drop(messages.send(Message::Event(Event::Left { ticket: self.ticket })));
        }
    }
}

/// A worker for one request.
#[derive(Debug)]
pub struct Lease {
    /// The worker's number.
    pub worker: WorkerId,
    /// What to render from, at the version to use.
    pub project: ProjectRef,
    /// What the worker should drop first.
    pub evict: Vec<String>,
    /// What the pool says meanwhile.
    stop: mpsc::UnboundedReceiver<Stop>,
    /// Told when the worker has gone.
    ended: Option<oneshot::Receiver<ExitReason>>,
    ticket: Ticket,
    channel: Option<Channel>,
    messages: mpsc::UnboundedSender<Message>,
    used: bool,
}

impl Lease {
    pub(super) fn new(
        (worker, ticket): (WorkerId, Ticket),
        project: ProjectRef,
        evict: Vec<String>,
        (stop, ended): (mpsc::UnboundedReceiver<Stop>, oneshot::Receiver<ExitReason>),
        channel: Channel,
        messages: mpsc::UnboundedSender<Message>,
    ) -> Self {
        Self {
            worker,
            project,
            evict,
            stop,
            ended: Some(ended),
            ticket,
            channel: Some(channel),
            messages,
            used: false,
        }
    }

    /// The worker's channel; using it means that the lease must end with [`Lease::give_back`] or [`Lease::broken`].
    ///
    /// # Panics
    /// After the lease has ended.
    pub fn channel(&mut self) -> &mut Channel {
        self.parts().1
    }

    /// What the pool says, and the worker's channel as [`Lease::channel`] gives it.
    ///
    /// # Panics
    /// After the lease has ended.
    pub fn parts(&mut self) -> (&mut mpsc::UnboundedReceiver<Stop>, &mut Channel) {
        self.used = true;
        (
            &mut self.stop,
            self.channel
                .as_mut()
                .expect("a lease that has not ended has its channel"),
        )
    }

    /// The client has gone; the lease goes on until the worker has stopped.
    pub fn client_left(&self) {
        drop(self.messages.send(Message::Event(Event::Left { ticket: self.ticket })));
    }

    /// The worker has done with the request and can take the next one; without a `report` it has not answered, but may have
    /// `loaded` the project.
    pub fn give_back(mut self, report: Option<&Report>, loaded: Option<LoadedProject>) {
        self.end(report.cloned(), loaded);
    }

    /// The channel is of no further use. Waits for the worker's end and says what it meant, when it comes soon.
    pub async fn broken(mut self) -> Option<ExitReason> {
        self.channel = None;
        drop(
            self.messages
                .send(Message::Event(Event::Broken { worker: self.worker })),
        );
        let ended = self.ended.take()?;
        tokio::time::timeout(END_PATIENCE, ended).await.ok()?.ok()
    }

    fn end(&mut self, report: Option<Report>, loaded: Option<LoadedProject>) {
        if let Some(channel) = self.channel.take() {
            drop(self.messages.send(Message::Returned {
                worker: self.worker,
                channel,
                report,
                loaded,
            }));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.used && self.channel.is_some() {
            // Dropped in the middle of a message: the channel's state is unknown.
            self.channel = None;
            drop(
                self.messages
                    .send(Message::Event(Event::Broken { worker: self.worker })),
            );
        } else {
            self.end(None, None);
        }
    }
}
