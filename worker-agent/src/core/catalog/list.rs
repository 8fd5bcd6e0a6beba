//! From what storages list to one page of it.

use std::time::SystemTime;

use super::query::ListQuery;
use crate::core::locate::{ProjectName, Suffix};

/// A project as the catalog shows it before anybody has opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As clients name it.
    pub id: String,
    /// Its name without the folders.
    pub title: String,
    /// The search path that it lies under.
    pub location: String,
    /// `directory`, or the scheme of the store.
    pub storage: String,
    /// When it was last changed, where the storage knows.
    pub modified: Option<SystemTime>,
    /// The size of the project itself in bytes, where the storage knows.
    pub bytes: Option<u64>,
    suffix: Option<Suffix>,
}

/// A location whose storage does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The search path.
    pub location: String,
    /// What the storage said; no secrets.
    pub problem: String,
}

/// All that storages listed at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By id.
    pub entries: Vec<Entry>,
    /// By location.
    pub problems: Vec<Problem>,
    /// When it was begun.
    pub taken: SystemTime,
}

/// The entry of a project that a storage lists below `location`, and its name; none when no request can name it.
#[must_use]
pub fn entry(
    (location, storage): (&str, &str),
    (relative, suffix): (&str, Option<Suffix>),
    modified: Option<SystemTime>,
    bytes: Option<u64>,
) -> Option<(ProjectName, Entry)> {
    let plain = format!("{}/{relative}", location.trim_end_matches('/'));
    let mut name = ProjectName::parse(&plain).ok()?;
    // A file `a.qgs.qgs`: without its own suffix the name would be taken for that of `a.qgs`.
    if name.suffix().is_some() {
        name = ProjectName::parse(&format!("{plain}{}", suffix?.as_str())).ok()?;
    }
    let id = name.to_string();
    let title = id.rsplit('/').next().unwrap_or_default().to_owned();
    let entry = Entry {
        id,
        title,
        location: location.to_owned(),
        storage: storage.to_owned(),
        modified,
        bytes,
        suffix,
    };
    Some((name, entry))
}

/// By id, each once: of `a.qgs` and `a.qgz` the one that a request gets.
#[must_use]
pub fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable_by(|a, b| (&a.id, a.suffix).cmp(&(&b.id, b.suffix)));
    entries.dedup_by(|later, earlier| later.id == earlier.id);
    entries
}

/// Locations that are not shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hidden(Vec<String>);

impl Hidden {
    /// Everything that lies at or below one of `prefixes`.
    #[must_use]
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Self {
        let whole = |prefix: &str| prefix.trim_end_matches('/').to_owned();
        Self(prefixes.into_iter().map(whole).collect())
    }

    /// Whether a project or location is not to be shown.
    #[must_use]
    pub fn hides(&self, name: &str) -> bool {
        self.0.iter().any(|prefix| lies_under(name, prefix))
    }
}

/// Whether `name` is `prefix` or lies below it. An empty prefix takes everything.
fn lies_under(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// One page.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection<'a> {
    /// The projects of the page.
    pub entries: Vec<&'a Entry>,
    /// Locations that do not answer, of those that were asked for.
    pub problems: Vec<&'a Problem>,
    /// How many projects there are on all pages.
    pub matched: usize,
    /// Where the next page begins, if there is one.
    pub next: Option<usize>,
    /// Where the page before begins, if there is one; the last page for an offset beyond the end.
    pub previous: Option<usize>,
}

/// The page that `query` asks for.
#[must_use]
pub fn select<'a>(snapshot: &'a Snapshot, hidden: &Hidden, query: &ListQuery) -> Selection<'a> {
    let wanted = query.text.to_lowercase();
    let found: Vec<&Entry> = snapshot
        .entries
        .iter()
        .filter(|entry| lies_under(&entry.id, &query.location))
        .filter(|entry| wanted.is_empty() || entry.id.to_lowercase().contains(&wanted))
        .filter(|entry| !hidden.hides(&entry.id))
        .collect();
    let matched = found.len();
    let end = query.offset.saturating_add(query.limit);
    let previous = match query.offset {
        0 => None,
        offset if offset >= matched => Some(matched.saturating_sub(1) / query.limit * query.limit),
        offset => Some(offset.saturating_sub(query.limit)),
    };
    let concerned = |problem: &&Problem| {
        let location = problem.location.trim_end_matches('/');
        let asked = lies_under(location, &query.location) || lies_under(&query.location, location);
        asked && !hidden.hides(location)
    };
    Selection {
        entries: found.into_iter().skip(query.offset).take(query.limit).collect(),
        problems: snapshot.problems.iter().filter(concerned).collect(),
        matched,
        next: Some(end).filter(|end| *end < matched),
        previous,
    }
}
