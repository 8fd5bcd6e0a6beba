//! What agents get, as far as the hub has a part in it: whom Envoys are told of with which share, who keeps what, and what
//! agents are told of pins.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Owner, count_of};
use crate::adapters::envoy::Member;
use crate::core::fleet::Told;
use crate::core::pins::Wished;

impl Owner {
    /// The agents that Envoys are told of: those that have registered, then those that were found and have not.
    pub(super) fn members(&self) -> Vec<Member> {
        let told = self.fleet.agents().filter(|a| a.told() != Told::None);
        let mut members: Vec<Member> = told
            .map(|agent| self.balancer.weighed(Member::from(&**agent)))
            .collect();
        if !self.found.is_empty() {
            let known: BTreeSet<SocketAddr> = self.fleet.agents().map(|a| a.identity.data_address).collect();
            let found = self
                .found
                .iter()
                .flat_map(|(pool, all)| all.iter().map(move |a| (pool, *a)));
            let strangers = found.filter(|(_, address)| !known.contains(address));
            members.extend(strangers.map(|(pool, address)| Member::found(pool, address)));
        }
        members
    }

    /// Decides what each agent is to get, once the fleet is known.
    pub(super) fn balance(&mut self, clock: Duration) {
        let fleet = &self.fleet;
        if std::mem::take(&mut self.somebody_left) {
            self.pins_changed |= self.pins.retain(|agent| fleet.get(agent).is_some());
        }
        if !fleet.synced(clock) {
            return;
        }
        let decided = self.balancer.look(clock, fleet, self.pins.desired(), &self.config);
        if let Some(moves) = decided {
            self.news = true;
            self.balancer.tell(&moves, &self.metrics);
            self.pins_changed |= self.pins.keep(self.balancer.kept());
            self.wish_changed = true;
        }
    }

    /// Tells agents what they are to keep loaded, when that has changed.
    pub(super) fn announce_wish(&mut self) {
        if !std::mem::take(&mut self.wish_changed) {
            return;
        }
        let desired = self.pins.desired().clone();
        let (mut kept, mut partial) = (self.balancer.kept(), BTreeSet::new());
        for (name, pool) in self.config.effective_pools().iter() {
            for (project, replicas) in desired.replicas(name, pool.replicas) {
                if replicas > 0 {
                    partial.insert(name.clone());
                    kept.entry((name.clone(), project)).or_default();
                }
            }
        }
        let mut decided = BTreeSet::new();
        if !partial.is_empty() {
            decided.extend(self.balancer.agents().map(str::to_owned));
        }
        let wished = Wished {
            desired,
            kept,
            partial,
            decided,
        };
        if **self.wish.borrow() != wished {
            self.wish.send_replace(Arc::new(wished));
        }
    }

    /// Shows what has changed in the pins.
    pub(super) fn announce_pins(&mut self) {
        if !std::mem::take(&mut self.pins_changed) {
            return;
        }
        let (all, lacking) = self.pins.counts();
        self.metrics.fleet_pins.set(count_of(all));
        self.metrics.fleet_pins_lacking.set(count_of(lacking));
        self.show_pins.send_replace(Arc::new(self.pins.clone()));
    }
}
