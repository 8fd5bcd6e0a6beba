//! The Python worker package: written from the binary to the runtime directory, and the commands that start it.
//!
//! A process gets the environment that [`crate::core::environment`] lets through, and what it is told to give up.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::runtime;
use crate::core::environment::Environment;
use crate::core::message::{ProjectRef, Settings, User};

/// The files of the package with their texts.
const PACKAGE: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/package.rs"));

/// How zygotes and workers are started.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
    runtime: PathBuf,
    settings: Settings,
    variables: Vec<(OsString, OsString)>,
}

impl Python {
    /// Writes the package below `runtime`. Of this process's `variables`, those that `environment` lets through are
    /// passed on.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn install(
        interpreter: &Path,
        runtime: &Path,
        settings: Settings,
        environment: &Environment,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> io::Result<Self> {
        let package = runtime.join("graticule_worker");
        fs::create_dir_all(&package)?;
        // Workers may run as another user, and this process may hide new files from others.
        fs::set_permissions(&package, Permissions::from_mode(0o755))?;
        for (name, text) in PACKAGE {
            let file = package.join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, Permissions::from_mode(0o644))?;
        }
        let variables = passed(environment, settings.isolation.user.as_ref(), variables);
        Ok(Self {
            interpreter: interpreter.to_owned(),
            runtime: runtime.to_owned(),
            settings,
            variables,
        })
    }

    /// The variables that workers are started with, by name; what is no text is left out.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let text = |text: &OsString| text.clone().into_string().ok();
        let variables = self.variables.iter();
        variables
            .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
            .collect()
    }

    /// Makes a private directory for temporary files, which only the user that workers run as can enter.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn private_dir(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.runtime.join(name);
        runtime::private_dir(&dir, self.settings.isolation.user.as_ref())?;
        Ok(dir)
    }

    /// The command that starts a zygote of `generation` which holds `preload`. Its settings are in a file, which it removes
    /// when it has read them: the kernel takes 128 KiB for one variable, which is some hundred projects.
    ///
    /// # Errors
    /// When the process has no descriptors left, or the file cannot be written.
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
        let place = self.runtime.join(format!("z{generation}.json"));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&place)?;
        file.write_all(&serde_json::to_vec(&settings)?)?;
        let mut command = self.command("zygote", generation, &self.settings, tmpdir, stdin, output)?;
        command.env("GRATICULE_SETTINGS_FILE", place);
        Ok(command)
    }

    /// The command that starts a worker as a process of its own.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn worker(&self, tmpdir: &Path, stdin: OwnedFd, output: OwnedFd) -> io::Result<Command> {
        self.command("worker", 0, &self.settings, tmpdir, stdin, output)
    }

    /// The command that starts the process of a storage's handler, which is told all else on its standard input.
    ///
    /// # Errors
    /// When the settings cannot be written.
    pub fn storage_host(
        &self,
        tmpdir: &Path,
        orders: OwnedFd,
        answers: OwnedFd,
        output: OwnedFd,
    ) -> io::Result<Command> {
        let script = self.runtime.join("graticule_worker/storage_host.py");
        let mut command = self.bare(&script, &self.settings, tmpdir)?;
        command
            .stdin(Stdio::from(orders))
            .stdout(Stdio::from(answers))
            .stderr(Stdio::from(output));
        Ok(command)
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
        let mut command = self.bare(&self.runtime.join("graticule_worker"), settings, tmpdir)?;
        command
            .env("GRATICULE_ROLE", role)
            .env("GRATICULE_GENERATION", generation.to_string())
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(output));
        Ok(command)
    }

    /// Python with the environment that its processes get.
    fn bare(&self, program: &Path, settings: &Settings, tmpdir: &Path) -> io::Result<Command> {
        let mut command = Command::new(&self.interpreter);
        command
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .arg("-B")
            .arg(program)
            .env("GRATICULE_SETTINGS", serde_json::to_string(settings)?)
            .env("TMPDIR", tmpdir);
        // QGIS writes settings and caches to its home and complains when there is none.
        let user = self.settings.isolation.user.as_ref();
        if user.is_some_and(|user| !user.home.is_dir()) {
            command.env("HOME", tmpdir);
        }
        Ok(command)
    }
}

/// The variables that reach workers. Those that name a home, a user or a session are the worker's `user`'s own.
fn passed(
    environment: &Environment,
    user: Option<&User>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let mut passed: Vec<_> = variables
        .filter(|(name, _)| name.to_str().is_some_and(|name| environment.passes(name)))
        .collect();
    if let Some(user) = user {
        passed.retain(|(name, _)| name != "XDG_RUNTIME_DIR");
        passed.extend([
            ("HOME".into(), user.home.clone().into_os_string()),
            ("USER".into(), OsString::from(&user.name)),
            ("LOGNAME".into(), OsString::from(&user.name)),
        ]);
    }
    passed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn given(user: Option<&User>) -> BTreeMap<String, String> {
        let ours = [
            ("PATH", "/bin"),
            ("HOME", "/root"),
            ("XDG_RUNTIME_DIR", "/run/user/0"),
            ("SOME_PASSWORD", "x"),
            ("CONF_SECRET", "x"),
        ];
        let ours = ours.iter().map(|(name, value)| (name.into(), value.into()));
        let text = |text: OsString| text.into_string().unwrap();
        let passed = passed(&Environment::default(), user, ours);
        passed
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }

    #[test]
    fn a_zygote_can_have_thousands_of_pins() {
        let dir = tempfile::tempdir().unwrap();
        let python = Python {
            interpreter: "/bin/true".into(),
            runtime: dir.path().into(),
            settings: Settings {
                ignore_bad_layers: true,
                force_readonly_layers: true,
                trust_layer_metadata: true,
                disable_getprint: false,
                warm_up: true,
                isolation: crate::core::message::Isolation::default(),
                plugins: crate::core::message::PluginSettings::default(),
                preload: Vec::new(),
            },
            variables: Vec::new(),
        };
        let pin = |n| ProjectRef {
            uri: format!("/srv/projects/of/some/length/{n}.qgs"),
            version: "1732252000123456789-48213".into(),
            file: None,
            begun: crate::core::message::Begun::default(),
        };
        let pins: Vec<ProjectRef> = (0..5000).map(pin).collect();
        let null = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
        let mut zygote = python.zygote(3, &pins, dir.path(), null(), null()).unwrap();
        assert!(zygote.status().unwrap().success());
        let place = dir.path().join("z3.json");
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o600);
        let told: serde_json::Value = serde_json::from_slice(&fs::read(place).unwrap()).unwrap();
        assert_eq!(told["preload"].as_array().unwrap().len(), 5000);
        assert_eq!(told["preload"][7]["uri"], "/srv/projects/of/some/length/7.qgs");
    }

    #[test]
    fn workers_get_the_variables_of_who_they_are() {
        let names = |variables: &BTreeMap<String, String>| variables.keys().cloned().collect::<Vec<_>>();
        let same = given(None);
        assert_eq!(names(&same), ["HOME", "PATH", "XDG_RUNTIME_DIR"]);
        assert_eq!(same["HOME"], "/root");
        let user = User {
            name: "maps".into(),
            uid: 9,
            gid: 9,
            groups: vec![9],
            home: "/srv/maps".into(),
        };
        let other = given(Some(&user));
        assert_eq!(names(&other), ["HOME", "LOGNAME", "PATH", "USER"]);
        assert_eq!((other["HOME"].as_str(), other["USER"].as_str()), ("/srv/maps", "maps"));
    }
}
