//! Projects that QGIS keeps in a GeoPackage: rows of its table `qgis_projects`. QGIS opens them itself.
//!
//! The file is opened read-only, for each look anew, and closed at once: QGIS may write to it at any time. This process is not
//! one that workers are forked from, so closing the file here drops no lock of theirs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::turns::Turns;
use super::{Backend, Listed, Trouble};
use crate::core::locate::{At, Place};
use crate::core::message::{Begun, ProjectRef};
use crate::core::stored;

/// The URL scheme.
pub const SCHEME: &str = "geopackage";

/// More projects than this are not listed.
const MOST_LISTED: u32 = 100_000;

/// A writer keeps a GeoPackage for itself for moments only.
const PATIENCE: Duration = Duration::from_secs(2);

/// A search path into GeoPackages.
#[derive(Debug)]
pub struct GeoPackage {
    /// As configured; with dynamic segments it stands for many files.
    file: String,
    /// What projects are called there.
    template: Option<String>,
    /// The part of the path that no client can influence.
    fence: Option<PathBuf>,
    believed_for: Duration,
    turns: Turns,
}

/// A URL taken apart: the file, and what the project is called in it.
fn parse(url: &str) -> Result<(String, Option<String>), String> {
    let rest = url.strip_prefix("geopackage:").unwrap_or(url);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        return Err("is not absolute; write geopackage:/srv/maps/all.gpkg".into());
    }
    let mut project = None;
    for (name, value) in stored::pairs(query) {
        match name.as_str() {
            "projectName" if !value.is_empty() => project = Some(value),
            "projectName" => return Err("has an empty `projectName`; give it a value, or leave it out".into()),
            _ => return Err(format!("has the unknown parameter `{name}`; known is projectName")),
        }
    }
    Ok((stored::decoded(path), project))
}

impl GeoPackage {
    /// The search path with this URL.
    ///
    /// # Errors
    /// What is wrong with it and what to change.
    pub fn new(url: &str, believed_for: Duration) -> Result<Self, String> {
        let (file, template) = parse(url)?;
        if let Some(template) = &template {
            stored::check_template("projectName", template)?;
        }
        let fence = file.split_once('{').map(|(before, _)| {
            let directory = before.rsplit_once('/').map_or("/", |(directory, _)| directory);
            PathBuf::from(if directory.is_empty() { "/" } else { directory })
        });
        Ok(Self {
            file,
            template,
            fence,
            believed_for,
            turns: Turns::default(),
        })
    }
}

#[tonic::async_trait]
impl Backend for GeoPackage {
    async fn look(&self, place: &Place) -> Result<ProjectRef, Trouble> {
        let At::Store(url) = &place.at else {
            return Err(Trouble::Missing);
        };
        let (file, project) = parse(url).map_err(Trouble::Unusable)?;
        let rows = stored::rows(project.as_deref().unwrap_or(&place.relative), place.suffix);
        let fence = self.fence.clone();
        let look = move || look(Path::new(&file), fence.as_deref(), &rows);
        self.turns.take(look).await
    }

    async fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let (file, template) = (PathBuf::from(&self.file), self.template.clone());
        self.turns.take(move || list(&file, template.as_deref())).await
    }

    fn believed_for(&self) -> Option<Duration> {
        Some(self.believed_for)
    }
}

fn look(file: &Path, fence: Option<&Path>, rows: &[String]) -> Result<ProjectRef, Trouble> {
    let file = inside(file, fence)?;
    let path = file
        .to_str()
        .ok_or_else(|| Trouble::Unusable("its path is not UTF-8; rename the directory".into()))?;
    let uri_of_file = stored::value(path).map_err(Trouble::Unusable)?;
    let found = ask(&file, |connection| {
        let sql = "SELECT rowid, metadata, octet_length(content) FROM qgis_projects WHERE name = ?1";
        let mut statement = connection.prepare(sql)?;
        for name in rows {
            let mut found = statement.query([name])?;
            if let Some(row) = found.next()? {
                let (id, length): (i64, Option<i64>) = (row.get(0)?, row.get(2)?);
                let written = written(row.get_ref(1)?);
                let parts = [
                    written.unwrap_or_default(),
                    id.to_string(),
                    length.unwrap_or_default().to_string(),
                ];
                return Ok(Some((name, stored::version(&parts.each_ref().map(String::as_str)))));
            }
        }
        Ok(None)
    });
    let (name, version) = found?.flatten().ok_or(Trouble::Missing)?;
    let project = stored::value(name).map_err(Trouble::Unusable)?;
    Ok(ProjectRef {
        uri: format!("geopackage:{uri_of_file}?projectName={project}"),
        version,
        file: None,
        begun: Begun::default(),
    })
}

fn list(file: &Path, template: Option<&str>) -> Result<Vec<Listed>, Trouble> {
    let file = inside(file, None)?;
    let found = ask(&file, |connection| {
        let sql = "SELECT name, metadata, octet_length(content) FROM qgis_projects ORDER BY name LIMIT ?1";
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([MOST_LISTED + 1], |row| {
            let (name, bytes): (String, Option<i64>) = (row.get(0)?, row.get(2)?);
            Ok((
                name,
                written(row.get_ref(1)?),
                bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            ))
        })?;
        rows.collect::<Result<Vec<_>, _>>()
    })?;
    let rows = found.unwrap_or_default();
    if rows.len() > MOST_LISTED as usize {
        return Err(Trouble::Unusable(format!("it has more than {MOST_LISTED} projects")));
    }
    let listed = |(name, written, bytes): (String, Option<String>, Option<u64>)| {
        let (relative, suffix) = stored::listed(template, &name)?;
        Some(Listed {
            relative,
            suffix,
            modified: written.as_deref().and_then(stored::written),
            // QGIS writes each byte as two digits.
            bytes: bytes.map(|digits| digits / 2),
        })
    };
    Ok(rows.into_iter().filter_map(listed).collect())
}

/// The file with links resolved, which must lie under the fence.
fn inside(file: &Path, fence: Option<&Path>) -> Result<PathBuf, Trouble> {
    let real = match file.canonicalize() {
        Ok(real) => real,
        // A client chose it.
        Err(error)
            if fence.is_some() && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            let fence = fence.map_or(Ok(PathBuf::new()), Path::canonicalize);
            fence.map_err(|error| down(file, &error))?;
            return Err(Trouble::Missing);
        }
        Err(error) => return Err(down(file, &error)),
    };
    if let Some(fence) = fence {
        let fence = fence.canonicalize().map_err(|error| down(fence, &error))?;
        if !real.starts_with(&fence) {
            return Err(Trouble::Outside);
        }
    }
    Ok(real)
}

fn down(file: &Path, error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Down(format!("{}: {error}", file.display()))
}

/// Asks the file; none when it has no table of projects.
fn ask<T>(file: &Path, question: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<Option<T>, Trouble> {
    let asked = open(file, "mode=ro").and_then(|connection| question(&connection));
    let asked = match asked {
        // A write-ahead log that was left in a directory which may not be written: nobody can be writing there.
        Err(error)
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
            ) =>
        {
            open(file, "immutable=1").and_then(|connection| question(&connection))
        }
        asked => asked,
    };
    match asked {
        Ok(answer) => Ok(Some(answer)),
        Err(rusqlite::Error::SqlInputError { msg, .. }) if msg.starts_with("no such table: qgis_projects") => Ok(None),
        Err(rusqlite::Error::SqliteFailure(_, Some(text))) if text.starts_with("no such table: qgis_projects") => {
            Ok(None)
        }
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            Err(Trouble::Unusable(format!("{} is no GeoPackage", file.display())))
        }
        Err(error) => Err(down(file, &error)),
    }
}

fn open(file: &Path, how: &str) -> rusqlite::Result<Connection> {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

    let path = file.to_string_lossy();
    let uri = format!("file:{}?{how}", utf8_percent_encode(&path, NON_ALPHANUMERIC));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(PATIENCE)?;
    Ok(connection)
}

/// When a row was written, by its metadata: JSON, as text or as bytes.
fn written(metadata: rusqlite::types::ValueRef<'_>) -> Option<String> {
    let bytes = metadata.as_bytes_or_null().ok()??;
    let metadata: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    metadata["last_modified_time"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::adapters::storage::{Storage, StorageError, Surroundings};
    use crate::core::locate::{ProjectName, SearchPaths, Suffix};

    fn put(file: &Path, name: &str, time: &str, content: &str) {
        let connection = Connection::open(file).unwrap();
        let table = "CREATE TABLE IF NOT EXISTS qgis_projects(name TEXT PRIMARY KEY, metadata BLOB, content BLOB)";
        connection.execute(table, []).unwrap();
        let metadata = format!(r#"{{"last_modified_time": "{time}", "last_modified_user": "ann" }}"#);
        let write = "INSERT INTO qgis_projects VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET metadata = ?2, content = ?3";
        connection.execute(write, [name, &metadata, content]).unwrap();
    }

    fn storage(location: &str, root: &str) -> Storage {
        let paths = SearchPaths::new([(location, root)]).unwrap();
        Storage::new(paths, &crate::config::Storage::default(), &Surroundings::default()).unwrap()
    }

    async fn find(storage: &Storage, name: &str) -> Result<ProjectRef, StorageError> {
        storage.find_now(&ProjectName::parse(name).unwrap()).await
    }

    #[tokio::test]
    async fn a_project_is_found_by_its_row_and_a_change_makes_another_version() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().canonicalize().unwrap().join("all maps.gpkg");
        put(&file, "roads", "2026-11-22T12:00:00", "abcd");
        put(&file, "town/a & b.qgz", "2026-11-22T12:00:00", "abcd");
        let storage = storage("/", &format!("geopackage:{}", file.display()));
        let roads = find(&storage, "/roads").await.unwrap();
        let path = file.to_str().unwrap().replace(' ', "%20");
        assert_eq!(roads.uri, format!("geopackage:{path}?projectName=roads"));
        assert_eq!(roads.version, "2026-11-22T12:00:00-1-4");
        let town = find(&storage, "/town/a & b").await.unwrap();
        assert!(town.uri.ends_with("?projectName=town/a%20%26%20b.qgz"), "{}", town.uri);
        assert_eq!(find(&storage, "/town/a & b.qgz").await.unwrap(), town);
        // The row has no suffix, so nobody gets it by one.
        assert!(matches!(
            find(&storage, "/roads.qgs").await,
            Err(StorageError::Missing { .. })
        ));
        // Another row, or another table, changes nothing of this one.
        put(&file, "other", "2026-11-22T13:00:00", "abcd");
        assert_eq!(find(&storage, "/roads").await.unwrap(), roads);
        put(&file, "roads", "2026-11-22T13:00:00", "abcd");
        assert_ne!(find(&storage, "/roads").await.unwrap().version, roads.version);
        let mut listed = storage.list("/").await.unwrap();
        listed.sort_by(|one, other| one.relative.cmp(&other.relative));
        let names: Vec<_> = listed
            .iter()
            .map(|listed| (listed.relative.as_str(), listed.suffix))
            .collect();
        assert_eq!(
            names,
            [("other", None), ("roads", None), ("town/a & b", Some(Suffix::Qgz))]
        );
        assert_eq!(listed[0].bytes, Some(2));
        assert!(listed[0].modified.is_some());
    }

    #[tokio::test]
    async fn one_that_is_written_to_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("all.gpkg");
        put(&file, "roads", "1", "abcd");
        let writer = Connection::open(&file).unwrap();
        writer.query_row("PRAGMA journal_mode = wal", [], |_| Ok(())).unwrap();
        writer
            .execute_batch("CREATE TABLE edits(x); BEGIN; INSERT INTO edits VALUES (1)")
            .unwrap();
        let storage = storage("/", &format!("geopackage:{}?projectName={{path}}", file.display()));
        assert!(find(&storage, "/roads").await.is_ok());
        writer.execute_batch("COMMIT").unwrap();
        assert_eq!(find(&storage, "/roads").await.unwrap().version, "1-1-4");
        // Reading has not taken the log away from the writer.
        writer.execute_batch("INSERT INTO edits VALUES (2)").unwrap();
        assert!(find(&storage, "/roads").await.is_ok());
    }

    #[tokio::test]
    async fn dynamic_segments_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let maps = dir.path().join("maps");
        fs::create_dir(&maps).unwrap();
        put(&maps.join("bern.gpkg"), "roads", "1", "x");
        put(&dir.path().join("secret.gpkg"), "roads", "1", "x");
        symlink(dir.path().join("secret.gpkg"), maps.join("link.gpkg")).unwrap();
        let storage = storage("/{town}", &format!("geopackage:{}/{{town}}.gpkg", maps.display()));
        assert!(find(&storage, "/bern/roads").await.is_ok());
        assert!(matches!(
            find(&storage, "/link/roads").await,
            Err(StorageError::Outside(_))
        ));
        assert!(matches!(
            find(&storage, "/nowhere/roads").await,
            Err(StorageError::Missing { .. })
        ));
        fs::rename(&maps, dir.path().join("away")).unwrap();
        assert!(matches!(
            find(&storage, "/other/roads").await,
            Err(StorageError::Unavailable { .. })
        ));
    }

    #[tokio::test]
    async fn what_is_no_such_file_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("text.gpkg"),
            "not a database, but long enough to look like one",
        )
        .unwrap();
        put(&dir.path().join("empty.gpkg"), "x", "1", "x");
        Connection::open(dir.path().join("empty.gpkg"))
            .unwrap()
            .execute("DROP TABLE qgis_projects", [])
            .unwrap();
        let of = |file: &str| storage("/", &format!("geopackage:{}/{file}", dir.path().display()));
        let said = |error: StorageError| error.to_string();
        assert!(said(find(&of("text.gpkg"), "/x").await.unwrap_err()).contains("is no GeoPackage"));
        assert!(said(find(&of("none.gpkg"), "/x").await.unwrap_err()).contains("none.gpkg: No such file"));
        assert!(matches!(
            find(&of("empty.gpkg"), "/x").await,
            Err(StorageError::Missing { .. })
        ));
    }

    #[test]
    fn mistakes_in_the_url_are_named() {
        for (url, says) in [
            ("geopackage:all.gpkg", "not absolute"),
            ("geopackage:/all.gpkg?projectName=", "empty"),
            ("geopackage:/all.gpkg?projectName=x", "{path}"),
            ("geopackage:/all.gpkg?project={path}", "`project`"),
        ] {
            let error = GeoPackage::new(url, PATIENCE).expect_err(url);
            assert!(error.contains(says), "{url}: {error}");
        }
    }
}
