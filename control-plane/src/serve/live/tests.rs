//! What becomes of settings of another control plane that cannot be used here at first. The other one is another store: what it
//! has written is handed over by the test.

use graticule_daemon::ready::Readiness;
use prometheus::Registry;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::StoreConfig;

struct World {
    live: Live,
    dir: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            dir: dir.path().join("store"),
            ..StoreConfig::default()
        };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let (store, kept) = Store::open(&config, 1, metrics.clone()).await.unwrap();
        let layers = Layers::Sources(Box::default());
        let base = layers.read().unwrap();
        let whole = base.with(&kept.settings).unwrap();
        let stop = CancellationToken::new();
        let hub = Hub::start(
            Arc::clone(&whole.config),
            Secrets::default(),
            kept.pins,
            metrics.clone(),
            Readiness::new().wait_for("nothing"),
            stop.clone(),
        );
        let live = Live::new(layers, (base, kept.settings, whole), store, hub, metrics);
        Self {
            live,
            dir,
            _stop: stop.drop_guard(),
        }
    }

    /// Settings that name a certificate which is not there yet.
    fn encrypted(&self) -> Settings {
        let tls = json!({
            "cert_file": self.dir.path().join("front.crt"),
            "key_file": self.dir.path().join("front.key"),
        });
        Settings::default().patched(json!({"front": {"tls": tls}}).as_object().unwrap())
    }

    fn repair(&self) {
        let authority = stack::certificates::Authority::new("a");
        authority.issue(&["a.org"]).write(self.dir.path(), "front");
    }

    /// As if the time to try again had come.
    async fn wait(&self) {
        let mut state = self.live.0.state.lock().await;
        state.refused.as_mut().unwrap().tried -= TRY_AGAIN;
    }

    fn refused(&self) -> i64 {
        self.live.0.metrics.config_refused.get()
    }

    async fn results(&self) -> Vec<(String, String)> {
        let log = self.live.log().await.into_iter();
        log.map(|change| (change.cause, change.result)).collect()
    }
}

fn said(cause: &str, result: &str) -> (String, String) {
    (cause.to_owned(), result.to_owned())
}

#[tokio::test]
async fn what_was_refused_counts_after_a_repair_and_a_reload() {
    let world = World::new().await;
    world.live.adopt(world.encrypted()).await.unwrap();
    let reply = world.live.reload(Cause::Reload).await;
    assert_eq!(reply.result, "refused");
    assert!(reply.problem.contains("revision 1 in the store"), "{}", reply.problem);
    assert!(reply.problem.contains("front.tls.cert_file"), "{}", reply.problem);
    assert_eq!((world.live.get().await.settings_revision, world.refused()), (0, 1));
    world.repair();
    let reply = world.live.reload(Cause::Reload).await;
    assert_eq!((reply.result.as_str(), reply.changes.len()), ("applied", 2));
    assert_eq!((world.live.get().await.settings_revision, world.refused()), (1, 0));
    assert_eq!(world.live.reload(Cause::Reload).await.result, "unchanged");
}

#[tokio::test]
async fn what_was_refused_is_tried_again_after_a_while_and_said_once() {
    let world = World::new().await;
    world.live.adopt(world.encrypted()).await.unwrap();
    world.live.adopt(world.encrypted()).await.unwrap();
    world.wait().await;
    world.live.adopt(world.encrypted()).await.unwrap();
    assert_eq!(world.results().await, [said("store", "refused")]);
    world.repair();
    world.live.adopt(world.encrypted()).await.unwrap();
    assert_eq!(world.live.get().await.settings_revision, 0, "not at every look");
    world.wait().await;
    world.live.adopt(world.encrypted()).await.unwrap();
    assert_eq!(world.live.get().await.settings_revision, 1);
    assert_eq!(
        world.results().await,
        [said("store", "applied"), said("store", "refused")]
    );
}

#[tokio::test]
async fn what_was_refused_can_be_put_right_by_setting_it() {
    let world = World::new().await;
    world.live.adopt(world.encrypted()).await.unwrap();
    let other = json!({"front": {"request_timeout": 9.0}}).as_object().cloned().unwrap();
    let error = world.live.set(other, false).await.unwrap_err();
    assert!(error.message().contains("revision 1 in the store"), "{error}");
    assert!(error.message().contains("front.tls.cert_file"), "{error}");
    let back = json!({"front": {"tls": null}}).as_object().cloned().unwrap();
    world.live.set(back, false).await.unwrap();
    // It was made from what the other one had set, so that one takes it over.
    assert_eq!(world.live.get().await.settings_revision, 2);
    assert_eq!(world.refused(), 0);
}

#[tokio::test]
async fn a_store_that_has_gone_back_is_noticed_and_changes_nothing() {
    let world = World::new().await;
    let patient = json!({"front": {"request_timeout": 9.0}});
    let patient = Settings::default().patched(patient.as_object().unwrap());
    world.live.adopt(patient.clone()).await.unwrap();
    let error = world.live.adopt(Settings::default()).await.unwrap_err().to_string();
    assert!(
        error.contains("revision 0 of the settings") && error.contains("1 was known here"),
        "{error}"
    );
    assert!(error.contains("delete its row `identity`"), "{error}");
    assert_eq!(world.live.get().await.settings_revision, 1);
    // What was read before a change of our own is not what is there now.
    world.live.0.store.save_settings(&patient).await.unwrap();
    world.live.adopt(Settings::default()).await.unwrap();
}

#[tokio::test]
async fn a_change_that_asks_for_what_is_there_makes_it_count() {
    let world = World::new().await;
    world.live.adopt(world.encrypted()).await.unwrap();
    world.repair();
    let reply = world.live.set(Map::new(), false).await.unwrap();
    assert_eq!((reply.result.as_str(), reply.changes.len()), ("applied", 2));
    assert_eq!(world.live.get().await.settings_revision, 1);
}
