//! Calls of agents over the streams that they have opened themselves. The books are [`graticule_daemon::calls`]'s; here are
//! the lock, who waits for what, and the messages.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use graticule_daemon::calls::{Answer, Ask, Caller, End, Told, weight};
use graticule_proto::v1::{
    AgentCall, AgentIntent, CallCancelled, CallEnd, CallResult, CallTaken, agent_intent::Intent, call_result,
};
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tonic::{Code, Status};

use crate::core::fleet::Session;
use crate::metrics::{Metrics, OUTCOMES};

/// For how long an answer is awaited when its caller does not say: longer than anything takes that agents bound themselves.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The longest that an answer is awaited.
const LONGEST: Duration = Duration::from_secs(600);

/// The lines to all agents that are attached; clones share them.
#[derive(Clone, Debug)]
pub struct Switchboard {
    lines: Arc<Mutex<BTreeMap<String, (Session, Line)>>>,
    metrics: Metrics,
}

/// An agent's place on the switchboard for as long as its stream lives. With it, every call of that stream ends.
#[derive(Debug)]
pub struct Seat {
    switchboard: Switchboard,
    agent: String,
    session: Session,
    /// The agent's line.
    pub line: Line,
}

impl Switchboard {
    /// One without agents.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            lines: Arc::default(),
            metrics,
        }
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<String, (Session, Line)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent has attached. Calls over an earlier stream of it end with that.
    #[must_use]
    pub fn attach(&self, agent: &str, session: Session) -> Seat {
        let line = Line {
            inner: Arc::new(Inner {
                books: Mutex::default(),
                news: Notify::new(),
                begun: Notify::new(),
                metrics: self.metrics.clone(),
            }),
        };
        let before = self.lines().insert(agent.to_owned(), (session, line.clone()));
        if let Some((_, before)) = before {
            before.lose();
        }
        Seat {
            switchboard: self.clone(),
            agent: agent.to_owned(),
            session,
            line,
        }
    }

    /// The line to an agent.
    ///
    /// # Errors
    /// `NOT_FOUND` when it is not attached, with the names of those that are.
    pub fn line(&self, agent: &str) -> Result<Line, Status> {
        let lines = self.lines();
        if let Some((_, line)) = lines.get(agent) {
            return Ok(line.clone());
        }
        let start: String = agent.chars().take(128).collect();
        let known = names(lines.keys());
        Err(Status::not_found(format!("no agent `{start}` is attached; {known}")))
    }

    /// What the agents are called that are attached.
    #[must_use]
    pub fn known(&self) -> String {
        names(self.lines().keys())
    }
}

fn names<'a>(agents: impl Iterator<Item = &'a String>) -> String {
    const SHOWN: usize = 20;
    let all: Vec<&str> = agents.map(String::as_str).collect();
    match all.len() {
        0 => "none is".to_owned(),
        n if n > SHOWN => format!("there are {}, and {} more", all[..SHOWN].join(", "), n - SHOWN),
        _ => format!("there are {}", all.join(", ")),
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut lines = self.switchboard.lines();
        if lines
            .get(&self.agent)
            .is_some_and(|(session, _)| *session == self.session)
        {
            lines.remove(&self.agent);
        }
        drop(lines);
        self.line.lose();
    }
}

/// The way to one agent over its stream; clones share it.
#[derive(Clone, Debug)]
pub struct Line {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    books: Mutex<Books>,
    /// There is something to say to the agent.
    news: Notify,
    /// A call has begun, perhaps with an earlier deadline.
    begun: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Books {
    caller: Caller,
    waiting: HashMap<u64, mpsc::UnboundedSender<Told>>,
    lost: bool,
}

impl Books {
    /// What one waits for is bounded by the caller's books, so its channel needs no bound of its own.
    fn hand_on(&mut self, told: Told, metrics: &Metrics) {
        let (id, end) = match &told {
            Told::Message(id, _) => (*id, None),
            Told::End(id, end) => (*id, Some(end.code)),
        };
        if let Some(code) = end {
            count(metrics, Code::from(code));
            if let Some(waiting) = self.waiting.remove(&id) {
                // Whoever waited may have gone.
                let _ = waiting.send(told);
            }
        } else if let Some(waiting) = self.waiting.get(&id) {
            let _ = waiting.send(told);
        }
    }
}

fn count(metrics: &Metrics, code: Code) {
    metrics.agent_calls.with_label_values(&[outcome(code)]).inc();
}

const fn outcome(code: Code) -> &'static str {
    match code {
        Code::Ok => OUTCOMES[0],
        Code::Unavailable => OUTCOMES[2],
        Code::DeadlineExceeded => OUTCOMES[3],
        Code::Cancelled => OUTCOMES[4],
        _ => OUTCOMES[1],
    }
}

impl Line {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a method of the agent's. The answer is awaited for `patience` at most, and never longer than ten minutes.
    ///
    /// # Errors
    /// When the request is too large, too many calls are open, or the agent has just gone.
    pub fn call(&self, method: &str, request: Bytes, patience: Duration) -> Result<Messages, Status> {
        let now = Instant::now();
        let mut books = self.books();
        if books.lost {
            return Err(Status::unavailable("the agent has just gone, ask again"));
        }
        let deadline = now + patience.min(LONGEST);
        let id = books
            .caller
            .begin(now, method.to_owned(), request, deadline)
            .map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
        let (send, receiver) = mpsc::unbounded_channel();
        books.waiting.insert(id, send);
        drop(books);
        self.inner.news.notify_one();
        self.inner.begun.notify_one();
        Ok(Messages {
            line: self.clone(),
            id,
            receiver,
            over: false,
        })
    }

    /// Calls a method that answers with one message.
    ///
    /// # Errors
    /// What the agent refused with, or that it could not be asked.
    pub async fn ask<Q, A>(&self, method: &str, request: &Q) -> Result<A, Status>
    where
        Q: Message,
        A: Message + Default,
    {
        let mut answer = self.stream::<Q, A>(method, request)?;
        let message = answer.next().await;
        // The end says whether it is valid.
        while let Some(more) = answer.next().await {
            more?;
        }
        message.unwrap_or_else(|| Err(Status::internal("the agent answered nothing")))
    }

    /// Calls a method that answers with any number of messages.
    ///
    /// # Errors
    /// When it cannot even be asked.
    pub fn stream<Q, A>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<impl Stream<Item = Result<A, Status>> + Unpin + Send + use<Q, A>, Status>
    where
        Q: Message,
        A: Message + Default,
    {
        let messages = self.call(method, request.encode_to_vec().into(), PATIENCE)?;
        Ok(messages.map(|message| {
            A::decode(message?).map_err(|error| Status::internal(format!("the agent's answer: {error}")))
        }))
    }

    /// Hears what the agent says of a call.
    pub fn hear(&self, result: CallResult) {
        let answer = match result.part {
            Some(call_result::Part::Message(message)) => Answer::Message(result.id, message.into()),
            Some(call_result::Part::End(CallEnd { code, message, details })) => {
                let details = details.into();
                Answer::End(result.id, End { code, message, details })
            }
            // A part of a later version of the contract.
            None => return,
        };
        let mut books = self.books();
        if let Some(told) = books.caller.hear(answer) {
            books.hand_on(told, &self.inner.metrics);
        }
        drop(books);
        self.inner.news.notify_one();
    }

    /// Waits until there is something to say to the agent.
    pub async fn changed(&self) {
        loop {
            let news = self.inner.news.notified();
            if self.books().caller.has_ask() {
                return;
            }
            news.await;
        }
    }

    /// Waits for the next deadline, and ends what is late then.
    pub async fn late(&self) {
        loop {
            let deadline = self.books().caller.next_deadline();
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => break,
                () = self.inner.begun.notified() => {}
            }
        }
        let mut books = self.books();
        for told in books.caller.tick(Instant::now()) {
            books.hand_on(told, &self.inner.metrics);
        }
    }

    /// What is to be said to the agent next.
    #[must_use]
    pub fn next_intent(&self) -> Option<AgentIntent> {
        let intent = match self.books().caller.next_ask()? {
            Ask::Call {
                id,
                method,
                request,
                patience,
            } => Intent::Call(AgentCall {
                id,
                method,
                request: request.into(),
                patience_seconds: patience.as_secs_f64(),
            }),
            Ask::Cancel(id) => Intent::Cancelled(CallCancelled { id }),
            Ask::Taken(id, bytes) => {
                let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                Intent::Taken(CallTaken { id, bytes })
            }
        };
        let intent = Some(intent);
        Some(AgentIntent { intent })
    }

    fn lose(&self) {
        let mut books = self.books();
        books.lost = true;
        for told in books.caller.lost() {
            books.hand_on(told, &self.inner.metrics);
        }
    }
}

/// The messages of an answer, then perhaps an error. Dropped before its end, the call is cancelled.
#[derive(Debug)]
pub struct Messages {
    line: Line,
    id: u64,
    receiver: mpsc::UnboundedReceiver<Told>,
    over: bool,
}

impl Stream for Messages {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        match ready!(self.receiver.poll_recv(context)) {
            Some(Told::Message(id, message)) => {
                self.line.books().caller.taken(id, weight(&message));
                self.line.inner.news.notify_one();
                Poll::Ready(Some(Ok(message)))
            }
            Some(Told::End(_, end)) => {
                self.over = true;
                Poll::Ready(end.status().err().map(Err))
            }
            None => {
                self.over = true;
                Poll::Ready(Some(Err(Status::unavailable("the agent has gone"))))
            }
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut books = self.line.books();
        books.caller.cancel(self.id);
        if books.waiting.remove(&self.id).is_some() {
            count(&self.line.inner.metrics, Code::Cancelled);
        }
        drop(books);
        self.line.inner.news.notify_one();
    }
}
