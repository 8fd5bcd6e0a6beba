//! The document as a whole, and what must hold of it whatever the contracts say.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::*;

fn own() -> Value {
    document(graticule_proto::DESCRIPTORS, SERVICE).unwrap()
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap().iter();
        item.map(|(verb, operation)| (path.clone(), verb.clone(), operation.clone()))
    });
    all.collect()
}

/// Every object in it that is a reference.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_document_that_is_kept_is_the_one_that_is_made() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/openapi.json");
    let kept = std::fs::read_to_string(kept).unwrap_or_default();
    assert!(
        kept == text().unwrap(),
        "write it anew: control-plane openapi > docs/reference/openapi.json"
    );
}

#[test]
fn every_method_has_a_path_and_every_operation_a_name_of_its_own() {
    let document = own();
    let operations = operations(&document);
    let pool = DescriptorPool::decode(graticule_proto::DESCRIPTORS).unwrap();
    let methods: BTreeSet<String> = pool
        .get_service_by_name(SERVICE)
        .unwrap()
        .methods()
        .map(|method| method.full_name().to_owned())
        .collect();
    let said: BTreeSet<String> = operations
        .iter()
        .map(|(.., operation)| operation["x-graticule-method"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        said, methods,
        "a method without google.api.http cannot be reached by REST"
    );
    let ids: BTreeSet<&str> = operations
        .iter()
        .map(|(.., operation)| operation["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), operations.len(), "{ids:?}");
    for (path, verb, operation) in &operations {
        assert!(
            !operation["summary"].as_str().unwrap().is_empty(),
            "{verb} {path} says nothing"
        );
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_variable_is_declared() {
    let document = own();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in &found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
    }
    for (path, verb, operation) in operations(&document) {
        let variables = path
            .split('{')
            .skip(1)
            .map(|part| part.split('}').next().unwrap().to_owned());
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let declared = parameters.iter().filter(|parameter| parameter["in"] == "path");
        let declared: BTreeSet<String> = declared
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(variables.collect::<BTreeSet<_>>(), declared, "{verb} {path}");
    }
}

/// Moto, which the tests of S3 need, brings the validator along.
#[test]
fn a_validator_finds_nothing_wrong() {
    let python = stack::parts::python_with_clients();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openapi.json");
    let validate = |document: &Value| {
        std::fs::write(&path, document.to_string()).unwrap();
        let said = Command::new(&python)
            .args(["-m", "openapi_spec_validator"])
            .arg(&path)
            .output()
            .unwrap();
        let text = [said.stdout, said.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat();
        (said.status.success(), text)
    };
    let mut document = own();
    let (sound, said) = validate(&document);
    assert!(sound, "{said}");
    document["paths"]["/v1/agents/{agent_id}"]["get"]["parameters"] = json!([]);
    let (sound, said) = validate(&document);
    assert!(!sound && said.contains("agent_id"), "it finds what is wrong: {said}");
}

#[test]
fn fields_are_described_as_their_json_is() {
    let document = own();
    let of = |message: &str, field: &str| document["components"]["schemas"][message]["properties"][field].clone();
    let kind = |message: &str, field: &str| of(message, field)["type"].clone();
    assert_eq!(of("FleetPin", "since")["format"], "uint64");
    assert_eq!(kind("FleetPin", "since"), "string");
    assert_eq!(of("FleetPin", "replicas")["maximum"], u32::MAX);
    assert_eq!(kind("AgentRecord", "attached"), "boolean");
    assert_eq!(of("AgentRecord", "state")["$ref"], "#/components/schemas/AgentState");
    assert_eq!(of("AgentState", "phase")["$ref"], "#/components/schemas/AgentPhase");
    assert_eq!(of("SnapshotResource", "body")["contentEncoding"], "base64");
    let answers = of("StatsReply", "answers");
    assert_eq!(
        (&answers["type"], &answers["additionalProperties"]["format"]),
        (&json!("object"), &json!("uint64"))
    );
    let phases = &document["components"]["schemas"]["AgentPhase"];
    assert_eq!(phases["enum"][2], "AGENT_PHASE_READY");
    assert!(
        phases["description"]
            .as_str()
            .unwrap()
            .contains("- `AGENT_PHASE_READY`: Workers up")
    );

    // What stands in the path is not in the body, also below.
    let body = |path: &str, verb: &str| {
        document["paths"][path][verb]["requestBody"]["content"]["application/json"]["schema"].clone()
    };
    let resize = body("/v1/agents/{agent_id}:resize", "post");
    let named: Vec<&String> = resize["properties"]["agents"]["properties"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert!(
        named.contains(&&"rolling".to_owned()) && !named.contains(&&"agent_id".to_owned()),
        "{named:?}"
    );
    assert!(body("/v1/pins/{project}", "put")["properties"]["replicas"].is_object());
    assert!(body("/v1/pins/{project}", "put")["properties"]["project"].is_null());
    let unpin = &document["paths"]["/v1/pins/{project}"]["delete"];
    let parameters: Vec<&str> = unpin["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(parameters, ["project", "pool", "replicas"]);
    assert!(unpin["requestBody"].is_null());
    assert_eq!(
        (&unpin["x-graticule-role"], &unpin["operationId"]),
        (&json!("full"), &json!("UnpinProject"))
    );
}

#[test]
fn alternatives_and_well_known_types_have_their_forms() {
    let pool = DescriptorPool::decode(graticule_proto::DESCRIPTORS).unwrap();
    let mut schemas = Schemas::new("graticule.v1");
    let reference = schemas.message(&pool.get_message_by_name("graticule.v1.CallResult").unwrap());
    assert_eq!(reference["$ref"], "#/components/schemas/CallResult");
    let components = schemas.into_components();
    let alternatives = &components["CallResult"]["allOf"][0]["oneOf"];
    assert_eq!(alternatives[0], json!({ "required": ["message"] }));
    assert_eq!(
        alternatives[2],
        json!({ "not": { "anyOf": [{ "required": ["message"] }, { "required": ["end"] }] } })
    );
    assert!(components.contains_key("CallEnd"));

    let known = DescriptorPool::global();
    let form = |name: &str| {
        let message = known.get_message_by_name(&format!("google.protobuf.{name}")).unwrap();
        Schemas::new("graticule.v1").message(&message)
    };
    assert_eq!(form("Timestamp")["format"], "date-time");
    assert_eq!(form("Duration")["type"], "string");
    assert_eq!(form("Struct")["type"], "object");
    assert_eq!(form("Value"), json!({}));
    assert_eq!(form("UInt64Value")["type"], json!(["string", "null"]));
    assert_eq!(form("Any")["required"], json!(["@type"]));
}

#[test]
fn what_cannot_be_described_is_said() {
    assert!(document(b"nonsense", SERVICE).is_err());
    let said = document(graticule_proto::DESCRIPTORS, "graticule.v1.No")
        .unwrap_err()
        .to_string();
    assert_eq!(
        said,
        "the contracts cannot be described: there is no service graticule.v1.No"
    );
}
