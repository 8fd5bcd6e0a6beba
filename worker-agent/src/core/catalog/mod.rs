//! The catalog: which projects there are, for people and programs, as data, JSON and HTML.
//!
//! Pure: what storages list and what a worker says of a project come in as values. It knows no worker and no socket; where
//! a document is shown is said by [`Links`].
//!
//! ```text
//! page_of(path) -> Option<Page>                      whether a path is the catalog's
//! ListQuery::parse, ProjectQuery::parse              what is asked for, or what to change
//! entry, sorted, select                              from listings to one page
//! list_json, list_html, project_json, project_html   the documents
//! preview_query(&Details) -> Option<String>          the map that shows a project
//! ```

mod clock;
mod details;
mod html;
mod json;
mod links;
mod list;
mod map;
mod query;

pub use clock::rfc3339;
pub use details::{Details, Layer};
pub use html::{CONTENT_SECURITY_POLICY, SCRIPT, STYLE, list_html, placeholder, project_html};
pub use json::{list_json, project_json};
pub use links::Links;
pub use list::{Entry, Hidden, Problem, Selection, Snapshot, entry, select, sorted};
pub use map::{PREVIEW_HEIGHT, PREVIEW_WIDTH, preview_query};
pub use query::{Form, ListQuery, Page, ProjectQuery, QueryError, page_of};

#[cfg(test)]
mod tests;
