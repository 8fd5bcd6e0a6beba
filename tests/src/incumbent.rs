//! QGIS Server the way it is usually run, for benches: nginx before several `qgis_mapserv.fcgi` that take connections from
//! one Unix socket, as `spawn-fcgi -F` starts them.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::client::Client;
use crate::memory::family;
use crate::ports::Port;
use crate::process::Process;
use crate::{parts, until};

/// Open files that a process may have: as many as a Graticule worker, more than 100 projects of twelve layers need.
const OPEN_FILES: &str = "--nofile=4096:";

/// A running nginx with its processes. Fields are dropped in the order they stand.
pub struct Incumbent {
    nginx: Process,
    processes: Vec<Process>,
    client: Client,
    _port: Port,
    _folder: TempDir,
}

impl Incumbent {
    /// Starts nginx and so many processes, with these variables besides those that they need, and waits until they answer.
    /// Layers are opened read-only and their metadata is believed, which is the fastest that it can do.
    ///
    /// # Panics
    /// When a part is not installed, or does not start.
    pub async fn start(processes: usize, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("graticule-bench-").tempdir().unwrap();
        let port = Port::reserve();
        let socket = folder.path().join("qgis.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mapserv = |number: usize| {
            let home = folder.path().join(format!("home{number}"));
            std::fs::create_dir(&home).unwrap();
            let mut command = Command::new("prlimit");
            command
                .arg(OPEN_FILES)
                .arg(parts::mapserv())
                .env_remove("DISPLAY")
                .env("QT_QPA_PLATFORM", "offscreen")
                .env("HOME", &home)
                .env("XDG_RUNTIME_DIR", &home)
                .env("QGIS_SERVER_LOG_STDERR", "1")
                .env("QGIS_SERVER_FORCE_READONLY_LAYERS", "1")
                .env("QGIS_SERVER_TRUST_LAYER_METADATA", "1")
                .envs(environment.iter().copied());
            // A FastCGI process finds the listening socket as its standard input.
            let input = OwnedFd::from(listener.try_clone().unwrap()).into();
            let name = format!("qgis_mapserv {number}");
            Process::start_with(&name, &mut command, input, &folder.path().join(format!("{number}.log")))
        };
        let processes = (0..processes).map(mapserv).collect();
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, nginx_config(folder.path(), &socket, &port)).unwrap();
        let mut command = Command::new(parts::nginx());
        command
            .arg("-p")
            .arg(folder.path())
            .args(["-e", "stderr", "-c"])
            .arg(&config);
        let nginx = Process::start("nginx", &mut command, &folder.path().join("nginx.log"));
        let client = Client::new(port.address());
        until("QGIS Server behind nginx", async || {
            let answer = client.ask(http::Method::GET, "/?SERVICE=WMS", &[], "").await;
            // Without a project QGIS answers with an error of its own; what is nginx's is below.
            answer.is_ok_and(|answer| !matches!(answer.status, 502..=504))
        })
        .await;
        Self {
            nginx,
            processes,
            client,
            _port: port,
            _folder: folder,
        }
    }

    /// A client of nginx's.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The process numbers of QGIS's processes.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// What all its processes use of memory together, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let processes = self.processes.iter().map(Process::pid);
        processes.chain([self.nginx.pid()]).map(family).sum()
    }
}

/// What nginx's packages and QGIS's manual advise, with larger buffers and all its files in `folder`.
fn nginx_config(folder: &Path, socket: &Path, port: &Port) -> String {
    let (folder, socket, address) = (folder.display(), socket.display(), port.address());
    // As root, nginx would serve as a user who may not use the socket.
    let user = if nix::unistd::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
        .collect();
    let parameters: String = [
        ("QUERY_STRING", "$query_string"),
        ("REQUEST_METHOD", "$request_method"),
        ("CONTENT_TYPE", "$content_type"),
        ("CONTENT_LENGTH", "$content_length"),
        ("SCRIPT_NAME", "$fastcgi_script_name"),
        ("REQUEST_URI", "$request_uri"),
        ("DOCUMENT_URI", "$document_uri"),
        ("SERVER_PROTOCOL", "$server_protocol"),
        ("REMOTE_ADDR", "$remote_addr"),
        ("SERVER_ADDR", "$server_addr"),
        ("SERVER_PORT", "$server_port"),
        ("SERVER_NAME", "$server_name"),
    ]
    .iter()
    .map(|(name, value)| format!("fastcgi_param {name} {value};\n"))
    .collect();
    format!(
        "{user}
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
access_log off;
keepalive_requests 1000000;
{temporary}
server {{
listen {address};
location / {{
fastcgi_pass unix:{socket};
fastcgi_buffers 16 64k;
fastcgi_read_timeout 90s;
{parameters}
}}
}}
}}
"
    )
}
