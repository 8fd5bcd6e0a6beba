//! From a project as clients name it to the files that may hold it.
//!
//! Pure: names are checked and joined, nothing is opened. The adapter that opens what comes out of here still has to
//! resolve symbolic links and see that the result lies under [`Candidates::fence`].
//!
//! A name is refused, not repaired, when it could mean something else to a file system, to a proxy or to a reader:
//! parent directories, hidden files, backslashes, control and invisible characters, characters that only look like a
//! dot or a slash, and anything that is still percent-encoded after decoding.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The longest name in bytes, after decoding.
pub const MAX_NAME: usize = 1024;
/// The longest segment of a name in bytes; file systems rarely take more.
pub const MAX_SEGMENT: usize = 255;

/// A file type that QGIS projects have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suffix {
    /// `.qgs`, plain XML.
    Qgs,
    /// `.qgz`, zipped.
    Qgz,
}

impl Suffix {
    /// The suffix with its dot.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qgs => ".qgs",
            Self::Qgz => ".qgz",
        }
    }
}

/// A project's name, checked and in one spelling: one leading slash, single slashes between, none at the end.
///
/// `.qgs` or `.qgz` at the end (in small letters) is not part of the name: it is kept beside it as a wish for that very
/// file. So `world`, `/world` and `/world.qgs` share one [`key`](Self::key), and `/world.qgz` never opens `world.qgs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectName {
    key: String,
    suffix: Option<Suffix>,
}

impl ProjectName {
    /// Checks a name that has been percent-decoded once.
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.len() > MAX_NAME {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        check_characters(name)?;
        let mut key = String::with_capacity(name.len() + 1);
        for segment in name.split('/').filter(|segment| !segment.is_empty()) {
            check_segment(segment)?;
            key.push('/');
            key.push_str(segment);
        }
        if key.is_empty() {
            return Err(NameError::Empty);
        }
        // Again, with the slash that was added: a name that passes passes once more in its one spelling.
        if key.len() > MAX_NAME {
            return Err(NameError::TooLong { bytes: key.len() });
        }
        let suffix = [Suffix::Qgs, Suffix::Qgz]
            .into_iter()
            .find(|suffix| key.ends_with(suffix.as_str()));
        if let Some(suffix) = suffix {
            key.truncate(key.len() - suffix.as_str().len());
        }
        Ok(Self { key, suffix })
    }

    /// The name without its suffix, such as `/public/roads`: what logs, shares and metrics call the project.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The file type that the client asked for by name.
    #[must_use]
    pub fn suffix(&self) -> Option<Suffix> {
        self.suffix
    }

    /// The name with the suffix that the client wrote.
    #[must_use]
    pub fn spelled(&self) -> String {
        format!("{}{}", self.key, self.suffix.map_or("", Suffix::as_str))
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.key[1..].split('/')
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        f.write_str(self.suffix.map_or("", Suffix::as_str))
    }
}

/// Why a project name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but slashes.
    #[error("the project's name is empty")]
    Empty,
    /// Over [`MAX_NAME`].
    #[error("the project's name has {bytes} bytes, at most {MAX_NAME} are allowed")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Over [`MAX_SEGMENT`].
    #[error("a part of the project's name has {bytes} bytes, at most {MAX_SEGMENT} are allowed between two slashes")]
    SegmentTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// `.` or `..` as a segment.
    #[error("the project's name steps through '.' or '..'; name the project from the top")]
    Traversal,
    /// A segment that starts with a dot.
    #[error("the project's name has a part that starts with a dot; hidden files are never served")]
    Hidden,
    /// A backslash.
    #[error("the project's name has a backslash; separate with '/'")]
    Backslash,
    /// `%` and two hexadecimal digits after decoding.
    #[error("the project's name is still percent-encoded after decoding; encode it once")]
    Encoded,
    /// A control or invisible character, or bytes that are not UTF-8.
    #[error("the project's name has the character U+{code:04X}, which is invisible or not text")]
    Invisible {
        /// The character's code point.
        code: u32,
    },
    /// A character that looks like a dot or a slash.
    #[error("the project's name has the character U+{code:04X}, which only looks like a dot or a slash")]
    LookAlike {
        /// The character's code point.
        code: u32,
    },
    /// White space around a segment.
    #[error("a part of the project's name starts or ends with white space")]
    Blank,
}

impl NameError {
    /// Whether the name may be an attempt to reach what lies outside the search paths, and not a slip.
    #[must_use]
    pub fn leads_out(&self) -> bool {
        !matches!(
            self,
            Self::Empty | Self::TooLong { .. } | Self::SegmentTooLong { .. } | Self::Blank
        )
    }
}

fn check_characters(name: &str) -> Result<(), NameError> {
    let bytes = name.as_bytes();
    for (at, character) in name.char_indices() {
        let code = u32::from(character);
        match character {
            '\\' => return Err(NameError::Backslash),
            '%' if bytes[at + 1..]
                .iter()
                .take(2)
                .filter(|byte| byte.is_ascii_hexdigit())
                .count()
                == 2 =>
            {
                return Err(NameError::Encoded);
            }
            _ if is_invisible(character) => return Err(NameError::Invisible { code }),
            _ if is_look_alike(character) => return Err(NameError::LookAlike { code }),
            _ => {}
        }
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), NameError> {
    if segment == "." || segment == ".." {
        return Err(NameError::Traversal);
    }
    if segment.starts_with('.') {
        return Err(NameError::Hidden);
    }
    if segment.len() > MAX_SEGMENT {
        return Err(NameError::SegmentTooLong { bytes: segment.len() });
    }
    if segment.trim() != segment {
        return Err(NameError::Blank);
    }
    Ok(())
}

/// Controls, soft hyphen, zero-width and direction marks, line separators, byte order mark, variation selectors, tags,
/// and the replacement character that stands for bytes that were not UTF-8.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{180E}' | '\u{3164}' | '\u{FEFF}'
            | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FE00}'..='\u{FE0F}'
            | '\u{FFF0}'..='\u{FFFF}' | '\u{E0000}'..='\u{E0FFF}')
}

/// What some systems fold to `.`, `..`, `...`, `/`, `\` or `%`, and what readers take for them.
fn is_look_alike(character: char) -> bool {
    matches!(character,
        // dots
        '\u{2024}'..='\u{2026}' | '\u{3002}' | '\u{FE19}' | '\u{FE30}' | '\u{FE52}' | '\u{FF0E}' | '\u{FF61}'
        | '\u{0701}' | '\u{0702}' | '\u{A4F8}' | '\u{A60E}' | '\u{10A50}' | '\u{1D16D}'
        // slashes and backslashes
        | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{2571}' | '\u{2572}' | '\u{27CB}' | '\u{27CD}'
        | '\u{29F5}'..='\u{29F9}'
        | '\u{FE68}' | '\u{FF0F}' | '\u{FF3C}' | '\u{1735}' | '\u{3033}' | '\u{2CC6}' | '\u{2F03}' | '\u{1D23A}'
        // percent signs
        | '\u{FE6A}' | '\u{FF05}')
}

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
    root: String,
}

/// The public locations and the directories behind them, the longest location first.
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
    /// A root that names a segment which its location does not have, or is not absolute.
    #[error("search path '{location}': the directory '{root}' {problem}")]
    Root {
        /// The location as configured.
        location: String,
        /// The directory as configured.
        root: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where a project may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The location that took the name, as configured.
    pub location: String,
    /// Its directory, with dynamic segments filled in.
    pub root: PathBuf,
    /// The part of the directory that no client can influence: what is opened must lie under it, links resolved.
    pub fence: PathBuf,
    /// The name below the root, without suffix, such as `public/roads`.
    pub relative: PathBuf,
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
    /// A location such as `/maps/{user}/{theme}` takes any segment for each name, and its directory may use the names:
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
            .map(|(location, root)| SearchPath::new(location.into(), root.into()))
            .collect::<Result<Vec<_>, _>>()?;
        paths.sort_by_key(|path| {
            let dynamic: Vec<bool> = path.steps.iter().map(|step| matches!(step, Step::Named(_))).collect();
            (std::cmp::Reverse(path.steps.len()), dynamic, path.location.clone())
        });
        Ok(Self(paths))
    }

    /// The configured pairs of location and directory, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|path| (path.location.as_str(), path.root.as_str()))
    }

    /// The files that may hold `name`: of the first location that takes it and leaves something to look for.
    ///
    /// # Errors
    /// When no location does.
    pub fn locate(&self, name: &ProjectName) -> Result<Candidates, LocateError> {
        self.0
            .iter()
            .find_map(|path| path.candidates(name))
            .ok_or_else(|| LocateError {
                project: name.to_string(),
            })
    }
}

impl SearchPath {
    fn new(location: String, root: String) -> Result<Self, SearchPathError> {
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
            root: root.clone(),
            problem,
        };
        if !root.starts_with('/') {
            return Err(bad(
                "is not absolute; write it from the root of the file system".to_owned()
            ));
        }
        for name in names_in(&root) {
            let Some(name) = name else {
                return Err(bad("has an unclosed brace; close it".to_owned()));
            };
            if !steps.contains(&Step::Named(name.to_owned())) {
                return Err(bad(format!("uses {{{name}}}, which the location does not have")));
            }
        }
        Ok(Self { location, steps, root })
    }

    fn candidates(&self, name: &ProjectName) -> Option<Candidates> {
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
        let root = fill(&self.root, &values);
        let fence = match self.root.find('{') {
            Some(brace) => self.root[..brace].rsplit_once('/').map_or("/", |(before, _)| before),
            None => &self.root,
        };
        let suffixes: &[Suffix] = match name.suffix() {
            Some(Suffix::Qgs) => &[Suffix::Qgs],
            Some(Suffix::Qgz) => &[Suffix::Qgz],
            None => &[Suffix::Qgs, Suffix::Qgz],
        };
        let root = PathBuf::from(root);
        Some(Candidates {
            location: self.location.clone(),
            fence: PathBuf::from(if fence.is_empty() { "/" } else { fence }),
            files: suffixes
                .iter()
                .map(|suffix| root.join(format!("{relative}{}", suffix.as_str())))
                .collect(),
            relative: PathBuf::from(relative),
            root,
        })
    }
}

/// The directory with each `{name}` replaced, in one pass, so that a client's segment is never taken for a name.
fn fill(root: &str, values: &BTreeMap<&str, &str>) -> String {
    let mut pieces = root.split('{');
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once('}').unwrap_or((piece, ""));
        filled.push_str(values.get(name).copied().unwrap_or_default());
        filled.push_str(rest);
    }
    filled
}

/// The names within braces in a directory; none for a brace that is not closed.
fn names_in(root: &str) -> impl Iterator<Item = Option<&str>> {
    root.split('{')
        .skip(1)
        .map(|rest| rest.split_once('}').map(|(name, _)| name))
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
