//! `clients`: which Envoys are attached, what each took and what it refused. It asks over CSDS, as other tools can.

use std::process::ExitCode;

use control_plane::adapters::envoy::kind_of;
use control_plane::serve::csds::{PEER, SERVED, VARIANT, VIEW};
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ConfigStatus, client_config::GenericXdsConfig,
};
use envoy_types::pb::google::protobuf::value;
use graticule_cli::{Ink, row, say, table};
use serde_json::{Value, json};

use crate::target::{LONGEST, Target, said};

/// `control-plane clients`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: control-plane clients --json")]
pub struct Command {
    #[command(flatten)]
    target: Target,
}

/// Does what was asked.
///
/// # Errors
/// When no control plane answers, or it refuses.
#[tokio::main(flavor = "current_thread")]
pub async fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let wire = command.target.wire().await?;
    let mut client = ClientStatusDiscoveryServiceClient::new(wire).max_decoding_message_size(LONGEST);
    let request = ClientStatusRequest {
        exclude_resource_contents: true,
        ..ClientStatusRequest::default()
    };
    let envoys = client
        .fetch_client_status(request)
        .await
        .map_err(said)?
        .into_inner()
        .config;
    say(&if command.target.json {
        format!("{:#}\n", as_json(&envoys))
    } else {
        as_table(Ink::of_stdout(), &envoys)
    });
    Ok(ExitCode::SUCCESS)
}

fn kind(resource: &GenericXdsConfig) -> &str {
    kind_of(&resource.type_url).map_or(&resource.type_url, |kind| kind.name())
}

fn status(resource: &GenericXdsConfig) -> &'static str {
    match resource.config_status() {
        ConfigStatus::Synced => "synced",
        ConfigStatus::Stale => "stale",
        ConfigStatus::Error => "refused",
        ConfigStatus::NotSent | ConfigStatus::Unknown => "not sent",
    }
}

/// What the control plane says of an Envoy beside its resources.
fn about<'a>(envoy: &'a ClientConfig, key: &str) -> &'a str {
    let metadata = envoy.node.as_ref().and_then(|node| node.metadata.as_ref());
    match metadata
        .and_then(|fields| fields.fields.get(key))
        .and_then(|value| value.kind.as_ref())
    {
        Some(value::Kind::StringValue(text)) => text,
        Some(value::Kind::BoolValue(true)) => "true",
        _ => "",
    }
}

fn as_table(ink: Ink, envoys: &[ClientConfig]) -> String {
    if envoys.is_empty() {
        return "no Envoy is attached\n".to_owned();
    }
    let head = row(["NODE", "VIEW", "FROM", "SPEAKS", "SYNCED", "NOTES"]);
    let rows = envoys.iter().map(|envoy| {
        let node = envoy.node.clone().unwrap_or_default();
        let all = &envoy.generic_xds_configs;
        let synced = all.iter().filter(|r| r.config_status() == ConfigStatus::Synced).count();
        let notes: Vec<String> = if about(envoy, SERVED).is_empty() {
            vec![format!("waits: its node.cluster `{}` is unknown", node.cluster)]
        } else {
            all.iter().filter_map(note).collect()
        };
        vec![
            node.id,
            about(envoy, VIEW).to_owned(),
            about(envoy, PEER).to_owned(),
            about(envoy, VARIANT).to_owned(),
            format!("{synced}/{}", all.len()),
            notes.join("; "),
        ]
    });
    table(ink, &std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// What is worth saying of a resource that is not as it should be.
fn note(resource: &GenericXdsConfig) -> Option<String> {
    let what = format!("{} {}", kind(resource), resource.name);
    match (resource.config_status(), &resource.error_state) {
        (ConfigStatus::Synced, _) => None,
        (_, Some(error)) => {
            let keeps = if resource.version_info.is_empty() {
                "it keeps what it had before".to_owned()
            } else {
                format!("it keeps {}", resource.version_info)
            };
            let refused = if error.version_info.is_empty() {
                "its removal"
            } else {
                &error.version_info
            };
            // One line for each Envoy.
            let words = error.details.replace(['\n', '\r'], " ");
            Some(format!("{what}: refused {refused}, {keeps}: {words}"))
        }
        _ => Some(format!("{what}: {}", status(resource))),
    }
}

fn as_json(envoys: &[ClientConfig]) -> Value {
    let resource = |resource: &GenericXdsConfig| {
        let refused = resource.error_state.as_ref();
        json!({
            "kind": kind(resource),
            "name": resource.name,
            "version": resource.version_info,
            "status": status(resource),
            "refused": refused.map(|error| json!({"version": error.version_info, "message": error.details})),
        })
    };
    let envoy = |envoy: &ClientConfig| {
        let node = envoy.node.clone().unwrap_or_default();
        json!({
            "node": node.id,
            "cluster": node.cluster,
            "view": about(envoy, VIEW),
            "from": about(envoy, PEER),
            "speaks": about(envoy, VARIANT),
            "served": !about(envoy, SERVED).is_empty(),
            "resources": envoy.generic_xds_configs.iter().map(resource).collect::<Vec<_>>(),
        })
    };
    json!({"clients": envoys.iter().map(envoy).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::admin::v3::UpdateFailureState;
    use envoy_types::pb::envoy::config::core::v3::Node;
    use envoy_types::pb::google::protobuf::{Struct, Value};

    use super::*;

    fn envoy(served: bool) -> ClientConfig {
        let text = |text: &str| Value {
            kind: Some(value::Kind::StringValue(text.to_owned())),
        };
        let served = Value {
            kind: Some(value::Kind::BoolValue(served)),
        };
        let fields = [
            (VIEW, text("edge")),
            (PEER, text("127.0.0.1:5")),
            (VARIANT, text("delta")),
            (SERVED, served),
        ];
        let listener = GenericXdsConfig {
            type_url: "type.googleapis.com/envoy.config.listener.v3.Listener".to_owned(),
            name: "front".to_owned(),
            version_info: "1".to_owned(),
            config_status: ConfigStatus::Error as i32,
            error_state: Some(UpdateFailureState {
                details: "no\nsuch file".to_owned(),
                version_info: "2".to_owned(),
                ..UpdateFailureState::default()
            }),
            ..GenericXdsConfig::default()
        };
        let cluster = GenericXdsConfig {
            type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
            name: "pool/default".to_owned(),
            version_info: "1".to_owned(),
            config_status: ConfigStatus::Synced as i32,
            ..GenericXdsConfig::default()
        };
        ClientConfig {
            node: Some(Node {
                id: "edge-1".to_owned(),
                cluster: "graticule".to_owned(),
                metadata: Some(Struct {
                    fields: fields.map(|(key, value)| (key.to_owned(), value)).into(),
                }),
                ..Node::default()
            }),
            generic_xds_configs: vec![cluster, listener],
            ..ClientConfig::default()
        }
    }

    #[test]
    fn a_refusal_is_one_line_with_the_clients_words() {
        let text = as_table(Ink::PLAIN, &[envoy(true)]);
        let line = text.lines().nth(1).unwrap();
        assert_eq!(
            line.split_whitespace().take(5).collect::<Vec<_>>(),
            ["edge-1", "edge", "127.0.0.1:5", "delta", "1/2"]
        );
        assert!(
            line.ends_with("lds front: refused 2, it keeps 1: no such file"),
            "{line}"
        );
        assert_eq!(as_table(Ink::PLAIN, &[]), "no Envoy is attached\n");
        assert!(as_table(Ink::PLAIN, &[envoy(false)]).contains("waits: its node.cluster `graticule` is unknown"));
    }

    #[test]
    fn json_has_every_resource() {
        let value = as_json(&[envoy(true)]);
        let client = &value["clients"][0];
        assert_eq!(
            (client["view"].as_str(), client["served"].as_bool()),
            (Some("edge"), Some(true))
        );
        assert_eq!(client["resources"][0]["status"], "synced");
        assert_eq!(client["resources"][0]["refused"], serde_json::Value::Null);
        assert_eq!(client["resources"][1]["refused"]["message"], "no\nsuch file");
    }
}
