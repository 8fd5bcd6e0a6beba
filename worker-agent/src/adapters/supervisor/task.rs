//! The task that owns the pool: messages in, actions out.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::lease::{Lease, Stop};
use super::start::{Stage, Up, bring_up, forked};
use super::{Cached, Observer, Status};
use crate::adapters::channel::{Channel, ChannelError};
use crate::adapters::output::{LastLines, capture};
use crate::adapters::processes::{Ended, Processes};
use crate::adapters::python::Python;
use crate::adapters::zygote::{self, ForkOrder, Forked, Image};
use crate::core::index::Index;
use crate::core::message::{FailedProject, LoadedProject, ProjectRef, Report};
use crate::core::pool::{
    Action, Event, ExitReason, ExitStatus, Generation, Policy, Pool, Refused, Start, Ticket, WorkerId,
};

/// What a zygote may take for each pinned project, on top of its own start.
const LOAD_PATIENCE: Duration = Duration::from_secs(120);

type Reply = oneshot::Sender<Result<Lease, Refused>>;

/// What others tell the task.
#[derive(Debug)]
pub(super) enum Message {
    Begin,
    Wanted {
        ticket: Ticket,
        name: String,
        project: ProjectRef,
        deadline: Instant,
        reply: Reply,
    },
    Returned {
        worker: WorkerId,
        channel: Channel,
        report: Option<Report>,
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
    },
    Image {
        generation: Generation,
        image: Image,
    },
    ZygoteLost {
        generation: Generation,
        error: Option<ChannelError>,
    },
    Pinned(Vec<ProjectRef>),
    Pin {
        project: ProjectRef,
        reply: oneshot::Sender<Result<f64, String>>,
    },
    Unpin {
        uri: String,
    },
    List {
        reply: oneshot::Sender<Vec<Cached>>,
    },
    Resize(usize),
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
    serving: Option<(String, String)>,
    /// The versions of the projects it holds.
    versions: HashMap<String, String>,
    private_bytes: u64,
    printed: LastLines,
    tmpdir: PathBuf,
    started: Instant,
    start: Start,
    /// To be killed as soon as its process id is known.
    doomed: bool,
}

struct Zygote {
    pid: Option<i32>,
    orders: mpsc::UnboundedSender<ForkOrder>,
    printed: LastLines,
    tmpdir: PathBuf,
    preload: Vec<ProjectRef>,
    ready: bool,
    stopping: bool,
}

struct Wanted {
    name: String,
    project: ProjectRef,
    reply: Reply,
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
    wanted: HashMap<Ticket, Wanted>,
    pins: Vec<ProjectRef>,
    pin_waiters: Vec<(ProjectRef, oneshot::Sender<Result<f64, String>>)>,
    index: Index,
    qgis: String,
    gave_up: Option<f64>,
    closing: bool,
}

impl Task {
    pub fn new(
        policy: Policy,
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
            pin_waiters: Vec::new(),
            index: Index::default(),
            qgis: String::new(),
            gave_up: None,
            closing: false,
        })
    }

    /// Runs until a closed pool has no process left.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let Some(mut ended) = self.ended.take() else { return };
        // Pins that are restored are to be in the first generation.
        loop {
            match inbox.recv().await {
                Some(Message::Begin) | None => break,
                Some(Message::Pinned(pins)) => self.pins = pins,
                Some(other) => self.take(other),
            }
        }
        self.feed(Event::Tick);
        while !(self.closing && self.pool.is_empty() && self.zygotes.is_empty()) {
            self.publish();
            let tick = async {
                match self.pool.next_wakeup() {
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
            Message::Wanted {
                ticket,
                name,
                project,
                deadline,
                reply,
            } => {
                self.notice_change(&project);
                let uri = project.uri.clone();
                self.wanted.insert(ticket, Wanted { name, project, reply });
                self.feed(Event::Arrived {
                    ticket,
                    project: uri,
                    deadline,
                });
            }
            Message::Returned {
                worker,
                channel,
                report,
            } => self.returned(worker, channel, report),
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
            Message::StartFailed { worker, stage, error } => self.start_failed(worker, &stage, &error),
            Message::Image { generation, image } => self.image(generation, image),
            Message::ZygoteLost { generation, error } => self.zygote_lost(generation, error.as_ref()),
            Message::Pinned(pins) => {
                self.pins = pins;
                self.feed(Event::PreloadChanged);
            }
            Message::Pin { project, reply } => {
                self.pins.retain(|pin| pin.uri != project.uri);
                self.pins.push(project.clone());
                self.pin_waiters.push((project, reply));
                self.feed(Event::PreloadChanged);
            }
            Message::Unpin { uri } => {
                self.pins.retain(|pin| pin.uri != uri);
                self.feed(Event::PreloadChanged);
            }
            Message::List { reply } => drop(reply.send(self.cached())),
            Message::Resize(workers) => self.feed(Event::Resize { workers }),
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

    /// A pinned project that has changed on disk is loaded anew in the background; its workers serve the old version
    /// until they are replaced.
    fn notice_change(&mut self, project: &ProjectRef) {
        if let Some(pin) = self
            .pins
            .iter_mut()
            .find(|pin| pin.uri == project.uri && pin.version != project.version)
        {
            tracing::info!(project = pin.uri, "a pinned project has changed and is loaded anew");
            pin.version.clone_from(&project.version);
            self.feed(Event::PreloadChanged);
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
            Action::Refuse { ticket, why } => {
                if let Some(wanted) = self.wanted.remove(&ticket) {
                    drop(wanted.reply.send(Err(why)));
                }
            }
            Action::Cancel { worker, expired } => {
                if let Some(stop) = self.slots.get(&worker).and_then(|slot| slot.stop.as_ref()) {
                    let _ = stop.send(if expired { Stop::Expired } else { Stop::Cancelled });
                }
            }
            Action::Quit { worker } => {
                // A worker leaves when its channel closes; one that is still starting is ended.
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
                tracing::error!(pressure, "failure pressure is above its limit: this agent gives up");
                self.gave_up = Some(pressure);
            }
        }
    }

    fn kill(&mut self, worker: WorkerId) {
        if let Some(slot) = self.slots.get_mut(&worker) {
            match slot.pid {
                Some(pid) => self.processes.kill(pid),
                None => slot.doomed = true,
            }
        }
    }

    fn start_zygote(&mut self, generation: Generation) {
        let started = (|| {
            let (channel, theirs) = Channel::pair()?;
            let tmpdir = self.python.private_dir(&format!("z{generation}"))?;
            let (output, printed) = capture(format!("zygote {generation}"))?;
            let mut command = self.python.zygote(generation, &self.pins, &tmpdir, theirs, output)?;
            let pid = self.processes.spawn(&mut command)?;
            Ok::<_, std::io::Error>((channel, tmpdir, printed, pid))
        })();
        let (orders, inbox) = mpsc::unbounded_channel();
        let (channel, tmpdir, printed, pid) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::error!(generation, %error, "a zygote could not be started; see worker.python and worker.runtime_dir");
                let lost = Message::Event(Event::ZygoteExited { generation });
                drop(self.messages.send(lost));
                return;
            }
        };
        let preload = self.pins.clone();
        let patience = self.start_timeout + LOAD_PATIENCE * u32::try_from(preload.len()).unwrap_or(u32::MAX);
        let zygote = Zygote {
            pid: Some(pid),
            orders,
            printed,
            tmpdir,
            preload,
            ready: false,
            stopping: false,
        };
        self.zygotes.insert(generation, zygote);
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let ready = |image| drop(messages.send(Message::Image { generation, image }));
            let error = zygote::run(channel, patience, ready, inbox).await.err();
            drop(messages.send(Message::ZygoteLost { generation, error }));
        });
    }

    fn image(&mut self, generation: Generation, image: Image) {
        let Some(zygote) = self.zygotes.get_mut(&generation) else {
            return;
        };
        zygote.ready = true;
        tracing::info!(
            generation,
            qgis = image.qgis,
            projects = image.projects.len(),
            "a zygote is ready"
        );
        self.qgis = image.qgis;
        for project in &image.not_preloaded {
            tracing::info!(
                project = project.uri,
                reason = project.reason,
                "each worker loads this pinned project by itself"
            );
        }
        self.settle_pins(&image.projects, &image.failed);
        self.feed(Event::ZygoteReady { generation });
    }

    /// The channel of a zygote is no more: its process is ended, if it has not ended.
    fn zygote_lost(&mut self, generation: Generation, error: Option<&ChannelError>) {
        let Some(zygote) = self.zygotes.get(&generation) else {
            return;
        };
        if let (Some(error), false) = (error, zygote.stopping) {
            let printed = zygote.printed.text();
            let stage = if zygote.ready { "serving" } else { "starting" };
            tracing::error!(generation, stage, %error, printed, "a zygote is lost; workers are spawned until one works");
        }
        if let (Some(pid), false) = (zygote.pid, zygote.stopping) {
            self.processes.kill(pid);
        }
    }

    fn start_worker(&mut self, worker: WorkerId, start: Start) {
        let prepared = (|| {
            let (channel, theirs) = Channel::pair()?;
            let tmpdir = self.python.private_dir(&format!("w{worker}"))?;
            let (output, printed) = capture(format!("worker {worker}"))?;
            Ok::<_, std::io::Error>((channel, theirs, tmpdir, output, printed))
        })();
        let (channel, theirs, tmpdir, output, printed) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::error!(worker, %error, "a worker could not be started");
                let status = ExitStatus::NotStarted;
                return drop(self.messages.send(Message::Event(Event::Exited { worker, status })));
            }
        };
        let mut slot = Slot {
            pid: None,
            channel: None,
            stop: None,
            serving: None,
            versions: HashMap::new(),
            private_bytes: 0,
            printed,
            tmpdir: tmpdir.clone(),
            started: Instant::now(),
            start,
            doomed: false,
        };
        let mut answer = None;
        let mut pins = self.pins.clone();
        match start {
            Start::Fork(generation) => {
                let (reply, reading) = oneshot::channel();
                let order = ForkOrder {
                    worker,
                    tmpdir,
                    channel: theirs,
                    output,
                    answer: reply,
                };
                if let Some(zygote) = self.zygotes.get(&generation) {
                    pins.clone_from(&zygote.preload);
                    // When the zygote has gone, the answer's sender is dropped with the order.
                    drop(zygote.orders.send(order));
                }
                answer = Some(reading);
            }
            Start::Spawn(_) => {
                let command = self.python.worker(&tmpdir, theirs, output);
                match command.and_then(|mut command| self.processes.spawn(&mut command)) {
                    Ok(pid) => slot.pid = Some(pid),
                    Err(error) => {
                        tracing::error!(worker, %error, "a worker could not be spawned; see worker.python");
                        let status = ExitStatus::NotStarted;
                        drop(self.messages.send(Message::Event(Event::Exited { worker, status })));
                    }
                }
            }
        }
        self.slots.insert(worker, slot);
        tokio::spawn(come_up(worker, channel, answer, pins, self.messages.clone()));
    }

    fn adopted(&mut self, worker: WorkerId, pid: i32) {
        let ended = self.processes.adopt(pid);
        let Some(slot) = self.slots.get_mut(&worker) else {
            self.processes.kill(pid);
            return;
        };
        slot.pid = Some(pid);
        if slot.doomed {
            self.processes.kill(pid);
        }
        if let Some(ended) = ended {
            self.process_ended(ended);
        }
    }

    fn up(&mut self, worker: WorkerId, up: Up) {
        self.settle_pins(&up.held, &up.failed);
        let Some(slot) = self.slots.get_mut(&worker) else {
            return;
        };
        slot.channel = Some(up.channel);
        slot.versions = up
            .held
            .iter()
            .map(|held| (held.uri.clone(), held.version.clone()))
            .collect();
        let took = slot.started.elapsed();
        let how = slot.start.name();
        tracing::info!(
            worker,
            pid = slot.pid,
            how,
            took_ms = took.as_millis(),
            "a worker is ready"
        );
        self.observer.started(how, took);
        self.qgis = up.qgis;
        let pinned = up.held.into_iter().map(|held| held.uri).collect();
        self.feed(Event::Ready { worker, pinned });
    }

    fn start_failed(&mut self, worker: WorkerId, stage: &Stage, error: &ChannelError) {
        let printed = self
            .slots
            .get(&worker)
            .map(|slot| slot.printed.text())
            .unwrap_or_default();
        tracing::error!(worker, ?stage, %error, printed, "a worker could not start");
        self.feed(Event::Broken { worker });
    }

    /// Tells who waits for a pin, and keeps what was learnt.
    fn settle_pins(&mut self, loaded: &[LoadedProject], failed: &[FailedProject]) {
        loaded.iter().for_each(|project| self.index.loaded(project));
        for failure in failed {
            tracing::error!(
                project = failure.uri,
                problem = failure.message,
                "a pinned project cannot be loaded"
            );
            self.index.failed(&failure.uri, &failure.message);
        }
        for (pin, reply) in std::mem::take(&mut self.pin_waiters) {
            if let Some(project) = loaded.iter().find(|loaded| loaded.uri == pin.uri) {
                drop(reply.send(Ok(project.load_ms)));
            } else if let Some(failure) = failed.iter().find(|failed| failed.uri == pin.uri) {
                self.pins.retain(|other| other.uri != pin.uri);
                drop(reply.send(Err(failure.message.clone())));
            } else {
                self.pin_waiters.push((pin, reply));
            }
        }
    }

    fn assign(&mut self, ticket: Ticket, worker: WorkerId, evict: Vec<String>) {
        let wanted = self.wanted.remove(&ticket);
        let Some(slot) = self.slots.get_mut(&worker) else {
            return;
        };
        let Some(channel) = slot.channel.take() else { return };
        let Some(Wanted {
            name,
            mut project,
            reply,
        }) = wanted
        else {
            // Its client has left in the same moment.
            slot.channel = Some(channel);
            return self.feed(Event::Finished { worker, loaded: None });
        };
        if self.pins.iter().any(|pin| pin.uri == project.uri)
            && let Some(held) = slot.versions.get(&project.uri)
        {
            project.version.clone_from(held);
        }
        evict.iter().for_each(|uri| drop(slot.versions.remove(uri)));
        slot.serving = Some((project.uri.clone(), name));
        let (stop, stopped) = mpsc::unbounded_channel();
        slot.stop = Some(stop);
        let lease = Lease::new(
            (worker, ticket),
            project,
            evict,
            stopped,
            channel,
            self.messages.clone(),
        );
        // When nobody takes the lease, it comes back by itself.
        drop(reply.send(Ok(lease)));
    }

    fn returned(&mut self, worker: WorkerId, channel: Channel, report: Option<Report>) {
        let Some(slot) = self.slots.get_mut(&worker) else {
            return;
        };
        slot.channel = Some(channel);
        slot.stop = None;
        let serving = slot.serving.take();
        let mut loaded = None;
        if let Some(report) = report {
            slot.private_bytes = report.private_kb * 1024;
            if let Some((uri, name)) = &serving {
                self.index.served(uri, name);
            }
            if let Some(project) = report.loaded {
                slot.versions.insert(project.uri.clone(), project.version.clone());
                self.index.loaded(&project);
                loaded = Some(project.uri);
            }
        }
        self.feed(Event::Finished { worker, loaded });
    }

    fn process_ended(&mut self, ended: Ended) {
        let worker = self
            .slots
            .iter()
            .find(|(_, slot)| slot.pid == Some(ended.pid))
            .map(|(&id, _)| id);
        if let Some(worker) = worker {
            return self.feed(Event::Exited {
                worker,
                status: ended.status,
            });
        }
        let zygote = self
            .zygotes
            .iter()
            .find(|(_, zygote)| zygote.pid == Some(ended.pid))
            .map(|(&id, _)| id);
        if let Some(generation) = zygote
            && let Some(zygote) = self.zygotes.remove(&generation)
        {
            remove_dir(zygote.tmpdir);
            if !zygote.stopping {
                tracing::error!(generation, status = ?ended.status, "a zygote has ended");
            }
            self.feed(Event::ZygoteExited { generation });
        }
    }

    fn gone(&mut self, worker: WorkerId, reason: ExitReason) {
        self.observer.gone(reason);
        let Some(slot) = self.slots.remove(&worker) else { return };
        let (project, pid) = (slot.serving.map(|(_, name)| name), slot.pid);
        if reason.is_failure() {
            tracing::warn!(worker, pid, %reason, project, printed = slot.printed.text(), "a worker has failed");
        } else {
            tracing::info!(worker, pid, %reason, "a worker has gone");
        }
        remove_dir(slot.tmpdir);
    }

    fn cached(&mut self) -> Vec<Cached> {
        let view = self.pool.view(Instant::now());
        let mut uris: BTreeMap<String, usize> = self.pins.iter().map(|pin| (pin.uri.clone(), 0)).collect();
        for uri in view
            .workers
            .iter()
            .filter(|worker| worker.state != "leaving")
            .flat_map(|worker| &worker.projects)
        {
            *uris.entry(uri.clone()).or_default() += 1;
        }
        let pinned = |uri: &str| self.pins.iter().any(|pin| pin.uri == uri);
        uris.into_iter()
            .map(|(uri, workers)| {
                let record = self.index.get(&uri).cloned().unwrap_or_default();
                Cached {
                    pinned: pinned(&uri),
                    workers,
                    record,
                    uri,
                }
            })
            .collect()
    }

    fn publish(&mut self) {
        let status = Status {
            view: self.pool.view(Instant::now()),
            pids: self
                .slots
                .iter()
                .filter_map(|(&id, slot)| Some((id, slot.pid?)))
                .collect(),
            private_bytes: self.slots.iter().map(|(&id, slot)| (id, slot.private_bytes)).collect(),
            gave_up: self.gave_up,
            qgis: self.qgis.clone(),
            pinned: self.pins.iter().map(|pin| pin.uri.clone()).collect(),
        };
        self.publish.send_replace(Arc::new(status));
    }
}

/// Follows a worker's start and tells the task what became of it.
async fn come_up(
    worker: WorkerId,
    channel: Channel,
    answer: Option<oneshot::Receiver<Forked>>,
    pins: Vec<ProjectRef>,
    messages: mpsc::UnboundedSender<Message>,
) {
    let tell = |message| drop(messages.send(message));
    if let Some(answer) = answer {
        match forked(answer).await {
            Some(Forked::Pid(pid)) => tell(Message::Adopted { worker, pid }),
            Some(Forked::Refused(reason)) => {
                tracing::warn!(
                    worker,
                    reason,
                    "this zygote may not be forked from: workers are spawned instead"
                );
                return tell(Message::Event(Event::ForkRefused { worker }));
            }
            None => {
                let status = ExitStatus::NotStarted;
                return tell(Message::Event(Event::Exited { worker, status }));
            }
        }
    }
    match bring_up(channel, &pins).await {
        Ok(up) => tell(Message::Up {
            worker,
            up: Box::new(up),
        }),
        Err((stage, error)) => tell(Message::StartFailed { worker, stage, error }),
    }
}

/// Removes a private directory in the background: a plugin may have left much in it.
fn remove_dir(dir: PathBuf) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "could not remove a worker's temporary files");
        }
    });
}
