//! How processes come and go: the part of the task that starts zygotes and workers, follows their starts, and clears up
//! after their ends.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::{Message, REPORTED, Slot, Task, Zygote};
use crate::adapters::channel::{Channel, ChannelError};
use crate::adapters::output::capture;
use crate::adapters::processes::Ended;
use crate::adapters::supervisor::start::{Stage, Up, bring_up, forked};
use crate::adapters::zygote::{self, ForkOrder, Forked, Image, Lost, Patience};
use crate::core::message::{FailedProject, ProjectRef};
use crate::core::pool::{Event, ExitReason, ExitStatus, Generation, Start, WorkerId};

/// What a zygote may take for one pinned project.
const LOAD_PATIENCE: Duration = Duration::from_secs(120);

impl Task {
    pub(super) fn start_zygote(&mut self, generation: Generation) {
        let preload = self.sound_pins();
        let started = (|| {
            let (channel, theirs) = Channel::pair()?;
            let tmpdir = self.python.private_dir(&format!("z{generation}"))?;
            let begun = (|| {
                let (output, printed) = capture(format!("zygote {generation}"))?;
                let mut command = self.python.zygote(generation, &preload, &tmpdir, theirs, output)?;
                Ok((printed, self.processes.spawn(&mut command)?))
            })();
            match begun {
                Ok((printed, pid)) => Ok((channel, tmpdir, printed, pid)),
                Err(error) => {
                    remove_dir(tmpdir);
                    Err::<_, std::io::Error>(error)
                }
            }
        })();
        let (orders, inbox) = mpsc::unbounded_channel();
        let (channel, tmpdir, printed, pid) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::error!(generation, %error, "a zygote could not be started; see worker.python and worker.runtime_dir");
                self.zygote_problem = Some(format!("its zygote could not be started: {error}"));
                let lost = Message::Event(Event::ZygoteExited { generation });
                drop(self.messages.send(lost));
                return;
            }
        };
        let patience = Patience {
            start: self.start_timeout,
            load: LOAD_PATIENCE,
        };
        let zygote = Zygote {
            pid: Some(pid),
            orders,
            printed,
            tmpdir,
            preload,
            holds: Vec::new(),
            ready: false,
            stopping: false,
            status: None,
            lost: None,
        };
        self.zygotes.insert(generation, zygote);
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let ready = |image| drop(messages.send(Message::Image { generation, image }));
            let lost = zygote::run(channel, patience, ready, inbox).await.err();
            drop(messages.send(Message::ZygoteLost { generation, lost }));
        });
    }

    pub(super) fn image(&mut self, generation: Generation, image: Image) {
        let Some(zygote) = self.zygotes.get_mut(&generation) else {
            return;
        };
        tracing::info!(
            generation,
            qgis = image.qgis,
            projects = image.projects.len(),
            "a zygote is ready"
        );
        zygote.holds = image.projects.iter().map(|project| project.uri.clone()).collect();
        let lost: Vec<&FailedProject> = image
            .failed
            .iter()
            .filter(|failed| self.is_preloaded(&failed.uri))
            .collect();
        if !lost.is_empty() {
            for failed in lost {
                tracing::error!(
                    project = failed.uri,
                    problem = failed.message,
                    "the new version of a pinned project cannot be loaded: the generation that holds the old one serves on"
                );
            }
            self.settle_pins(&[], &image.failed);
            let preload = self.zygotes.get(&generation).map(|zygote| zygote.preload.clone());
            self.fail_waiters(&preload.unwrap_or_default(), "another pinned project cannot be loaded");
            for failed in image.failed {
                self.feed(Event::Unloadable { project: failed.uri });
            }
            return self.feed(Event::ZygoteRejected { generation });
        }
        if let Some(zygote) = self.zygotes.get_mut(&generation) {
            zygote.ready = true;
        }
        self.qgis = image.qgis;
        self.versions = image.versions;
        self.zygote_problem = None;
        for project in &image.not_preloaded {
            tracing::info!(
                project = project.uri,
                reason = project.reason,
                "each worker loads this pinned project by itself"
            );
        }
        self.observer.plugins(image.plugins);
        self.settle_pins(&image.projects, &image.failed);
        self.feed(Event::ZygoteReady { generation });
    }

    /// The channel of a zygote is no more: its process is ended, if it has not ended.
    pub(super) fn zygote_lost(&mut self, generation: Generation, lost: Option<Lost>) {
        let Some(zygote) = self.zygotes.get_mut(&generation) else {
            return;
        };
        // A closed channel is what its end looks like from here; the end itself says more.
        let error = lost.as_ref().map(|lost| &lost.error);
        if let Some(error) = error.filter(|error| !zygote.stopping && !matches!(error, ChannelError::Closed)) {
            tracing::error!(generation, %error, "a zygote does not keep to the protocol and is ended");
        }
        zygote.lost = Some(lost);
        match zygote.pid {
            _ if zygote.status.is_some() => self.zygote_ended(generation),
            Some(pid) if !zygote.stopping => self.processes.kill(pid),
            _ => {}
        }
    }

    /// A zygote's process has ended.
    fn zygote_ended(&mut self, generation: Generation) {
        let Some(zygote) = self.zygotes.remove(&generation) else {
            return;
        };
        remove_dir(zygote.tmpdir);
        if let (Some(status), false) = (zygote.status, zygote.stopping) {
            let stage = if zygote.ready { "serving" } else { "starting" };
            let printed = zygote.printed.text();
            tracing::error!(
                generation,
                stage,
                ?status,
                printed,
                "a zygote has ended unasked; workers are spawned until the next one is ready"
            );
            let last = printed
                .lines()
                .last()
                .map_or_else(String::new, |line| format!("; it printed: {line}"));
            let problem = format!("its zygote ended while {stage}: {status}{last}");
            let lost = zygote.lost.flatten();
            let silent = lost.as_ref().is_some_and(Lost::is_silence);
            let loading = lost.and_then(|lost| lost.loading);
            let suspect = loading.and_then(|uri| zygote.preload.iter().find(|pin| pin.uri == uri));
            if let Some(project) = suspect {
                let why = if silent {
                    format!("QGIS had not loaded it after {} s", LOAD_PATIENCE.as_secs())
                } else {
                    format!("QGIS ended while it loaded it: {status}{last}")
                };
                self.blame(project, why);
                if self.is_preloaded(&project.uri) {
                    // As for one that QGIS says it cannot load.
                    self.fail_waiters(&zygote.preload, "another pinned project cannot be loaded");
                    let project = project.uri.clone();
                    self.feed(Event::Unloadable { project });
                    self.feed(Event::ZygoteRejected { generation });
                }
            } else if !zygote.ready {
                self.fail_waiters(&zygote.preload, &problem);
            }
            self.zygote_problem = Some(problem);
        }
        self.feed(Event::ZygoteExited { generation });
    }

    /// QGIS came to grief over a pinned project: the next ones that start do without it.
    fn blame(&mut self, project: &ProjectRef, problem: String) {
        self.blamed.blame(project, &problem);
        let uri = project.uri.clone();
        self.settle_pins(&[], &[FailedProject { uri, message: problem }]);
    }

    pub(super) fn start_worker(&mut self, worker: WorkerId, start: Start) {
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
            end: None,
            serving: None,
            late: false,
            versions: HashMap::new(),
            printed,
            tmpdir: tmpdir.clone(),
            started: Instant::now(),
            start,
            failed: None,
            status: None,
            doomed: false,
            dismissed: Arc::default(),
        };
        let dismissed = Arc::clone(&slot.dismissed);
        let mut answer = None;
        let mut pins = self.blamed.sound(&self.pins, |_| false);
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
                    // What is held is inherited.
                    pins = self.blamed.sound(&zygote.preload, |_| false);
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
        tokio::spawn(come_up(worker, channel, answer, pins, dismissed, self.messages.clone()));
    }

    pub(super) fn adopted(&mut self, worker: WorkerId, pid: i32) {
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

    pub(super) fn up(&mut self, worker: WorkerId, mut up: Up) {
        self.observer.plugins(std::mem::take(&mut up.plugins));
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
        self.versions = up.versions;
        let pinned: Vec<String> = up.held.into_iter().map(|held| held.uri).collect();
        self.feed(Event::Ready {
            worker,
            pinned: pinned.clone(),
        });
        pinned.iter().for_each(|uri| self.check_version(worker, uri));
    }

    /// What was wrong is told once its process has ended, together with how it ended.
    pub(super) fn start_failed(&mut self, worker: WorkerId, stage: Stage, error: &ChannelError, dismissed: bool) {
        if let (Stage::Pin(project), false) = (&stage, dismissed || self.closing) {
            let problem = "a worker ended while it loaded it, or was killed as it was not ready in time";
            self.blame(project, problem.to_owned());
        }
        if let Some(slot) = self.slots.get_mut(&worker) {
            slot.failed = Some((stage, error.to_string()));
        }
        self.feed(Event::Broken { worker });
    }

    pub(super) fn process_ended(&mut self, ended: Ended) {
        let worker = self
            .slots
            .iter()
            .find(|(_, slot)| slot.pid == Some(ended.pid))
            .map(|(&id, _)| id);
        if let Some(worker) = worker {
            let status = ended.status;
            if let Some(slot) = self.slots.get_mut(&worker) {
                slot.status = Some(status);
            }
            return self.feed(Event::Exited { worker, status });
        }
        let zygote = self
            .zygotes
            .iter()
            .find(|(_, zygote)| zygote.pid == Some(ended.pid))
            .map(|(&id, _)| id);
        let Some(generation) = zygote else { return };
        if let Some(zygote) = self.zygotes.get_mut(&generation) {
            zygote.pid = None;
            zygote.status = Some(ended.status);
            // The last words of one that was starting may not have been read yet: they say what it was loading.
            if zygote.ready || zygote.stopping || zygote.lost.is_some() {
                self.zygote_ended(generation);
            }
        }
    }

    pub(super) fn gone(&mut self, worker: WorkerId, reason: ExitReason) {
        let slot = self.slots.remove(&worker);
        self.observer.gone(
            reason,
            slot.as_ref()
                .filter(|slot| !slot.late)
                .and_then(|slot| slot.serving.as_deref()),
        );
        let Some(slot) = slot else { return };
        // After the observer: whoever hears this wants to know what follows from it.
        if let Some(end) = slot.end {
            let _ = end.send(reason);
        }
        let pid = slot.pid;
        if reason.is_failure() {
            let (stage, problem) = slot.failed.unzip();
            let stage = stage.map(|stage| stage.to_string());
            let status = slot.status.map(|status| status.to_string());
            let (project, fingerprint) = slot
                .serving
                .map(|wanted| (wanted.name.clone(), wanted.fingerprint.to_string()))
                .unzip();
            let took = slot.started.elapsed().as_secs_f64();
            tracing::warn!(
                worker,
                pid,
                %reason,
                status,
                project,
                fingerprint,
                stage,
                problem,
                age_seconds = took,
                printed = slot.printed.text(),
                "a worker has failed"
            );
            let request = project.map_or_else(String::new, |project| format!(" with a request for {project}"));
            if self.failures.len() == REPORTED {
                self.failures.pop_front();
            }
            self.failures.push_back(format!("worker {worker}: {reason}{request}"));
        } else {
            tracing::info!(worker, pid, %reason, "a worker has gone");
        }
        remove_dir(slot.tmpdir);
    }

    pub(super) fn kill(&mut self, worker: WorkerId) {
        if let Some(slot) = self.slots.get_mut(&worker) {
            match slot.pid {
                Some(pid) => self.processes.kill(pid),
                None => slot.doomed = true,
            }
        }
    }
}

/// Follows a worker's start and tells the task what became of it.
async fn come_up(
    worker: WorkerId,
    channel: Channel,
    answer: Option<oneshot::Receiver<Forked>>,
    pins: Vec<ProjectRef>,
    dismissed: Arc<AtomicBool>,
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
            // A start like any other that failed: the next one is tried in the same way, after a pause.
            gone => {
                if let Some(Forked::Failed(reason)) = gone {
                    tracing::warn!(worker, reason, "a worker could not be forked");
                }
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
        Err((stage, error)) => tell(Message::StartFailed {
            worker,
            stage,
            error,
            dismissed: dismissed.load(Ordering::Relaxed),
        }),
    }
}

/// Removes a private directory in the background: a plugin may have left much in it.
pub(super) fn remove_dir(dir: PathBuf) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "could not remove a worker's temporary files");
        }
    });
}
