//! One request with one worker: frames out, frames in, an answer that is held back until it is whole or large.
//!
//! It runs in a task of its own, so that a client's leaving does not leave a worker in the middle of a message: the task
//! reads on to the end of the answer, and hands the worker back.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::channel::ChannelError;
use super::supervisor::{Lease, Stop};
use crate::core::frame::{BODY_CHUNK, Frame, Kind};
use crate::core::message::{End, FromWorker, LoadedProject, Report, ToWorker, WorkerError};
use crate::core::pool::ExitReason;

/// How many pieces may be on their way to a client that reads slowly.
const PIECES_AHEAD: usize = 4;

/// What a worker is asked to do with its project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// To have QGIS answer an HTTP request.
    Request,
    /// To say what the project is, as JSON. Of the job, only id, hold and depth count.
    Describe,
    /// To be busy for so long. Of the job, only the id counts.
    Sleep(Duration),
}

/// What QGIS is asked.
#[derive(Debug, Clone)]
pub struct Job {
    /// What to do.
    pub task: Task,
    /// The request's id.
    pub id: String,
    /// The HTTP method.
    pub method: String,
    /// The public URL.
    pub url: String,
    /// Headers for QGIS and its plugins.
    pub headers: Vec<(String, String)>,
    /// The request's body.
    pub body: Bytes,
    /// An answer up to this size is held back until it is whole, in bytes: a worker that dies before has answered
    /// nothing, and the request can be tried elsewhere.
    pub hold: usize,
    /// How many requests of this server led to this one.
    pub depth: u32,
}

/// What QGIS answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// In the order QGIS set them.
    pub headers: Vec<(String, String)>,
    /// What follows.
    pub body: Body,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// All of it, and what it cost.
    Whole(VecDeque<Bytes>, Box<Report>),
    /// Piece by piece; an error cuts it short.
    Stream(mpsc::Receiver<Result<Bytes, Cut>>),
}

/// A body that ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer was cut short: {0}")]
pub struct Cut(pub &'static str);

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The deadline passed.
    Deadline,
    /// The worker died, or lost the protocol; with what its end meant, where that is known.
    Died(ChannelError, Option<ExitReason>),
    /// The worker says why.
    Worker(WorkerError),
}

/// Puts `job` to the worker and waits for the answer's beginning. When the returned future is dropped, or the body,
/// the client has gone and the request is cancelled.
///
/// # Errors
/// When there is no answer to give.
pub async fn run(lease: Lease, job: Job) -> Result<Answer, Failure> {
    let (answer, answered) = oneshot::channel();
    tokio::spawn(drive(lease, job, answer));
    answered.await.unwrap_or(Err(Failure::Died(
        ChannelError::Unexpected("end of the exchange"),
        None,
    )))
}

/// Where the answer goes.
enum Client {
    /// Waits for its beginning.
    Waits(oneshot::Sender<Result<Answer, Failure>>),
    /// Takes pieces.
    Reads(mpsc::Sender<Result<Bytes, Cut>>),
    /// Has gone, or has been told of the deadline.
    Done,
}

impl Client {
    async fn gone(&mut self) {
        match self {
            Self::Waits(answer) => answer.closed().await,
            Self::Reads(pieces) => pieces.closed().await,
            Self::Done => std::future::pending().await,
        }
    }

    fn fail(&mut self, failure: Failure) {
        match std::mem::replace(self, Self::Done) {
            Self::Waits(answer) => drop(answer.send(Err(failure))),
            Self::Reads(pieces) => {
                let why = if matches!(failure, Failure::Deadline) {
                    "deadline"
                } else {
                    "the worker ended"
                };
                tokio::spawn(async move { pieces.send(Err(Cut(why))).await });
            }
            Self::Done => {}
        }
    }
}

/// The state of one exchange.
struct Exchange {
    client: Client,
    head: Option<(u16, Vec<(String, String)>)>,
    held: VecDeque<Bytes>,
    held_bytes: usize,
    hold: usize,
}

async fn drive(mut lease: Lease, job: Job, answer: oneshot::Sender<Result<Answer, Failure>>) {
    let mut exchange = Exchange {
        client: Client::Waits(answer),
        head: None,
        held: VecDeque::new(),
        held_bytes: 0,
        hold: job.hold,
    };
    match converse(&mut lease, &job, &mut exchange).await {
        Ok(end) => {
            let (report, loaded) = exchange.finish(end);
            lease.give_back(report.as_deref(), loaded);
        }
        Err(error) => {
            let reason = lease.broken().await;
            exchange.client.fail(Failure::Died(error, reason));
        }
    }
}

async fn converse(lease: &mut Lease, job: &Job, exchange: &mut Exchange) -> Result<End, ChannelError> {
    send(lease, job).await?;
    loop {
        let flowing = matches!(exchange.client, Client::Reads(_)) && !exchange.held.is_empty();
        let (stops, channel) = lease.parts();
        tokio::select! {
            biased;
            stop = stops.recv() => {
                match stop {
                    Some(Stop::Expired) => exchange.client.fail(Failure::Deadline),
                    Some(Stop::Cancelled) => {}
                    None => return Err(ChannelError::Unexpected("end of the agent")),
                }
                exchange.discard();
                lease.channel().send(Kind::Head, &ToWorker::Cancel { id: &job.id }).await?;
            }
            still_there = exchange.client_step(flowing) => {
                if !still_there {
                    exchange.discard();
                    lease.client_left();
                }
            }
            frame = channel.read(), if !flowing => {
                if let Some(end) = exchange.take(frame?)? {
                    return Ok(end);
                }
            }
        }
    }
}

async fn send(lease: &mut Lease, job: &Job) -> Result<(), ChannelError> {
    let project = lease.project.clone();
    let evict = std::mem::take(&mut lease.evict);
    let head = match job.task {
        Task::Request => ToWorker::Request {
            id: &job.id,
            method: &job.method,
            url: &job.url,
            headers: &job.headers,
            project: &project,
            evict: &evict,
            depth: job.depth,
            body: !job.body.is_empty(),
        },
        Task::Describe => ToWorker::Describe {
            id: &job.id,
            project: &project,
            evict: &evict,
            depth: job.depth,
        },
        Task::Sleep(long) => ToWorker::Sleep {
            id: &job.id,
            seconds: long.as_secs_f64(),
            evict: &evict,
        },
    };
    let channel = lease.channel();
    channel.send(Kind::Head, &head).await?;
    if job.task == Task::Request && !job.body.is_empty() {
        for piece in job.body.chunks(BODY_CHUNK) {
            channel.send_body(piece).await?;
        }
        channel.send(Kind::End, &serde_json::json!({})).await?;
    }
    Ok(())
}

impl Exchange {
    /// The client has gone: what comes is read and dropped.
    fn discard(&mut self) {
        self.client = Client::Done;
        self.held.clear();
        self.held_bytes = 0;
    }

    /// Sends the next piece when some is `flowing`, else waits until the client has gone; false when it has.
    async fn client_step(&mut self, flowing: bool) -> bool {
        match &self.client {
            Client::Reads(pieces) if flowing => match pieces.reserve().await {
                Ok(place) => {
                    if let Some(piece) = self.held.pop_front() {
                        place.send(Ok(piece));
                    }
                    true
                }
                Err(_) => false,
            },
            _ => {
                self.client.gone().await;
                false
            }
        }
    }

    /// Takes the next frame; gives the end of the answer.
    fn take(&mut self, frame: Frame) -> Result<Option<End>, ChannelError> {
        match frame.kind {
            Kind::Head => match serde_json::from_slice(&frame.payload)? {
                FromWorker::Response { status, headers } if self.head.is_none() => self.head = Some((status, headers)),
                _ => return Err(ChannelError::Unexpected("head")),
            },
            Kind::End => return Ok(Some(serde_json::from_slice(&frame.payload)?)),
            Kind::Body if matches!(self.client, Client::Done) => {}
            Kind::Body => {
                self.held_bytes += frame.payload.len();
                self.held.push_back(frame.payload);
                if self.held_bytes >= self.hold && matches!(self.client, Client::Waits(_)) {
                    self.begin_stream()?;
                }
            }
        }
        Ok(None)
    }

    fn begin_stream(&mut self) -> Result<(), ChannelError> {
        let (status, headers) = self
            .head
            .take()
            .ok_or(ChannelError::Unexpected("body before its head"))?;
        let (pieces, body) = mpsc::channel(PIECES_AHEAD);
        if let Client::Waits(answer) = std::mem::replace(&mut self.client, Client::Reads(pieces)) {
            // A client that has gone is noticed by its closed end of the pieces.
            drop(answer.send(Ok(Answer {
                status,
                headers,
                body: Body::Stream(body),
            })));
        }
        Ok(())
    }

    /// Gives the client what it still waits for; tells what it cost, and which project the worker has loaded for nothing.
    fn finish(&mut self, end: End) -> (Option<Box<Report>>, Option<LoadedProject>) {
        let report = end.report.map(Box::new);
        if let Some(error) = end.error {
            self.client.fail(Failure::Worker(error));
            return (report, end.loaded);
        }
        let client = std::mem::replace(&mut self.client, Client::Done);
        if let (Client::Waits(answer), Some((status, headers)), Some(report)) = (client, self.head.take(), &report) {
            let body = Body::Whole(std::mem::take(&mut self.held), report.clone());
            drop(answer.send(Ok(Answer { status, headers, body })));
        }
        (report, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded_for_a_cancelled_request_is_told() {
        let (answer, mut answered) = oneshot::channel();
        let mut exchange = Exchange {
            client: Client::Waits(answer),
            head: None,
            held: VecDeque::new(),
            held_bytes: 0,
            hold: 0,
        };
        let end = r#"{"id":"r","error":{"kind":"cancelled","message":"m"},
            "loaded":{"uri":"/big.qgs","version":"1","load_ms":812.4}}"#;
        let (report, loaded) = exchange.finish(serde_json::from_str(end).unwrap());
        assert!(report.is_none(), "it was not answered");
        assert_eq!(loaded.unwrap().uri, "/big.qgs");
        assert!(matches!(answered.try_recv(), Ok(Err(Failure::Worker(_)))));
    }
}
