//! A PostgreSQL server with PostGIS of a test's own: a private data directory, a free loopback port, no part of the
//! machine's. Administration goes over its Unix socket, which needs no password; TCP does.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tempfile::TempDir;

use crate::memory::children;
use crate::ports::Port;
use crate::process::Process;
use crate::until;

/// A running server; its processes end with it.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    port: Port,
    bin: PathBuf,
    folder: TempDir,
}

/// The programs of the newest PostgreSQL of this machine that has `PostGIS`.
fn bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let numbers = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let with_postgis =
        |version: &u32| Path::new(&format!("/usr/share/postgresql/{version}/extension/postgis.control")).exists();
    let newest = numbers.filter(with_postgis).max();
    let newest = newest.expect("PostgreSQL with PostGIS is not there: run `demo/install.sh test`");
    format!("/usr/lib/postgresql/{newest}/bin").into()
}

/// PostgreSQL refuses to run as root.
fn unprivileged(command: &mut Command) {
    if geteuid().is_root() {
        let user = User::from_name("nobody").unwrap().unwrap();
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
}

impl Postgres {
    /// Makes a server with an empty database `gis` that has `PostGIS`.
    ///
    /// # Panics
    /// When it cannot be made; what its programs said is shown.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("graticule-postgres-")
            .tempdir()
            .unwrap();
        if geteuid().is_root() {
            let user = User::from_name("nobody").unwrap().unwrap();
            chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let (port, bin) = (Port::reserve(), bin());
        let mut made = Self {
            process: None,
            port,
            bin,
            folder,
        };
        let mut command = Command::new(made.bin.join("initdb"));
        command.args([
            "--no-sync",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "--auth=trust",
            "-D",
        ]);
        command.arg(made.data()).current_dir("/");
        unprivileged(&mut command);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::write(
            made.data().join("pg_hba.conf"),
            "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
        )
        .unwrap();
        made.begin().await;
        made.sql("postgres", "CREATE DATABASE gis");
        made.sql("gis", "CREATE EXTENSION postgis");
        made
    }

    /// Its data directory, with its configuration.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Starts it again and waits until it answers.
    ///
    /// # Panics
    /// When it runs, or does not answer in time.
    pub async fn begin(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let mut command = Command::new(self.bin.join("postgres"));
        command.arg("-D").arg(self.data()).current_dir("/");
        let port = format!("port={}", self.port.address().port());
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        for option in [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "max_connections=60",
            &port,
            &sockets,
        ] {
            command.args(["-c", option]);
        }
        unprivileged(&mut command);
        let log = self.folder.path().join("log");
        self.process = Some(Process::start("postgres", &mut command, &log));
        until("PostgreSQL to answer", async || {
            self.try_sql("postgres", "SELECT 1").is_ok()
        })
        .await;
    }

    /// Shuts it down: whoever is connected is cut off, and whoever connects is refused.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn end(&mut self) {
        let mut process = self.process.take().expect("it does not run");
        process.signal(Signal::SIGINT);
        until("PostgreSQL to end", async || process.ended().is_some()).await;
    }

    /// Stops or continues all its processes: meanwhile it takes connections and does not answer.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&mut self, frozen: bool) {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        let process = self.process.as_mut().expect("it does not run");
        let own = process.pid();
        // First the parent, which would make more of them; each is a child of a process that is not reaped yet.
        process.signal(signal);
        for pid in children(own) {
            let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
        }
    }

    /// Runs SQL as the superuser and gives what it printed, without heads.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a file of SQL with variables.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql_file(&self, database: &str, file: &Path, variables: &[&str]) {
        let mut command = self.psql(database);
        for variable in variables {
            command.args(["-v", variable]);
        }
        let output = command.arg("-f").arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        let port = self.port.address().port().to_string();
        command.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-p",
            &port,
            "-d",
            database,
            "-h",
        ]);
        command.arg(self.folder.path()).env_clear();
        command
    }

    fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = self.psql(database);
        let pipes = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = pipes.spawn().map_err(|error| error.to_string())?;
        // It may have ended by itself, and says why below.
        let _ = running.stdin.take().unwrap().write_all(sql.as_bytes());
        let output = running.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // A frozen one could not end. SIGINT ends it without waiting for who is connected.
            process.signal(Signal::SIGINT);
            self.freeze(false);
        }
    }
}
