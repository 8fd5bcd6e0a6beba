//! The process of a handler: started, asked one thing at a time, ended when it hangs, and started anew.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::adapters::output::{LastLines, capture};
use crate::adapters::processes::Processes;
use crate::adapters::python::Python;
use crate::adapters::storage::Trouble;
use crate::config::Handler;
use crate::core::handler::{Begin, LONGEST_LINE, Order, Question, Said, answer, first};

/// A module may import much.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The pause after a process that came to nothing; it doubles with each.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Questions that may wait for a handler.
const MOST_WAITING: usize = 100;

/// Starts the processes of handlers, one for each scheme.
#[derive(Debug)]
pub struct Hosts {
    python: Python,
    processes: Processes,
    hosts: Mutex<HashMap<String, Host>>,
}

/// A handler's process; clones share it.
#[derive(Debug, Clone)]
pub struct Host {
    scheme: Arc<str>,
    calls: mpsc::Sender<Call>,
}

#[derive(Debug)]
struct Call {
    question: Question,
    timeout: Duration,
    reply: oneshot::Sender<Result<Said, Trouble>>,
}

impl Hosts {
    /// By the means of an agent.
    #[must_use]
    pub fn new(python: Python, processes: Processes) -> Self {
        Self {
            python,
            processes,
            hosts: Mutex::default(),
        }
    }

    /// The process of a scheme's handler; it begins to start when it is asked for first.
    pub fn get(&self, scheme: &str, handler: &Handler) -> Host {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(scheme) {
            return host.clone();
        }
        let (calls, inbox) = mpsc::channel(MOST_WAITING);
        let keeper = Keeper {
            scheme: scheme.to_owned(),
            handler: handler.clone(),
            python: self.python.clone(),
            processes: self.processes.clone(),
            running: None,
            next_start: Instant::now(),
            pause: SHORTEST_PAUSE,
            problem: String::new(),
            orders: 0,
        };
        tokio::spawn(keeper.run(inbox));
        let host = Host {
            scheme: scheme.into(),
            calls,
        };
        hosts.insert(scheme.to_owned(), host.clone());
        host
    }
}

impl Host {
    /// Asks the handler, after whoever asked before. It has `timeout` from when it is its turn.
    ///
    /// # Errors
    /// When the handler does not answer, and why.
    pub async fn ask(&self, question: Question, timeout: Duration) -> Result<Said, Trouble> {
        let (reply, answer) = oneshot::channel();
        let call = Call {
            question,
            timeout,
            reply,
        };
        if self.calls.try_send(call).is_err() {
            return Err(Trouble::Down(format!(
                "more than {MOST_WAITING} questions wait for the handler of '{}:'",
                self.scheme
            )));
        }
        let gone = |_| Err(Trouble::Down("the agent is stopping".into()));
        answer.await.unwrap_or_else(gone)
    }
}

/// A process that is there. It is ended when this goes.
struct Running {
    pid: i32,
    processes: Processes,
    tmpdir: PathBuf,
    orders: pipe::Sender,
    answers: BufReader<pipe::Receiver>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.processes.kill(self.pid);
        drop(std::fs::remove_dir_all(&self.tmpdir));
    }
}

/// Why a question got no answer.
enum Lost {
    /// The process hangs.
    Silent,
    /// It has ended, or does not keep to the protocol.
    Broken,
}

struct Keeper {
    scheme: String,
    handler: Handler,
    python: Python,
    processes: Processes,
    running: Option<Running>,
    /// Not before this.
    next_start: Instant,
    pause: Duration,
    /// Why there is no process.
    problem: String,
    orders: u64,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::Receiver<Call>) {
        self.start().await;
        while let Some(mut call) = inbox.recv().await {
            // Who asked may have lost patience: then nobody waits for this.
            if call.reply.is_closed() {
                continue;
            }
            let answered = self.answer(&mut call).await;
            drop(call.reply.send(answered));
        }
    }

    async fn answer(&mut self, call: &mut Call) -> Result<Said, Trouble> {
        let fresh = self.running.is_none();
        for again in [false, true] {
            if self.running.is_none() && Instant::now() >= self.next_start {
                self.start().await;
            }
            let Some(running) = &mut self.running else { break };
            self.orders += 1;
            let asked = tokio::time::timeout(call.timeout, running.ask(self.orders, &call.question)).await;
            let lost = match asked.unwrap_or(Err(Lost::Silent)) {
                Ok(said) => {
                    self.pause = SHORTEST_PAUSE;
                    return Ok(said);
                }
                Err(lost) => lost,
            };
            let problem = match lost {
                Lost::Silent => format!(
                    "it gave no answer within {} s and was ended",
                    call.timeout.as_secs_f64()
                ),
                Lost::Broken => "its process has ended".into(),
            };
            self.give_up(problem);
            // One that has ended while nobody asked is started anew for who asks.
            if again || fresh || matches!(lost, Lost::Silent) {
                break;
            }
            self.next_start = Instant::now();
        }
        Err(Trouble::Down(format!(
            "the handler of '{}:' is away: {}",
            self.scheme, self.problem
        )))
    }

    /// Ends the process, if there is one, and says when there may be another.
    fn give_up(&mut self, problem: String) {
        tracing::warn!(scheme = self.scheme, problem, "a storage's handler is away");
        self.running = None;
        self.problem = problem;
        self.next_start = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    async fn start(&mut self) {
        let begun = Instant::now();
        let started = Running::start(&self.scheme, &self.handler, &self.python, &self.processes).await;
        match started {
            Ok(running) => {
                let took_ms = begun.elapsed().as_millis();
                tracing::info!(
                    scheme = self.scheme,
                    pid = running.pid,
                    took_ms,
                    "a storage's handler is ready"
                );
                self.running = Some(running);
            }
            Err(problem) => self.give_up(format!(
                "{} could not be made: {problem} (worker.storage.custom.{})",
                self.handler.handler, self.scheme
            )),
        }
    }
}

impl Running {
    async fn start(scheme: &str, handler: &Handler, python: &Python, processes: &Processes) -> Result<Self, String> {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let prepared = || -> io::Result<(Self, LastLines)> {
            let tmpdir = python.private_dir(&format!("h{number}"))?;
            let (output, printed) = capture(format!("storage {scheme}"))?;
            let (their_orders, orders) = io::pipe()?;
            let (answers, their_answers) = io::pipe()?;
            let orders = pipe::Sender::from_owned_fd(OwnedFd::from(orders))?;
            let answers = pipe::Receiver::from_owned_fd(OwnedFd::from(answers))?;
            let mut command = python.storage_host(&tmpdir, their_orders.into(), their_answers.into(), output)?;
            let pid = processes.spawn(&mut command)?;
            let running = Self {
                pid,
                processes: processes.clone(),
                tmpdir,
                orders,
                answers: BufReader::new(answers),
            };
            Ok((running, printed))
        };
        let (mut running, printed) = prepared().map_err(|error| error.to_string())?;
        let begin = Begin {
            handler: &handler.handler,
            options: &handler.options,
            python_path: &handler.python_path,
        };
        let begin = serde_json::to_vec(&begin).map_err(|error| error.to_string())?;
        let said = tokio::time::timeout(START_PATIENCE, running.exchange(begin)).await;
        match said {
            Ok(Ok(line)) => first(&line)?,
            Ok(Err(_)) => {
                let last = printed.text();
                let last = last.lines().last().unwrap_or("it ended without a word");
                return Err(crate::core::redact::text(last));
            }
            Err(_) => return Err(format!("it was not ready within {} s", START_PATIENCE.as_secs())),
        }
        Ok(running)
    }

    async fn ask(&mut self, id: u64, question: &Question) -> Result<Said, Lost> {
        let order = serde_json::to_vec(&Order { id, question }).map_err(|_| Lost::Broken)?;
        let line = self.exchange(order).await.map_err(|_| Lost::Broken)?;
        answer(&line, id).ok_or(Lost::Broken)
    }

    /// One line there and one back.
    async fn exchange(&mut self, mut line: Vec<u8>) -> io::Result<Vec<u8>> {
        line.push(b'\n');
        self.orders.write_all(&line).await?;
        line.clear();
        let limit = LONGEST_LINE as u64;
        (&mut self.answers).take(limit).read_until(b'\n', &mut line).await?;
        if line.pop() == Some(b'\n') {
            Ok(line)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
