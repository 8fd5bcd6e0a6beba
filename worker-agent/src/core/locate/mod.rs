//! From a project as clients name it to where it is stored.
//!
//! Pure: names are checked and joined, nothing is opened. The adapter that opens what comes out of here still has to
//! resolve symbolic links and see that the result lies under [`Candidates::fence`].
//!
//! [`graticule_daemon::project`] knows what a project may be called; here a name meets the search paths.

use std::collections::BTreeMap;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::redact;
pub use graticule_daemon::project::{MAX_NAME, MAX_SEGMENT, NameError, ProjectName, Suffix};
use graticule_daemon::project::{check_characters, check_segment};

/// In the URL of a store, stands for the project's name below the location.
const PATH: &str = "path";

/// What stays as it is in a URL: unreserved characters, and the slash for the reader's sake.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A segment of a location: fixed text, or `{name}`, which takes any one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Fixed(String),
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SearchPath {
    location: String,
    steps: Vec<Step>,
    root: Root,
}

/// What stands behind a location, dynamic segments not filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A local directory, from the root of the file system.
    Directory(String),
    /// The URL of another store, such as `s3://bucket/prefix` or `postgresql://host/?dbname=gis&schema=maps`.
    Store(String),
}

impl Root {
    /// As configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Directory(text) | Self::Store(text) => text,
        }
    }

    /// A store's scheme, in small letters: what stands before the colon.
    #[must_use]
    pub fn scheme(&self) -> Option<&str> {
        match self {
            Self::Directory(_) => None,
            Self::Store(url) => url.split_once(':').map(|(scheme, _)| scheme),
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(path) = text.strip_prefix("file://") {
            return Self::parse(path);
        }
        if text.starts_with('/') {
            return Ok(Self::Directory(text.to_owned()));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err("is not absolute; write it from the root of the file system, or as a URL");
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | '_');
        if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.chars().all(plain) {
            return Err("has no scheme of small letters before its colon");
        }
        // Whom to speak to is the operator's to say, not a client's.
        let authority = rest.strip_prefix("//").map(|rest| rest.split(['/', '?']).next());
        if authority.flatten().is_some_and(|authority| authority.contains('{')) {
            return Err("has a dynamic segment in its host; a client may not choose that");
        }
        Ok(Self::Store(text.to_owned()))
    }
}

/// The public locations and what stands behind them, the longest location first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchPaths(Vec<SearchPath>);

/// A mistake in the configured search paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchPathError {
    /// A location that is not a path of plain segments and `{name}` segments.
    #[error("search path '{location}': {problem}")]
    Location {
        /// The location as configured.
        location: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A root that names a segment which its location does not have, or is neither absolute nor a URL.
    #[error("search path '{location}': '{root}' {problem}")]
    Root {
        /// The location as configured.
        location: String,
        /// The root as configured, but for a password in it.
        root: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl SearchPathError {
    /// The location as configured.
    #[must_use]
    pub fn location(&self) -> &str {
        match self {
            Self::Location { location, .. } | Self::Root { location, .. } => location,
        }
    }
}

/// Where a project may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The location that took the name, as configured.
    pub location: String,
    /// The name below the location, without suffix, such as `public/roads`.
    pub relative: String,
    /// The file type that the client asked for by name.
    pub suffix: Option<Suffix>,
    /// What stands behind the location, with dynamic segments filled in.
    pub at: At,
}

/// What stands behind a location, for one project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// A local directory.
    Directory(Candidates),
    /// Another store, by its URL. Dynamic segments and `{path}` are filled in, percent-encoded but for slashes.
    Store(String),
}

/// Where in a local directory a project may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The directory, with dynamic segments filled in.
    pub root: PathBuf,
    /// The part of the directory that no client can influence: what is opened must lie under it, links resolved.
    pub fence: PathBuf,
    /// The files to look for, in this order: the one whose suffix the client wrote, else `.qgs`, then `.qgz`.
    pub files: Vec<PathBuf>,
}

/// No search path holds the project.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the project '{project}' is outside every search path")]
pub struct LocateError {
    /// The project's name.
    pub project: String,
}

impl SearchPaths {
    /// Orders the search paths: more segments first, and a fixed segment before a dynamic one.
    ///
    /// A location such as `/maps/{user}/{theme}` takes any segment for each name, and its root may use the names:
    /// `/srv/{user}/themes/{theme}`.
    ///
    /// # Errors
    /// Names the location and what to change.
    pub fn new<I, L, R>(map: I) -> Result<Self, SearchPathError>
    where
        I: IntoIterator<Item = (L, R)>,
        L: Into<String>,
        R: Into<String>,
    {
        let mut paths = map
            .into_iter()
            .map(|(location, root)| SearchPath::new(location.into(), &root.into()))
            .collect::<Result<Vec<_>, _>>()?;
        paths.sort_by_key(|path| {
            let dynamic: Vec<bool> = path.steps.iter().map(|step| matches!(step, Step::Named(_))).collect();
            (std::cmp::Reverse(path.steps.len()), dynamic, path.location.clone())
        });
        Ok(Self(paths))
    }

    /// The configured pairs of location and root, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Root)> {
        self.0.iter().map(|path| (path.location.as_str(), &path.root))
    }

    /// Where `name` may lie: at the first location that takes it and leaves something to look for.
    ///
    /// # Errors
    /// When no location does.
    pub fn locate(&self, name: &ProjectName) -> Result<Place, LocateError> {
        self.0
            .iter()
            .find_map(|path| path.place(name))
            .ok_or_else(|| LocateError {
                project: name.to_string(),
            })
    }
}

/// Where `name` lies when it is taken for a path of this machine's file system.
#[must_use]
pub fn direct(name: &ProjectName) -> Place {
    let relative = name.key().trim_start_matches('/').to_owned();
    Place {
        location: "the file system".into(),
        at: At::Directory(candidates("/", &BTreeMap::new(), &relative, name.suffix())),
        suffix: name.suffix(),
        relative,
    }
}

impl SearchPath {
    fn new(location: String, root: &str) -> Result<Self, SearchPathError> {
        let bad = |problem: String| SearchPathError::Location {
            location: location.clone(),
            problem,
        };
        if !location.starts_with('/') {
            return Err(bad("start it with '/'".to_owned()));
        }
        let mut steps = Vec::new();
        for segment in location.split('/').filter(|segment| !segment.is_empty()) {
            if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return Err(bad(format!(
                        "'{segment}' needs a name of letters, digits and '_' within the braces"
                    )));
                }
                if steps.contains(&Step::Named(name.to_owned())) {
                    return Err(bad(format!("'{segment}' stands in it twice")));
                }
                steps.push(Step::Named(name.to_owned()));
            } else {
                if segment.contains(['{', '}']) {
                    return Err(bad(format!(
                        "'{segment}' mixes braces and text; make the whole segment dynamic"
                    )));
                }
                check_characters(segment)
                    .and_then(|()| check_segment(segment))
                    .map_err(|error| bad(error.to_string()))?;
                steps.push(Step::Fixed(segment.to_owned()));
            }
        }
        let bad = |problem: String| SearchPathError::Root {
            location: location.clone(),
            root: redact::text(root),
            problem,
        };
        let parsed = Root::parse(root).map_err(|problem| bad(problem.to_owned()))?;
        for name in names_in(root) {
            let Some(name) = name else {
                return Err(bad("has an unclosed brace; close it".to_owned()));
            };
            let is_path = name == PATH && matches!(parsed, Root::Store(_));
            if !is_path && !steps.contains(&Step::Named(name.to_owned())) {
                return Err(bad(format!("uses {{{name}}}, which the location does not have")));
            }
        }
        Ok(Self {
            location,
            steps,
            root: parsed,
        })
    }

    fn place(&self, name: &ProjectName) -> Option<Place> {
        let mut segments = name.segments();
        let mut values = BTreeMap::new();
        for step in &self.steps {
            let segment = segments.next()?;
            match step {
                Step::Fixed(text) if text == segment => {}
                Step::Fixed(_) => return None,
                Step::Named(key) => {
                    values.insert(key.as_str(), segment);
                }
            }
        }
        let relative = segments.collect::<Vec<_>>().join("/");
        if relative.is_empty() {
            return None;
        }
        let at = match &self.root {
            Root::Directory(root) => At::Directory(candidates(root, &values, &relative, name.suffix())),
            Root::Store(url) => {
                values.entry(PATH).or_insert(&relative);
                let escape = |value: &str| utf8_percent_encode(value, ESCAPED).to_string();
                At::Store(fill(url, &values, escape))
            }
        };
        Some(Place {
            location: self.location.clone(),
            suffix: name.suffix(),
            at,
            relative,
        })
    }
}

fn candidates(root: &str, values: &BTreeMap<&str, &str>, relative: &str, suffix: Option<Suffix>) -> Candidates {
    let fence = match root.find('{') {
        Some(brace) => root[..brace].rsplit_once('/').map_or("/", |(before, _)| before),
        None => root,
    };
    let suffixes: &[Suffix] = match suffix {
        Some(Suffix::Qgs) => &[Suffix::Qgs],
        Some(Suffix::Qgz) => &[Suffix::Qgz],
        None => &[Suffix::Qgs, Suffix::Qgz],
    };
    let root = PathBuf::from(fill(root, values, str::to_owned));
    Candidates {
        fence: PathBuf::from(if fence.is_empty() { "/" } else { fence }),
        files: suffixes
            .iter()
            .map(|suffix| root.join(format!("{relative}{}", suffix.as_str())))
            .collect(),
        root,
    }
}

/// The root with each `{name}` replaced, in one pass, so that a client's segment is never taken for a name.
fn fill(root: &str, values: &BTreeMap<&str, &str>, written: impl Fn(&str) -> String) -> String {
    let mut pieces = root.split('{');
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once('}').unwrap_or((piece, ""));
        filled.push_str(&written(values.get(name).copied().unwrap_or_default()));
        filled.push_str(rest);
    }
    filled
}

/// The names within braces in a root; none for a brace that is not closed.
fn names_in(root: &str) -> impl Iterator<Item = Option<&str>> {
    root.split('{')
        .skip(1)
        .map(|rest| rest.split_once('}').map(|(name, _)| name))
}

#[cfg(test)]
mod tests;
