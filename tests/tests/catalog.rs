//! The catalog as people and programs see it through Envoy: every project once, in detail and as a small map, and no harm
//! from names.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use stack::client::Answer;
use stack::{Agent, Plan, Stack, parts, until};

const HOSTILE: &str = "\"><script>alert(1)<";
const HOSTILE_IN_A_URL: &str = "%22%3E%3Cscript%3Ealert%281%29%3C";
const HTML: [(&str, &str); 1] = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The world, the roads under names of all kinds, what cannot be loaded, and a file that is no project.
fn lay_out(folder: &Path) {
    let (demo, failing) = (parts::projects(), parts::failing_projects());
    for file in ["world.qgs", "world.gpkg", "coast_distance.tif"] {
        fs::copy(demo.join(file), folder.join(file)).unwrap();
    }
    fs::copy(failing.join("unreadable.qgs"), folder.join("unreadable.qgs")).unwrap();
    fs::write(folder.join("notes.txt"), "no project").unwrap();
    for (place, names) in [
        ("public", vec!["roads", "two words", HOSTILE]),
        ("private", vec!["roads"]),
    ] {
        let place = folder.join(place);
        fs::create_dir(&place).unwrap();
        fs::copy(demo.join("public/roads.gpkg"), place.join("roads.gpkg")).unwrap();
        for name in names {
            fs::copy(demo.join("public/roads.qgs"), place.join(format!("{name}.qgs"))).unwrap();
        }
    }
    // Requests get the other one.
    fs::write(folder.join("world.qgz"), "not this one").unwrap();
}

async fn start(folder: &Path) -> Stack {
    let paths = serde_json::json!({"/": folder, "/gone": folder.join("gone")});
    Plan::agents(1)
        .agent("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", paths)
        .agent("CONF_CATALOG__HIDDEN", "[\"/private\"]")
        .start()
        .await
}

fn ids(list: &Value) -> Vec<&str> {
    let projects = list["projects"].as_array().unwrap().iter();
    projects.map(|project| project["id"].as_str().unwrap()).collect()
}

/// The targets of an object's links that have this relation.
fn hrefs(object: &Value, rel: &str) -> Vec<String> {
    let links = object["links"].as_array().unwrap().iter();
    let of = links.filter(|link| rel.is_empty() || link["rel"] == rel);
    of.map(|link| link["href"].as_str().unwrap().to_owned()).collect()
}

fn how(answer: &Answer) -> &str {
    answer.header("x-graticule-cache")
}

/// Width and height of a PNG.
fn size(png: &[u8]) -> (u32, u32) {
    assert!(png.starts_with(PNG), "no PNG");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_has_every_project_once_and_its_links_can_be_followed() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let stack = start(folder.path()).await;

    let hostile = format!("/public/{HOSTILE}");
    let list = stack.get("/catalog").await.expect(200).json();
    let all = [
        hostile.as_str(),
        "/public/roads",
        "/public/two words",
        "/unreadable",
        "/world",
    ];
    assert_eq!(ids(&list), all);
    assert_eq!(
        (&list["numberMatched"], &list["numberReturned"]),
        (&5.into(), &5.into())
    );
    assert_eq!(list["problems"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["problems"][0]["location"], "/gone");
    assert!(list["timeStamp"].as_str().unwrap().ends_with('Z'));
    let world = &list["projects"][4];
    assert_eq!(
        (&world["title"], &world["storage"]),
        (&"world".into(), &"directory".into())
    );
    let bytes = fs::metadata(folder.path().join("world.qgs")).unwrap().len();
    assert_eq!(world["bytes"], bytes, "the file that requests get");

    // Every link of projects with all kinds of names leads somewhere, and is a URL of the server that the client asked.
    let base = format!("{}/", stack.base());
    for project in [&list["projects"][0], &list["projects"][2], world] {
        let links = hrefs(project, "");
        assert_eq!(links.len(), 6);
        for link in links {
            assert!(link.starts_with(&base), "{link}");
            let answer = stack.client().get(&link).await;
            assert_eq!(answer.status, 200, "{link}: {}", answer.text());
        }
    }
    let landing = hrefs(world, "service");
    assert_eq!(landing, [format!("{base}ows/world/wfs3/")]);
    assert_eq!(
        stack.client().get(&hrefs(world, "service-desc")[0]).await.xml().name,
        "WMS_Capabilities"
    );

    // Filters and pages.
    let one = stack.get("/catalog?q=ROAD&location=/public").await.json();
    assert_eq!(ids(&one), ["/public/roads"]);
    let mut next = vec![format!("{}/catalog?limit=2", stack.base())];
    let mut seen = Vec::new();
    while let Some(link) = next.pop() {
        let page = stack.client().get(&link).await.expect(200).json();
        assert_eq!(page["numberMatched"], 5);
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        next = hrefs(&page, "next");
    }
    assert_eq!(seen, all);
    let beyond = stack.get("/catalog?offset=1000").await.expect(200).json();
    assert_eq!(
        (&beyond["numberMatched"], &beyond["numberReturned"]),
        (&5.into(), &0.into())
    );
    for (query, said) in [
        ("limit=0", "1 to 1000"),
        ("offset=-1", "from 0"),
        ("f=xml", "json or html"),
        ("limt=1", "limit"),
    ] {
        let answer = stack.get(&format!("/catalog?{query}")).await;
        let (code, text) = answer.expect(400).exception();
        assert!(code == "InvalidRequest" && text.contains(said), "{text}");
        assert_eq!(answer.media_type(), "application/json");
    }
    let head = stack
        .client()
        .ask(http::Method::HEAD, "/catalog", &[], "")
        .await
        .unwrap();
    assert_eq!(
        (head.status, head.body.len(), head.media_type()),
        (200, 0, "application/json")
    );
    let posted = stack.client().post("/catalog", "text/plain", "x").await;
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"));

    // What is behind proxies of its own is told to whom they serve.
    let forwarded = [
        ("x-forwarded-host", "maps.example.org"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/gis"),
    ];
    let list = stack.agents[0]
        .direct()
        .get_with("/catalog?q=world", &forwarded)
        .await
        .json();
    assert_eq!(
        hrefs(&list["projects"][0], "service"),
        ["https://maps.example.org/gis/ows/world/wfs3/"]
    );

    // A storage that comes back has its projects.
    fs::create_dir(folder.path().join("gone")).unwrap();
    fs::write(folder.path().join("gone/back.qgs"), "x").unwrap();
    until("the storage to be back", async || {
        let list = stack.get("/catalog").await.json();
        ids(&list).contains(&"/gone/back") && list["problems"].as_array().unwrap().is_empty()
    })
    .await;
    let metrics = stack.agents[0].metrics().get("/metrics").await.text();
    assert!(
        metrics.contains("graticule_requests_total{lane=\"none\",service=\"catalog\",status=\"200\"}"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_for_people_are_whole_and_names_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let stack = start(folder.path()).await;

    let home = stack.get("/").await;
    assert!(home.text().contains("href=\"catalog?f=html\""), "{}", home.text());
    let page = stack.client().get_with("/catalog", &HTML).await;
    let text = page.expect(200).text();
    assert_eq!(
        (page.media_type(), page.agents_vary().as_str()),
        ("text/html", "accept")
    );
    assert!(
        !text.contains("<script") && text.contains("&quot;&gt;&lt;script&gt;alert(1)&lt;"),
        "{text}"
    );
    assert!(text.contains("<code>/gone</code> does not answer"), "{text}");
    assert!(
        text.contains("<img loading=\"lazy\"") && text.contains("src=\"/catalog/preview?MAP=/world\""),
        "{text}"
    );
    assert!(!text.contains("/private"), "{text}");
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let searched = stack.get(&format!("/catalog?f=html&q={HOSTILE_IN_A_URL}")).await;
    assert!(!searched.expect(200).text().contains("<script"), "{}", searched.text());
    assert!(searched.text().contains("1 project"), "{}", searched.text());

    // A project's page has a map of its own WMS, whose names are those of the project.
    let page = stack.client().get_with("/catalog/project?MAP=/world", &HTML).await;
    let text = page.expect(200).text();
    for part in [
        "<h1>World</h1>",
        "data-wms=\"/?MAP=/world\" data-crs=\"EPSG:4326\" data-extent=\"[-180.0,-90.0,180.0,90.0]\"",
        "<script src=\"/catalog/map.js\" defer></script>",
        "<input type=\"checkbox\" value=\"countries\" data-queryable=\"true\" checked>",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let target = format!("/catalog/project?f=html&MAP=/public/{HOSTILE_IN_A_URL}");
    let hostile = stack.get(&target).await.expect(200).text();
    assert_eq!(hostile.matches("<script").count(), 1, "only its own: {hostile}");

    for (target, kind) in [
        ("/catalog/map.js", "text/javascript"),
        ("/catalog/style.css", "text/css"),
    ] {
        let file = stack.get(target).await;
        assert_eq!(file.expect(200).media_type(), kind);
        let again = stack
            .client()
            .get_with(target, &[("if-none-match", file.header("etag"))])
            .await;
        assert_eq!((again.status, again.body.len()), (304, 0));
    }
    the_map_asks_for_what_is_shown(&stack, &text).await;
}

/// Runs the script of the page in Node.js, where there is one, before a page of stubs; what it asks for must be answered.
async fn the_map_asks_for_what_is_shown(stack: &Stack, page: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = stack.get("/catalog/map.js").await.text();
    let (page_file, script_file) = (folder.path().join("page.html"), folder.path().join("map.js"));
    fs::write(&page_file, page).unwrap();
    fs::write(&script_file, script).unwrap();
    let driver = parts::root().join("tests/clients/map_page.js");
    let Ok(done) = Command::new("node")
        .arg(driver)
        .arg(&page_file)
        .arg(&script_file)
        .output()
    else {
        eprintln!("there is no node: the script of the map was not run");
        return;
    };
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let asked: Value = serde_json::from_str(&said).unwrap();
    for (what, kind) in [
        ("first", "image/png"),
        ("closer", "image/png"),
        ("dragged", "image/png"),
        ("without", "image/png"),
        ("legend", "image/png"),
        ("info", "text/plain"),
    ] {
        let target = asked[what].as_str().unwrap_or_else(|| panic!("{what}: {asked}"));
        assert!(
            target.starts_with("/?MAP=/world&SERVICE=WMS&VERSION=1.1.1&"),
            "{what}: {target}"
        );
        let answer = stack.get(target).await;
        assert_eq!(
            (answer.status, answer.media_type()),
            (200, kind),
            "{what}: {}",
            answer.text()
        );
    }
    let layers = |what: &str| {
        asked[what]
            .as_str()
            .unwrap()
            .split("LAYERS=")
            .last()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        layers("first"),
        "coast_distance,graticule,countries,provinces,disputed_borders"
    );
    assert_eq!(layers("without"), "coast_distance,graticule,provinces,disputed_borders");
    assert!(
        stack
            .get(asked["info"].as_str().unwrap())
            .await
            .text()
            .contains("Layer 'countries'")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_is_told_in_detail_and_drawn_once() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let stack = start(folder.path()).await;
    let agent = &stack.agents[0];

    let target = "/catalog/project?MAP=/world";
    let answer = stack.get(target).await;
    let world = answer.expect(200).json();
    assert_eq!(
        (&world["id"], &world["title"], &world["crs"]),
        (&"/world".into(), &"World".into(), &"EPSG:4326".into())
    );
    assert_eq!(
        world["extent_epsg4326"],
        serde_json::json!([-180.0, -90.0, 180.0, 90.0])
    );
    let layers: Vec<&str> = world["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        layers,
        [
            "disputed_borders",
            "provinces",
            "countries",
            "graticule",
            "coast_distance"
        ]
    );
    assert_eq!(world["layers"][1]["geometry_type"], "MultiPolygon");
    assert_eq!(world["layers"][1]["min_scale"], 20_000_000.0);
    assert_eq!(world["layouts"], serde_json::json!(["A4"]));
    assert_eq!(world["version"], answer.header("x-graticule-project-version"));
    assert!(world["qgis_version"].as_str().unwrap().starts_with("3."), "{world}");
    let again = stack.get(target).await;
    assert_eq!(
        (how(&answer), how(&again), again.body == answer.body),
        ("miss", "hit", true)
    );
    let confirmed = stack
        .client()
        .get_with(target, &[("if-none-match", answer.header("etag"))])
        .await;
    assert_eq!((confirmed.status, confirmed.body.len()), (304, 0));

    let target = "/catalog/preview?MAP=/world";
    let picture = stack.get(target).await;
    assert_eq!((picture.expect(200).media_type(), how(&picture)), ("image/png", "miss"));
    assert_eq!(size(&picture.body), (240, 160));
    let colours: std::collections::BTreeSet<u8> = picture.body.iter().copied().collect();
    assert!(
        picture.body.len() > 5000 && colours.len() > 100,
        "a map, not a plain surface"
    );
    let served: u64 = agent.stats().await.workers.iter().map(|worker| worker.served).sum();
    let again = stack.get(target).await;
    assert_eq!((how(&again), again.body == picture.body), ("hit", true));
    let tag = picture.header("etag");
    let confirmed = stack.client().get_with(target, &[("if-none-match", tag)]).await;
    assert_eq!(
        (
            confirmed.status,
            confirmed.header("etag"),
            confirmed.header("cache-control")
        ),
        (304, tag, "no-cache")
    );
    let after: u64 = agent.stats().await.workers.iter().map(|worker| worker.served).sum();
    assert_eq!(after, served, "no worker was asked again");

    // A new version gets a new picture.
    let file = fs::File::options()
        .append(true)
        .open(folder.path().join("world.qgs"))
        .unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(how(&stack.get(target).await), "miss");

    // A client that asks QGIS in the catalog's own words neither gets the catalog's answer nor has it get QGIS's.
    let (project, preview) = ("/catalog/project?MAP=/public/roads", "/catalog/preview?MAP=/world");
    let words = |name: &str, what: &str| {
        format!("/?MAP={name}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetProjectSettings&CATALOG={what}")
    };
    for target in [words("/public/roads", "project"), words("/world", "preview")] {
        let theirs = stack.get(&target).await;
        assert!(
            theirs.expect(200).media_type().contains("xml"),
            "{target}: {}",
            theirs.media_type()
        );
    }
    let told = stack.get(project).await.expect(200).json();
    assert_eq!(told["id"], "/public/roads");
    assert_eq!(stack.get(preview).await.expect(200).media_type(), "image/png");

    // What cannot be shown says so, with its status.
    for (target, status, words) in [
        ("/catalog/preview?MAP=/unreadable", 500, "cannot be shown"),
        ("/catalog/preview?MAP=/nowhere", 404, "no such project"),
        ("/catalog/preview?MAP=/private/roads", 404, "no such project"),
        ("/catalog/preview?MAP=/../x", 403, "cannot be shown"),
        ("/catalog/preview", 400, "cannot be shown"),
    ] {
        let answer = stack.get(target).await;
        assert_eq!(
            (answer.status, answer.media_type()),
            (status, "image/svg+xml"),
            "{target}"
        );
        assert!(answer.text().contains(words), "{target}: {}", answer.text());
    }
    for (target, status, code) in [
        ("/catalog/project?MAP=/unreadable", 500, "ProjectBroken"),
        ("/catalog/project?MAP=/nowhere", 404, "UnknownProject"),
        ("/catalog/project?MAP=/private/roads", 404, "UnknownProject"),
        ("/catalog/project", 400, "InvalidRequest"),
        ("/catalog/nothing", 404, "NotFound"),
    ] {
        let answer = stack.get(target).await;
        assert_eq!(answer.expect(status).exception().0, code, "{target}");
    }
    stack
        .get("/ows/private/roads?SERVICE=WMS&REQUEST=GetCapabilities")
        .await
        .expect(200);

    // Operators see it all.
    let said = cli(agent, &["cache", "info", "/world", "--json"], 0);
    let info: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&info["crs"], &info["layers"][2]["name"]),
        (&"EPSG:4326".into(), &"countries".into())
    );
    assert!(cli(agent, &["cache", "info", "/public/roads"], 0).contains("EPSG:4326"));
    for (name, why) in [
        ("/unreadable", "cannot be served"),
        ("/nowhere", "no project"),
        ("/../x", "steps through"),
    ] {
        let said = cli(agent, &["cache", "info", name], 1);
        assert!(said.contains("the agent refused") && said.contains(why), "{said}");
    }
    let said = cli(agent, &["cache", "catalog"], 1);
    assert!(
        said.contains("/private/roads") && said.contains("the storage of /gone does not answer"),
        "{said}"
    );
    let said = cli(agent, &["cache", "catalog", "--location", "/public", "--json"], 0);
    let list: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(list["projects"].as_array().unwrap().len(), 3, "{list}");
    assert!(cli(agent, &["cache", "catalog", "--location", "public"], 1).contains("/public"));
}

/// What a command says on both outputs.
fn cli(agent: &Agent, arguments: &[&str], code: i32) -> String {
    let done = agent.cli(arguments);
    let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert_eq!(done.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_files_are_listed_right_and_a_look_counts_as_a_load() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    fs::create_dir(folder.path().join("towns")).unwrap();
    for number in 0..1000 {
        fs::write(folder.path().join(format!("towns/town{number:04}.qgs")), "x").unwrap();
    }
    let stack = Plan::agents(1)
        .workers(1)
        .projects(folder.path())
        .agent("CONF_WORKER__QGIS__MAX_PROJECTS", 1)
        .start()
        .await;
    let list = stack
        .get("/catalog?location=/towns&limit=1000")
        .await
        .expect(200)
        .json();
    let towns: Vec<String> = (0..1000).map(|number| format!("/towns/town{number:04}")).collect();
    assert_eq!(ids(&list), towns);
    let page = stack.get("/catalog?location=/towns&limit=10&offset=990").await.json();
    assert_eq!((ids(&page).len(), ids(&page)[0]), (10, "/towns/town0990"));
    assert_eq!(ids(&stack.get("/catalog?q=TOWN0042").await.json()), ["/towns/town0042"]);
    assert!(
        stack.agents[0].workers().await[0].projects.is_empty(),
        "a list loads nothing"
    );

    let held = async || stack.agents[0].workers().await[0].projects.clone();
    for name in ["/world", "/public/roads"] {
        stack.get(&format!("/catalog/project?MAP={name}")).await.expect(200);
        until("the pool to know what its worker holds", async || {
            held().await == [name]
        })
        .await;
    }
    // What is kept of the first look needs no worker.
    let again = stack.get("/catalog/project?MAP=/world").await;
    assert_eq!(
        (how(again.expect(200)), held().await),
        ("hit", vec!["/public/roads".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_turned_off() {
    let stack = Plan::agents(1).agent("CONF_CATALOG__ENABLED", false).start().await;
    for target in [
        "/catalog",
        "/catalog/project?MAP=/world",
        "/catalog/preview?MAP=/world",
        "/catalog/map.js",
    ] {
        let answer = stack.client().get_with(target, &HTML).await;
        assert_eq!(answer.expect(404).exception().0, "NotFound", "{target}");
    }
    assert!(!stack.get("/").await.text().contains("catalog"));
    assert!(cli(&stack.agents[0], &["cache", "catalog"], 0).contains("/public/roads"));
}
