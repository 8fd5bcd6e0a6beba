//! What Envoys are told: the snapshots that follow from the fleet, and what there is to say of them in the log.

use super::{Owner, count_of};
use crate::adapters::envoy::{self, Member, Raised};

impl Owner {
    /// Says, once, where the agents' word goes before the configuration.
    fn compare_timeouts(&mut self, members: &[Member]) {
        let raised = envoy::raised(&self.config, members);
        self.metrics.timeouts_raised.set(count_of(raised.len()));
        for Raised {
            pool,
            configured,
            needed,
        } in raised.iter().filter(|raised| !self.raised.contains(raised))
        {
            tracing::warn!(
                pool,
                ?configured,
                ?needed,
                "agents of this pool may take longer than Envoy is configured to wait; it waits as long as they need. Raise request_timeout of the pool or of front, or lower the agents' server.timeout and server.timeouts"
            );
        }
        self.raised = raised;
    }

    /// The pools of which Envoys are not to believe that nobody is there.
    fn awaited(&self) -> Vec<String> {
        let pools = self.config.effective_pools();
        let awaited: Vec<String> = pools.keys().filter(|pool| self.fleet.awaits(pool)).cloned().collect();
        self.metrics.pools_awaited.set(count_of(awaited.len()));
        awaited
    }

    /// Tells Envoys what follows from these agents; nothing when that is inconsistent.
    pub(super) fn publish(&mut self, members: &[Member]) {
        self.compare_timeouts(members);
        let secrets = self.renew.borrow().clone();
        match self.made.views(&self.config, members, &secrets) {
            Ok(views) => {
                self.metrics.snapshots.inc();
                let first = self.publish.borrow().is_none();
                let before = self.publish.borrow().clone().unwrap_or_default();
                let awaited = self.awaited();
                let endpoints = awaited.iter().map(|pool| envoy::cluster_name(pool)).collect();
                let views = views.with_provisional(&endpoints).after(&before);
                self.publish.send_replace(Some(views));
                self.synced.take();
                if first {
                    tracing::info!(
                        agents = members.len(),
                        "the fleet is known, Envoys are told from now on"
                    );
                    if !awaited.is_empty() {
                        tracing::warn!(
                            pools = ?awaited,
                            "no agent of these pools has been ready yet; Envoys that know agents of them keep those"
                        );
                    }
                }
            }
            Err(problems) => {
                self.metrics.snapshots_refused.inc();
                for problem in problems {
                    tracing::error!(%problem, "the snapshot is inconsistent, Envoys keep what they have");
                }
            }
        }
    }
}
