//! One way to call a method, as an operation of OpenAPI: its parameters, its body, its answers.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value, json};

use super::bindings::{Binding, Body, Variable};
use super::comments::{comment, first_sentence};
use super::schemas::{Schemas, described};

/// Errors that every operation may have: status, name, and when.
const ERRORS: [(&str, &str, &str); 6] = [
    (
        "400",
        "BadRequest",
        "Something in the request cannot be used; the message says what and why. It is also what is answered when nothing could be changed, as when the store is on a full disk.",
    ),
    ("401", "Unauthorized", "No token was shown, or nobody has it."),
    (
        "403",
        "Forbidden",
        "The token's role does not go so far; the message says which would.",
    ),
    ("404", "NotFound", "There is no such agent, pool or path."),
    (
        "503",
        "Unavailable",
        "The control plane, or the agent that is asked, is away. Ask again.",
    ),
    (
        "default",
        "Error",
        "Anything else, such as 413 for a body over 1 MiB, and 504 when an agent does not answer in time.",
    ),
];

/// The operation; `further` when it is not the method's main binding.
///
/// # Errors
/// When the binding names fields that the request has not.
pub fn operation(
    method: &MethodDescriptor,
    binding: &Binding,
    further: bool,
    role: &str,
    schemas: &mut Schemas,
) -> Result<Value, String> {
    let (input, output) = (method.input(), method.output());
    let says = comment(&method.parent_service().parent_file(), method.path());
    let mut parameters = Vec::new();
    for variable in &binding.variables {
        parameters.push(in_path(&input, variable, schemas)?);
    }
    let mut taken: Vec<Vec<String>> = binding
        .variables
        .iter()
        .map(|variable| variable.field.clone())
        .collect();
    if let Body::Field(field) = &binding.body {
        taken.push(vec![field.clone()]);
    }
    if binding.body != Body::Rest {
        query(&input, &taken, &mut Vec::new(), &mut parameters, schemas);
    }
    let needs = match role {
        "read" => "Needs the role `read` or `full`.",
        _ => "Needs the role `full`.",
    };
    let mut operation = json!({
        "operationId": id(method, binding, further),
        "summary": first_sentence(&says),
        "description": format!("{says}\n\n{needs}").trim(),
        "tags": [tag(&binding.path)],
        "x-graticule-method": method.full_name(),
        "x-graticule-role": role,
        "responses": responses(&schemas.message(&output), method.is_server_streaming()),
    });
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Some(schema) = body(&input, &binding.body, &taken, schemas)? {
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
    }
    Ok(operation)
}

/// The responses to errors, by name.
pub fn errors() -> Value {
    let content = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Status" } } });
    let mut errors = Map::new();
    for (status, name, says) in ERRORS {
        let mut error = json!({ "description": says, "content": content });
        if status == "401" {
            error["headers"] =
                json!({ "WWW-Authenticate": { "schema": { "type": "string" }, "description": "`Bearer`" } });
        }
        errors.insert(name.to_owned(), error);
    }
    Value::Object(errors)
}

fn responses(schema: &Value, streams: bool) -> Value {
    let says = if streams {
        "A stream: one JSON object of this schema a line. It begins at once, and what goes wrong later ends it early."
    } else {
        "Done."
    };
    let mut responses = Map::new();
    let content = json!({ "application/json": { "schema": schema } });
    responses.insert("200".to_owned(), json!({ "description": says, "content": content }));
    for (status, name, _) in ERRORS {
        let error = json!({ "$ref": format!("#/components/responses/{name}") });
        responses.insert(status.to_owned(), error);
    }
    Value::Object(responses)
}

/// The field at the end of a path of names.
fn field(message: &MessageDescriptor, path: &[String]) -> Result<FieldDescriptor, String> {
    let missing = || format!("{} has no field {}", message.full_name(), path.join("."));
    let (first, below) = path.split_first().ok_or_else(missing)?;
    let found = message.get_field_by_name(first).ok_or_else(missing)?;
    match (below, found.kind()) {
        ([], _) => Ok(found),
        (_, Kind::Message(inner)) => field(&inner, below),
        _ => Err(missing()),
    }
}

fn in_path(input: &MessageDescriptor, variable: &Variable, schemas: &mut Schemas) -> Result<Value, String> {
    let field = field(input, &variable.field)?;
    let mut says = comment(&field.parent_message().parent_file(), field.path());
    if variable.whole_rest {
        says = format!("{says}\n\nWithout its first slash. Slashes may stand as they are, or as `%2F`.");
    }
    Ok(json!({
        "name": variable.name,
        "in": "path",
        "required": true,
        "description": says.trim(),
        "schema": schemas.field(&field),
    }))
}

/// Parameters for every field that is not taken by path or body; those of messages in it have names with dots.
fn query(
    message: &MessageDescriptor,
    taken: &[Vec<String>],
    path: &mut Vec<String>,
    parameters: &mut Vec<Value>,
    schemas: &mut Schemas,
) {
    for field in message.fields() {
        path.push(field.name().to_owned());
        match field.kind() {
            _ if taken.contains(path) || field.is_map() => {}
            // Neither lists of messages nor messages in themselves can stand in a query.
            Kind::Message(inner) => {
                if !field.is_list() && path.len() < 4 {
                    query(&inner, taken, path, parameters, schemas);
                }
            }
            _ => {
                let parameter = json!({ "name": path.join("."), "in": "query", "schema": schemas.field(&field) });
                parameters.push(described(parameter, &comment(&message.parent_file(), field.path())));
            }
        }
        path.pop();
    }
}

fn body(
    input: &MessageDescriptor,
    body: &Body,
    taken: &[Vec<String>],
    schemas: &mut Schemas,
) -> Result<Option<Value>, String> {
    Ok(match body {
        Body::None => None,
        Body::Rest if taken.is_empty() => Some(schemas.message(input)),
        Body::Rest => Some(schemas.object(input, taken)),
        Body::Field(name) => {
            let field = field(input, std::slice::from_ref(name))?;
            Some(schemas.field(&field))
        }
    })
}

/// The method's name; with what is different of a further binding behind it.
fn id(method: &MethodDescriptor, binding: &Binding, further: bool) -> String {
    if !further {
        return method.name().to_owned();
    }
    let suffix = if binding.variables.is_empty() {
        camel(binding.custom_verb())
    } else {
        let names = binding.variables.iter().map(|variable| camel(&variable.name));
        format!("By{}", names.collect::<Vec<_>>().join("And"))
    };
    format!("{}{suffix}", method.name())
}

fn camel(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

/// What a path is about: its first word behind the version.
fn tag(path: &str) -> String {
    let word = path.split('/').nth(2).unwrap_or_default();
    word.split(':').next().unwrap_or_default().to_owned()
}
