use std::fs;
use std::time::{Duration, Instant};

use graticule_daemon::quarantine::Rule;
use prometheus::Registry;
use serde_json::json;

use super::*;
use crate::core::pins::Key;
use crate::core::quarantine::Report;

fn world() -> Desired {
    let key = Key {
        project: "/world".to_owned(),
        pool: "maps".to_owned(),
    };
    Desired::default().with(key, 7, 0).unwrap()
}

fn patient() -> Settings {
    let patch = json!({"front": {"request_timeout": 90.0}});
    Settings::default().patched(patch.as_object().unwrap())
}

fn killed(agents: &[&str]) -> Quarantine {
    let mut quarantine = Quarantine::default();
    for agent in agents {
        let report = Report {
            fingerprint: "0123456789abcdef".to_owned(),
            project: "/slow".to_owned(),
            request: "GET /ows/slow".to_owned(),
            reason: "crash".to_owned(),
            ages: vec![Duration::from_secs(60)],
            rule: Rule {
                limit: 2,
                window: Duration::from_secs(600),
                duration: Duration::from_secs(300),
            },
        };
        quarantine.report(Instant::now(), agent, report);
    }
    quarantine.clear(Instant::now(), "fedcba9876543210", Duration::from_secs(5));
    quarantine
}

async fn open(dir: &Path) -> Result<(Store, Contents), StoreError> {
    let config = StoreConfig {
        dir: dir.to_owned(),
        ..StoreConfig::default()
    };
    Store::open(&config, 1, Metrics::register(&Registry::new()).unwrap()).await
}

#[tokio::test]
async fn what_was_saved_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made/on/demand");
    let (store, contents) = open(&dir).await.unwrap();
    assert_eq!(
        (contents.pins, contents.settings),
        (Desired::default(), Settings::default())
    );
    store.save_pins(&world()).await.unwrap();
    store.save_settings(&patient()).await.unwrap();
    store.save_quarantine(&killed(&["a", "b"])).await.unwrap();
    assert!(matches!(open(&dir).await, Err(StoreError::InUse { .. })));
    drop(store);
    let (_store, contents) = open(&dir).await.unwrap();
    assert_eq!((contents.pins, contents.settings), (world(), patient()));
    let now = Instant::now();
    let entry = contents.quarantine.entries().next().unwrap();
    assert!(entry.standing(now).refused() && entry.agents.len() == 2);
    let age = now.saturating_duration_since(entry.kills()[0]).as_secs();
    assert!((60..70).contains(&age), "{age}");
    assert_eq!(contents.quarantine.cleared().iter().count(), 1);
}

#[tokio::test]
async fn a_damaged_store_is_an_error_and_never_an_empty_fleet() {
    let damaged = [
        (Kind::Pins, "{\"format\": 1, \"revision\": 1}"),
        (
            Kind::Pins,
            "{\"format\": 1, \"revision\": 1, \"pins\": [{\"project\": \"/a\", \"pool\": \"\", \"since\": 1, \"revision\": 2}]}",
        ),
        (
            Kind::Pins,
            "{\"format\": 1, \"revision\": 1, \"pins\": [], \"more\": 1}",
        ),
        (Kind::Settings, "{\"format\": 1, \"revision\": 1, \"settings\": []}"),
        (Kind::Quarantine, "{\"format\": 1, \"entries\": [{}], \"cleared\": []}"),
        (
            Kind::Quarantine,
            "{\"format\": 1, \"entries\": [], \"cleared\": [{\"fingerprint\": \"\", \"at\": -1.0}]}",
        ),
    ];
    let anywhere = Kind::ALL
        .into_iter()
        .flat_map(|kind| ["", "{}", "[]", "{\"format\": 1", "\u{0}\u{0}\u{0}"].map(|text| (kind, text)));
    for (kind, text) in damaged.into_iter().chain(anywhere) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(format!("{}.json", kind.name()));
        fs::write(&file, text).unwrap();
        let error = open(dir.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{text}: {error}");
        let said = error.to_string();
        assert!(
            said.contains(".json is damaged: ") && said.contains("move it away and "),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "it is left as it was");
        fs::write(&file, "{\"format\": 2, \"something\": []}").unwrap();
        let error = open(dir.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::Later { found: 2, known: 1, .. }), "{error}");
    }
}

#[tokio::test]
async fn every_cut_of_every_document_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    store.save_pins(&world()).await.unwrap();
    store.save_settings(&patient()).await.unwrap();
    store.save_quarantine(&killed(&["a"])).await.unwrap();
    drop(store);
    for kind in Kind::ALL {
        let file = dir.path().join(format!("{}.json", kind.name()));
        let whole = fs::read(&file).unwrap();
        // Without its last line end it is whole all the same.
        for length in (0..whole.len() - 1).step_by(7) {
            fs::write(&file, &whole[..length]).unwrap();
            let error = open(dir.path()).await.unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "{kind:?} {length}: {error}"
            );
        }
        fs::write(&file, whole).unwrap();
    }
    assert_eq!(open(dir.path()).await.unwrap().1.pins, world());
}

#[tokio::test]
async fn what_cannot_be_written_is_said_at_once_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    fs::create_dir(dir.path().join("pins.json.new")).unwrap();
    let error = store.save_pins(&world()).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(
        store.metrics.store_writes.with_label_values(&["pins", "failed"]).get(),
        1
    );
    drop(store);
    assert!(matches!(open(dir.path()).await, Err(StoreError::Io { .. })));
    fs::remove_dir(dir.path().join("pins.json.new")).unwrap();
    assert_eq!(open(dir.path()).await.unwrap().1.pins, Desired::default());
    let nowhere = Path::new("/proc/no/such/place");
    let error = open(nowhere).await.unwrap_err().to_string();
    assert!(error.contains("see that store.dir can be written"), "{error}");
}

#[test]
fn a_configured_directory_is_taken_as_it_is() {
    assert_eq!(directory(Path::new("/var/lib/x"), 1).unwrap(), Path::new("/var/lib/x"));
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_without_its_password() {
    let cannot = async |url: &str| {
        let config = StoreConfig {
            url: url.to_owned(),
            ..StoreConfig::default()
        };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let error = Store::open(&config, 1, metrics).await.unwrap_err();
        let (passes, error) = (error.may_pass(), error.to_string());
        assert!(!error.contains("hush"), "{error}");
        (passes, error)
    };
    let (passes, refused) = cannot("postgresql://fleet:hush@127.0.0.1:1/maps").await;
    assert!(passes, "{refused}");
    assert!(
        refused.contains("PostgreSQL at 127.0.0.1:1, database maps: "),
        "{refused}"
    );
    assert!(refused.contains("see that it runs"), "{refused}");
    let (passes, odd) = cannot("postgresql://fleet:hush@db/maps?colour=green").await;
    assert!(!passes, "{odd}");
    assert!(odd.contains("store.url") && odd.contains("correct it"), "{odd}");
}

#[tokio::test]
async fn what_others_get_in_the_way_of_is_tried_again() {
    let kind = Kind::Quarantine;
    let conflicts = async |count: usize| {
        let tries = std::sync::atomic::AtomicUsize::new(0);
        let once = || async {
            let before = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if before < count {
                Err(StoreError::Conflict { kind })
            } else {
                Ok(())
            }
        };
        let done = despite_others(once).await.is_ok();
        (done, tries.into_inner())
    };
    assert_eq!(conflicts(0).await, (true, 1));
    assert_eq!(conflicts(2).await, (true, 3));
    assert_eq!(conflicts(100).await, (false, TRIES), "not for ever");
}

#[tokio::test]
async fn a_revision_before_a_known_one_is_said_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    assert!(store.still_has(Kind::Pins, 7, 7).is_ok() && store.still_has(Kind::Pins, 8, 7).is_ok());
    let said = store.still_has(Kind::Pins, 6, 7).unwrap_err().to_string();
    assert!(said.contains("revision 6 of the pins, and 7 was known here"), "{said}");
}
