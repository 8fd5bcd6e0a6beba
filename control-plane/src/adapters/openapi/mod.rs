//! The administration of the fleet as REST, described in OpenAPI 3.1: a pure function of the contracts, their options
//! (`google.api.http`) and their comments. It describes what Envoy's transcoder makes of them, as it is configured in
//! [`super::envoy`].
//!
//! What it does not know: where the listener is, who may come to it.

use graticule_proto::access;
use prost_reflect::{DescriptorPool, ServiceDescriptor};
use serde_json::{Map, Value, json};

mod bindings;
mod comments;
mod operations;
mod schemas;
#[cfg(test)]
mod tests;

use comments::comment;
use schemas::Schemas;

/// The service that is described.
const SERVICE: &str = "graticule.v1.FleetAdmin";

/// Where it is served on the port for Prometheus and people.
pub const PATH: &str = "/openapi.json";

/// What is said before anything else.
const ABOUT: &str = "\
Envoy serves this where `rest.enabled` of the control plane's configuration is true, and asks for a token of `fleet.access` in \
`Authorization: Bearer TOKEN`. Fields have the names of the contracts; answers have every field, also those that are zero, false or \
empty, but no messages that are missing. Integers of 64 bits are texts, bytes are base64. Answers that are streams have one JSON \
object a line, each sent as soon as there is something to tell.";

/// Why there is no document: the contracts in this program are broken, a defect of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the contracts cannot be described: {0}")]
pub struct Broken(String);

/// The document, as it is printed and kept in `docs/reference/openapi.json`.
///
/// # Errors
/// When the contracts in this program are broken.
pub fn text() -> Result<String, Broken> {
    let document = document(graticule_proto::DESCRIPTORS, SERVICE)?;
    Ok(format!("{document:#}\n"))
}

/// The document of a service in encoded descriptors.
///
/// # Errors
/// When they cannot be read, have no such service, or say of a method what cannot be.
pub fn document(descriptors: &[u8], service: &str) -> Result<Value, Broken> {
    let pool = DescriptorPool::decode(descriptors).map_err(|error| Broken(error.to_string()))?;
    let service = pool
        .get_service_by_name(service)
        .ok_or_else(|| Broken(format!("there is no service {service}")))?;
    let mut schemas = Schemas::new(service.parent_file().package_name());
    let paths = paths(&pool, &service, &mut schemas)?;
    let mut components = schemas.into_components();
    components.insert("Status".to_owned(), status());
    let about = format!("{}\n\n{ABOUT}", comment(&service.parent_file(), service.path()));
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Graticule: administration of the fleet",
            "version": env!("CARGO_PKG_VERSION"),
            "description": about,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost:9903", "description": "rest.listen, unless configured otherwise" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": operations::errors(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of `fleet.access`, with the role `read` for what only looks and `full` for everything.",
                },
            },
        },
    }))
}

fn paths(
    pool: &DescriptorPool,
    service: &ServiceDescriptor,
    schemas: &mut Schemas,
) -> Result<Map<String, Value>, Broken> {
    let mut paths: Map<String, Value> = Map::new();
    for method in service.methods() {
        let name = format!("/{}/{}", service.full_name(), method.name());
        let role = if access::READ.contains(&name.as_str()) {
            "read"
        } else {
            "full"
        };
        for (index, binding) in bindings::of(pool, &method).map_err(Broken)?.into_iter().enumerate() {
            let operation = operations::operation(&method, &binding, index > 0, role, schemas);
            let operation = operation.map_err(|problem| Broken(format!("{name}: {problem}")))?;
            let item = paths.entry(binding.path.clone()).or_insert_with(|| json!({}));
            item[&binding.verb] = operation;
        }
    }
    Ok(paths)
}

/// `google.rpc.Status`, as errors are.
fn status() -> Value {
    json!({
        "type": "object",
        "description": "Why a request was not done.",
        "properties": {
            "code": { "type": "integer", "format": "int32", "description": "gRPC's code of the status, such as 5 for NOT_FOUND." },
            "message": { "type": "string", "description": "What is wrong, and what to change." },
            "details": {
                "type": "array",
                "items": { "type": "object", "additionalProperties": true },
                "description": "Nothing more is said so far.",
            },
        },
        "required": ["code", "message"],
    })
}
