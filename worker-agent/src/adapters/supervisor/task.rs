//! The task that owns the pool: messages in, actions out.

mod children;
mod pins;
mod projects;
mod requests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use children::remove_dir;

use super::errand::Errand;
use super::lease::{Lease, Stop};
use super::start::{Stage, Up};
use super::{Cached, Holding, Loading, Observer, Pinned, Status, Wanted};
use crate::adapters::channel::{Channel, ChannelError};
use crate::adapters::output::LastLines;
use crate::adapters::processes::{Ended, Processes};
use crate::adapters::python::Python;
use crate::adapters::zygote::{ForkOrder, Image, Lost};
use crate::core::blame::Blamed;
use crate::core::index::Index;
use crate::core::message::{LoadedProject, ProjectRef, Report};
use crate::core::pool::{
    Action, Event, ExitReason, ExitStatus, Generation, Policy, Pool, Refused, Start, Ticket, WorkerId,
};

/// The pool is shown at most this often: a busy one changes thousands of times a second.
const SHOWN_EVERY: Duration = Duration::from_millis(10);

/// How many failures the last report names.
const REPORTED: usize = 10;

type Reply = oneshot::Sender<Result<Lease, Refused>>;

/// What others tell the task.
#[derive(Debug)]
pub(super) enum Message {
    Begin,
    Wanted {
        ticket: Ticket,
        wanted: Box<Wanted>,
        reply: Reply,
    },
    Returned {
        worker: WorkerId,
        channel: Channel,
        report: Option<Report>,
        /// For a request that was not answered.
        loaded: Option<LoadedProject>,
    },
    Event(Event),
    Adopted {
        worker: WorkerId,
        pid: i32,
    },
    Up {
        worker: WorkerId,
        up: Box<Up>,
    },
    StartFailed {
        worker: WorkerId,
        stage: Stage,
        error: ChannelError,
        /// The agent itself had sent it away.
        dismissed: bool,
    },
    Image {
        generation: Generation,
        image: Image,
    },
    ZygoteLost {
        generation: Generation,
        lost: Option<Lost>,
    },
    /// The storage has this version of a project.
    Seen(Pinned),
    PinFound(Pinned),
    /// The uri of a pinned project that is not there any more.
    PinLost(String),
    /// Every worker should hold this project.
    CheckOut(Pinned),
    Tended {
        worker: WorkerId,
        channel: Channel,
        errand: Errand,
    },
    Pinned(Vec<Pinned>),
    Repin {
        pin: Vec<Pinned>,
        /// Names.
        unpin: Vec<String>,
    },
    Pin {
        pinned: Pinned,
        reply: oneshot::Sender<Result<f64, String>>,
    },
    List {
        reply: oneshot::Sender<Vec<Cached>>,
    },
    Dump {
        reply: oneshot::Sender<Vec<Holding>>,
    },
    /// A new generation should be made of what there is.
    Reload,
    Adopt {
        policy: Box<Policy>,
        loading: Loading,
    },
    Close,
    KillAll,
}

/// A worker's process and channel.
struct Slot {
    pid: Option<i32>,
    /// There while the worker is idle.
    channel: Option<Channel>,
    /// There while it serves.
    stop: Option<mpsc::UnboundedSender<Stop>>,
    /// Hears what its end meant; there while it serves.
    end: Option<oneshot::Sender<ExitReason>>,
    serving: Option<Box<Wanted>>,
    /// Its request has passed its deadline by its own fault, and that was told.
    late: bool,
    /// The versions of the projects it holds.
    versions: HashMap<String, String>,
    printed: LastLines,
    tmpdir: PathBuf,
    started: Instant,
    start: Start,
    /// How far its start came, and what was wrong then.
    failed: Option<(Stage, String)>,
    /// How its process ended.
    status: Option<ExitStatus>,
    /// To be killed as soon as its process id is known.
    doomed: bool,
    /// Nobody wants it any more, so that an end while it starts says nothing.
    dismissed: Arc<AtomicBool>,
}

struct Zygote {
    pid: Option<i32>,
    orders: mpsc::UnboundedSender<ForkOrder>,
    printed: LastLines,
    tmpdir: PathBuf,
    preload: Vec<ProjectRef>,
    /// The uris of those that its workers inherit.
    holds: Vec<String>,
    ready: bool,
    stopping: bool,
    /// How its process ended.
    status: Option<ExitStatus>,
    /// Its channel is no more; with what was wrong with that.
    lost: Option<Option<Lost>>,
}

pub(super) struct Task {
    pool: Pool,
    python: Python,
    start_timeout: Duration,
    processes: Processes,
    ended: Option<mpsc::UnboundedReceiver<Ended>>,
    observer: Arc<dyn Observer>,
    messages: mpsc::UnboundedSender<Message>,
    publish: watch::Sender<Arc<Status>>,
    slots: BTreeMap<WorkerId, Slot>,
    zygotes: BTreeMap<Generation, Zygote>,
    wanted: HashMap<Ticket, (Box<Wanted>, Reply)>,
    pins: Vec<ProjectRef>,
    loading: Loading,
    /// The newest known versions of projects that workers hold or load.
    latest: HashMap<String, ProjectRef>,
    pin_waiters: Vec<(ProjectRef, oneshot::Sender<Result<f64, String>>)>,
    index: Index,
    blamed: Blamed,
    qgis: String,
    versions: BTreeMap<String, String>,
    /// Why the zygote that was tried last did not come to be, or has ended.
    zygote_problem: Option<String>,
    gave_up: Option<f64>,
    /// The last failures in words, for the last report of an agent that gives up.
    failures: VecDeque<String>,
    closing: bool,
    published: Option<Instant>,
}

impl Task {
    pub fn new(
        policy: Policy,
        loading: Loading,
        python: Python,
        observer: Arc<dyn Observer>,
        messages: mpsc::UnboundedSender<Message>,
        publish: watch::Sender<Arc<Status>>,
    ) -> std::io::Result<Self> {
        let (report, ended) = mpsc::unbounded_channel();
        Ok(Self {
            start_timeout: policy.start_timeout,
            pool: Pool::new(policy),
            python,
            processes: Processes::start(report)?,
            ended: Some(ended),
            observer,
            messages,
            publish,
            slots: BTreeMap::new(),
            zygotes: BTreeMap::new(),
            wanted: HashMap::new(),
            pins: Vec::new(),
            loading,
            latest: HashMap::new(),
            pin_waiters: Vec::new(),
            index: Index::default(),
            blamed: Blamed::default(),
            qgis: String::new(),
            versions: BTreeMap::new(),
            zygote_problem: None,
            gave_up: None,
            failures: VecDeque::new(),
            closing: false,
            published: None,
        })
    }

    /// The agent's child processes.
    pub fn processes(&self) -> Processes {
        self.processes.clone()
    }

    /// Runs until a closed pool has no process left.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let Some(mut ended) = self.ended.take() else { return };
        // Pins that are restored are to be in the first generation.
        loop {
            match inbox.recv().await {
                Some(Message::Begin) | None => break,
                Some(Message::Pinned(pins)) => self.set_pins(pins),
                // The machine is weighed already; to hear of it would make the pool begin.
                Some(Message::Event(_)) => {}
                Some(other) => self.take(other),
            }
        }
        self.feed(Event::Tick);
        while !(self.closing && self.pool.is_empty() && self.zygotes.is_empty()) {
            let shown_next = self.publish();
            let wakeup = self.pool.next_wakeup().into_iter().chain(shown_next).min();
            let tick = async {
                match wakeup {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(end) = ended.recv() => self.process_ended(end),
                Some(message) = inbox.recv() => self.take(message),
                () = tick => self.feed(Event::Tick),
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Wanted { ticket, wanted, reply } => self.queue(ticket, wanted, reply),
            Message::Returned {
                worker,
                channel,
                report,
                loaded,
            } => self.returned(worker, channel, report, loaded),
            Message::Begin => {}
            Message::Event(event) => {
                match event {
                    Event::Left { ticket } => drop(self.wanted.remove(&ticket)),
                    Event::ForkRefused { worker } => {
                        self.observer.fork_refused();
                        self.slots
                            .remove(&worker)
                            .into_iter()
                            .for_each(|slot| remove_dir(slot.tmpdir));
                    }
                    _ => {}
                }
                self.feed(event);
            }
            Message::Adopted { worker, pid } => self.adopted(worker, pid),
            Message::Up { worker, up } => self.up(worker, *up),
            Message::StartFailed {
                worker,
                stage,
                error,
                dismissed,
            } => self.start_failed(worker, stage, &error, dismissed),
            Message::Image { generation, image } => self.image(generation, image),
            Message::ZygoteLost { generation, lost } => self.zygote_lost(generation, lost),
            Message::Seen(Pinned { project, .. }) => self.seen(&project),
            Message::PinFound(pinned) => self.pin_found(pinned),
            Message::PinLost(uri) => self.pin_lost(&uri),
            Message::CheckOut(Pinned { name, project }) => {
                self.index.named(&project.uri, &name);
                self.index.retried(&project.uri);
                self.latest.remove(&project.uri);
                self.seen(&project);
                let project = project.uri;
                self.feed(Event::CheckOut { project });
            }
            Message::Tended {
                worker,
                channel,
                errand,
            } => self.tended(worker, channel, errand),
            Message::Dump { reply } => drop(reply.send(self.holdings())),
            Message::Pinned(pins) => {
                let before = std::mem::take(&mut self.pins);
                self.set_pins(pins);
                if self.pins != before {
                    self.feed(Event::PreloadChanged);
                }
            }
            Message::Repin { pin, unpin } => self.repin(pin, &unpin),
            Message::Pin { pinned, reply } => self.pin(pinned, reply),
            Message::List { reply } => {
                // Who asks wants to see the pool as it is, not as it was shown last.
                self.published = None;
                self.publish();
                drop(reply.send(self.cached()));
            }
            Message::Reload => {
                self.zygote_problem = None;
                self.retry_pins();
            }
            Message::Adopt { policy, loading } => {
                self.start_timeout = policy.start_timeout;
                self.loading = loading;
                self.feed(Event::Adopt { policy });
            }
            Message::Close => {
                self.closing = true;
                self.feed(Event::Close);
            }
            Message::KillAll => {
                let pids = self.slots.values().filter_map(|slot| slot.pid);
                pids.chain(self.zygotes.values().filter_map(|zygote| zygote.pid))
                    .for_each(|pid| self.processes.kill(pid));
            }
        }
    }

    fn feed(&mut self, event: Event) {
        for action in self.pool.handle(Instant::now(), event) {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::StartZygote { generation } => self.start_zygote(generation),
            Action::StopZygote { generation } => {
                if let Some(zygote) = self.zygotes.get_mut(&generation) {
                    zygote.stopping = true;
                    // Without a sender of orders its task ends and closes the channel, and then the zygote leaves.
                    zygote.orders = mpsc::unbounded_channel().0;
                }
            }
            Action::StartWorker { worker, start } => self.start_worker(worker, start),
            Action::Assign { ticket, worker, evict } => self.assign(ticket, worker, evict),
            Action::Tend { worker, chore } => self.tend(worker, chore),
            Action::Refuse { ticket, why } => {
                if let Some((_, reply)) = self.wanted.remove(&ticket) {
                    drop(reply.send(Err(why)));
                }
            }
            Action::Cancel {
                worker,
                expired,
                blamed,
            } => self.cancel(worker, expired, blamed),
            Action::Quit { worker } => {
                // A worker leaves when its channel closes; one that is still starting is ended.
                if let Some(slot) = self.slots.get(&worker) {
                    slot.dismissed.store(true, Ordering::Relaxed);
                }
                let idle = self
                    .slots
                    .get_mut(&worker)
                    .and_then(|slot| slot.channel.take())
                    .is_some();
                if !idle {
                    self.kill(worker);
                }
            }
            Action::Kill { worker } => self.kill(worker),
            Action::Gone { worker, reason } => self.gone(worker, reason),
            Action::GiveUp { pressure } => {
                let failures: Vec<&str> = self.failures.iter().map(String::as_str).collect();
                tracing::error!(
                    pressure,
                    last_failures = failures.join("; "),
                    "failure pressure is above its limit: this agent finishes what runs and exits"
                );
                self.gave_up = Some(pressure);
            }
        }
    }

    /// Shows the pool to everybody, unless it was shown just now; says when it is to be shown then.
    fn publish(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(next) = self.published.map(|last| last + SHOWN_EVERY).filter(|next| *next > now) {
            return Some(next);
        }
        self.published = Some(now);
        let view = self.pool.view(now);
        let status = Status {
            held_pins: self.held_pins(&view),
            view,
            pids: self
                .slots
                .iter()
                .filter_map(|(&id, slot)| Some((id, slot.pid?)))
                .collect(),
            gave_up: self.gave_up,
            qgis: self.qgis.clone(),
            versions: self.versions.clone(),
            zygote_problem: self.zygote_problem.clone(),
            pinned: self.pins.iter().map(|pin| pin.uri.clone()).collect(),
            found_pins: self.found_pins(),
            pin_problems: self.pin_problems(),
            broken: self.index.broken(),
        };
        self.publish.send_replace(Arc::new(status));
        None
    }
}

/// What a process says in milliseconds.
fn took(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}
