//! Scenarios of a changing configuration, with parts that only note what they are told.

use std::io::Write as _;

use super::*;

#[derive(Default)]
struct Noted {
    applied: Arc<Mutex<Vec<f64>>>,
}

impl Parts for Noted {
    fn check(&self, config: &Config) -> Result<(), ConfigError> {
        config.policy()?;
        config.classes()?;
        Ok(())
    }

    fn apply(&self, _: &Config, after: &Config) -> Result<(), ConfigError> {
        self.applied.lock().unwrap().push(after.server.timeout);
        Ok(())
    }
}

struct World {
    settings: Settings,
    file: tempfile::NamedTempFile,
    applied: Arc<Mutex<Vec<f64>>>,
    metrics: Arc<Metrics>,
}

impl World {
    fn new() -> Self {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        writeln!(file, "[server]\ntimeout = 30.0").unwrap();
        let sources = Sources {
            conf: Some(file.path().display().to_string()),
            variables: vec![
                ("CONF_WORKER__NAME".into(), "ann".into()),
                (
                    "CONF_WORKER__STORAGE__S3".into(),
                    r#"{"maps": {"secret_access_key": "s3cret"}}"#.into(),
                ),
            ],
            ..Sources::default()
        };
        let loaded = config::load_layers::<Config>(&sources).unwrap();
        let metrics = Arc::new(Metrics::new(5.0).unwrap());
        let parts = Noted::default();
        let applied = Arc::clone(&parts.applied);
        let settings = Settings::new(&loaded, sources, Box::new(parts), Arc::clone(&metrics));
        Self {
            settings,
            file,
            applied,
            metrics,
        }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.file.path(), text).unwrap();
    }

    fn get(&self) -> (Value, GetConfigReply) {
        let reply = self.settings.get_config(Request::new(GetConfigRequest {})).into_inner();
        (serde_json::from_str(&reply.config).unwrap(), reply)
    }

    fn counted(&self, result: &str) -> f64 {
        let families = self.metrics.registry().gather();
        let changes = families
            .iter()
            .find(|family| family.name() == "graticule_config_changes_total");
        let metrics = changes.unwrap().get_metric().iter();
        let of = |metric: &&prometheus::proto::Metric| metric.get_label()[0].value() == result;
        metrics.into_iter().find(of).unwrap().get_counter().get_value()
    }
}

fn keys(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(|change| change.key.as_str()).collect()
}

#[test]
fn what_can_change_at_once_does_and_the_rest_is_said() {
    let world = World::new();
    let patch = json!({"server": {"timeout": 40, "http_listen": "127.0.0.1:1"}, "cache": {"join": false}});
    let outcome = world.settings.set(&patch, false).unwrap();
    assert_eq!(keys(&outcome.applied), ["cache.join", "server.timeout"]);
    assert_eq!(keys(&outcome.pending), ["server.http_listen"]);
    assert_eq!(*world.applied.lock().unwrap(), [40.0]);
    let (tree, reply) = world.get();
    assert_eq!(tree["server"]["timeout"], 40.0);
    assert_eq!(tree["server"]["http_listen"], "127.0.0.1:23457");
    assert_eq!(reply.origins["server.timeout"], SET);
    assert_eq!(reply.origins["worker.name"], "environment variable CONF_WORKER__NAME");
    assert_eq!(reply.needs_restart[0].key, "server.http_listen");
    assert_eq!(world.counted("applied"), 1.0);
    let again = world.settings.set(&json!({}), true).unwrap();
    assert_eq!(keys(&again.applied), ["cache.join", "server.timeout"]);
    let (tree, reply) = world.get();
    assert_eq!(tree["server"]["timeout"], 30.0);
    assert!(
        reply.origins["server.timeout"].ends_with(", line 2"),
        "{:?}",
        reply.origins["server.timeout"]
    );
    assert!(reply.needs_restart.is_empty());
}

#[test]
fn a_patch_is_refused_whole() {
    let world = World::new();
    let (before, _) = world.get();
    for (patch, expected) in [
        (
            json!({"server": {"timeout": 40, "timeuot": 1}}),
            "did you mean `server.timeout`?",
        ),
        (
            json!({"server": {"timeout": 40}, "worker": {"cancel_timeout": -1}}),
            "`worker.cancel_timeout`: expected more than 0",
        ),
        (
            json!({"server": {"timeout": 40}, "worker": {"lanes": {"heavy": {"guaranteed": 0.9, "maximum": 1.0}}}}),
            "guaranteed 1.4 of the workers together",
        ),
        (
            json!({"worker": {"storage": {"s3": {"maps": {"secret_access_key": "***"}}}}}),
            "stands for a secret",
        ),
        (json!(7), "expected a table"),
    ] {
        let said = world.settings.set(&patch, false).unwrap_err().to_string();
        assert!(said.contains(expected), "{patch}: {said}");
        assert_eq!(world.get().0, before);
    }
    assert!(world.applied.lock().unwrap().is_empty());
    assert_eq!((world.counted("refused"), world.counted("applied")), (5.0, 0.0));
}

#[test]
fn sources_are_read_again_and_what_was_set_stays_over_them() {
    let world = World::new();
    world.settings.set(&json!({"server": {"timeout": 40}}), false).unwrap();
    world.write("[server]\ntimeout = 50.0\nshutdown_grace_period = 5.0\n[worker]\nstart_method = 'spawn'\n");
    let outcome = world.settings.reload().unwrap();
    assert_eq!(keys(&outcome.applied), ["server.shutdown_grace_period"]);
    assert_eq!(keys(&outcome.pending), ["worker.start_method"]);
    world.write("[server]\ntimeout = -1\n");
    let said = world.settings.reload().unwrap_err().to_string();
    assert!(
        said.contains(", line 2: `server.timeout`: expected more than 0"),
        "{said}"
    );
    assert_eq!(world.get().0["server"]["shutdown_grace_period"], 5.0);
    // Null gives the default back, whatever the file says.
    world.write("[server]\ntimeout = 50.0\n");
    world.settings.reload().unwrap();
    world
        .settings
        .set(&json!({"server": {"timeout": null}}), false)
        .unwrap();
    assert_eq!(world.get().0["server"]["timeout"], 20.0);
    let outcome = world.settings.set(&json!({}), true).unwrap();
    assert_eq!(outcome.applied[0].to_string(), "server.timeout: 20.0 → 50.0");
    assert_eq!(world.settings.reload().unwrap(), Outcome::default());
    assert_eq!(world.counted("unchanged"), 1.0);
}

#[test]
fn names_of_ones_own_come_and_go() {
    let world = World::new();
    let timeouts = |world: &World| world.get().0["server"]["timeouts"].clone();
    world
        .settings
        .set(&json!({"server": {"timeouts": {"WFS": 9}}}), false)
        .unwrap();
    assert_eq!(timeouts(&world), json!({"WFS": 9.0, "WMS/GetPrint": 50.0}));
    world
        .settings
        .set(&json!({"server": {"timeouts": {"WMS/GetPrint": null}}}), false)
        .unwrap();
    assert_eq!(timeouts(&world), json!({"WFS": 9.0}));
    // The same again need not have been said before.
    world
        .settings
        .set(&json!({"server": {"timeouts": {"WFS": 9}}}), false)
        .unwrap();
    assert_eq!(world.settings.state().patches.len(), 2);
}

#[test]
fn secrets_stay_and_are_shown_nowhere() {
    let world = World::new();
    world.settings.set(&json!({"server": {"timeout": 40}}), false).unwrap();
    let (tree, reply) = world.get();
    assert_eq!(tree["worker"]["storage"]["s3"]["maps"]["secret_access_key"], "***");
    assert!(!format!("{reply:?}").contains("s3cret"));
    let state = world.settings.state();
    assert_eq!(
        state.config.worker.storage.s3["maps"].secret_access_key.reveal(),
        "s3cret"
    );
}
