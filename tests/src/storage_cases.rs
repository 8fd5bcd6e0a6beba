//! What must hold of every storage of projects, run through the whole stack: a project is loaded, rendered, changed,
//! removed; the storage is away and comes back. A storage takes part by being a [`Store`].
//!
//! The projects are [`Sheets`]: one layer in one plain colour, so that a map tells which version it was drawn from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::client::Answer;
use crate::stack::{Plan, Stack};
use crate::{Agent, parts, until};

/// The colour of a sheet, which is all that its versions differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Colour {
    /// `#c80000`
    Red,
    /// `#00c800`
    Green,
    /// `#0000c8`
    Blue,
}

impl Colour {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Red, Self::Green, Self::Blue];

    /// Its name, as files have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
        }
    }

    fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [0xc8, 0, 0],
            Self::Green => [0, 0xc8, 0],
            Self::Blue => [0, 0, 0xc8],
        }
    }
}

/// The projects that the cases store, as files in a directory of their own.
#[derive(Debug)]
pub struct Sheets {
    folder: TempDir,
}

impl Sheets {
    /// Makes them with QGIS. Their layer is a file, by its absolute path, or the `PostGIS` data source that is given.
    ///
    /// # Panics
    /// When QGIS cannot make them; what it said is shown.
    #[must_use]
    pub fn make(source: Option<&str>) -> Self {
        Self::make_with(source, &[])
    }

    /// The same, with variables for QGIS.
    ///
    /// # Panics
    /// As [`Sheets::make`].
    #[must_use]
    pub fn make_with(source: Option<&str>, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("graticule-sheets-").tempdir().unwrap();
        let mut arguments = vec!["make", folder.path().to_str().unwrap()];
        arguments.extend(source);
        sheets(&arguments, environment);
        Self { folder }
    }

    /// The file of a colour, a `.qgs`.
    #[must_use]
    pub fn file(&self, colour: Colour) -> PathBuf {
        self.folder.path().join(format!("{}.qgs", colour.name()))
    }

    /// The same, zipped: a `.qgz`.
    #[must_use]
    pub fn zipped(&self, colour: Colour) -> PathBuf {
        self.file(colour).with_extension("qgz")
    }

    /// The file of their layer, when that is one: a GeoPackage.
    #[must_use]
    pub fn layer(&self) -> PathBuf {
        self.folder.path().join("sheet.gpkg")
    }
}

/// Stores a project as QGIS Desktop does, in one of QGIS's own storages. `environment` is for QGIS.
///
/// # Panics
/// When QGIS cannot.
pub fn put_with_qgis(file: &Path, uri: &str, environment: &[(&str, &str)]) {
    sheets(&["put", file.to_str().unwrap(), uri], environment);
}

/// Takes a project out of one of QGIS's own storages.
///
/// # Panics
/// When QGIS cannot.
pub fn remove_with_qgis(uri: &str, environment: &[(&str, &str)]) {
    sheets(&["remove", uri], environment);
}

fn sheets(arguments: &[&str], environment: &[(&str, &str)]) {
    let script = parts::root().join("tests/storage/sheets.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-B").arg(script).args(arguments);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sheets.py {arguments:?}: {said}");
}

/// How a storage is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// It refuses at once: it was shut down, or its files are gone.
    Refuses,
    /// It takes what it is asked and does not answer.
    Hangs,
}

/// A storage that takes part in the cases. Names are as below the location, without suffix: `town/roads`.
#[allow(async_fn_in_trait, reason = "tests await these in place")]
pub trait Store {
    /// What stands behind the search path `/`.
    fn root(&self) -> String;

    /// Further `CONF_` and other variables of the agent.
    fn environment(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Words that nothing the agent says may hold.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the answer to a request for an unknown project must hold while the storage is away.
    fn named_as(&self) -> String {
        "the storage of '/' does not answer".into()
    }

    /// Stores the sheet of that colour under the name, or puts it in the place of what is there.
    async fn put(&mut self, name: &str, colour: Colour);

    /// Takes it out.
    async fn remove(&mut self, name: &str);

    /// How this storage can be away.
    fn outages(&self) -> Vec<Outage>;

    /// Takes it away.
    async fn stop(&mut self, how: Outage);

    /// Brings it back after [`Store::stop`].
    async fn start(&mut self);
}

/// Runs all cases with a stack of their own: one agent of two workers.
///
/// # Panics
/// When one does not hold.
pub async fn run(store: &mut impl Store) {
    let mut plan = Plan::agents(1)
        .agent(
            "CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS",
            serde_json::json!({ "/": store.root() }),
        )
        // What is slow or away is soon found out.
        .agent("CONF_WORKER__STORAGE__TIMEOUT", 2)
        .agent("CONF_WORKER__STORAGE__CHECK_INTERVAL", 0.5);
    for (key, value) in store.environment() {
        plan = plan.agent(&key, value);
    }
    store.put("roads", Colour::Red).await;
    let stack = plan.start().await;
    let mut said = String::new();
    is_loaded_and_rendered(&stack, store).await;
    a_change_is_served_and_no_request_fails_meanwhile(&stack, store).await;
    said += &what_is_removed_is_gone(&stack, store).await;
    for how in store.outages() {
        said += &an_outage_costs_nothing_that_was_loaded(&stack, store, how).await;
    }
    no_secret_is_told(&stack.agents[0], store, &said).await;
}

async fn is_loaded_and_rendered(stack: &Stack, store: &mut impl Store) {
    map(stack, "roads").await.shows(Colour::Red);
    // The same by its way of the path, and as features.
    let info = stack.get("/ows/roads?SERVICE=WMS&REQUEST=GetCapabilities").await;
    assert!(
        info.expect(200).text().contains("<Name>sheet</Name>"),
        "{}",
        info.text()
    );
    let features =
        "/?MAP=/roads&SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME=sheet&OUTPUTFORMAT=application/json";
    let features = stack.get(features).await;
    assert_eq!(features.expect(200).json()["features"].as_array().unwrap().len(), 1);
    // In a folder, and what never was.
    store.put("town/ways & means", Colour::Green).await;
    map(stack, "town/ways%20%26%20means").await.shows(Colour::Green);
    let missing = map(stack, "nothing/here").await;
    assert_eq!(missing.0.expect(404).exception().0, "UnknownProject");
    store.put("nothing/here", Colour::Blue).await;
    until("a project that was missing a moment ago", async || {
        map(stack, "nothing/here").await.0.status == 200
    })
    .await;
}

async fn a_change_is_served_and_no_request_fails_meanwhile(stack: &Stack, store: &mut impl Store) {
    let before = map(stack, "roads")
        .await
        .0
        .header("x-graticule-project-version")
        .to_owned();
    store.put("roads", Colour::Blue).await;
    let mut after = String::new();
    until("the new version of a changed project", async || {
        let map = map(stack, "roads").await;
        after = map.0.header("x-graticule-project-version").to_owned();
        // The old one or the new one, and nothing else.
        map.shows_one_of(&[Colour::Red, Colour::Blue]) == Colour::Blue
    })
    .await;
    assert_ne!(before, after);
    until_everywhere(stack, Colour::Blue).await;
}

/// Workers load a new version one after the other; waits until none has an older one. Requests alone would not tell: as long
/// as nothing else is asked for, they all go to the worker that has the new version.
async fn until_everywhere(stack: &Stack, colour: Colour) {
    until("every worker to have the new version", async || {
        let shown = map(stack, "roads").await.shows_one_of(&Colour::ALL);
        let said = stack.agents[0].cli(&["cache", "checkout", "/roads", "--json"]).stdout;
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        shown == colour && said["outdated"] == 0 && said["current"] != 0
    })
    .await;
}

async fn what_is_removed_is_gone(stack: &Stack, store: &mut impl Store) -> String {
    store.remove("roads").await;
    let mut said = String::new();
    until("a removed project to be gone", async || {
        let answer = map(stack, "roads").await.0;
        assert!(
            matches!(answer.status, 200 | 410),
            "{} {}",
            answer.status,
            answer.text()
        );
        said = answer.text();
        answer.status == 410 && answer.exception().0 == "ProjectGone"
    })
    .await;
    store.put("roads", Colour::Green).await;
    until("a project that was put back", async || {
        let answer = map(stack, "roads").await;
        assert!(
            matches!(answer.0.status, 200 | 410),
            "{} {}",
            answer.0.status,
            answer.0.text()
        );
        answer.0.status == 200 && answer.shows_one_of(&Colour::ALL) == Colour::Green
    })
    .await;
    said
}

async fn an_outage_costs_nothing_that_was_loaded(stack: &Stack, store: &mut impl Store, how: Outage) -> String {
    println!("an outage: {how:?}");
    let late = format!("late/{how:?}");
    store.put("roads", Colour::Red).await;
    store.put(&late, Colour::Blue).await;
    until_everywhere(stack, Colour::Red).await;
    store.stop(how).await;
    // For longer than what was seen is believed.
    let mut said = String::new();
    for _ in 0..4 {
        map(stack, "roads").await.shows(Colour::Red);
        let unknown = map(stack, &late).await.0;
        let (code, text) = unknown.expect(503).exception();
        assert_eq!(code, "StorageUnavailable");
        assert!(text.contains(&store.named_as()), "{text}");
        said += &text;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    store.start().await;
    until("a project to be found after the outage", async || {
        let map = map(stack, &late).await;
        assert!(matches!(map.0.status, 200 | 503), "{}", map.0.status);
        map.0.status == 200 && map.shows_one_of(&Colour::ALL) == Colour::Blue
    })
    .await;
    store.put("roads", Colour::Green).await;
    until("a change after the outage", async || {
        map(stack, "roads").await.shows_one_of(&[Colour::Red, Colour::Green]) == Colour::Green
    })
    .await;
    said
}

/// In no log line, no answer to operators, no metric, and nothing that clients were told.
async fn no_secret_is_told(agent: &Agent, store: &impl Store, said: &str) {
    let mut told = format!(
        "{said}\n{}\n{}",
        agent.log(),
        agent.metrics().get("/metrics").await.text()
    );
    for verb in [
        &["stats"][..],
        &["stats", "--json"],
        &["cache", "list"],
        &["cache", "list", "--json"],
    ] {
        let output = agent.cli(verb);
        told += &String::from_utf8_lossy(&output.stdout);
        told += &String::from_utf8_lossy(&output.stderr);
    }
    assert!(told.contains("/roads"), "nothing was told at all");
    for secret in store.secrets() {
        let line = told.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "`{secret}` is told: {line:?}");
    }
}

/// The answer to a request for a map.
#[derive(Debug)]
pub struct Map(pub Answer);

/// Asks for a map of a sheet; `name` is percent-encoded.
pub async fn map(stack: &Stack, name: &str) -> Map {
    let query = "SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=sheet&STYLES=&CRS=EPSG:4326&BBOX=-9,-12,9,12\
                 &WIDTH=64&HEIGHT=48&FORMAT=image/png";
    Map(stack.get(&format!("/?MAP=/{name}&{query}")).await)
}

impl Map {
    /// Checks that it is a whole map of that colour.
    ///
    /// # Panics
    /// When it is not.
    pub fn shows(&self, colour: Colour) {
        let _ = self.shows_one_of(&[colour]);
    }

    /// Which of these colours the map has, all over.
    ///
    /// # Panics
    /// When it is none of them, or no map.
    #[must_use]
    pub fn shows_one_of(&self, colours: &[Colour]) -> Colour {
        self.0.expect(200);
        assert_eq!(self.0.media_type(), "image/png", "{}", self.0.text());
        let picture = image::load_from_memory(&self.0.body).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (64, 48));
        let found: BTreeSet<[u8; 3]> = picture.pixels().map(|pixel| pixel.0).collect();
        let shown = colours.iter().find(|colour| found == BTreeSet::from([colour.rgb()]));
        *shown.unwrap_or_else(|| panic!("a map of {found:?}, expected one of {colours:?}"))
    }
}
