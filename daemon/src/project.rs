//! A project's name as clients write it, checked and in one spelling: the same in agents and in the control plane.
//!
//! A name is refused, not repaired, when it could mean something else to a file system, to a proxy or to a reader:
//! parent directories, hidden files, backslashes, control and invisible characters, characters that only look like a
//! dot or a slash, and anything that is still percent-encoded after decoding.

use std::fmt;

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

    /// The suffix of a file's name, in small letters.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Qgs, Self::Qgz]
            .into_iter()
            .find(|suffix| name.ends_with(suffix.as_str()))
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
        let suffix = Suffix::of(&key);
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

    /// The parts between slashes, without suffix.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
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

/// Checks each character of a name.
///
/// # Errors
/// Says which rule it breaks.
pub fn check_characters(name: &str) -> Result<(), NameError> {
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

/// Checks one segment of a name.
///
/// # Errors
/// Says which rule it breaks.
pub fn check_segment(segment: &str) -> Result<(), NameError> {
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
