//! Projects in S3 buckets: what must hold of every storage, and what is a bucket's own: the files that projects name.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use stack::bucket_server::{BUCKET, BucketServer};
use stack::storage_cases::{self, Colour, Outage, Sheets, Store, map};
use stack::{Plan, Stack, until};

const SECRET: &str = "wJalrXUtnFEMI-EXAMPLEKEY";

struct Bucket {
    server: BucketServer,
    sheets: Sheets,
}

impl Bucket {
    async fn start() -> Self {
        let (server, sheets) = (BucketServer::start().await, Sheets::make(None));
        let bucket = Self { server, sheets };
        bucket.put_data("data/sheet.gpkg", &bucket.data()).await;
        bucket
    }

    /// The data of the sheets.
    fn data(&self) -> Vec<u8> {
        std::fs::read(self.sheets.file(Colour::Red).with_file_name("sheet.gpkg")).unwrap()
    }

    async fn put_data(&self, path: &str, data: &[u8]) {
        self.server.put(&format!("atlas/{path}"), data).await;
    }

    /// A sheet whose layer is a file beside it: `data`, as seen from the project.
    fn sheet(&self, colour: Colour, data: &str) -> String {
        let file = self.sheets.file(colour);
        let text = std::fs::read_to_string(&file).unwrap();
        let absolute = file.with_file_name("sheet.gpkg").display().to_string();
        let stored_so = "<Absolute type=\"int\">1</Absolute>";
        assert!(
            text.contains(&absolute) && text.contains(stored_so),
            "the sheet's layer is no longer a file by its absolute path"
        );
        let text = text.replace(stored_so, "<Absolute type=\"bool\">false</Absolute>");
        text.replace(&absolute, data)
    }
}

impl Store for Bucket {
    fn root(&self) -> String {
        format!("s3://{BUCKET}/atlas")
    }

    fn environment(&self) -> Vec<(String, String)> {
        let settings = serde_json::json!({"default": {
            "endpoint": self.server.endpoint(),
            "allow_http": true,
            "access_key_id": "who",
            "secret_access_key": SECRET,
        }});
        vec![("CONF_WORKER__STORAGE__S3".into(), settings.to_string())]
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.into()]
    }

    async fn put(&mut self, name: &str, colour: Colour) {
        let up = match name.matches('/').count() {
            0 => "./".to_owned(),
            depth => "../".repeat(depth),
        };
        let text = self.sheet(colour, &format!("{up}data/sheet.gpkg"));
        self.server.put(&format!("atlas/{name}.qgs"), text).await;
    }

    async fn remove(&mut self, name: &str) {
        self.server.remove(&format!("atlas/{name}.qgs")).await;
    }

    fn outages(&self) -> Vec<Outage> {
        vec![Outage::Refuses, Outage::Hangs]
    }

    async fn stop(&mut self, how: Outage) {
        self.server.stop(how);
    }

    async fn start(&mut self) {
        self.server.bring_back().await;
    }
}

fn plan(bucket: &Bucket, root: &str) -> Plan {
    let paths = serde_json::json!({ "/": root, "/lost": "s3://nowhere/x" });
    let mut plan = Plan::agents(1)
        .agent("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", paths)
        .agent("CONF_WORKER__STORAGE__TIMEOUT", 2)
        .agent("CONF_WORKER__STORAGE__CHECK_INTERVAL", 0.5);
    for (key, value) in bucket.environment() {
        plan = plan.agent(&key, value);
    }
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_of_projects() {
    storage_cases::run(&mut Bucket::start().await).await;
}

/// Whether a map is empty: nothing of its layer is drawn.
async fn is_empty(stack: &Stack, name: &str) -> bool {
    let map = map(stack, name).await.0;
    let picture = image::load_from_memory(&map.expect(200).body).unwrap().into_rgb8();
    let white = picture.pixels().filter(|pixel| pixel.0 == [255; 3]).count();
    white == 64 * 48
}

/// The sheets' data with its one feature moved out of sight.
fn moved(data: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sheet.gpkg");
    std::fs::write(&file, data).unwrap();
    let script = "import sys\n\
        from osgeo import ogr\n\
        ogr.UseExceptions()\n\
        data = ogr.Open(sys.argv[1], update=1)\n\
        layer = data.GetLayer(0)\n\
        feature = layer.GetNextFeature()\n\
        feature.SetGeometry(ogr.CreateGeometryFromWkt('POLYGON((100 60,110 60,110 70,100 70,100 60))'))\n\
        layer.SetFeature(feature)\n";
    let status = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .arg(&file)
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(file).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_files_count_and_are_fetched_once() {
    let mut bucket = Bucket::start().await;
    bucket.put("roads", Colour::Red).await;
    let zipped = zipped_sheet(&bucket);
    bucket.server.put("atlas/zipped.qgz", zipped).await;
    let outside = bucket.sheet(Colour::Red, "../sheet.gpkg");
    bucket.server.put("atlas/outside.qgs", outside).await;
    bucket.server.put("sheet.gpkg", bucket.data()).await;
    let mut stack = plan(&bucket, &bucket.root()).start().await;

    map(&stack, "roads").await.shows(Colour::Red);
    map(&stack, "zipped").await.shows(Colour::Green);
    assert_eq!(
        bucket.server.fetches("atlas/data/sheet.gpkg"),
        1,
        "two projects share it"
    );
    let version = |answer: &stack::Answer| answer.header("x-graticule-project-version").to_owned();
    let before = version(&map(&stack, "roads").await.0);

    // A layer above the prefix is not brought in, whatever the bucket has there.
    assert_eq!(map(&stack, "outside").await.0.status, 400, "its only layer is missing");
    assert_eq!(bucket.server.fetches("sheet.gpkg"), 0);
    let log = stack.agents[0].log();
    assert!(
        log.contains("files outside the search path's prefix are not fetched"),
        "{log}"
    );

    // Copies survive the agent.
    stack.agents[0].kill();
    stack.agents[0].start();
    stack.agents[0].until_ready().await;
    stack.until_in_service(1).await;
    let again = map(&stack, "roads").await;
    again.shows(Colour::Red);
    assert_eq!(version(&again.0), before);
    assert_eq!(bucket.server.fetches("atlas/data/sheet.gpkg"), 1);
    assert_eq!(bucket.server.fetches("atlas/roads.qgs"), 1);

    // The project stays as it is; its data changes.
    bucket.put_data("data/sheet.gpkg", &moved(&bucket.data())).await;
    until("the map of the changed data", async || is_empty(&stack, "roads").await).await;
    assert_ne!(version(&map(&stack, "roads").await.0), before);
    until("the same of the other project", async || {
        is_empty(&stack, "zipped").await
    })
    .await;
    assert_eq!(bucket.server.fetches("atlas/data/sheet.gpkg"), 2);
    assert_eq!(bucket.server.fetches("atlas/roads.qgs"), 1);
}

/// The green sheet as a `.qgz`, its layer a file beside it.
fn zipped_sheet(bucket: &Bucket) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (project, archive) = (folder.path().join("zipped.qgs"), folder.path().join("zipped.qgz"));
    std::fs::write(&project, bucket.sheet(Colour::Green, "./data/sheet.gpkg")).unwrap();
    let script = "import sys, zipfile\nzipfile.ZipFile(sys.argv[2], 'w', 8).write(sys.argv[1], 'zipped.qgs')";
    let mut command = Command::new("/usr/bin/python3");
    assert!(
        command
            .args(["-c", script])
            .arg(project)
            .arg(&archive)
            .status()
            .unwrap()
            .success()
    );
    std::fs::read(archive).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_project_comes_in_although_nobody_waits_so_long() {
    let mut bucket = Bucket::start().await;
    bucket.put("roads", Colour::Red).await;
    // Noise, so that nothing makes it shorter; GDAL does not mind what stands behind a GeoPackage's pages.
    let logo: Vec<u8> = (0..1_500_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    let text = bucket.sheet(Colour::Blue, "./data/sheet.gpkg");
    let text = text.replace("</qgis>", "<Logo file=\"./data/logo.svg\"/></qgis>");
    bucket.put_data("data/logo.svg", &logo).await;
    bucket.server.put("atlas/large.qgs", text).await;
    let stack = plan(&bucket, &bucket.root()).start().await;
    map(&stack, "roads").await.shows(Colour::Red);
    bucket.server.narrow(1_000_000);
    let mut told = Vec::new();
    until("the large project", async || {
        let answer = map(&stack, "large").await;
        if answer.0.status == 200 {
            answer.shows(Colour::Blue);
            return true;
        }
        let (code, text) = answer.0.expect(503).exception();
        assert_eq!(code, "StorageUnavailable");
        told.push(text);
        false
    })
    .await;
    assert!(
        told.iter()
            .any(|text| text.contains("is still being fetched") && text.contains(" of 6")),
        "{told:?}"
    );
    assert_eq!(bucket.server.fetches("atlas/data/logo.svg"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_not_there_is_named_and_half_copies_are_cleared() {
    let mut bucket = Bucket::start().await;
    bucket.put("town/roads", Colour::Red).await;
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("tmp/half");
    std::fs::create_dir_all(half.parent().unwrap()).unwrap();
    std::fs::write(&half, "half").unwrap();
    let stack = plan(&bucket, &format!("s3://{BUCKET}/{{path}}"))
        .agent("CONF_WORKER__STORAGE__FILES__DIR", folder.path().display())
        .agent("CONF_WORKER__STORAGE__FILES__MAX_FILE_BYTES", 1_000_000)
        .start()
        .await;
    let (code, text) = map(&stack, "lost/roads").await.0.expect(503).exception();
    assert_eq!(code, "StorageUnavailable");
    assert!(text.contains("there is no bucket 'nowhere'"), "{text}");
    map(&stack, "atlas/town/roads").await.shows(Colour::Red);
    assert!(!half.exists() && is_private(folder.path()));

    bucket.put_data("data/sheet.gpkg", &vec![0; 2_000_000]).await;
    bucket.put("town/other", Colour::Red).await;
    let (_, text) = map(&stack, "atlas/town/other").await.0.expect(503).exception();
    assert!(text.contains("worker.storage.files.max_file_bytes"), "{text}");
    // The version of before is served on.
    map(&stack, "atlas/town/roads").await.shows(Colour::Red);
}

/// Whether everybody may read the copies and nobody write them.
fn is_private(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    mode(folder) == 0o755 && mode(&folder.join("trees")) == 0o755
}
