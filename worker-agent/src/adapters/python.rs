//! The Python worker package: written from the binary to the runtime directory, and the commands that start it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::core::message::{ProjectRef, Settings};

/// The files of the package with their texts.
const PACKAGE: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/package.rs"));

/// Variables that configure the daemons may hold secrets, and QGIS has no use for them.
const NOT_FOR_WORKERS: &str = graticule_daemon::config::ENV_PREFIX;

/// How zygotes and workers are started.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
    runtime: PathBuf,
    settings: Settings,
}

impl Python {
    /// Writes the package below `runtime`.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn install(interpreter: &Path, runtime: &Path, settings: Settings) -> io::Result<Self> {
        let package = runtime.join("graticule_worker");
        fs::create_dir_all(&package)?;
        for (name, text) in PACKAGE {
            fs::write(package.join(name), text)?;
        }
        Ok(Self {
            interpreter: interpreter.to_owned(),
            runtime: runtime.to_owned(),
            settings,
        })
    }

    /// Makes a private directory for temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn private_dir(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.runtime.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// The command that starts a zygote of `generation` which holds `preload`.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn zygote(
        &self,
        generation: u64,
        preload: &[ProjectRef],
        tmpdir: &Path,
        stdin: OwnedFd,
        output: OwnedFd,
    ) -> io::Result<Command> {
        let settings = Settings {
            preload: preload.to_vec(),
            ..self.settings.clone()
        };
        self.command("zygote", generation, &settings, tmpdir, stdin, output)
    }

    /// The command that starts a worker as a process of its own.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn worker(&self, tmpdir: &Path, stdin: OwnedFd, output: OwnedFd) -> io::Result<Command> {
        self.command("worker", 0, &self.settings, tmpdir, stdin, output)
    }

    fn command(
        &self,
        role: &str,
        generation: u64,
        settings: &Settings,
        tmpdir: &Path,
        stdin: OwnedFd,
        output: OwnedFd,
    ) -> io::Result<Command> {
        let mut command = Command::new(&self.interpreter);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(NOT_FOR_WORKERS)) {
            command.env_remove(name);
        }
        command
            .arg("-B")
            .arg(self.runtime.join("graticule_worker"))
            .env("GRATICULE_ROLE", role)
            .env("GRATICULE_GENERATION", generation.to_string())
            .env("GRATICULE_SETTINGS", serde_json::to_string(settings)?)
            .env("TMPDIR", tmpdir)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(output));
        Ok(command)
    }
}
