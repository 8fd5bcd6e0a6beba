//! The JSON payloads of the worker protocol (`docs/worker-protocol.md`), as types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::plugins::Plugin;

/// A project as the worker is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRef {
    /// Where it is stored, the same at every version: a file's path, or a URL. Projects are told apart by it.
    pub uri: String,
    /// What the storage holds now.
    pub version: String,
    /// A local copy of this version, which QGIS opens in the uri's stead where it cannot open that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// When it was looked for. Workers are not told.
    #[serde(skip)]
    pub begun: Begun,
}

/// When the look at a storage began that showed a version; nothing when nobody looked. The same version is the same whenever it
/// was seen, so comparisons leave this out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Begun(pub Option<Instant>);

impl PartialEq for Begun {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Begun {}

impl Begun {
    /// Whether it was before the other, so that what it showed is no news.
    #[must_use]
    pub fn is_before(self, other: Self) -> bool {
        matches!((self.0, other.0), (Some(own), Some(other)) if own < other)
    }
}

/// A project as a worker holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedProject {
    /// What QGIS opened.
    pub uri: String,
    /// The version that was read.
    pub version: String,
    /// How long the load took, in milliseconds.
    pub load_ms: f64,
    /// How many layers it has.
    #[serde(default)]
    pub layers: u32,
    /// The names of those that could not be opened.
    #[serde(default)]
    pub bad_layers: Vec<String>,
    /// Those that took longest to open, in milliseconds, slowest first.
    #[serde(default)]
    pub slow_layers: Vec<(String, f64)>,
}

/// What the agent sends in head frames.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum ToWorker<'a> {
    /// Render.
    Request {
        /// Named in the answer.
        id: &'a str,
        /// The HTTP method, in capitals.
        method: &'a str,
        /// The public URL with its query.
        url: &'a str,
        /// Request headers for QGIS and its plugins.
        headers: &'a [(String, String)],
        /// What to render from.
        project: &'a ProjectRef,
        /// Projects to drop first.
        evict: &'a [String],
        /// How many requests of this server led to this one; the worker's own requests tell one more.
        depth: u32,
        /// Whether a body follows.
        body: bool,
    },
    /// Say what a project is, loading it first when it is not held; answered as a request is.
    Describe {
        /// Named in the answer.
        id: &'a str,
        /// Which.
        project: &'a ProjectRef,
        /// Projects to drop first.
        evict: &'a [String],
        /// How many requests of this server led to this one.
        depth: u32,
    },
    /// Be busy for a while; answered as a request is, with an empty body.
    Sleep {
        /// Named in the answer.
        id: &'a str,
        /// For how long.
        seconds: f64,
        /// Projects to drop first.
        evict: &'a [String],
    },
    /// Load a project and keep it.
    Load {
        /// Named in the answer.
        id: &'a str,
        /// What to load.
        project: &'a ProjectRef,
    },
    /// Drop a project.
    Unload {
        /// Named in the answer.
        id: &'a str,
        /// Which.
        uri: &'a str,
    },
    /// Draw a few pixels of a project that is held, for nobody.
    Warm {
        /// Named in the answer.
        id: &'a str,
        /// Which.
        uri: &'a str,
    },
    /// Stop the request, where QGIS can.
    Cancel {
        /// The request's id.
        id: &'a str,
    },
    /// Fork a worker (zygote only).
    Fork {
        /// The new worker's number.
        worker: u64,
        /// Its private directory for temporary files.
        tmpdir: &'a str,
    },
    /// Leave with exit code 0.
    Quit {},
}

/// What a worker or zygote says in head frames.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum FromWorker {
    /// It has QGIS and can be used.
    Ready {
        /// QGIS's version.
        qgis: String,
        /// What it runs, by name: "qgis", "qt", "gdal", "python".
        #[serde(default)]
        versions: BTreeMap<String, String>,
        /// What it holds.
        #[serde(default)]
        projects: Vec<LoadedProject>,
        /// Zygote only: projects that could not be loaded.
        #[serde(default)]
        failed: Vec<FailedProject>,
        /// Zygote only: sound projects that a fork may not inherit.
        #[serde(default)]
        not_preloaded: Vec<NotPreloaded>,
        /// QGIS's server plugins, those that are not loaded as well.
        #[serde(default)]
        plugins: Vec<Plugin>,
    },
    /// Zygote only, before it is ready: it begins to load this project.
    Preloading {
        /// What it opens.
        uri: String,
    },
    /// The head of an answer.
    Response {
        /// The HTTP status.
        status: u16,
        /// In the order QGIS set them.
        headers: Vec<(String, String)>,
    },
    /// Zygote only: a worker was forked.
    Forked {
        /// The number from the order.
        worker: u64,
        /// Its process id.
        pid: i32,
    },
    /// Zygote only: no worker was forked.
    Refused {
        /// The number from the order.
        worker: u64,
        /// Which rule was broken, or what the kernel said.
        reason: String,
        /// The machine had no room for it now; else forking would not be safe.
        #[serde(default)]
        transient: bool,
    },
}

/// A project that the zygote could not load.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FailedProject {
    /// What it tried to open.
    pub uri: String,
    /// What QGIS said.
    pub message: String,
}

/// A sound project that a fork may not inherit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NotPreloaded {
    /// What it opened.
    pub uri: String,
    /// Which rule was broken.
    pub reason: String,
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct End {
    /// After a request that was answered.
    #[serde(default)]
    pub report: Option<Report>,
    /// Instead of an answer.
    #[serde(default)]
    pub error: Option<WorkerError>,
    /// Beside an error: the project that the request made the worker load all the same.
    #[serde(default)]
    pub loaded: Option<LoadedProject>,
    /// After `load`.
    #[serde(default)]
    pub result: Option<serde_json::Value>,
}

/// What a request cost.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Report {
    /// There when the request made the worker load the project.
    #[serde(default)]
    pub loaded: Option<LoadedProject>,
    /// Processor time, in milliseconds.
    pub cpu_ms: f64,
    /// From the request's head to its end, in milliseconds.
    pub wall_ms: f64,
    /// The body's size.
    pub bytes: u64,
    /// The process's peak resident size during the request, in KiB.
    pub peak_kb: u64,
    /// Its private dirty memory now, in KiB.
    pub private_kb: u64,
    /// There when a plugin has done something meanwhile that the agent must know of: all of them.
    #[serde(default)]
    pub plugins: Option<Vec<Plugin>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WorkerError {
    /// One of the kinds of the protocol.
    pub kind: ErrorKind,
    /// In words.
    pub message: String,
}

/// The kinds of errors a worker reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The file is not there.
    ProjectMissing,
    /// QGIS could not read it, or it has bad layers and those are not ignored.
    ProjectBroken,
    /// A `cancel` stopped it.
    Cancelled,
    /// A fault in the worker's own code.
    Internal,
}

/// How zygotes and workers handle projects; `GRATICULE_SETTINGS` in their environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Serve a project's good layers when others are bad.
    pub ignore_bad_layers: bool,
    /// Open layers read-only.
    pub force_readonly_layers: bool,
    /// Believe the extents and types that the project file states.
    pub trust_layer_metadata: bool,
    /// Leave print layouts out.
    pub disable_getprint: bool,
    /// Let the zygote render one throwaway map.
    pub warm_up: bool,
    /// What they give up.
    pub isolation: Isolation,
    /// Which server plugins they load.
    pub plugins: PluginSettings,
    /// Zygote only: what to load before the first fork.
    pub preload: Vec<ProjectRef>,
}

/// Which server plugins zygotes and workers load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PluginSettings {
    /// Folders that hold plugins' folders.
    pub paths: Vec<PathBuf>,
    /// The names that may be loaded; all when none.
    pub allowed: Option<Vec<String>>,
    /// The names without which nothing may be served.
    pub required: Vec<String>,
    /// How long trying one plugin may take, in milliseconds; all of them together twice that.
    pub patience_ms: u64,
}

/// What zygotes and workers give up before they start QGIS, besides every capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Isolation {
    /// Who they become; without one they stay the agent's user.
    pub user: Option<User>,
    /// Open files that each may have; 0: as the agent.
    pub open_files: u64,
    /// The largest file that each may write, in bytes; 0: as the agent.
    pub file_size: u64,
}

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The first group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// The home directory, which need not exist.
    #[serde(skip)]
    pub home: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_version_was_seen_orders_sights_and_tells_none_apart() {
        let now = Instant::now();
        let (early, late) = (Begun(Some(now)), Begun(Some(now + std::time::Duration::from_millis(1))));
        assert!(early.is_before(late) && !late.is_before(early) && !early.is_before(early));
        assert!(!Begun::default().is_before(late) && !early.is_before(Begun::default()));
        assert_eq!(early, late);
    }

    #[test]
    fn messages_have_the_documented_shape() {
        let project = ProjectRef {
            uri: "/w.qgs".into(),
            version: "1".into(),
            file: None,
            begun: Begun::default(),
        };
        let request = ToWorker::Request {
            id: "r-1",
            method: "GET",
            url: "http://h/",
            headers: &[("Accept".into(), "a".into())],
            project: &project,
            evict: &[],
            depth: 1,
            body: false,
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"op":"request","id":"r-1","method":"GET","url":"http://h/","headers":[["Accept","a"]],"project":{"uri":"/w.qgs","version":"1"},"evict":[],"depth":1,"body":false}"#
        );
        let describe = ToWorker::Describe {
            id: "r-1",
            project: &project,
            evict: &["/a".into()],
            depth: 0,
        };
        assert_eq!(
            serde_json::to_string(&describe).unwrap(),
            r#"{"op":"describe","id":"r-1","project":{"uri":"/w.qgs","version":"1"},"evict":["/a"],"depth":0}"#
        );
        let sleep = ToWorker::Sleep {
            id: "s-1",
            seconds: 1.5,
            evict: &[],
        };
        assert_eq!(
            serde_json::to_string(&sleep).unwrap(),
            r#"{"op":"sleep","id":"s-1","seconds":1.5,"evict":[]}"#
        );
        assert_eq!(serde_json::to_string(&ToWorker::Quit {}).unwrap(), r#"{"op":"quit"}"#);
        let ready = r#"{"event":"ready","pid":1,"qgis":"3.40.6","start":"fork","projects":[]}"#;
        assert!(matches!(serde_json::from_str(ready).unwrap(), FromWorker::Ready { .. }));
        let end: End = serde_json::from_str(r#"{"id":"r","error":{"kind":"project_broken","message":"m"}}"#).unwrap();
        assert_eq!(end.error.unwrap().kind, ErrorKind::ProjectBroken);
        assert_eq!(end.loaded, None);
    }
}
