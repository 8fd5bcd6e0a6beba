//! Passwords that stand in search paths, brought to workers in a password file of their own: the URIs that they are told,
//! which logs and answers to operators show, hold none.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::{connect, servers};
use crate::core::locate::SearchPaths;
use crate::core::message::User;
use crate::core::postgresql::{Server, passfile};

/// The file's name in the runtime directory.
const FILE: &str = "pgpass";

/// The variables that workers are to get of `variables`. When search paths hold passwords, a password file is written to
/// `runtime`, which only the `user` that workers run as can read; what workers had before is in it as well.
///
/// # Errors
/// When the file cannot be written.
pub fn worker_variables(
    paths: &SearchPaths,
    mut variables: Vec<(OsString, OsString)>,
    runtime: &Path,
    user: Option<&User>,
) -> std::io::Result<Vec<(OsString, OsString)>> {
    let mut lines = lines(paths);
    if lines.is_empty() {
        return Ok(variables);
    }
    let value = |name: &str| {
        variables
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    if let Some(password) = value("PGPASSWORD") {
        // It would win over every file. For what no search path says it is still the password.
        lines += &passfile::line([None; 4], &password.to_string_lossy());
    } else {
        let home = user
            .map(|user| user.home.clone())
            .or_else(|| value("HOME").map(PathBuf::from));
        let before = value("PGPASSFILE")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join(".pgpass")));
        lines += &connect::passfile(before.as_deref());
    }
    let file = runtime.join(FILE);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut opened = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)?;
    opened.write_all(lines.as_bytes())?;
    if let Some(user) = user {
        chown(&file, Some(user.uid), Some(user.gid))?;
    }
    variables.retain(|(name, _)| name != "PGPASSWORD" && name != "PGPASSFILE");
    variables.push(("PGPASSFILE".into(), file.into_os_string()));
    Ok(variables)
}

/// A line for each password, those that say most first.
fn lines(paths: &SearchPaths) -> String {
    let mut servers = servers(paths);
    let fixed = |name: &Option<String>| name.clone().filter(|name| !name.contains('{'));
    servers.sort_by_key(|server| {
        usize::from(fixed(&server.dbname).is_none())
            + usize::from(server.host.is_none())
            + usize::from(server.port.is_none())
    });
    let line = |server: &Server| {
        let port = server.port.map(|port| port.to_string());
        let dbname = fixed(&server.dbname);
        let fields = [
            server.host.as_deref(),
            port.as_deref(),
            dbname.as_deref(),
            server.user.as_deref(),
        ];
        server
            .password
            .as_ref()
            .map(|password| passfile::line(fields, password))
    };
    servers.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn given(root: &str, environment: &[(&str, &str)], dir: &Path) -> (Vec<String>, Option<String>) {
        let paths = SearchPaths::new([("/", "/srv"), ("/{town}", root)]).unwrap();
        let variables = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let given = worker_variables(&paths, variables, dir, None).unwrap();
        let names = given
            .iter()
            .map(|(name, _)| name.to_str().unwrap().to_owned())
            .collect();
        let file = given
            .iter()
            .find(|(name, _)| name == "PGPASSFILE")
            .map(|(_, file)| file.clone());
        (names, file.and_then(|file| fs::read_to_string(file).ok()))
    }

    #[test]
    fn without_a_password_in_a_search_path_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let environment = [("PGPASSWORD", "x"), ("PATH", "/bin")];
        let (names, file) = given("postgresql://ann@db/?dbname=gis", &environment, dir.path());
        assert_eq!((names, file), (vec!["PGPASSWORD".into(), "PATH".into()], None));
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_password_goes_into_a_file_of_the_workers_own_beside_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        fs::write(&own, "other:*:*:bob:kept\n").unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
        let environment = [("PGPASSFILE", own.to_str().unwrap()), ("HOME", "/nowhere")];
        let root = "postgresql://ann:s3c%3Aret@db:5433/?dbname=gis_{town}";
        for _ in 0..2 {
            let (names, file) = given(root, &environment, dir.path());
            assert_eq!(names, ["HOME", "PGPASSFILE"]);
            assert_eq!(file.unwrap(), "db:5433:*:ann:s3c\\:ret\nother:*:*:bob:kept\n");
        }
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // One that libpq would not take is not taken here either.
        fs::set_permissions(&own, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            given(root, &environment, dir.path()).1.unwrap(),
            "db:5433:*:ann:s3c\\:ret\n"
        );
    }

    #[test]
    fn a_password_for_all_does_not_go_over_the_one_of_a_search_path() {
        let dir = tempfile::tempdir().unwrap();
        let (names, file) = given(
            "postgresql://ann:own@db/?dbname=gis",
            &[("PGPASSWORD", "all")],
            dir.path(),
        );
        assert_eq!(
            (names, file.unwrap()),
            (
                vec!["PGPASSFILE".to_owned()],
                "db:*:gis:ann:own\n*:*:*:*:all\n".to_owned()
            )
        );
    }
}
