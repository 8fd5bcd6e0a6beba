//! Where the things are that tests start and serve, and what to run when one is not there.

use std::path::{Path, PathBuf};

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn there(path: PathBuf, remedy: &str) -> PathBuf {
    assert!(path.exists(), "{} is not there: {remedy}", path.display());
    path
}

/// A binary of this workspace.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    // The test's own binary is in target/<profile>/deps, so that this follows CARGO_TARGET_DIR. Benches are built by
    // another profile, which need not have binaries.
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    let debug = profile.with_file_name("debug").join(name);
    let same = profile.join(name);
    if same.exists() {
        same
    } else {
        there(debug, "run `cargo build --workspace --bins`")
    }
}

/// Envoy.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn envoy() -> PathBuf {
    let path = std::env::var_os("GRATICULE_ENVOY").map_or_else(|| root().join(".parts/envoy"), PathBuf::from);
    there(path, "run `demo/install.sh`, or set GRATICULE_ENVOY")
}

/// The directory of the demo projects.
///
/// # Panics
/// When they were not written.
#[must_use]
pub fn projects() -> PathBuf {
    let path = std::env::var_os("GRATICULE_PROJECTS").map_or_else(|| root().join(".parts/projects"), PathBuf::from);
    there(path, "run `/usr/bin/python3 demo/projects/make.py`")
}

/// The directory of projects that must fail.
///
/// # Panics
/// When they were not written.
#[must_use]
pub fn failing_projects() -> PathBuf {
    there(
        root().join(".parts/test-projects"),
        "run `/usr/bin/python3 demo/projects/make.py --tests`",
    )
}

/// The directory of the many projects that benches ask, `town000` to `town199`.
///
/// # Panics
/// When they were not written.
#[must_use]
pub fn towns() -> PathBuf {
    there(
        root().join(".parts/bench-projects"),
        "run `/usr/bin/python3 demo/projects/make.py --bench`",
    )
}

/// nginx, which stands before QGIS's own server.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn nginx() -> PathBuf {
    there(root().join(".parts/nginx/nginx"), "run `demo/install.sh bench`")
}

/// QGIS's own server, a `FastCGI` process.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn mapserv() -> PathBuf {
    there(
        "/usr/lib/cgi-bin/qgis_mapserv.fcgi".into(),
        "run `demo/install.sh bench`",
    )
}

/// An S3 server.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn s3_server() -> PathBuf {
    there(root().join(".parts/venv/bin/moto_server"), "run `demo/install.sh test`")
}

/// The Python that has OWSLib beside QGIS and GDAL.
///
/// # Panics
/// When it was not made.
#[must_use]
pub fn python_with_clients() -> PathBuf {
    there(root().join(".parts/venv/bin/python3"), "run `demo/install.sh tests`")
}
