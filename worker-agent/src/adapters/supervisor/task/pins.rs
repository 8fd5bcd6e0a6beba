//! What is pinned: the part of the task that knows which projects are to be loaded beforehand, tells whoever pins one when
//! that is so, and tells how pins stand.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::Task;
use crate::adapters::supervisor::Pinned;
use crate::core::message::{FailedProject, LoadedProject, ProjectRef};
use crate::core::pool::{Event, View};

impl Task {
    pub(super) fn set_pins(&mut self, pins: Vec<Pinned>) {
        pins.iter()
            .for_each(|pin| self.index.named(&pin.project.uri, &pin.name));
        self.pins = pins.into_iter().map(|pin| pin.project).collect();
    }

    /// Pins some projects and unpins others. One that is pinned already is left as it is.
    pub(super) fn repin(&mut self, pin: Vec<Pinned>, unpin: &[String]) {
        let before = self.pins.clone();
        let index = &self.index;
        let stays = |pin: &ProjectRef| index.get(&pin.uri).is_none_or(|record| !unpin.contains(&record.name));
        self.pins.retain(stays);
        for Pinned { name, project } in pin {
            if !self.pins.iter().any(|pin| pin.uri == project.uri) {
                self.index.named(&project.uri, &name);
                self.index.retried(&project.uri);
                self.blamed.forgive(&project.uri);
                self.pins.push(project);
            }
        }
        if self.pins != before {
            self.feed(Event::PreloadChanged);
        }
    }

    /// Pins a project anew, whatever became of it before; `reply` hears the milliseconds that loading it took.
    pub(super) fn pin(&mut self, Pinned { name, project }: Pinned, reply: oneshot::Sender<Result<f64, String>>) {
        self.index.named(&project.uri, &name);
        self.blamed.forgive(&project.uri);
        self.pins.retain(|pin| pin.uri != project.uri);
        self.pins.push(project.clone());
        self.pin_waiters.push((project, reply));
        self.feed(Event::PreloadChanged);
    }

    pub(super) fn pin_found(&mut self, Pinned { name, project }: Pinned) {
        if !self.pins.iter().any(|pin| pin.uri == project.uri) {
            tracing::info!(project = name, "a pinned project is there now");
            self.index.named(&project.uri, &name);
            self.pins.push(project);
            self.feed(Event::PreloadChanged);
        }
    }

    pub(super) fn pin_lost(&mut self, uri: &str) {
        if self.pins.iter().any(|pin| pin.uri == uri) {
            tracing::error!(project = uri, "a pinned project has been removed; it stays pinned");
            self.pins.retain(|pin| pin.uri != uri);
            self.feed(Event::PreloadChanged);
        }
    }

    /// Loads every pinned project anew, what could not be loaded as well.
    pub(super) fn retry_pins(&mut self) {
        for pin in &self.pins {
            self.index.retried(&pin.uri);
            self.blamed.forgive(&pin.uri);
        }
        self.feed(Event::PreloadChanged);
    }

    /// Tells who waits for a pin, and keeps what was learnt.
    pub(super) fn settle_pins(&mut self, loaded: &[LoadedProject], failed: &[FailedProject]) {
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

    /// Tells who waits for one of these projects that it will not be pinned.
    pub(super) fn fail_waiters(&mut self, projects: &[ProjectRef], problem: &str) {
        for (pin, reply) in std::mem::take(&mut self.pin_waiters) {
            if projects.iter().any(|project| project.uri == pin.uri) {
                self.pins.retain(|other| other.uri != pin.uri);
                drop(reply.send(Err(problem.to_owned())));
            } else {
                self.pin_waiters.push((pin, reply));
            }
        }
    }

    /// The pinned projects that are loaded beforehand.
    pub(super) fn sound_pins(&self) -> Vec<ProjectRef> {
        self.blamed.sound(&self.pins, |uri| self.is_preloaded(uri))
    }

    /// Whether new workers inherit the project.
    pub(super) fn is_preloaded(&self, uri: &str) -> bool {
        let mut newest = self.zygotes.values().rev();
        let current = newest.find(|zygote| zygote.ready && !zygote.stopping);
        current.is_some_and(|zygote| zygote.holds.iter().any(|held| held == uri))
    }

    pub(super) fn found_pins(&self) -> Vec<String> {
        let name = |pin: &ProjectRef| self.index.get(&pin.uri).map(|record| record.name.clone());
        self.pins.iter().filter_map(name).collect()
    }

    /// The names of pinned projects that every worker that can serve holds.
    pub(super) fn held_pins(&self, view: &View) -> Vec<String> {
        let up = |state: &str| matches!(state, "idle" | "busy" | "cancelling");
        let serving: Vec<_> = view.workers.iter().filter(|worker| up(worker.state)).collect();
        let held = |uri: &String| !serving.is_empty() && serving.iter().all(|worker| worker.projects.contains(uri));
        let records = self.pins.iter().filter(|pin| held(&pin.uri));
        records
            .filter_map(|pin| self.index.get(&pin.uri).map(|record| record.name.clone()))
            .collect()
    }

    pub(super) fn pin_problems(&self) -> BTreeMap<String, String> {
        let problem = |pin: &ProjectRef| {
            let record = self.index.get(&pin.uri)?;
            let problem = self.blamed.problem(&pin.uri).unwrap_or(&record.problem);
            (!problem.is_empty()).then(|| (record.name.clone(), problem.to_owned()))
        };
        self.pins.iter().filter_map(problem).collect()
    }
}
