//! The catalog over HTTP: which projects there are, and what they are, for people and programs.
//!
//! A request for one project goes to a worker like any other: it waits its turn, has a deadline, joins its like, and its
//! answer is kept. `ask` puts it there; the documents are made in [`crate::core::catalog`].

mod ask;
mod listing;
pub mod rpc;

use std::sync::Arc;

use graticule_daemon::config::ConfigError;
use graticule_daemon::current::Current;
use http::header::ACCEPT;
use http::{Method, StatusCode};

use self::listing::Listing;
use super::front::{Account, Front};
use super::told::{Asked, Told, ToldBody};
use crate::adapters::storage::Storage;
use crate::config;
use crate::core::catalog::{
    CONTENT_SECURITY_POLICY, Form, Hidden, Links, ListQuery, Page, ProjectQuery, QueryError, SCRIPT, STYLE, list_html,
    list_json, placeholder, project_html, project_json, select,
};
use crate::core::conditional::{etag, has_already};
use crate::core::ogc::{Dialect, Origin, Refusal, Refused};

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// What the catalog shows, and what it has seen; clones share it.
#[derive(Debug, Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shown: Current<Shown>,
    listing: Listing,
}

/// What clients may see.
#[derive(Debug)]
struct Shown {
    enabled: bool,
    previews: bool,
    hidden: Hidden,
}

impl Shown {
    fn new(config: &config::Catalog) -> Result<Self, ConfigError> {
        Ok(Self {
            enabled: config.enabled,
            previews: config.preview,
            hidden: config.hidden()?,
        })
    }
}

impl Catalog {
    /// The catalog of what `storage` holds.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(storage: Storage, config: &config::Catalog) -> Result<Self, ConfigError> {
        let inner = Inner {
            shown: Current::new(Shown::new(config)?),
            listing: Listing::new(storage),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Shows what this says from now on.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn adopt(&self, config: &config::Catalog) -> Result<(), ConfigError> {
        self.inner.shown.set(Shown::new(config)?);
        Ok(())
    }

    /// Whether clients may see it.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.inner.shown.get().enabled
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Name(error) => error.into(),
            other => Self::Malformed(other.to_string()),
        }
    }
}

impl Front {
    /// Answers a request for a page of the catalog.
    pub(super) async fn catalog(&self, asked: &Asked, page: Page, account: &mut Account) -> Result<Told, Refused> {
        account.service = "catalog";
        page.name().clone_into(&mut account.operation);
        self.catalog_page(asked, page, account).await.map_err(|reason| Refused {
            reason,
            dialect: Dialect::Json,
        })
    }

    async fn catalog_page(&self, asked: &Asked, page: Page, account: &mut Account) -> Result<Told, Refusal> {
        let shown = self.catalog.inner.shown.get();
        if !shown.enabled || (page == Page::Preview && !shown.previews) {
            let path = asked.path.clone();
            return Err(Refusal::NotFound { path });
        }
        if ![Method::GET, Method::HEAD].contains(&asked.method) {
            return Err(Refusal::MethodNotAllowed {
                method: asked.method.to_string(),
                allow: "GET, HEAD",
            });
        }
        let origin = Origin::from_headers(&asked.headers, asked.authority.as_deref(), "http")?;
        let query = asked.query.as_deref();
        let accept = asked.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        match page {
            Page::List => Ok(self.list(&ListQuery::parse(query, accept)?, &origin).await),
            Page::Project => {
                let wanted = ProjectQuery::parse(query, accept)?;
                self.project_page(asked, &wanted, &origin, account).await
            }
            Page::Preview => {
                let drawn = match ProjectQuery::parse(query, accept) {
                    Ok(wanted) => self.preview(asked, &wanted.name, &origin, account).await,
                    Err(error) => Err(error.into()),
                };
                Ok(drawn.unwrap_or_else(|reason| self.without_preview(reason, asked)))
            }
            Page::Script => Ok(tagged(asked, told("text/javascript; charset=utf-8", SCRIPT.to_owned()))),
            Page::Style => Ok(tagged(asked, told("text/css; charset=utf-8", STYLE.to_owned()))),
        }
    }

    async fn list(&self, query: &ListQuery, origin: &Origin) -> Told {
        let snapshot = self.catalog.inner.listing.snapshot().await;
        let shown = self.catalog.inner.shown.get();
        let selection = select(&snapshot, &shown.hidden, query);
        let mut told = match query.form {
            Form::Json => told(
                JSON,
                list_json(&snapshot, &selection, query, &Links::new(origin.base())),
            ),
            Form::Html => {
                let links = Links::new(origin.prefix.as_str());
                told(HTML, list_html(&snapshot, &selection, query, &links, shown.previews))
            }
        };
        told.headers.push(("vary".into(), "accept".into()));
        told
    }

    async fn project_page(
        &self,
        asked: &Asked,
        wanted: &ProjectQuery,
        origin: &Origin,
        account: &mut Account,
    ) -> Result<Told, Refusal> {
        self.is_shown(&wanted.name)?;
        let (details, given) = self.details(asked, &wanted.name, origin, account).await?;
        let id = wanted.name.spelled();
        let mut told = match wanted.form {
            Form::Json => told(JSON, project_json(&id, &details, &Links::new(origin.base()))),
            Form::Html => told(HTML, project_html(&id, &details, &Links::new(origin.prefix.as_str()))),
        };
        told.headers.push(("vary".into(), "accept".into()));
        told.headers.push(("x-graticule-cache".into(), given.into()));
        Ok(tagged(asked, told))
    }

    /// A picture that says that there is none, with the status and the advice of the refusal.
    fn without_preview(&self, reason: Refusal, asked: &Asked) -> Told {
        let words = match reason.status() {
            StatusCode::NOT_FOUND | StatusCode::GONE => "no such project",
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => "not now",
            _ => "cannot be shown",
        };
        let picture = placeholder(words, &reason.to_string());
        let mut refused = self.refuse(
            &Refused {
                reason,
                dialect: Dialect::Json,
            },
            &asked.id,
        );
        let advice = |name: &str| !name.starts_with("content-");
        refused.headers.retain(|(name, _)| advice(name));
        let picture = svg(picture);
        refused.headers.extend(picture.headers);
        refused.body = picture.body;
        refused
    }
}

/// A picture of the agent's own.
fn svg(picture: String) -> Told {
    told("image/svg+xml", picture)
}

fn told(content_type: &str, text: String) -> Told {
    let headers = [
        ("content-type", content_type),
        ("content-length", &text.len().to_string()),
        ("cache-control", "no-cache"),
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
    ];
    Told {
        status: StatusCode::OK,
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        body: ToldBody::Whole(vec![text.into()]),
    }
}

/// With its validator; without its body for who has it already.
fn tagged(asked: &Asked, mut told: Told) -> Told {
    let ToldBody::Whole(pieces) = &told.body else {
        return told;
    };
    let kind = told.headers.first().map_or("", |(_, value)| value.as_str());
    let tag = etag(kind, &pieces.concat());
    if has_already(&asked.headers, &tag) {
        told.status = StatusCode::NOT_MODIFIED;
        told.headers.retain(|(name, _)| !name.starts_with("content-"));
        told.body = ToldBody::Whole(Vec::new());
    }
    told.headers.push(("etag".into(), tag));
    told
}
