//! A request understood: which service or API, which operation, of which project, and whether it may be repeated.

use http::Method;

use super::exception::Dialect;
use super::kvp::Params;
use crate::core::locate::ProjectName;

/// The services of QGIS Server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Web Map Service.
    Wms,
    /// Web Feature Service.
    Wfs,
    /// Web Coverage Service.
    Wcs,
    /// Web Map Tile Service.
    Wmts,
}

impl Service {
    /// The name as QGIS wants it, in capitals.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wms => "WMS",
            Self::Wfs => "WFS",
            Self::Wcs => "WCS",
            Self::Wmts => "WMTS",
        }
    }

    /// The service of a name in any letter case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Wms, Self::Wfs, Self::Wcs, Self::Wmts]
            .into_iter()
            .find(|service| service.as_str().eq_ignore_ascii_case(name))
    }
}

/// What kind of thing is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `/` without a word: somebody with a browser who wants to know what this is.
    Home,
    /// A service.
    Ows {
        /// Which.
        service: Service,
        /// The operation as the client wrote it, such as `GetMap`.
        request: String,
        /// The version that the client asked for; empty when it left that to QGIS.
        version: String,
    },
    /// An OGC API.
    Api {
        /// Its root, such as `/wfs3`.
        root: &'static str,
        /// The path below the root, not decoded, such as `/collections/roads/items`, `.html`, or nothing.
        rest: String,
    },
}

/// Where the client named the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// In the path, `/ows/world`.
    Path,
    /// In the query, `MAP=/world`.
    Query,
    /// In a form body, `MAP=/world`.
    Form,
}

/// How the body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum BodyKind {
    /// There is none, or QGIS reads it by itself (JSON of an API).
    Opaque,
    /// Key-value pairs.
    Form,
    /// An XML document.
    Xml,
}

/// A request understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OgcRequest {
    /// The method.
    pub method: Method,
    /// What is asked for.
    pub kind: Kind,
    /// The project; missing for [`Kind::Home`], and possibly for an API's static files.
    pub project: Option<ProjectName>,
    /// Where the project was named; [`Spelling::Query`] when it was not.
    pub spelling: Spelling,
    /// The parameters of the query, a form body, and an XML body's outermost element.
    pub params: Params,
    /// Whether a repeat changes nothing.
    pub safe: bool,
    /// The path as it came, with single slashes, fit for a URL.
    pub(super) path: String,
    /// The query as it came.
    pub(super) query: String,
    /// What the body is.
    pub(super) body: BodyKind,
    /// Whether the body itself names the service, so that it overrides the query's.
    pub(super) body_names_service: bool,
    /// Whether an XML body filters, with a filter for each of its queries.
    pub(super) body_filters: bool,
}

impl OgcRequest {
    /// The form of exception that the client expects.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match &self.kind {
            Kind::Home | Kind::Api { .. } => Dialect::Json,
            Kind::Ows { service, version, .. } => Dialect::of(Some(*service), version),
        }
    }

    /// The service, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<Service> {
        match &self.kind {
            Kind::Ows { service, .. } => Some(*service),
            Kind::Home | Kind::Api { .. } => None,
        }
    }

    /// A short name of what is asked for, for logs and metrics: the service, the API's root, or `home`.
    #[must_use]
    pub fn service_name(&self) -> &'static str {
        match &self.kind {
            Kind::Home => "home",
            Kind::Ows { service, .. } => service.as_str(),
            Kind::Api { root, .. } => root.trim_start_matches('/'),
        }
    }

    /// The operation in small letters, for logs and lanes; of an API the method in small letters.
    #[must_use]
    pub fn operation(&self) -> String {
        match &self.kind {
            Kind::Home => String::new(),
            Kind::Ows { request, .. } => request.to_ascii_lowercase(),
            Kind::Api { .. } => self.method.as_str().to_ascii_lowercase(),
        }
    }

    /// Whether it asks for a file of an API's web pages, which needs no project.
    #[must_use]
    pub fn is_static(&self) -> bool {
        matches!(&self.kind, Kind::Api { rest, .. } if rest.starts_with("/static/"))
    }

    /// Whether all that the body says is in [`params`](Self::params): there is none, or it is a form.
    #[must_use]
    pub fn body_is_parameters(&self) -> bool {
        self.body == BodyKind::Form || (self.body == BodyKind::Opaque && self.safe)
    }

    /// The layers asked for: `LAYERS`, `LAYER`, `TYPENAME(S)` or `COVERAGE(ID)`, split at commas.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        ["LAYERS", "LAYER", "TYPENAME", "TYPENAMES", "COVERAGE", "COVERAGEID"]
            .into_iter()
            .find_map(|key| self.params.filled(key))
            .into_iter()
            .flat_map(|value| value.split(','))
            .filter(|layer| !layer.is_empty())
    }

    /// The format asked for.
    #[must_use]
    pub fn format(&self) -> Option<&str> {
        ["FORMAT", "OUTPUTFORMAT", "INFO_FORMAT"]
            .into_iter()
            .find_map(|key| self.params.filled(key))
    }

    /// Width and height of a map in pixels, when both are whole numbers.
    #[must_use]
    pub fn size(&self) -> Option<(u32, u32)> {
        Some((
            self.params.get("WIDTH")?.parse().ok()?,
            self.params.get("HEIGHT")?.parse().ok()?,
        ))
    }

    /// The four numbers of `BBOX`, in the order in which they came.
    #[must_use]
    pub fn bbox(&self) -> Option<[f64; 4]> {
        let mut numbers = self
            .params
            .get("BBOX")?
            .split(',')
            .map(|number| number.trim().parse::<f64>());
        let mut next = || numbers.next()?.ok().filter(|number| number.is_finite());
        Some([next()?, next()?, next()?, next()?])
    }
}
