//! A request's way through the pool: it queues, is handed a worker as a lease, may be cancelled, and gives the worker back.

use tokio::sync::{mpsc, oneshot};

use super::{Reply, Task, took};
use crate::adapters::channel::Channel;
use crate::adapters::supervisor::Wanted;
use crate::adapters::supervisor::lease::{Lease, Stop};
use crate::core::message::{LoadedProject, Report};
use crate::core::pool::{Event, Refused, Ticket, WorkerId};

impl Task {
    pub(super) fn queue(&mut self, ticket: Ticket, wanted: Box<Wanted>, reply: Reply) {
        if self.may_not_load(&wanted.project.uri) {
            return drop(reply.send(Err(Refused::NotLoaded)));
        }
        if !self.loading.reload_on_request {
            self.seen(&wanted.project);
        }
        let arrived = Event::Arrived {
            ticket,
            project: wanted.project.uri.clone(),
            lane: wanted.lane,
            depth: wanted.depth,
            deadline: wanted.deadline,
            again: wanted.again,
        };
        self.wanted.insert(ticket, (wanted, reply));
        self.feed(arrived);
    }

    pub(super) fn assign(&mut self, ticket: Ticket, worker: WorkerId, evict: Vec<String>) {
        let wanted = self.wanted.remove(&ticket);
        let Some(slot) = self.slots.get_mut(&worker) else {
            return;
        };
        let Some(channel) = slot.channel.take() else { return };
        let Some((wanted, reply)) = wanted else {
            // Its client has left in the same moment.
            slot.channel = Some(channel);
            return self.feed(Event::Finished {
                worker,
                answered: false,
                loaded: None,
            });
        };
        let mut project = wanted.project.clone();
        // A newer version is loaded between requests, unless each is to load it by itself.
        let pinned = self.pins.iter().any(|pin| pin.uri == project.uri);
        if (pinned || !self.loading.reload_on_request)
            && let Some(held) = slot.versions.get(&project.uri)
        {
            project.version.clone_from(held);
        }
        evict.iter().for_each(|uri| drop(slot.versions.remove(uri)));
        slot.serving = Some(wanted);
        let (stop, stopped) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        (slot.stop, slot.end) = (Some(stop), Some(end));
        let lease = Lease::new(
            (worker, ticket),
            project,
            evict,
            (stopped, ended),
            channel,
            self.messages.clone(),
        );
        // When nobody takes the lease, it comes back by itself.
        drop(reply.send(Ok(lease)));
    }

    pub(super) fn cancel(&mut self, worker: WorkerId, expired: bool, blamed: bool) {
        let Some(slot) = self.slots.get_mut(&worker) else {
            return;
        };
        // Told before the client is: what it sends again must find it known.
        if let Some(wanted) = slot.serving.as_ref().filter(|_| blamed) {
            slot.late = true;
            self.observer.late(wanted);
        }
        if let Some(stop) = &slot.stop {
            let _ = stop.send(if expired { Stop::Expired } else { Stop::Cancelled });
        }
    }

    pub(super) fn returned(
        &mut self,
        worker: WorkerId,
        channel: Channel,
        report: Option<Report>,
        mut loaded: Option<LoadedProject>,
    ) {
        let Some(slot) = self.slots.get_mut(&worker) else {
            return;
        };
        slot.channel = Some(channel);
        (slot.stop, slot.end) = (None, None);
        let serving = slot.serving.take();
        let late = std::mem::take(&mut slot.late);
        if let Some(wanted) = serving.as_ref().filter(|_| late || report.is_some()) {
            self.observer.served(wanted);
        }
        let answered = report.is_some();
        if let Some(report) = report {
            if let Some(wanted) = &serving {
                self.index.served(&wanted.project.uri, &wanted.name);
            }
            if let Some(plugins) = report.plugins {
                self.observer.plugins(plugins);
            }
            loaded = report.loaded;
        }
        let loaded = loaded.map(|project| {
            slot.versions.insert(project.uri.clone(), project.version.clone());
            if let Some(wanted) = &serving {
                self.index.named(&project.uri, &wanted.name);
            }
            self.index.loaded(&project);
            self.observer.loaded(true);
            (project.uri, took(project.load_ms))
        });
        let uri = loaded.as_ref().map(|(uri, _)| uri.clone());
        self.feed(Event::Finished {
            worker,
            answered,
            loaded,
        });
        if let Some(uri) = uri {
            self.check_version(worker, &uri);
        }
    }
}
