//! What goes between the hub and the store by itself: the quarantine is written now and then, and what other control planes have
//! changed is taken over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::live::Live;
use super::pins::Keeper;
use crate::adapters::store::{Store, StoreError};
use crate::core::quarantine::Quarantine;
use crate::metrics::Metrics;

/// How long after a change the quarantine is written, with all that has come until then. What a crash takes with it is no
/// older.
const GATHER: Duration = Duration::from_secs(2);

/// Writes the quarantine whenever it has changed, at most every [`GATHER`], and once more at the end.
pub async fn keep_quarantine(store: Store, mut quarantine: watch::Receiver<Arc<Quarantine>>, stop: CancellationToken) {
    let mut trouble = Trouble::default();
    // What is there at the start has come from the store.
    let mut written = Arc::clone(&quarantine.borrow_and_update());
    loop {
        tokio::select! {
            // The hub may have ended just before.
            _ = quarantine.changed() => {}
            () = stop.cancelled() => {}
        }
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            () = stop.cancelled() => {}
        }
        let now = Arc::clone(&quarantine.borrow_and_update());
        if !Arc::ptr_eq(&now, &written) {
            match store.save_quarantine(&now).await {
                Ok(()) => {
                    trouble.over("the quarantine is kept again");
                    written = now;
                }
                Err(error) => {
                    trouble.say(
                        &error,
                        "the quarantine is not kept: after a restart it is learnt from agents alone",
                    );
                    // It is tried again, with what has come until then.
                    quarantine.mark_changed();
                }
            }
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

/// Takes over what other control planes have changed in a store that they share. What cannot be read leaves everything as
/// it is.
pub async fn follow(store: Store, keeper: Keeper, live: Live, metrics: Metrics, stop: CancellationToken) {
    let (mut trouble, mut back) = (Trouble::default(), Trouble::default());
    loop {
        tokio::select! {
            () = store.changed() => {}
            () = stop.cancelled() => return,
        }
        let read = async { Ok::<_, StoreError>((store.pins().await?, store.settings().await?)) };
        match read.await {
            Ok((pins, settings)) => {
                trouble.over("the store answers again");
                metrics.store_away.set(0);
                let pins = keeper.adopt(pins).await;
                let settings = live.adopt(settings).await;
                match pins.and(settings) {
                    Ok(()) => back.over("the store has what is known here again"),
                    Err(error) => back.say(
                        &error,
                        "pins or settings in the store are older than those that count here",
                    ),
                }
            }
            Err(error) => {
                trouble.say(
                    &error,
                    "the store does not answer; pins and settings stay as they are, and cannot be changed",
                );
                metrics.store_away.set(1);
            }
        }
    }
}

/// Says once what is wrong, and once that it is over.
#[derive(Default)]
struct Trouble(bool);

impl Trouble {
    fn say(&mut self, error: &StoreError, meaning: &'static str) {
        if !std::mem::replace(&mut self.0, true) {
            tracing::error!(%error, "{meaning}");
        }
    }

    fn over(&mut self, meaning: &'static str) {
        if std::mem::take(&mut self.0) {
            tracing::info!("{meaning}");
        }
    }
}
