//! What a request to the catalog asks for: which of its pages, of which projects, in which form.

use crate::core::locate::{NameError, ProjectName};

/// Projects on a page unless the client says otherwise.
const LIMIT: usize = 50;

/// The most projects on a page.
const MOST: usize = 1000;

/// What browsers append to get past caches.
const VOLATILE: &[&str] = &["_", "_dc", "_t", "_ts", "nocache"];

/// The pages of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Which projects there are.
    List,
    /// One project in detail.
    Project,
    /// A small map of one project.
    Preview,
    /// What makes the map of a project's page move.
    Script,
    /// How the pages look.
    Style,
}

impl Page {
    /// A short name, for logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Project => "project",
            Self::Preview => "preview",
            Self::Script => "script",
            Self::Style => "style",
        }
    }
}

/// The page at a path, if it is one of the catalog's. Projects are named below `/ows/` only, so none is hidden by it.
#[must_use]
pub fn page_of(path: &str) -> Option<Page> {
    Some(match path {
        "/catalog" | "/catalog/" => Page::List,
        "/catalog/project" => Page::Project,
        "/catalog/preview" => Page::Preview,
        "/catalog/map.js" => Page::Script,
        "/catalog/style.css" => Page::Style,
        _ => return None,
    })
}

/// The form of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For programs.
    Json,
    /// For people.
    Html,
}

/// Why a request cannot be answered. The text says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A parameter that the page does not have.
    #[error("the parameter '{name}' is unknown here; known are {known}")]
    Unknown {
        /// Its name.
        name: String,
        /// Those that there are.
        known: &'static str,
    },
    /// A value that cannot be meant.
    #[error("the parameter {name} has the value '{value}'; expected {expected}")]
    Value {
        /// Which.
        name: &'static str,
        /// What the client wrote, shortened.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// No project is named.
    #[error("no project is named; add MAP=/name to the query")]
    NoProject,
    /// Two different projects are named.
    #[error("the request names two projects; name one")]
    TwoProjects,
    /// A name that breaks a rule.
    #[error("{0}")]
    Name(#[from] NameError),
}

fn bad(name: &'static str, value: &str, expected: &'static str) -> QueryError {
    let value = value.chars().filter(|c| !c.is_control()).take(80).collect();
    QueryError::Value { name, value, expected }
}

/// The parameters that have a value, their names in small letters.
fn pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned()))
        .filter(|(name, value)| !value.trim().is_empty() && !VOLATILE.contains(&name.as_str()))
}

fn form(value: &str) -> Result<Form, QueryError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "json" => Ok(Form::Json),
        "html" => Ok(Form::Html),
        _ => Err(bad("f", value, "json or html")),
    }
}

/// The form that an `Accept` header prefers; JSON when it does not say.
fn accepted(accept: Option<&str>) -> Form {
    let weight = |wanted: &str| {
        let ranges = accept.unwrap_or_default().split(',');
        let weights = ranges.filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next()?.eq_ignore_ascii_case(wanted);
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse::<f64>().ok());
            named.then_some(weight.unwrap_or(1.0))
        });
        weights.fold(0.0, f64::max)
    };
    let html = weight("text/html").max(weight("application/xhtml+xml"));
    if html > weight("application/json") {
        Form::Html
    } else {
        Form::Json
    }
}

/// A request for the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Only projects at or below this, no slash at its end; empty for all.
    pub location: String,
    /// Only projects whose name has this in it, in any letter case; empty for all.
    pub text: String,
    /// The most projects on the page, from 1 to 1000.
    pub limit: usize,
    /// How many projects stand on the pages before.
    pub offset: usize,
    /// The form.
    pub form: Form,
}

impl ListQuery {
    /// The first page of what lies at or below `location`.
    #[must_use]
    pub fn of(location: &str) -> Self {
        Self {
            location: location.trim_end_matches('/').to_owned(),
            text: String::new(),
            limit: LIMIT,
            offset: 0,
            form: Form::Json,
        }
    }

    /// Reads the query and the `Accept` header.
    ///
    /// # Errors
    /// Says what to change.
    pub fn parse(query: Option<&str>, accept: Option<&str>) -> Result<Self, QueryError> {
        let mut read = Self {
            location: String::new(),
            text: String::new(),
            limit: LIMIT,
            offset: 0,
            form: accepted(accept),
        };
        for (name, value) in pairs(query) {
            match name.as_str() {
                "location" if !value.starts_with('/') => {
                    return Err(bad("location", &value, "a path from the top, such as /public"));
                }
                "location" => value.trim_end_matches('/').clone_into(&mut read.location),
                "q" => value.trim().clone_into(&mut read.text),
                "limit" => {
                    let limit = value.trim().parse().ok().filter(|limit| (1..=MOST).contains(limit));
                    read.limit = limit.ok_or_else(|| bad("limit", &value, "a whole number from 1 to 1000"))?;
                }
                "offset" => {
                    let offset = value
                        .trim()
                        .parse::<u32>()
                        .ok()
                        .and_then(|offset| offset.try_into().ok());
                    read.offset = offset.ok_or_else(|| bad("offset", &value, "a whole number from 0"))?;
                }
                "f" => read.form = form(&value)?,
                _ => {
                    return Err(QueryError::Unknown {
                        name: name.chars().filter(|c| !c.is_control()).take(80).collect(),
                        known: "location, q, limit, offset and f",
                    });
                }
            }
        }
        Ok(read)
    }
}

/// A request for one project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectQuery {
    /// Which.
    pub name: ProjectName,
    /// The form.
    pub form: Form,
}

impl ProjectQuery {
    /// Reads the query and the `Accept` header.
    ///
    /// # Errors
    /// Says what to change.
    pub fn parse(query: Option<&str>, accept: Option<&str>) -> Result<Self, QueryError> {
        let (mut found, mut wanted) = (None, accepted(accept));
        for (name, value) in pairs(query) {
            match name.as_str() {
                "map" => {
                    let name = ProjectName::parse(&value)?;
                    if found.replace(name.clone()).is_some_and(|before| before != name) {
                        return Err(QueryError::TwoProjects);
                    }
                }
                "f" => wanted = form(&value)?,
                _ => {
                    return Err(QueryError::Unknown {
                        name: name.chars().filter(|c| !c.is_control()).take(80).collect(),
                        known: "MAP and f",
                    });
                }
            }
        }
        let name = found.ok_or(QueryError::NoProject)?;
        Ok(Self { name, form: wanted })
    }
}
