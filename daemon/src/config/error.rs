//! What is wrong with a configuration, said so that it can be put right.

use std::path::PathBuf;

use super::tree::join;

/// A configuration that cannot be used; the text says where and what to change.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file is not there, cannot be read, or is not written as its name says.
    #[error("configuration file {}: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system or the parser said.
        problem: String,
    },
    /// What a layer as a whole is wrong with.
    #[error("{origin}: {problem}")]
    Layer {
        /// File, variable, URL or command line.
        origin: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A key that no part of the tree has.
    #[error("{origin}: unknown key `{key}`{}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// File or variable.
        origin: String,
        /// The key with its path, joined by dots.
        key: String,
        /// The known key that is most alike, when one is.
        nearest: Option<String>,
    },
    /// A value of the wrong type or outside its range.
    #[error("{origin}: `{key}`: {problem}")]
    Invalid {
        /// File or variable.
        origin: String,
        /// The key with its path, joined by dots.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
}

/// What stands as the origin of an error that was found in the whole tree and not in one layer.
pub const WHOLE: &str = "configuration";

/// An unknown key, with the known one beside it that is most alike.
pub(super) fn unknown<'a>(
    origin: &str,
    path: &[String],
    siblings: impl IntoIterator<Item = &'a String>,
) -> ConfigError {
    let (last, parents) = path.split_last().expect("a key has a name");
    let nearest = nearest(last, siblings).map(|key| join(parents.iter().chain([key])));
    ConfigError::UnknownKey {
        origin: origin.to_owned(),
        key: join(path),
        nearest,
    }
}

/// The word that is most alike, if one is enough so to be meant.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
    words
        .into_iter()
        .map(|known| (distance(known, word), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 3)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance: how many letters must change to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let replaced = diagonal + usize::from(letter != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
