//! Messages as JSON Schema, by the rules of Protobuf's JSON: integers of 64 bits and enumerations are texts, bytes are base64, and
//! some well-known types have a form of their own.

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::comment;

/// The schemas of the messages and enumerations that are mentioned, by name.
#[derive(Debug, Default)]
pub struct Schemas {
    package: String,
    components: Map<String, Value>,
}

impl Schemas {
    /// None yet. What is in this package is named without it.
    pub fn new(package: &str) -> Self {
        Self {
            package: format!("{package}."),
            components: Map::new(),
        }
    }

    /// All that were mentioned.
    pub fn into_components(self) -> Map<String, Value> {
        self.components
    }

    /// The schema of a message: one that is kept under its name.
    pub fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(schema) = well_known(message.full_name()) {
            return schema;
        }
        self.kept(message.full_name(), |schemas| schemas.object(message, &[]))
    }

    fn enumeration(&mut self, of: &EnumDescriptor) -> Value {
        if of.full_name() == "google.protobuf.NullValue" {
            return json!({ "type": "null" });
        }
        self.kept(of.full_name(), |_| {
            let says: Vec<String> = of
                .values()
                .map(|value| (value.name().to_owned(), comment(&of.parent_file(), value.path())))
                .filter(|(_, says)| !says.is_empty())
                .map(|(name, says)| format!("- `{name}`: {says}"))
                .collect();
            let about = comment(&of.parent_file(), of.path());
            let parts = [about, says.join("\n")].into_iter().filter(|part| !part.is_empty());
            let names: Vec<Value> = of.values().map(|value| json!(value.name())).collect();
            let schema = json!({ "type": "string", "enum": names });
            described(schema, &parts.collect::<Vec<_>>().join("\n\n"))
        })
    }

    /// A reference to what is kept under this name; it is made when nothing is. A message may mention itself.
    fn kept(&mut self, full_name: &str, make: impl FnOnce(&mut Self) -> Value) -> Value {
        let name = full_name.strip_prefix(&self.package).unwrap_or(full_name).to_owned();
        if !self.components.contains_key(&name) {
            self.components.insert(name.clone(), Value::Null);
            let schema = make(self);
            self.components.insert(name.clone(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// The schema of a message without some of its fields, each given by the names that lead to it.
    pub fn object(&mut self, message: &MessageDescriptor, without: &[Vec<String>]) -> Value {
        let mut properties = Map::new();
        for field in message.fields() {
            let of_field = |path: &Vec<String>| path.first().is_some_and(|name| name == field.name());
            let mut below = Vec::new();
            for path in without.iter().filter(|path| of_field(path)) {
                below.push(path[1..].to_vec());
            }
            if below.iter().any(Vec::is_empty) {
                continue;
            }
            let schema = match field.kind() {
                Kind::Message(inner) if !below.is_empty() => self.object(&inner, &below),
                _ => self.field(&field),
            };
            let says = comment(&message.parent_file(), field.path());
            properties.insert(field.name().to_owned(), described(schema, &says));
        }
        let alternatives: Vec<Value> = message
            .oneofs()
            .filter(|oneof| !oneof.is_synthetic())
            .map(|oneof| at_most_one(oneof.fields().filter(|field| properties.contains_key(field.name()))))
            .collect();
        let mut schema = json!({ "type": "object", "properties": properties });
        if !alternatives.is_empty() {
            schema["allOf"] = Value::Array(alternatives);
        }
        described(schema, &comment(&message.parent_file(), message.path()))
    }

    /// The schema of a field, without what is said of it.
    pub fn field(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let values = self.kind(&entry.map_entry_value_field().kind());
                json!({ "type": "object", "additionalProperties": values })
            }
            kind if field.is_list() => json!({ "type": "array", "items": self.kind(&kind) }),
            kind => self.kind(&kind),
        }
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double => json!({ "type": "number", "format": "double" }),
            Kind::Float => json!({ "type": "number", "format": "float" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": "string", "format": "int64", "pattern": "^-?[0-9]+$" })
            }
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64", "pattern": "^[0-9]+$" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Message(message) => self.message(message),
            Kind::Enum(of) => self.enumeration(of),
        }
    }
}

/// None of the fields, or exactly one.
fn at_most_one(fields: impl Iterator<Item = FieldDescriptor>) -> Value {
    let each: Vec<Value> = fields.map(|field| json!({ "required": [field.name()] })).collect();
    let none = json!({ "not": { "anyOf": each } });
    json!({ "oneOf": each.into_iter().chain([none]).collect::<Vec<_>>() })
}

/// The schema with what is said of it.
pub fn described(mut schema: Value, says: &str) -> Value {
    if !says.is_empty() {
        schema["description"] = json!(says);
    }
    schema
}

/// Types whose JSON is not that of their fields.
fn well_known(full_name: &str) -> Option<Value> {
    let nullable = |kind: &str| json!({ "type": [kind, "null"] });
    Some(match full_name.strip_prefix("google.protobuf.")? {
        "Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "Duration" => json!({ "type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$" }),
        "FieldMask" => json!({ "type": "string" }),
        "Struct" => json!({ "type": "object", "additionalProperties": true }),
        "Value" => json!({}),
        "ListValue" => json!({ "type": "array", "items": {} }),
        "Empty" => json!({ "type": "object", "additionalProperties": false }),
        "Any" => json!({
            "type": "object",
            "properties": { "@type": { "type": "string" } },
            "required": ["@type"],
            "additionalProperties": true,
        }),
        "BoolValue" => nullable("boolean"),
        "StringValue" | "BytesValue" | "Int64Value" | "UInt64Value" => nullable("string"),
        "Int32Value" | "UInt32Value" => nullable("integer"),
        "FloatValue" | "DoubleValue" => nullable("number"),
        _ => return None,
    })
}
