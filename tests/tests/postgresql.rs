//! Projects in PostgreSQL, with PostGIS layers, as agents and QGIS serve them: a real server, which a test may stop.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use stack::postgres::Postgres;
use stack::storage_cases::{self, Colour, Outage, Sheets, Store, map, put_with_qgis, remove_with_qgis};
use stack::{Plan, parts, until};

/// The password of `reader`. It must be told nowhere.
const SECRET: &str = "k7:Tq-never-told\\x";

/// As a URL has it.
const SECRET_IN_URL: &str = "k7%3ATq-never-told%5Cx";

/// Where the layer of projects is.
enum Layer {
    File,
    Table,
}

struct Server {
    postgres: Postgres,
    sheets: Sheets,
    away: Option<Outage>,
}

impl Server {
    /// With the schema `maps`, where `reader` may read projects. Their layer is a file, or a table of this server.
    async fn start(layer: Layer) -> Self {
        let postgres = Postgres::start().await;
        postgres.sql("postgres", &format!("CREATE ROLE reader LOGIN PASSWORD '{SECRET}'"));
        postgres.sql(
            "gis",
            "CREATE TABLE sheet (id serial PRIMARY KEY, geom geometry(Polygon, 4326));
             INSERT INTO sheet (geom) VALUES (ST_MakeEnvelope(-180, -90, 180, 90, 4326));
             GRANT SELECT ON sheet TO reader",
        );
        let port = postgres.address().port();
        let source = format!(
            "dbname='gis' host=127.0.0.1 port={port} user='reader' sslmode=disable key='id' srid=4326 type=Polygon \
             table=\"public\".\"sheet\" (geom)"
        );
        let sheets = match layer {
            Layer::File => Sheets::make(None),
            Layer::Table => Sheets::make_with(Some(&source), &[("PGPASSWORD", SECRET)]),
        };
        let away = None;
        let server = Self { postgres, sheets, away };
        server.make_schema("gis", "maps");
        server
    }

    /// A schema with the table as QGIS makes it, and the trigger of the docs.
    fn make_schema(&self, database: &str, schema: &str) {
        self.postgres.sql(
            database,
            &format!(
                "CREATE SCHEMA {schema};
                 CREATE TABLE {schema}.qgis_projects (name text PRIMARY KEY, metadata jsonb, content bytea);
                 GRANT USAGE ON SCHEMA {schema} TO reader;
                 GRANT SELECT ON {schema}.qgis_projects TO reader"
            ),
        );
        let trigger = parts::root().join("docs/sql/notify.sql");
        self.postgres
            .sql_file(database, &trigger, &[&format!("schema={schema}")]);
    }

    fn put_in(&self, database: &str, schema: &str, name: &str, colour: Colour) {
        let content = fs::read(self.sheets.zipped(colour)).unwrap();
        let hex = content.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        // The clock of this writer stands: a change is seen all the same.
        self.postgres.sql(
            database,
            &format!(
                "INSERT INTO {schema}.qgis_projects VALUES ('{name}',
                 '{{\"last_modified_time\": \"2026-01-01 00:00:00\", \"last_modified_user\": \"ann\"}}', decode('{hex}', 'hex'))
                 ON CONFLICT (name) DO UPDATE SET content = EXCLUDED.content"
            ),
        );
    }

    fn url(&self, query: &str) -> String {
        format!(
            "postgresql://reader:{SECRET_IN_URL}@{}/?{query}",
            self.postgres.address()
        )
    }
}

impl Store for Server {
    fn root(&self) -> String {
        self.url("sslmode=disable&dbname=gis&schema=maps")
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.into(), SECRET_IN_URL.into(), "never-told".into()]
    }

    fn named_as(&self) -> String {
        let address = self.postgres.address();
        format!("the storage of '/' does not answer: schema maps of PostgreSQL at {address}, database gis: ")
    }

    async fn put(&mut self, name: &str, colour: Colour) {
        self.put_in("gis", "maps", name, colour);
    }

    async fn remove(&mut self, name: &str) {
        self.postgres
            .sql("gis", &format!("DELETE FROM maps.qgis_projects WHERE name = '{name}'"));
    }

    fn outages(&self) -> Vec<Outage> {
        vec![Outage::Refuses, Outage::Hangs]
    }

    async fn stop(&mut self, how: Outage) {
        self.away = Some(how);
        match how {
            Outage::Refuses => self.postgres.end().await,
            Outage::Hangs => self.postgres.freeze(true),
        }
    }

    async fn start(&mut self) {
        match self.away.take() {
            Some(Outage::Refuses) => self.postgres.begin().await,
            Some(Outage::Hangs) => self.postgres.freeze(false),
            None => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projects_in_postgresql() {
    storage_cases::run(&mut Server::start(Layer::File).await).await;
}

/// Search paths of all forms.
fn search_paths(server: &Server) -> serde_json::Value {
    serde_json::json!({
        "/maps": server.url("dbname=gis&schema=maps&sslmode=disable"),
        "/in/{town}": server.url("dbname=gis&schema={town}&project=x-{path}"),
        "/of/{db}": server.url("dbname={db}&schema=maps"),
        "/service": "postgresql://?service=graticule&schema=maps",
        "/wrong": server.url("dbname=gis&schema=maps").replace("never", "ever"),
        "/nodb": server.url("dbname=nowhere&schema=maps"),
        "/noschema": server.url("dbname=gis&schema=nowhere"),
        "/closed": server.url("dbname=gis&schema=closed"),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_search_path_leads_there_and_what_is_wrong_is_said() {
    let server = Server::start(Layer::Table).await;
    server.make_schema("gis", "bern");
    server.make_schema("gis", "closed");
    server
        .postgres
        .sql("gis", "REVOKE ALL ON closed.qgis_projects FROM reader");
    server.postgres.sql("postgres", "CREATE DATABASE other");
    server.make_schema("other", "maps");
    server.put_in("gis", "maps", "roads", Colour::Red);
    server.put_in("gis", "maps", "zipped.qgz", Colour::Blue);
    server.put_in("gis", "bern", "x-roads", Colour::Green);
    server.put_in("other", "maps", "roads", Colour::Blue);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let services = folder.path().join("services");
    let port = server.postgres.address().port();
    fs::write(
        &services,
        format!("[graticule]\nhost=127.0.0.1\nport={port}\ndbname=gis\nuser=reader\npassword={SECRET}\n"),
    )
    .unwrap();
    let mut plan = Plan::agents(1)
        .agent("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", search_paths(&server))
        .agent("CONF_WORKER__RUNTIME_DIR", folder.path().join("run").display())
        .agent("PGSERVICEFILE", services.display());
    if nix::unistd::geteuid().is_root() {
        // The password reaches workers of another user as well.
        plan = plan.agent("CONF_WORKER__ISOLATION__USER", "nobody");
    }
    let stack = plan.start().await;
    for (name, colour) in [
        ("maps/roads", Colour::Red),
        ("maps/zipped", Colour::Blue),
        ("maps/zipped.qgz", Colour::Blue),
        ("in/bern/roads", Colour::Green),
        ("of/gis/roads", Colour::Red),
        ("of/other/roads", Colour::Blue),
        ("service/roads", Colour::Red),
    ] {
        map(&stack, name).await.shows(colour);
    }
    let mut said = String::new();
    for (name, status, words) in [
        ("maps/roads.qgz", 404, ["there is no project", ""]),
        ("maps/zipped.qgs", 404, ["there is no project", ""]),
        // What clients choose and is not there is no fault of the storage.
        ("in/nowhere/roads", 404, ["there is no project", ""]),
        ("of/nowhere/roads", 404, ["there is no project", ""]),
        ("in/be%22rn/roads", 404, ["there is no project", ""]),
        (
            "wrong/roads",
            503,
            ["password authentication failed", "correct the password of reader"],
        ),
        ("nodb/roads", 503, ["database \"nowhere\" does not exist", "`dbname`"]),
        ("noschema/roads", 503, ["schema nowhere", "correct `schema`"]),
        ("closed/roads", 503, ["permission denied", "GRANT SELECT"]),
    ] {
        let answer = map(&stack, name).await.0;
        let (_, text) = answer.expect(status).exception();
        assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
        said += &text;
    }
    said += &stack.agents[0].log();
    assert!(!said.contains("ever-told"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_qgis_saves_is_served_at_once_and_pinned_in_every_worker() {
    let mut server = Server::start(Layer::Table).await;
    server.postgres.sql("gis", "GRANT ALL ON maps.qgis_projects TO reader");
    let environment = [("PGPASSWORD", SECRET)];
    let address = server.postgres.address();
    let uri = format!(
        "postgresql://reader@{address}/?sslmode=disable&dbname=gis&schema=maps&project=town/ways%20(a+b,%20c)%20%26%20d"
    );
    put_with_qgis(&server.sheets.file(Colour::Red), &uri, &environment);
    // Nobody looks by himself for longer than this test waits for anything.
    let stack = Plan::agents(1)
        .agent(
            "CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS",
            serde_json::json!({"/": server.root()}),
        )
        .agent("CONF_WORKER__STORAGE__CHECK_INTERVAL", 600)
        .start()
        .await;
    let agent = &stack.agents[0];
    let name = "town/ways%20(a%2Bb,%20c)%20%26%20d";
    map(&stack, name).await.shows(Colour::Red);
    until("the agent to listen", async || {
        server.postgres.sql(
            "postgres",
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'",
        ) == "1"
    })
    .await;
    let next = async |colour: Colour| {
        until("a change that was notified of", async || {
            map(&stack, name).await.shows_one_of(&Colour::ALL) == colour
        })
        .await;
    };
    put_with_qgis(&server.sheets.file(Colour::Blue), &uri, &environment);
    next(Colour::Blue).await;

    // Pinned: each worker loads it, and so does the next one before its first request.
    let output = agent.cli(&["cache", "pin", "/town/ways (a+b, c) & d"]);
    assert!(output.status.success(), "{output:?}");
    for round in 0..2 {
        until("every worker to hold it", async || {
            let workers = agent.workers().await;
            workers.len() == 2 && workers.iter().all(|worker| !worker.projects.is_empty())
        })
        .await;
        for _ in 0..6 {
            map(&stack, name).await.shows(Colour::Blue);
        }
        if round == 0 {
            let killed = agent.workers().await[0].clone();
            agent.signal_worker(&killed, Signal::SIGKILL);
            until("another worker", async || {
                let workers = agent.workers().await;
                workers.len() == 2 && workers.iter().all(|worker| worker.pid != killed.pid)
            })
            .await;
        }
    }
    let mut most = 0;
    for _ in 0..3 {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader'";
        most = most.max(server.postgres.sql("postgres", count).parse::<u32>().unwrap());
    }
    println!("{most} connections");
    // As check-config counts: two and one of the agent, one of each worker for projects and up to five for layers.
    assert!(most <= 3 + 2 * (1 + 5), "{most} connections");

    // The server is started anew: what was changed meanwhile is found without a notification. Layers were away as well, so
    // maps may have failed until then.
    server.postgres.end().await;
    server.postgres.begin().await;
    put_with_qgis(&server.sheets.file(Colour::Green), &uri, &environment);
    until("a change after the server was started anew", async || {
        let map = map(&stack, name).await;
        map.0.status == 200 && map.shows_one_of(&Colour::ALL) == Colour::Green
    })
    .await;
    remove_with_qgis(&uri, &environment);
    until("a removal that was notified of", async || {
        map(&stack, name).await.0.status == 410
    })
    .await;
}
