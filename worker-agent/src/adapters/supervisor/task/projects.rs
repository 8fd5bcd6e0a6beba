//! Which worker holds which version of a project: the part of the task that notices changes, has workers load and drop
//! projects between requests, and tells who holds what.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Message, Task, took};
use crate::adapters::channel::Channel;
use crate::adapters::supervisor::errand::{self, Errand, Order};
use crate::adapters::supervisor::{Cached, Holding};
use crate::core::message::ProjectRef;
use crate::core::pool::{Chore, Event, Tended, WorkerId};

/// Versions of projects that nobody holds are forgotten above this number.
const REMEMBERED: usize = 4096;

impl Task {
    /// The storage has this version of a project. What holds an older one loads it anew: a zygote by way of the next
    /// generation, a worker between requests. Both serve the old version until then. A request brings along what was believed
    /// when it came; what a later look has shown since is newer.
    pub(super) fn seen(&mut self, project: &ProjectRef) {
        let pin = self.pins.iter().find(|pin| pin.uri == project.uri);
        let mut known = pin.into_iter().chain(self.latest.get(&project.uri));
        if known.any(|known| project.begun.is_before(known.begun)) {
            return;
        }
        let preloaded = self.is_preloaded(&project.uri);
        if let Some(pin) = self.pins.iter_mut().find(|pin| pin.uri == project.uri) {
            let newer = pin.version != project.version;
            pin.clone_from(project);
            // One that could not be loaded is held by nobody whom its new version could reach.
            let failed = self.index.get(&project.uri).is_some_and(|it| !it.problem.is_empty());
            let lacking = failed && !self.slots.values().any(|slot| slot.versions.contains_key(&project.uri));
            let lacking = lacking || self.blamed.problem(&project.uri).is_some();
            if preloaded || lacking {
                if newer {
                    tracing::info!(
                        project = project.uri,
                        "a pinned project has changed: the next generation is made"
                    );
                    self.index.retried(&project.uri);
                    self.blamed.forgive(&project.uri);
                    self.feed(Event::PreloadChanged);
                }
                return;
            }
        }
        let outdated = |slot: &super::Slot| {
            slot.versions
                .get(&project.uri)
                .is_some_and(|held| *held != project.version)
        };
        let outdated = self.slots.values().any(outdated);
        let known = self.latest.get_mut(&project.uri);
        if let Some(known) = known.filter(|known| known.version == project.version) {
            known.begun = project.begun;
            // Who was to load it may have died.
            if outdated && !self.pool.is_renewing(&project.uri) {
                let project = project.uri.clone();
                self.feed(Event::Changed { project });
            }
            return;
        }
        if self.latest.len() >= REMEMBERED {
            let held = |uri: &String| self.slots.values().any(|slot| slot.versions.contains_key(uri));
            self.latest.retain(|uri, _| held(uri));
        }
        self.latest.insert(project.uri.clone(), project.clone());
        self.index.retried(&project.uri);
        if outdated {
            tracing::info!(
                project = project.uri,
                version = project.version,
                "a project has changed: workers load it anew, one at a time"
            );
            self.feed(Event::Changed {
                project: project.uri.clone(),
            });
        }
    }

    /// A worker holds a version that may have been overtaken while it was loaded.
    pub(super) fn check_version(&mut self, worker: WorkerId, uri: &str) {
        let held = self.slots.get(&worker).and_then(|slot| slot.versions.get(uri));
        let latest = self.latest.get(uri).map(|latest| &latest.version);
        if held.is_some()
            && latest.is_some()
            && held != latest
            && !self.is_preloaded(uri)
            && !self.pool.is_renewing(uri)
        {
            self.feed(Event::Changed {
                project: uri.to_owned(),
            });
        }
    }

    /// Whether a request for the project is to be refused, as nobody has loaded it for requests.
    pub(super) fn may_not_load(&self, uri: &str) -> bool {
        !self.loading.load_on_request
            && !uri.is_empty()
            && !self.pins.iter().any(|pin| pin.uri == uri)
            && !self.slots.values().any(|slot| slot.versions.contains_key(uri))
    }

    pub(super) fn tend(&mut self, worker: WorkerId, chore: Chore) {
        let Some(slot) = self.slots.get_mut(&worker) else {
            return;
        };
        let Some(mut channel) = slot.channel.take() else { return };
        let order = match chore {
            Chore::Load { project, evict } => Order::Load(evict, self.latest.get(&project).cloned()),
            Chore::Drop { projects } => Order::Load(projects, None),
            Chore::Warm { project } => Order::Warm(project),
        };
        if let Order::Load(evict, _) = &order {
            evict.iter().for_each(|uri| drop(slot.versions.remove(uri)));
        }
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let told = match errand::run(&mut channel, order).await {
                Ok(errand) => Message::Tended {
                    worker,
                    channel,
                    errand,
                },
                Err(_) => Message::Event(Event::Broken { worker }),
            };
            drop(messages.send(told));
        });
    }

    pub(super) fn tended(&mut self, worker: WorkerId, channel: Channel, errand: Errand) {
        let Some(slot) = self.slots.get_mut(&worker) else {
            return;
        };
        slot.channel = Some(channel);
        let mut uri = None;
        let outcome = match errand {
            Errand::Loaded(project) => {
                slot.versions.insert(project.uri.clone(), project.version.clone());
                self.index.loaded(&project);
                self.observer.loaded(true);
                uri = Some(project.uri.clone());
                Tended::Loaded {
                    took: took(project.load_ms),
                    project: project.uri,
                }
            }
            Errand::Failed(failure) => {
                tracing::error!(
                    project = failure.uri,
                    problem = failure.message,
                    "the new version of a project cannot be loaded; the old one is served on where it is held"
                );
                self.index.failed(&failure.uri, &failure.message);
                self.observer.loaded(false);
                Tended::Broken { project: failure.uri }
            }
            Errand::Done => Tended::Done,
        };
        self.feed(Event::Tended { worker, outcome });
        if let Some(uri) = uri {
            self.check_version(worker, &uri);
        }
    }

    /// Every project that a worker holds or that is pinned.
    pub(super) fn cached(&mut self) -> Vec<Cached> {
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
                let mut record = self.index.get(&uri).cloned().unwrap_or_default();
                if let Some(problem) = self.blamed.problem(&uri).filter(|_| pinned(&uri)) {
                    problem.clone_into(&mut record.problem);
                }
                let outdated = self.latest.get(&uri).is_some_and(|latest| {
                    let held = self.slots.values().filter_map(|slot| slot.versions.get(&uri));
                    held.into_iter().any(|held| *held != latest.version)
                });
                Cached {
                    pinned: pinned(&uri),
                    outdated,
                    workers,
                    record,
                    uri,
                }
            })
            .collect()
    }

    /// What each worker holds, at which version.
    pub(super) fn holdings(&self) -> Vec<Holding> {
        let name = |uri: &String| {
            let known = self.index.get(uri).map(|record| &record.name);
            known.filter(|name| !name.is_empty()).unwrap_or(uri).clone()
        };
        let holding = |(&worker, slot): (&WorkerId, &super::Slot)| Holding {
            worker,
            projects: slot
                .versions
                .iter()
                .map(|(uri, version)| (name(uri), version.clone()))
                .collect(),
        };
        self.slots.iter().map(holding).collect()
    }
}
