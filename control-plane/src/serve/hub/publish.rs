//! What Envoys are told: the snapshots that follow from the fleet, and what there is to say of them in the log.

use std::sync::Arc;

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

    /// The pools of which nobody has come since the start. Their agents may be well and find no way here, after a restart or when
    /// Envoys move to this control plane; there is nothing to tell Envoys then that they do not know better.
    fn awaited(&mut self, members: &[Member]) -> Vec<String> {
        for member in members {
            if !self.come.contains(&member.pool) {
                self.come.insert(Arc::clone(&member.pool));
            }
        }
        let pools = self.config.effective_pools();
        let awaited = pools.keys().filter(|pool| !self.come.contains(pool.as_str()));
        let awaited: Vec<String> = awaited.cloned().collect();
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
                let awaited = self.awaited(members);
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
                            "nobody has come of these pools yet; Envoys that know agents of them keep those"
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
