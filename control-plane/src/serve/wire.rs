//! The messages of both variants of ADS, and what they are to the state machine.

use envoy_types::pb::envoy::config::core::v3 as core_v3;
use envoy_types::pb::envoy::service::discovery::v3::{
    self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::Any;

use crate::adapters::envoy::type_url;
use crate::core::ads::{self, Client, Node, Note, Variant, WorldRequest};
use crate::core::resources::Kind;

/// A request of one variant, and the answers that go with it.
pub trait Speech: Send + 'static {
    /// What is sent back.
    type Answer: Send + 'static;
    /// The variant.
    const VARIANT: Variant;
    /// The type of resources that it is about.
    fn type_url(&self) -> &str;
    /// Says it to the state machine.
    fn say(self, client: &mut Client, kind: Kind) -> Vec<Note>;
    /// What the state machine answers, as a message.
    fn answer(answer: ads::Response) -> Self::Answer;
}

impl Speech for DeltaDiscoveryRequest {
    type Answer = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn say(self, client: &mut Client, kind: Kind) -> Vec<Note> {
        let request = ads::Request {
            node: self.node.map(node),
            subscribe: self.resource_names_subscribe,
            unsubscribe: self.resource_names_unsubscribe,
            initial_versions: self.initial_resource_versions.into_iter().collect(),
            nonce: self.response_nonce,
            error: self.error_detail.map(|status| status.message),
        };
        client.request(kind, request)
    }

    fn answer(answer: ads::Response) -> DeltaDiscoveryResponse {
        let type_url = type_url(answer.kind);
        let resources = answer.resources.into_iter().map(|resource| discovery::Resource {
            name: resource.name,
            version: resource.version,
            resource: Some(Any {
                type_url: type_url.clone(),
                value: resource.body.to_vec(),
            }),
            ..Default::default()
        });
        DeltaDiscoveryResponse {
            resources: resources.collect(),
            removed_resources: answer.removed,
            nonce: answer.nonce,
            type_url: type_url.clone(),
            ..Default::default()
        }
    }
}

impl Speech for DiscoveryRequest {
    type Answer = DiscoveryResponse;
    const VARIANT: Variant = Variant::World;

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn say(self, client: &mut Client, kind: Kind) -> Vec<Note> {
        let request = WorldRequest {
            node: self.node.map(node),
            names: self.resource_names,
            version: self.version_info,
            nonce: self.response_nonce,
            error: self.error_detail.map(|status| status.message),
        };
        client.request_world(kind, request)
    }

    fn answer(answer: ads::Response) -> DiscoveryResponse {
        let type_url = type_url(answer.kind);
        let resources = answer.resources.into_iter().map(|resource| Any {
            type_url: type_url.clone(),
            value: resource.body.to_vec(),
        });
        DiscoveryResponse {
            version_info: answer.version,
            resources: resources.collect(),
            nonce: answer.nonce,
            type_url: type_url.clone(),
            ..Default::default()
        }
    }
}

fn node(node: core_v3::Node) -> Node {
    Node {
        id: node.id,
        cluster: node.cluster,
    }
}
