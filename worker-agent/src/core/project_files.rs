//! Which files a project names that lie beside it: what has to be fetched so that a copy of it works elsewhere.
//!
//! QGIS writes such a file as a path that begins with `./` or `../`, wherever it stands: in a data source, in a symbol, in a
//! layout. So every such path counts, and a name that is no file costs one look in vain. Only data sources may be plain
//! relative paths too. Absolute paths, URLs and databases are not meant. Pure: the text of the project comes in, names come out.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{Read, Seek};

use percent_encoding::percent_decode_str;
use quick_xml::Reader;
use quick_xml::escape::{resolve_predefined_entity, unescape};
use quick_xml::events::Event;

/// The most files a project may name, those that belong to them included.
pub const MOST_FILES: usize = 5000;

/// The largest project text, unpacked, in bytes.
pub const LARGEST_TEXT: u64 = 256 << 20;

/// A longer text or attribute is no path with what belongs to it; a layer's filter may be long.
const LONGEST_VALUE: usize = 64 * 1024;

/// The longest path.
const LONGEST_PATH: usize = 1024;

/// Why the files of a project cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// QGIS could not read it either.
    #[error("the project is no XML that can be read: {0}")]
    Malformed(String),
    /// A `.qgz` without a project, or no zip archive at all.
    #[error("the project cannot be unpacked: {0}")]
    Archive(String),
    /// It would fill the memory.
    #[error("the project is larger than {LARGEST_TEXT} bytes, unpacked")]
    TooLarge,
    /// It would take as many looks at each look.
    #[error("the project names more than {MOST_FILES} files; put its data into fewer, such as one GeoPackage")]
    TooMany,
}

/// The files of a project, by their paths below the fence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// What may be there: named, or belonging to what is named.
    pub wanted: BTreeSet<String>,
    /// As written, what lies above the fence.
    pub outside: BTreeSet<String>,
}

/// The files that a project in `folder` names; `folder` is relative to the fence, empty or with a slash at its end. `name` is
/// its file's name, which files of its own are called after.
///
/// # Errors
/// When the text cannot be read, or names too many.
pub fn of_project(text: &str, folder: &str, name: &str) -> Result<Files, FilesError> {
    let mut files = Files::default();
    for path in named(text)? {
        match resolve(folder, &path) {
            Some(path) => {
                files.wanted.extend(companions(&path));
                files.wanted.insert(path);
            }
            None => drop(files.outside.insert(path)),
        }
        if files.wanted.len() + files.outside.len() > MOST_FILES {
            return Err(FilesError::TooMany);
        }
    }
    if let Some(stem) = name.strip_suffix(".qgs") {
        files.wanted.insert(format!("{folder}{stem}.qgd"));
        files.wanted.insert(format!("{folder}{stem}_attachments.zip"));
    }
    files.wanted.remove(&format!("{folder}{name}"));
    Ok(files)
}

/// The text of a project: a `.qgs` as it is, out of a `.qgz` what is in it.
///
/// # Errors
/// When it cannot be unpacked, is not UTF-8, or is too large.
pub fn text_of(mut file: impl Read + Seek, zipped: bool) -> Result<String, FilesError> {
    let mut text = String::new();
    let read = if zipped {
        let wrong = |error: zip::result::ZipError| FilesError::Archive(error.to_string());
        let mut archive = zip::ZipArchive::new(file).map_err(wrong)?;
        let name = {
            let mut names = archive.file_names().flatten();
            names
                .find(|name| name.ends_with(".qgs"))
                .map(std::borrow::Cow::into_owned)
        };
        let name = name.ok_or_else(|| FilesError::Archive("it has no .qgs in it".into()))?;
        let entry = archive.by_name(&name).map_err(wrong)?;
        // What the archive says of its size may be a lie.
        entry.take(LARGEST_TEXT + 1).read_to_string(&mut text)
    } else {
        file.by_ref().take(LARGEST_TEXT + 1).read_to_string(&mut text)
    };
    read.map_err(|error| match zipped {
        true => FilesError::Archive(error.to_string()),
        false => FilesError::Malformed(error.to_string()),
    })?;
    if text.len() as u64 > LARGEST_TEXT {
        return Err(FilesError::TooLarge);
    }
    Ok(text)
}

/// The relative paths that a project's text names, as written.
fn named(text: &str) -> Result<BTreeSet<String>, FilesError> {
    let mut reader = Reader::from_str(text.trim_start_matches('\u{FEFF}').trim_start());
    let mut paths = BTreeSet::new();
    // The text since the last tag: entities cut it into pieces.
    let mut value = String::new();
    let (mut depth, mut elements, mut in_source) = (0_usize, 0_usize, false);
    loop {
        let event = reader
            .read_event()
            .map_err(|error| FilesError::Malformed(error.to_string()))?;
        match &event {
            Event::Text(piece) => value.push_str(piece),
            Event::CData(piece) => value.push_str(piece),
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().ok().flatten();
                match character {
                    Some(character) => value.push(character),
                    None => value.push_str(resolve_predefined_entity(reference).unwrap_or_default()),
                }
            }
            Event::Start(start) | Event::Empty(start) => {
                for attribute in start.attributes().flatten() {
                    if let Ok(value) = unescape(&attribute.value) {
                        scan(&value, false, &mut paths);
                    }
                }
                scan(&value, false, &mut paths);
                value.clear();
                elements += 1;
                if matches!(event, Event::Start(_)) {
                    depth += 1;
                    in_source = start.local_name().as_ref() == "datasource";
                }
            }
            Event::End(_) => {
                scan(&value, in_source, &mut paths);
                value.clear();
                (depth, in_source) = (depth.saturating_sub(1), false);
            }
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
        if paths.len() > MOST_FILES {
            return Err(FilesError::TooMany);
        }
    }
    if depth > 0 || elements == 0 {
        return Err(FilesError::Malformed(
            "it ends before its outermost element does".into(),
        ));
    }
    Ok(paths)
}

/// Finds the relative paths in a text or an attribute.
fn scan(value: &str, is_source: bool, paths: &mut BTreeSet<String>) {
    let value = value.trim();
    if value.is_empty() || value.len() > LONGEST_VALUE {
        return;
    }
    let mut from = 0;
    while let Some(at) = value[from..].find("./").map(|at| from + at) {
        from = at + 2;
        let start = if value[..at].ends_with('.') { at - 1 } else { at };
        let before = &value[..start];
        let rest = &value[start..];
        let end = match before.chars().next_back() {
            // As `GPKG:./a.gpkg:table`, and as `file:./a.csv?type=csv`.
            Some(':') => rest.find(['|', '?', ':', '"', '\'', '&']),
            Some(quote @ ('"' | '\'')) => rest.find([quote, '|', '?']),
            Some('=') => rest.find(['&', ' ', '|', '?', '"', '\'']),
            Some('(' | ',') => rest.find(['|', '?', ')', ',', '"', '\'']),
            Some('/') if in_archive(before) => rest.find(['|', '?', '"', '\'']),
            None => rest.find(['|', '?', '"', '\n']),
            _ => continue,
        };
        let path = &rest[..end.unwrap_or(rest.len())];
        from = start + path.len().max(2);
        add(if in_archive(before) { archive(path) } else { path }, paths);
    }
    if is_source && !value.starts_with(['.', '/']) && paths_may_begin(value) {
        add(value.split('|').next().unwrap_or_default(), paths);
    }
}

/// Whether a data source without `./` can be a path: QGIS takes that for one beside the project.
fn paths_may_begin(source: &str) -> bool {
    let path = source.split('|').next().unwrap_or_default();
    let extension = path.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
    !path.contains([':', '=', '?', '\n', '\'', '"'])
        && extension
            .is_some_and(|(_, end)| (1..=10).contains(&end.len()) && end.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn add(path: &str, paths: &mut BTreeSet<String>) {
    let path = path.trim_end();
    // Some providers write a URL.
    let decoded = path.contains('%').then(|| percent_decode_str(path).decode_utf8_lossy());
    let both = std::iter::once(Cow::from(path)).chain(decoded);
    paths.extend(both.filter(|path| may_name_a_file(path)).map(Cow::into_owned));
}

/// A folder is no file, and a path that ends in dots neither.
fn may_name_a_file(path: &str) -> bool {
    path.len() <= LONGEST_PATH && !path.ends_with(['/', '.']) && !path.contains(['\\', '\0', '\n', '\r'])
}

fn in_archive(before: &str) -> bool {
    ["/vsizip/", "/vsigzip/", "/vsitar/"]
        .iter()
        .any(|prefix| before.ends_with(prefix))
}

/// The archive of a path that goes on inside it.
fn archive(path: &str) -> &str {
    [".zip", ".tar", ".tgz", ".gz", ".kmz"]
        .iter()
        .filter_map(|end| path.find(&format!("{end}/")).map(|at| at + end.len()))
        .min()
        .map_or(path, |end| &path[..end])
}

/// A path as seen from `folder`, from the fence on; nothing when it leads above the fence.
fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut steps: Vec<&str> = folder.split('/').filter(|step| !step.is_empty()).collect();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()?),
            step => steps.push(step),
        }
    }
    Some(steps.join("/"))
}

/// Files that belong to one of its kind, whether they are there or not.
fn companions(path: &str) -> Vec<String> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let Some((_, extension)) = name.rsplit_once('.') else {
        return Vec::new();
    };
    let stem = &path[..path.len() - extension.len() - 1];
    let beside = |ends: &[&str]| ends.iter().map(|end| format!("{stem}.{end}")).collect::<Vec<_>>();
    match extension.to_ascii_lowercase().as_str() {
        "shp" => beside(&["shx", "dbf", "prj", "cpg", "qix", "qml"]),
        "tab" => beside(&["dat", "map", "id", "ind"]),
        "mif" => beside(&["mid"]),
        "csv" => beside(&["csvt", "prj"]),
        "gml" => beside(&["gfs", "xsd"]),
        "tif" | "tiff" | "jpg" | "jpeg" | "png" | "jp2" | "asc" | "img" | "ecw" | "bil" | "gif" | "bmp" | "vrt" => {
            let mut files = beside(&["wld", "prj", "qml"]);
            let world: String = match (extension.chars().next(), extension.chars().next_back()) {
                (Some(first), Some(last)) => [first, last, 'w'].iter().collect(),
                _ => String::new(),
            };
            files.push(format!("{stem}.{world}"));
            files.extend([".aux.xml", ".ovr"].map(|end| format!("{path}{end}")));
            files
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "project_files_tests.rs"]
mod tests;
