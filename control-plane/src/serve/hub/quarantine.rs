//! What there is against requests that kill workers: what agents report and operators clear, and who is shown and told of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Owner, count_of};
use crate::core::fleet::{Clock, Session};
use crate::core::quarantine::{News, Report};

/// How long after agents were told of the quarantine they are told again, unless a request has just come to be refused.
const SPREAD: Duration = Duration::from_millis(10);

impl Owner {
    /// A stream that no longer speaks for its agent says nothing that counts; the agent says it again on its new one.
    pub(super) fn killed(&mut self, session: Session, report: Report) {
        let Some(agent) = self.fleet.by(session) else {
            return;
        };
        let (id, now) = (Arc::clone(&agent.identity.id), Instant::now().into_std());
        let agent = &*id;
        let (fingerprint, project) = (report.fingerprint.clone(), report.project.clone());
        let news = self.quarantine.report(now, agent, report);
        self.quarantine_changed |= news != News::None;
        if news == News::Refused {
            self.quarantine_due = Instant::now();
            tracing::warn!(
                fingerprint,
                project,
                agent,
                "a request killed too many workers, all agents refuse it for a while; the agents' logs have the request"
            );
        }
    }

    /// Forgets what there was against a fingerprint (empty: all) so long ago; gives how many entries there were.
    pub(super) fn clear(&mut self, fingerprint: &str, age: Duration) -> usize {
        let (cleared, news) = self.quarantine.clear(Instant::now().into_std(), fingerprint, age);
        if news {
            self.quarantine_changed = true;
            self.quarantine_due = Instant::now();
            tracing::info!(fingerprint, cleared, "the quarantine was cleared");
        }
        cleared
    }

    /// Shows and tells what has changed in the quarantine.
    pub(super) fn announce_quarantine(&mut self, clock: Clock) {
        let first = self.tell.borrow().is_none() && self.fleet.synced(clock);
        let due = self.quarantine_changed && Instant::now() >= self.quarantine_due;
        if !due && !first {
            return;
        }
        self.quarantine_changed = false;
        self.quarantine_due = Instant::now() + SPREAD;
        let now = Instant::now().into_std();
        let all = self.quarantine.entries().count();
        let refused = self
            .quarantine
            .entries()
            .filter(|entry| entry.standing(now).refused())
            .count();
        for (state, count) in [("refused", refused), ("suspected", all - refused)] {
            self.metrics.quarantine.with_label_values(&[state]).set(count_of(count));
        }
        let quarantine = Arc::new(self.quarantine.clone());
        self.show.send_replace(Arc::clone(&quarantine));
        if self.fleet.synced(clock) {
            self.tell.send_replace(Some(quarantine));
        }
    }
}
