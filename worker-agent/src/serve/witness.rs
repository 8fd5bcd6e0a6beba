//! Sees what becomes of workers and their requests, counts it, and bears witness against requests that kill.

use std::sync::Arc;
use std::time::Duration;

use super::metrics::Metrics;
use super::plugins::Plugins;
use crate::adapters::quarantine::QuarantineHandle;
use crate::adapters::supervisor::{Observer, Wanted};
use crate::core::plugins::Plugin;
use crate::core::pool::ExitReason;
use crate::core::redact;

/// Where the supervisor tells what it sees.
pub struct Witness {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Requests that kill workers.
    pub quarantine: QuarantineHandle,
    /// What workers have loaded.
    pub plugins: Plugins,
}

impl Witness {
    fn accuse(&self, wanted: &Wanted, reason: ExitReason) {
        let line = &wanted.line;
        let text = || redact::request(&line.method, &line.path, line.query.as_deref(), &line.body);
        self.quarantine
            .killed(&wanted.fingerprint, &wanted.name, reason.name(), text);
    }
}

impl Observer for Witness {
    fn started(&self, how: &'static str, took: Duration) {
        self.metrics.started(how, took);
    }

    fn gone(&self, reason: ExitReason, request: Option<&Wanted>) {
        self.metrics.gone(reason);
        if let Some(wanted) = request.filter(|_| reason.blames_request()) {
            self.accuse(wanted, reason);
        }
    }

    // Not only once its worker has been killed: until then the same could be asked once more.
    fn late(&self, request: &Wanted) {
        self.accuse(request, ExitReason::Deadline);
    }

    fn served(&self, request: &Wanted) {
        self.quarantine.succeeded(&request.fingerprint);
    }

    fn loaded(&self, sound: bool) {
        self.metrics.loaded(sound);
    }

    fn fork_refused(&self) {
        self.metrics.fork_refused();
    }

    fn plugins(&self, list: Vec<Plugin>) {
        self.plugins.heard(list);
    }
}
