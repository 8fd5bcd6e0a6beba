//! Real clients, unchanged: the scripts in `clients/` ask through Envoy and judge what they get.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use stack::{Plan, Stack, parts};
use tokio::process::Command;

/// No script may take longer.
const LONGEST: Duration = Duration::from_secs(120);

/// Runs a script against the stack, once with the project in the query and once in the path. At its end it says that it
/// is content; a failed check ends it with a traceback.
async fn content(stack: &Stack, python: &Path, script: &str, says: &str) {
    let (base, scratch) = (stack.base(), tempfile::tempdir().unwrap());
    for (ows, api) in [
        (format!("{base}/?MAP=/world"), format!("{base}/wfs3/?MAP=/world")),
        (format!("{base}/ows/world"), format!("{base}/ows/world/wfs3")),
    ] {
        let mut command = Command::new(python);
        command
            .arg(parts::root().join("tests/clients").join(script))
            .args([&ows, &api])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NO_PROXY", "*")
            .env("TMPDIR", scratch.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ended = tokio::time::timeout(LONGEST, command.output()).await;
        let output = ended
            .unwrap_or_else(|_| panic!("{script} with {ows} does not end"))
            .unwrap();
        let (said, wrong) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success() && said.trim_end().ends_with(says),
            "{script} with {ows}: {said}\n{wrong}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owslib_gdal_and_qgis_work_unchanged() {
    let stack = Plan::agents(2).start().await;
    let distribution = Path::new("/usr/bin/python3");
    content(
        &stack,
        &parts::python_with_clients(),
        "with_owslib.py",
        "OWSLib is content",
    )
    .await;
    content(&stack, distribution, "with_gdal.py", "GDAL is content").await;
    content(&stack, distribution, "with_qgis.py", "QGIS is content").await;
}
