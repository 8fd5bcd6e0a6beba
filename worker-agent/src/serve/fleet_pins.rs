//! Applies what counts of the fleet's pins: to the file that outlives the agent, and to the pool. It loads in the
//! background; the streams to control planes never wait for it.

use std::collections::BTreeSet;

use super::admin::{Admin, look};
use crate::adapters::fleet_pins::FleetPinsHandle;
use crate::core::control_planes::Counts;
use crate::core::locate::ProjectName;

/// Applies what counts, one after the other, for as long as the agent lives.
pub async fn follow(admin: Admin, fleet: FleetPinsHandle) {
    let mut counts = fleet.watch();
    loop {
        let now = counts.borrow_and_update().clone();
        if let Some(now) = now {
            apply(&admin, &fleet, &now).await;
            fleet.applied(&now);
        }
        if counts.changed().await.is_err() {
            return;
        }
    }
}

async fn apply(admin: &Admin, fleet: &FleetPinsHandle, counts: &Counts) {
    let names = counts
        .projects
        .iter()
        .filter_map(|name| match ProjectName::parse(name) {
            Ok(name) => Some(name.key().to_owned()),
            Err(error) => {
                tracing::error!(project = name, %error, "the control plane pins what cannot be a project");
                None
            }
        });
    let names: BTreeSet<String> = names.collect();
    let inner = &admin.inner;
    let mut pins = inner.pins.lock().await;
    let before: BTreeSet<String> = pins.iter().map(str::to_owned).collect();
    if let Err(error) = pins.set_fleet(names, &counts.origin) {
        tracing::error!(%error, "the pins of the fleet are not remembered: after a restart they are missing until the control plane tells them");
    }
    let after: BTreeSet<String> = pins.iter().map(str::to_owned).collect();
    if after == before {
        return;
    }
    let (fresh, ended): (Vec<_>, Vec<_>) = (
        after.difference(&before).cloned().collect(),
        before.difference(&after).cloned().collect(),
    );
    tracing::info!(
        pinned = fresh.join(", "),
        unpinned = ended.join(", "),
        revision = counts.origin.revision,
        "the pins of the fleet have changed"
    );
    fleet.retain(|name| after.contains(name));
    inner.names.send_replace(after.into_iter().collect());
    let found = look(&inner.storage, fleet, fresh.iter().map(String::as_str)).await;
    inner.supervisor.repin(found, ended);
    // The answer comes after the change, and so does the status that is shown with it.
    drop(inner.supervisor.cached().await);
}
