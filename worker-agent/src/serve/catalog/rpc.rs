//! The catalog over gRPC, for operators: nothing is hidden from them, and it is there when clients may not see it.

use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, stream};
use graticule_proto::v1::{CatalogItem, CatalogRequest, Extent, GetProjectInfoRequest, ProjectInfo, ProjectLayer};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tonic::{Code, Request, Response, Status};

use crate::core::catalog::{Details, Hidden, Layer, ListQuery, rfc3339, select};
use crate::core::locate::ProjectName;
use crate::core::ogc::{Origin, Refusal};
use crate::serve::front::{Account, Front};
use crate::serve::http::request_id;
use crate::serve::told::Asked;

/// Items of a catalog, one after the other.
pub type Items = Pin<Box<dyn Stream<Item = Result<CatalogItem, Status>> + Send>>;

/// The deadline of a call, as gRPC has it.
const DEADLINE: &str = "grpc-timeout";

/// `QgisAdmin.Catalog`.
///
/// # Errors
/// When the location is no path from the top.
pub async fn catalog(front: &Front, request: Request<CatalogRequest>) -> Result<Response<Items>, Status> {
    let location = request.into_inner().location;
    if !location.is_empty() && !location.starts_with('/') {
        let start: String = location.chars().take(80).collect();
        return Err(Status::invalid_argument(format!(
            "`location` is {start:?}; expected a path from the top, such as /public"
        )));
    }
    let snapshot = front.catalog.inner.listing.snapshot().await;
    let query = ListQuery {
        limit: snapshot.entries.len().max(1),
        ..ListQuery::of(&location)
    };
    let selection = select(&snapshot, &Hidden::default(), &query);
    let problems = selection.problems.iter().map(|problem| CatalogItem {
        location: problem.location.clone(),
        problem: problem.problem.clone(),
        ..CatalogItem::default()
    });
    let projects = selection.entries.iter().map(|entry| CatalogItem {
        project: entry.id.clone(),
        location: entry.location.clone(),
        storage: entry.storage.clone(),
        modified: entry.modified.map(rfc3339).unwrap_or_default(),
        bytes: entry.bytes,
        problem: String::new(),
    });
    let items: Vec<_> = problems.chain(projects).map(Ok).collect();
    Ok(Response::new(Box::pin(stream::iter(items))))
}

/// `QgisAdmin.GetProjectInfo`.
///
/// # Errors
/// Why it cannot be had.
pub async fn project_info(
    front: &Front,
    request: Request<GetProjectInfoRequest>,
) -> Result<Response<ProjectInfo>, Status> {
    let mut headers = HeaderMap::new();
    let deadline = request.metadata().get(DEADLINE);
    if let Some(deadline) = deadline.and_then(|value| HeaderValue::from_bytes(value.as_encoded_bytes()).ok()) {
        headers.insert(DEADLINE, deadline);
    }
    let name = ProjectName::parse(&request.into_inner().project)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let asked = Asked {
        method: Method::GET,
        path: "/catalog/project".into(),
        query: None,
        id: request_id(&headers),
        headers,
        authority: None,
        body: Bytes::new(),
        accepted: Instant::now(),
    };
    let origin = Origin {
        scheme: "http",
        authority: "localhost".into(),
        prefix: String::new(),
    };
    let details = front.details(&asked, &name, &origin, &mut Account::default()).await;
    let (details, _) = details.map_err(|refusal| status(&refusal))?;
    Ok(Response::new(info(name.spelled(), details)))
}

/// A refusal as gRPC says it.
pub fn status(refusal: &Refusal) -> Status {
    let code = match refusal.status() {
        StatusCode::BAD_REQUEST => Code::InvalidArgument,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND | StatusCode::GONE => Code::NotFound,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        _ => Code::FailedPrecondition,
    };
    Status::new(code, refusal.to_string())
}

fn info(project: String, details: Details) -> ProjectInfo {
    ProjectInfo {
        project,
        title: details.title,
        r#abstract: details.summary,
        crs: details.crs,
        output_crs: details.output_crs,
        extent: details.extent.map(extent),
        extent_epsg4326: details.extent_epsg4326.map(extent),
        layers: details.layers.into_iter().map(layer).collect(),
        draw_order: details.draw_order,
        bad_layers: details.bad_layers,
        layouts: details.layouts,
        version: details.version,
        load_ms: details.load_ms,
        qgis_version: details.qgis_version,
        max_width: details.max_width,
        max_height: details.max_height,
    }
}

fn extent([west, south, east, north]: [f64; 4]) -> Extent {
    Extent {
        west,
        south,
        east,
        north,
    }
}

fn layer(found: Layer) -> ProjectLayer {
    ProjectLayer {
        name: found.name,
        title: found.title,
        r#type: found.kind,
        geometry_type: found.geometry_type.unwrap_or_default(),
        crs: found.crs.unwrap_or_default(),
        min_scale: found.min_scale,
        max_scale: found.max_scale,
        visible: found.visible,
        queryable: found.queryable,
        layers: found.layers.into_iter().map(layer).collect(),
    }
}
