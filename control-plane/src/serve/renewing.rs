//! Certificates that Envoys are told, while they are in use: files are looked at every few seconds, and what has changed in them is
//! told. No listener and no cluster changes with it, so no connection ends.

use graticule_daemon::tls::{Gauges, LOOK_EVERY};
use tokio_util::sync::CancellationToken;

use super::hub::{Event, Hub};

/// Looks until `stop`.
pub async fn follow(hub: Hub, gauges: Gauges, stop: CancellationToken) {
    let mut shown: Vec<String> = Vec::new();
    loop {
        let secrets = hub.secrets.borrow().clone();
        let keys = secrets.keys();
        for (key, until_unix) in &keys {
            if let Some(until_unix) = until_unix {
                gauges.in_use(key, *until_unix);
            }
            if !shown.contains(key) {
                gauges.usable(key, true);
            }
        }
        let keys: Vec<String> = keys.into_iter().map(|(key, _)| key).collect();
        gauges.retain(&keys, &shown);
        shown = keys;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let before = secrets.clone();
        let looked = tokio::task::spawn_blocking(move || before.look()).await;
        let Ok(Some(looked)) = looked else { continue };
        // Another configuration may have come meanwhile; its files were read with it.
        if *hub.secrets.borrow() != secrets {
            continue;
        }
        for problem in &looked.problems {
            gauges.usable(
                problem
                    .key()
                    .trim_end_matches(".cert_file")
                    .trim_end_matches(".key_file"),
                false,
            );
            tracing::error!(%problem, "changed files of TLS cannot be used, Envoys keep what they have");
        }
        for (key, _) in &looked.usable {
            gauges.usable(key, true);
            tracing::info!(used_for = key, "certificates were read again, Envoys are told");
        }
        if !hub.tell(Event::Renewed(secrets, looked.secrets)).await {
            return;
        }
        // It counts as soon as the hub has heard it, and is looked at again from there.
        let mut told = hub.secrets.clone();
        told.mark_unchanged();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = told.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
