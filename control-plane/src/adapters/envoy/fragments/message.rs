//! One message of Envoy's from its JSON form (protobuf's "ProtoJSON") to bytes. Mistakes are named by where they stand, and
//! the same JSON always gives the same bytes, maps in the order of their keys.
//!
//! What it does not know: what a message is good for, and the rules about values that Envoy checks itself.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use graticule_daemon::config::nearest;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind as FieldKind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::super::refers;
use super::Faulty;
use crate::core::resources::{Kind, Reference};

/// Every message that Envoy's API has, as `envoy-types` knows it.
static MESSAGES: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"))[..]).ok());

/// A message as bytes.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The bytes.
    pub body: Vec<u8>,
    /// What it wants to be told over the same stream.
    pub refs: Vec<Reference>,
}

/// Encodes `value` as a message of that name; `key` is where it stands.
///
/// # Errors
/// The first thing in it that such a message does not have, or that has another type.
pub fn encode(message: &str, value: &Value, key: &str) -> Result<Encoded, Faulty> {
    let descriptor = MESSAGES.as_ref().and_then(|pool| pool.get_message_by_name(message));
    let descriptor = descriptor.ok_or_else(|| fault(key, format!("this build does not know `{message}`")))?;
    let mut writer = Writer::default();
    let body = writer.message(&descriptor, value, key)?;
    let refs = writer.refs;
    Ok(Encoded { body, refs })
}

fn fault(key: &str, problem: impl Into<String>) -> Faulty {
    let (key, problem) = (key.to_owned(), problem.into());
    Faulty { key, problem }
}

fn wrong(key: &str, expected: &str, found: &Value) -> Faulty {
    let mut found = found.to_string();
    if found.len() > 60 {
        found = format!("{}…", found.chars().take(60).collect::<String>());
    }
    fault(key, format!("expected {expected}, found {found}"))
}

#[derive(Default)]
struct Writer {
    refs: Vec<Reference>,
}

impl Writer {
    fn message(&mut self, descriptor: &MessageDescriptor, value: &Value, key: &str) -> Result<Vec<u8>, Faulty> {
        match descriptor.full_name() {
            "google.protobuf.Any" => return self.any(value, key),
            "google.protobuf.Struct" => return Ok(structure(object(value, key)?).encode_to_vec()),
            "google.protobuf.Value" => return Ok(anything(value).encode_to_vec()),
            name if name.starts_with("google.protobuf.") => return whole(descriptor, value, key),
            _ => {}
        }
        let fields = object(value, key)?;
        self.refer(descriptor.full_name(), value);
        let mut set: BTreeMap<u32, (FieldDescriptor, &Value, String)> = BTreeMap::new();
        let mut choices: BTreeMap<String, &str> = BTreeMap::new();
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let field = descriptor.get_field_by_name(name);
            let field = field.or_else(|| descriptor.get_field_by_json_name(name));
            let key = format!("{key}.{name}");
            let Some(field) = field else {
                return Err(unknown(descriptor, name, &key));
            };
            if let Some(choice) = field.containing_oneof()
                && let Some(other) = choices.insert(choice.name().to_owned(), name)
            {
                return Err(fault(
                    &key,
                    format!("`{other}` is set as well, and only one of them can be"),
                ));
            }
            if set.insert(field.number(), (field, value, key.clone())).is_some() {
                return Err(fault(&key, "it is there twice, in two spellings"));
            }
        }
        let mut body = Vec::new();
        for (field, value, key) in set.into_values() {
            self.field(descriptor, &field, value, &key, &mut body)?;
        }
        Ok(body)
    }

    fn field(
        &mut self,
        parent: &MessageDescriptor,
        field: &FieldDescriptor,
        value: &Value,
        key: &str,
        body: &mut Vec<u8>,
    ) -> Result<(), Faulty> {
        let FieldKind::Message(below) = field.kind() else {
            fits(field, value, key)?;
            // Lists and single values of plain types have one way to be written.
            body.extend(whole(parent, &json!({ field.name(): value }), key)?);
            return Ok(());
        };
        if field.is_map() {
            // In the order of their keys, and each as the entry that it is on the wire.
            for (name, value) in object(value, key)?.iter().collect::<BTreeMap<_, _>>() {
                let entry_key = format!("{key}.{name}");
                let mut entry = whole(&below, &json!({ "key": name }), &entry_key)?;
                let of_value = below.map_entry_value_field();
                self.field(&below, &of_value, value, &entry_key, &mut entry)?;
                put(field, &entry, body);
            }
        } else if field.is_list() {
            let Value::Array(items) = value else {
                return Err(wrong(key, "a list", value));
            };
            for (index, item) in items.iter().enumerate() {
                let item = self.message(&below, item, &format!("{key}[{index}]"))?;
                put(field, &item, body);
            }
        } else {
            let message = self.message(&below, value, key)?;
            put(field, &message, body);
        }
        Ok(())
    }

    /// What may be of any type says in `@type` of which.
    fn any(&mut self, value: &Value, key: &str) -> Result<Vec<u8>, Faulty> {
        let mut fields = object(value, key)?.clone();
        let Some(Value::String(url)) = fields.remove("@type") else {
            let problem = "`@type` is missing, such as `type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua`";
            return Err(fault(key, problem));
        };
        let name = url.rsplit('/').next().unwrap_or_default();
        let pool = MESSAGES.as_ref();
        let Some(descriptor) = pool.and_then(|pool| pool.get_message_by_name(name)) else {
            let problem =
                format!("no message is named `{name}`; Envoy's documentation names the type of each extension");
            return Err(fault(&format!("{key}.@type"), problem));
        };
        let inner = if name.starts_with("google.protobuf.") {
            // Those that are no objects in JSON stand in `value`.
            let inner = fields.remove("value").unwrap_or(Value::Object(fields));
            self.message(&descriptor, &inner, key)?
        } else {
            self.message(&descriptor, &Value::Object(fields), key)?
        };
        let any = prost_types::Any {
            type_url: format!("type.googleapis.com/{name}"),
            value: inner,
        };
        Ok(any.encode_to_vec())
    }

    /// Notes what Envoy will ask us for.
    fn refer(&mut self, message: &str, value: &Value) {
        let (kind, source, name) = match message {
            "envoy.extensions.filters.network.http_connection_manager.v3.Rds" => (
                Kind::Route,
                ["config_source", "configSource"],
                ["route_config_name", "routeConfigName"],
            ),
            "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig" => {
                (Kind::Secret, ["sds_config", "sdsConfig"], ["name", "name"])
            }
            "envoy.config.cluster.v3.Cluster.EdsClusterConfig" => (
                Kind::Endpoints,
                ["eds_config", "edsConfig"],
                ["service_name", "serviceName"],
            ),
            _ => return,
        };
        let either = |names: [&str; 2]| names.into_iter().find_map(|name| value.get(name));
        if either(source).is_some_and(|source| source.get("ads").is_some()) {
            let name = either(name).and_then(Value::as_str).unwrap_or_default();
            self.refs.push(refers(kind, name.to_owned()));
        }
    }
}

fn put(field: &FieldDescriptor, message: &[u8], body: &mut Vec<u8>) {
    encode_key(field.number(), WireType::LengthDelimited, body);
    encode_varint(message.len() as u64, body);
    body.extend(message);
}

fn object<'a>(value: &'a Value, key: &str) -> Result<&'a Map<String, Value>, Faulty> {
    value.as_object().ok_or_else(|| wrong(key, "a table of fields", value))
}

fn unknown(descriptor: &MessageDescriptor, name: &str, key: &str) -> Faulty {
    let known: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
    let hint = nearest(name, &known).map(|near| format!(", did you mean `{near}`?"));
    let message = descriptor.name();
    fault(
        key,
        format!("a {message} has no such field{}", hint.unwrap_or_default()),
    )
}

/// Decodes and encodes a message in which nothing can be in two orders.
fn whole(descriptor: &MessageDescriptor, value: &Value, key: &str) -> Result<Vec<u8>, Faulty> {
    let message =
        DynamicMessage::deserialize(descriptor.clone(), value).map_err(|error| fault(key, error.to_string()))?;
    Ok(message.encode_to_vec())
}

/// Says it in our words when a plain value has the wrong type, or a choice is none of those that there are.
fn fits(field: &FieldDescriptor, value: &Value, key: &str) -> Result<(), Faulty> {
    if field.is_list() {
        let Value::Array(items) = value else {
            return Err(wrong(key, "a list", value));
        };
        let mut each = items.iter().enumerate();
        return each.try_for_each(|(index, item)| one_fits(field, item, &format!("{key}[{index}]")));
    }
    one_fits(field, value, key)
}

fn one_fits(field: &FieldDescriptor, value: &Value, key: &str) -> Result<(), Faulty> {
    let fine = match field.kind() {
        FieldKind::Bool => value.is_boolean(),
        FieldKind::String | FieldKind::Bytes => value.is_string(),
        FieldKind::Enum(choices) => {
            let names: Vec<String> = choices.values().map(|choice| choice.name().to_owned()).collect();
            let Value::String(text) = value else {
                return value.is_u64().then_some(()).ok_or_else(|| wrong(key, "a word", value));
            };
            if names.contains(text) {
                return Ok(());
            }
            return Err(wrong(key, &format!("one of {}", names.join(", ")), value));
        }
        // Large ones are texts in JSON.
        _ => value.is_number() || value.as_str().is_some_and(|text| text.parse::<f64>().is_ok()),
    };
    let expected = match field.kind() {
        FieldKind::Bool => "true or false",
        FieldKind::String | FieldKind::Bytes => "a text",
        _ => "a number",
    };
    if fine { Ok(()) } else { Err(wrong(key, expected, value)) }
}

fn structure(fields: &Map<String, Value>) -> prost_types::Struct {
    let fields = fields.iter().map(|(name, value)| (name.clone(), anything(value)));
    prost_types::Struct {
        fields: fields.collect(),
    }
}

fn anything(value: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => {
            let values = items.iter().map(anything).collect();
            Kind::ListValue(prost_types::ListValue { values })
        }
        Value::Object(fields) => Kind::StructValue(structure(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}
