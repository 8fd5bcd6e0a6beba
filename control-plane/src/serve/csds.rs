//! CSDS, on the port for Envoy: who runs what, and who refused what. It tells of every attached Envoy, each resource with the
//! version that the Envoy took, whether that is the current one, and the Envoy's own words about what it refused.

use std::pin::Pin;

use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus, client_config::GenericXdsConfig,
    client_status_discovery_service_server::ClientStatusDiscoveryService,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value};
use futures::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::clients::{Card, Clients};
use crate::adapters::envoy::type_url;
use crate::core::ads::{self, Client, Sync};

/// The key of a node's metadata for where it connected from.
pub const PEER: &str = "graticule.peer";
/// The same for the view it has.
pub const VIEW: &str = "graticule.view";
/// The same for the variant of the protocol it speaks.
pub const VARIANT: &str = "graticule.variant";
/// The same for whether it is served: false when it waits, for its node is unknown.
pub const SERVED: &str = "graticule.served";

/// Answers what is asked about attached Envoys.
#[derive(Clone, Debug)]
pub struct StatusPort {
    /// Where they are listed.
    pub clients: Clients,
    /// Closes every stream.
    pub stop: CancellationToken,
}

type Answers = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ClientStatusDiscoveryService for StatusPort {
    type StreamClientStatusStream = Answers;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let clients = self.clients.clone();
        let answers = request
            .into_inner()
            .map(move |request| answer(&clients, &request?))
            .take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(answers.boxed()))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        Ok(Response::new(answer(&self.clients, request.get_ref())?))
    }
}

fn answer(clients: &Clients, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
    request.node_matchers.iter().try_for_each(understood)?;
    let with_contents = !request.exclude_resource_contents;
    let config = clients.map(|card, client| {
        let id = client.node().map_or("", |node| &node.id);
        let wanted = request.node_matchers.is_empty() || request.node_matchers.iter().any(|m| matches(m, id));
        wanted.then(|| config_of(&card, client, with_contents))
    });
    Ok(ClientStatusResponse {
        config: config.into_iter().flatten().collect(),
    })
}

/// An Envoy that waits, for its node is unknown, has no resources; who it says it is can be seen all the same.
fn config_of(card: &Card, client: &Client, with_contents: bool) -> ClientConfig {
    let node = client.node().cloned().unwrap_or_default();
    let resources = client.resources().into_iter();
    ClientConfig {
        node: Some(Node {
            id: node.id,
            cluster: node.cluster,
            metadata: Some(about(card)),
            ..Default::default()
        }),
        generic_xds_configs: resources
            .map(|status| resource(client, status, with_contents))
            .collect(),
        ..Default::default()
    }
}

/// What is known of the Envoy beside its resources, as metadata of its node.
fn about(card: &Card) -> Struct {
    let text = |text: String| Value {
        kind: Some(value::Kind::StringValue(text)),
    };
    let served = Value {
        kind: Some(value::Kind::BoolValue(card.admitted)),
    };
    let peer = card.peer.map(|peer| peer.to_string()).unwrap_or_default();
    let fields = [
        (PEER, text(peer)),
        (VIEW, text(card.view.clone())),
        (VARIANT, text(card.variant.name().to_owned())),
        (SERVED, served),
    ];
    Struct {
        fields: fields.map(|(key, value)| (key.to_owned(), value)).into(),
    }
}

fn resource(client: &Client, status: ads::Status, with_contents: bool) -> GenericXdsConfig {
    let (config_status, client_status) = match status.sync {
        Sync::Synced => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        Sync::NotSent => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
        Sync::Stale => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        Sync::Error => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        Sync::Absent => (ConfigStatus::NotSent, ClientResourceStatus::DoesNotExist),
    };
    let type_url = type_url(status.kind);
    let offered = client
        .offered(status.kind, &status.name)
        .filter(|resource| with_contents && !resource.confidential);
    GenericXdsConfig {
        xds_config: offered.map(|resource| Any {
            type_url: type_url.clone(),
            value: resource.body.to_vec(),
        }),
        type_url,
        name: status.name,
        version_info: status.version,
        config_status: config_status as i32,
        client_status: client_status as i32,
        error_state: status.refused.map(|refused| UpdateFailureState {
            details: refused.message,
            version_info: refused.version,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Envoys are told apart by their id alone: nothing else of them is kept.
fn understood(matcher: &NodeMatcher) -> Result<(), Status> {
    let pattern = matcher.node_id.as_ref().and_then(|id| id.match_pattern.as_ref());
    let known = matches!(
        pattern,
        Some(MatchPattern::Exact(_) | MatchPattern::Prefix(_) | MatchPattern::Suffix(_) | MatchPattern::Contains(_))
    );
    if known && matcher.node_metadatas.is_empty() {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "node_matchers: only node_id is understood, with exact, prefix, suffix or contains",
    ))
}

fn matches(matcher: &NodeMatcher, id: &str) -> bool {
    let Some(StringMatcher {
        ignore_case,
        match_pattern: Some(pattern),
    }) = &matcher.node_id
    else {
        return false;
    };
    let folded = |text: &str| {
        if *ignore_case {
            text.to_lowercase()
        } else {
            text.to_owned()
        }
    };
    let id = folded(id);
    match pattern {
        MatchPattern::Exact(text) => id == folded(text),
        MatchPattern::Prefix(text) => id.starts_with(&folded(text)),
        MatchPattern::Suffix(text) => id.ends_with(&folded(text)),
        MatchPattern::Contains(text) => id.contains(&folded(text)),
        MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(pattern: MatchPattern, ignore_case: bool) -> NodeMatcher {
        NodeMatcher {
            node_id: Some(StringMatcher {
                ignore_case,
                match_pattern: Some(pattern),
            }),
            node_metadatas: Vec::new(),
        }
    }

    #[test]
    fn envoys_are_chosen_by_their_id_and_other_ways_are_refused() {
        let text = |text: &str| text.to_owned();
        for (pattern, folded, id, fits) in [
            (MatchPattern::Exact(text("edge")), false, "edge", true),
            (MatchPattern::Exact(text("edge")), false, "Edge", false),
            (MatchPattern::Exact(text("edge")), true, "Edge", true),
            (MatchPattern::Prefix(text("ed")), false, "edge", true),
            (MatchPattern::Suffix(text("ed")), false, "edge", false),
            (MatchPattern::Contains(text("dg")), false, "edge", true),
        ] {
            let matcher = matcher(pattern, folded);
            assert!(understood(&matcher).is_ok());
            assert_eq!(matches(&matcher, id), fits, "{matcher:?} {id}");
        }
        assert!(understood(&NodeMatcher::default()).is_err());
        assert!(understood(&matcher(MatchPattern::SafeRegex(Default::default()), false)).is_err());
    }
}
