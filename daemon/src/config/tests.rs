use std::io::Write as _;

use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Debug, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Tree {
    worker: Worker,
    paths: BTreeMap<String, String>,
    times: BTreeMap<String, f64>,
    buckets: BTreeMap<String, Bucket>,
    anything: BTreeMap<String, Value>,
}

/// Stands in a table of names.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Bucket {
    region: String,
    password: Secret,
    path_style: Option<bool>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// One.
    Fork,
    /// Another.
    Spawn,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            worker: Worker::default(),
            paths: BTreeMap::new(),
            times: BTreeMap::from([("A/b".to_owned(), 1.0)]),
            buckets: BTreeMap::new(),
            anything: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Worker {
    name: String,
    #[schemars(range(max = 1024))]
    num_processes: u32,
    restore: bool,
    method: Method,
    #[schemars(extend("exclusiveMinimum" = 0))]
    timeout: f64,
    names: Vec<String>,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            name: "worker".into(),
            num_processes: 2,
            restore: false,
            method: Method::Fork,
            timeout: 20.0,
            names: Vec::new(),
        }
    }
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn fails(pairs: &[(&str, &str)]) -> String {
    load::<Tree>(None, env(pairs))
        .expect_err("this configuration is wrong")
        .to_string()
}

#[test]
fn a_map_takes_any_key_beside_those_of_the_defaults() {
    let times = |pairs: &[(&str, &str)]| load::<Tree>(None, env(pairs)).unwrap().times;
    let both = BTreeMap::from([("A/b".to_owned(), 1.0), ("c".to_owned(), 2.0)]);
    assert_eq!(times(&[("CONF_TIMES", r#"{"c": 2}"#)]), both);
    assert_eq!(times(&[("CONF_TIMES__C", "2.0")]), both);
    assert_eq!(times(&[("CONF_TIMES", r#"{"A/b": 3.5}"#)])["A/b"], 3.5);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "[times]\nc = 2.0\n").unwrap();
    assert_eq!(load::<Tree>(Some(file.path()), []).unwrap().times, both);
    assert!(fails(&[("CONF_TIMES", r#"{"c": "long"}"#)]).contains("times.c"));
}

#[test]
fn environment_goes_over_file_over_defaults() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "[worker]\nname = \"file\"\nnum_processes = 3\n[paths]\n\"/\" = \"/a\"\n"
    )
    .unwrap();
    let tree: Tree = load(Some(file.path()), env(&[("CONF_WORKER__NUM_PROCESSES", "4")])).unwrap();
    assert_eq!(
        tree.worker,
        Worker {
            name: "file".into(),
            num_processes: 4,
            ..Worker::default()
        }
    );
    assert_eq!(tree.paths["/"], "/a");
}

#[test]
fn a_variable_takes_its_type_from_the_default() {
    let tree: Tree = load(
        None,
        env(&[
            ("CONF_WORKER__NAME", "7"),
            ("CONF_WORKER__RESTORE", "yes"),
            ("CONF_PATHS", r#"{"/": "/b"}"#),
            ("PATH", "x"),
        ]),
    )
    .unwrap();
    assert_eq!(tree.worker.name, "7");
    assert!(tree.worker.restore);
    assert_eq!(tree.paths["/"], "/b");
}

#[test]
fn an_unknown_key_names_the_nearest() {
    assert_eq!(
        fails(&[("CONF_WORKER__NUM_PROCESES", "1")]),
        "environment variable CONF_WORKER__NUM_PROCESES: unknown key `worker.num_proceses`, did you mean `worker.num_processes`?"
    );
    assert!(fails(&[("CONF_WORKER", r#"{"nam": "x"}"#)]).contains("did you mean `worker.name`?"));
    assert!(!fails(&[("CONF_QQQQQQQQ", "1")]).contains("did you mean"));
}

#[test]
fn a_wrong_type_says_what_was_expected() {
    assert!(fails(&[("CONF_WORKER__NUM_PROCESSES", "many")]).contains("`worker.num_processes`: expected a number"));
    assert!(fails(&[("CONF_WORKER__NUM_PROCESSES", "-1")]).contains("worker.num_processes"));
    assert!(fails(&[("CONF_WORKER__RESTORE", "perhaps")]).contains("expected yes or no, found `perhaps`"));
}

#[test]
fn a_file_that_is_missing_or_broken_is_named() {
    let missing = load::<Tree>(Some(Path::new("/nowhere/x.toml")), []).unwrap_err();
    assert!(missing.to_string().starts_with("configuration file /nowhere/x.toml: "));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[worker").unwrap();
    assert!(matches!(
        load::<Tree>(Some(file.path()), []),
        Err(ConfigError::Unreadable { .. })
    ));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "[worker]\nnam = 1\n").unwrap();
    assert!(
        load::<Tree>(Some(file.path()), [])
            .unwrap_err()
            .to_string()
            .contains("did you mean `worker.name`?")
    );
}

const ALIASES: &[Alias] = &[
    Alias {
        name: "worker.projects.paths",
        key: "paths",
    },
    Alias {
        name: "worker.count",
        key: "worker.num_processes",
    },
    Alias {
        name: "CONF_OLD_NAME",
        key: "worker.name",
    },
];

fn file(end: &str, text: &str) -> tempfile::TempPath {
    let mut file = tempfile::Builder::new().suffix(end).tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.into_temp_path()
}

fn sources(conf: Option<&Path>, variables: &[(&str, &str)], set: &[&str]) -> Sources {
    Sources {
        conf: conf.map(|path| path.display().to_string()),
        variables: env(variables),
        set: set.iter().map(|&word| word.to_owned()).collect(),
        aliases: ALIASES,
        kept: None,
    }
}

fn said(sources: &Sources) -> String {
    load_layers::<Tree>(sources).expect_err("this is wrong").to_string()
}

#[test]
fn every_value_knows_where_it_comes_from() {
    let conf = file(
        ".toml",
        "[worker]\nname = \"file\"\nnum_processes = 3\ntimeout = 5\n[paths]\n\"/\" = \"/a\"\n",
    );
    let sources = sources(
        Some(&conf),
        &[("CONF_WORKER__NUM_PROCESSES", "4"), ("CONF_PATHS", r#"{"/x": "/b"}"#)],
        &["worker.method=spawn", "worker.timeout=7"],
    );
    let loaded: Loaded<Tree> = load_layers(&sources).unwrap();
    assert_eq!(loaded.config.worker.timeout, 7.0);
    assert_eq!(loaded.config.worker.method, Method::Spawn);
    let name = conf.display();
    for (key, origin) in [
        ("worker.name", format!("{name}, line 2")),
        (
            "worker.num_processes",
            "environment variable CONF_WORKER__NUM_PROCESSES".into(),
        ),
        ("worker.method", "--set worker.method".into()),
        ("worker.timeout", "--set worker.timeout".into()),
        ("worker.restore", DEFAULT.into()),
        ("times.A/b", DEFAULT.into()),
        ("paths./", format!("{name}, line 6")),
        ("paths./x", "environment variable CONF_PATHS".into()),
    ] {
        assert_eq!(loaded.origins[key], origin, "{key}");
    }
    assert_eq!(loaded.tree["worker"]["timeout"], json!(7.0));
    assert!(loaded.warnings.is_empty());
    let located = loaded.locate(ConfigError::Invalid {
        origin: WHOLE.into(),
        key: "worker.name".into(),
        problem: "x".into(),
    });
    assert_eq!(located.to_string(), format!("{name}, line 2: `worker.name`: x"));
}

#[test]
fn what_is_lacking_has_to_be_added_beside_what_is_there() {
    let variables = [("CONF_BUCKETS__A__REGION", "x"), ("CONF_WORKER__NAME", "x")];
    let loaded: Loaded<Tree> = load_layers(&sources(None, &variables, &[])).unwrap();
    let region = "environment variable CONF_BUCKETS__A__REGION";
    assert_eq!(loaded.origin_of("buckets.a.password").as_deref(), Some(region));
    // At the first level that would say nothing.
    assert_eq!(loaded.origin_of("worker.timeout"), None);
}

#[test]
fn other_names_are_ours() {
    let conf = file(
        ".toml",
        "[worker]\ncount = 3\n[worker.projects.paths]\n\"/\" = \"/a\"\n",
    );
    let with = |variables: &[(&str, &str)]| sources(Some(&conf), variables, &[]);
    let loaded: Loaded<Tree> = load_layers(&with(&[
        ("CONF_OLD_NAME", "old"),
        ("CONF_WORKER__PROJECTS__PATHS", r#"{"/x": "/b"}"#),
    ]))
    .unwrap();
    assert_eq!(loaded.config.worker.name, "old");
    assert_eq!(loaded.config.worker.num_processes, 3);
    assert_eq!(loaded.config.paths.len(), 2);
    assert_eq!(
        loaded.origins["worker.num_processes"],
        format!("{}, line 2", conf.display())
    );
    assert_eq!(loaded.origins["paths./"], format!("{}, line 4", conf.display()));
    let twice = file(".toml", "[worker]\ncount = 3\nnum_processes = 4\n");
    let said_of_twice = said(&sources(Some(&twice), &[], &[]));
    assert!(
        said_of_twice.ends_with(", line 2: `worker.count` means the same as `worker.num_processes`: write one of them"),
        "{said_of_twice}"
    );
    let both = said(&with(&[("CONF_OLD_NAME", "old"), ("CONF_WORKER__NAME", "new")]));
    assert!(
        both.contains("keep one of them") && both.contains("CONF_OLD_NAME"),
        "{both}"
    );
    let wrong = file(".toml", "[worker]\ncount = 'x'\n");
    let wrong = said(&sources(Some(&wrong), &[], &[]));
    assert!(
        wrong.contains("line 2: `worker.num_processes`: expected a whole number"),
        "{wrong}"
    );
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let secret = file("", "s3cret\n");
    let path = secret.to_str().unwrap();
    let variables = [("CONF_BUCKETS__A__PASSWORD_FILE", path)];
    let loaded: Loaded<Tree> = load_layers(&sources(None, &variables, &[])).unwrap();
    assert_eq!(loaded.config.buckets["a"].password.reveal(), "s3cret");
    assert_eq!(loaded.tree["buckets"]["a"]["password"], "s3cret");
    assert_eq!(redacted(&loaded.tree)["buckets"]["a"]["password"], HIDDEN);
    assert!(!format!("{:?}", loaded.config).contains("s3cret"));
    let both = said(&sources(None, &[variables[0], ("CONF_BUCKETS__A__PASSWORD", "x")], &[]));
    assert!(
        both.contains("CONF_BUCKETS__A__PASSWORD") && both.contains("keep one of them"),
        "{both}"
    );
    let missing = said(&sources(None, &[("CONF_BUCKETS__A__PASSWORD_FILE", "/nowhere/x")], &[]));
    assert!(
        missing.contains("CONF_BUCKETS__A__PASSWORD_FILE: /nowhere/x: No such file"),
        "{missing}"
    );
    let number = said(&sources(None, &[("CONF_WORKER__TIMEOUT_FILE", path)], &[]));
    assert!(number.contains("unknown key `worker.timeout_file`"), "{number}");
}

#[test]
fn json_and_yaml_are_read_by_the_end_of_the_name() {
    let expected = load::<Tree>(None, env(&[("CONF_WORKER__NUM_PROCESSES", "7")])).unwrap();
    for (end, text) in [
        (".json", "{\"worker\": {\"num_processes\": 7}}"),
        (".yaml", "worker:\n  num_processes: 7\n  name:\n"),
        (".yml", "worker: {num_processes: 7}"),
    ] {
        assert_eq!(load::<Tree>(Some(&file(end, text)), []).unwrap(), expected, "{end}");
    }
    let said = load::<Tree>(Some(&file(".yaml", "worker:\n  num_proceses: 7\n")), []).unwrap_err();
    assert!(
        said.to_string().contains("did you mean `worker.num_processes`?"),
        "{said}"
    );
}

#[test]
fn what_the_schema_forbids_is_said_with_what_it_allows() {
    for (text, expected) in [
        (
            "[worker]\nmethod = 'frok'",
            "line 2: `worker.method`: expected one of fork, spawn, found `frok`, did you mean `fork`?",
        ),
        (
            "[worker]\ntimeout = 0",
            "`worker.timeout`: expected more than 0, found 0",
        ),
        (
            "[worker]\nnum_processes = 5000",
            "`worker.num_processes`: expected at least 0 and at most 1024, found 5000",
        ),
        ("[worker]\nnum_processes = 1.5", "expected a whole number"),
        (
            "[worker]\nrestore = 'yes'",
            "`worker.restore`: expected true or false, found a text",
        ),
        ("worker = 7", "line 1: `worker`: expected a table, found 7"),
        (
            "[worker]\nnames = ['a', 7]",
            "line 2: `worker.names[1]`: expected a text, found 7",
        ),
        ("[worker]\nnames = 'a'", "`worker.names`: expected a list, found a text"),
        (
            "[buckets.a]\npasword = 's3cret'",
            "unknown key `buckets.a.pasword`, did you mean `buckets.a.password`?",
        ),
        (
            "[buckets.a]\npassword = 4711",
            "`buckets.a.password`: expected a text, found a number",
        ),
        (
            "[buckets.a]\npath_style = 'x'",
            "`buckets.a.path_style`: expected true or false, found a text",
        ),
        ("[times]\nc = 'long'", "`times.c`: expected a number, found a text"),
        ("[[paths]]\n", "`paths`: expected a table, found a list"),
    ] {
        let said = load::<Tree>(Some(&file(".toml", text)), []).unwrap_err().to_string();
        assert!(said.contains(expected), "{text}: {said}");
        assert!(!said.contains("4711") && !said.contains("s3cret"), "{said}");
    }
    let set = |word: &str| said(&sources(None, &[], &[word]));
    assert!(set("worker").contains("expected key=value"));
    assert!(set("worker.nam=x").contains("--set worker.nam: unknown key `worker.nam`, did you mean `worker.name`?"));
    assert!(set("worker.num_processes=many").contains("expected a number"));
    let any: Tree = load(None, env(&[("CONF_ANYTHING", r#"{"x": {"y": [1]}}"#)])).unwrap();
    assert_eq!(any.anything["x"], json!({"y": [1]}));
}

#[test]
fn a_tree_that_was_patched_is_read_as_a_whole() {
    let loaded: Loaded<Tree> = load_layers(&sources(None, &[], &[])).unwrap();
    let patched = merge_patch(&loaded.tree, &json!({"worker": {"name": "x", "timeout": null}}));
    let config: Tree = from_tree(&patched, "patch").unwrap();
    assert_eq!((config.worker.name.as_str(), config.worker.timeout), ("x", 20.0));
    for (patch, expected) in [
        (json!({"worker": {"nam": 1}}), "patch: unknown key `worker.nam`"),
        (json!({"worker": 1}), "patch: `worker`: expected a table"),
        (json!(7), "patch: expected a table"),
        (json!({"worker": {"timeout": -1}}), "more than 0"),
    ] {
        let said = from_tree::<Tree>(&merge_patch(&loaded.tree, &patch), "patch")
            .unwrap_err()
            .to_string();
        assert!(said.contains(expected), "{said}");
    }
}
