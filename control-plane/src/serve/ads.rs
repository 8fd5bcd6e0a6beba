//! The port for Envoy: incremental ADS. Each stream has a task that feeds requests and snapshots to its
//! [`Client`] and sends what comes out. A snapshot that comes while a slow client is being written to
//! replaces the one it has not seen, so nobody waits for it and nothing piles up.

use std::pin::Pin;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use envoy_types::pb::google::protobuf::Any;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::clients::{Attached, Clients};
use super::hub::Hub;
use crate::adapters::envoy::{kind_of, type_url};
use crate::core::delta::{self, Client, Node, Note};
use crate::metrics::Metrics;

/// Answers on their way to one Envoy: one of each kind, for the next waits for the acknowledgement.
const ANSWERS: usize = 4;

/// An Envoy that returns asks for all that it had within a moment.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Serves Envoys from the hub.
#[derive(Clone, Debug)]
pub struct XdsPort {
    /// Where snapshots come from.
    pub hub: Hub,
    /// Where attached Envoys are listed.
    pub clients: Clients,
    /// What is counted.
    pub metrics: Metrics,
    /// See [`crate::config::Xds::node_cluster`].
    pub node_cluster: String,
    /// Closes every stream.
    pub stop: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for XdsPort {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "only the incremental protocol is served: set api_type to DELTA_GRPC in ads_config",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = request.remote_addr();
        let requests = request.into_inner();
        let (answers, outgoing) = mpsc::channel(ANSWERS);
        let (port, card) = (self.clone(), self.clients.attach(peer));
        tokio::spawn(async move {
            if let Err(status) = port.serve(requests, &card, &answers).await {
                tracing::debug!(%status, ?peer, "an Envoy's stream ended");
                // It may be Envoy that went away; then nobody reads this.
                let _ = answers.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }
}

impl XdsPort {
    async fn serve(
        &self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        card: &Attached,
        answers: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Result<(), Status> {
        let mut client = Client::new(&self.node_cluster);
        let mut snapshots = self.hub.snapshot.clone();
        snapshots.mark_changed();
        let settled = tokio::time::sleep(SETTLED_AFTER);
        tokio::pin!(settled);
        let mut waits_to_settle = true;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Err(Status::unavailable("the control plane stops")),
                request = requests.message() => {
                    let Some(request) = request? else { return Ok(()) };
                    let Some(kind) = kind_of(&request.type_url) else {
                        tracing::warn!(type_url = request.type_url, "an Envoy asks for a type that is not served");
                        continue;
                    };
                    for note in client.request(kind, taken(request)) {
                        self.note(note, card);
                    }
                }
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control plane stops"));
                    }
                    if let Some(snapshot) = snapshots.borrow_and_update().clone() {
                        client.offer(snapshot);
                    }
                }
                () = &mut settled, if waits_to_settle => {
                    waits_to_settle = false;
                    client.settle();
                }
            }
            for answer in client.answers() {
                self.metrics.pushes.with_label_values(&[answer.kind.name()]).inc();
                if answers.send(Ok(given(answer))).await.is_err() {
                    return Ok(());
                }
            }
            card.update(|card| card.standing = client.standing());
        }
    }

    fn note(&self, note: Note, card: &Attached) {
        match note {
            Note::Admitted(node) => {
                tracing::info!(node = node.id, "an Envoy attached");
                card.update(|card| (card.node, card.admitted) = (Some(node), true));
            }
            Note::Unknown(node) => {
                self.metrics.unknown_nodes.inc();
                let Node { id, cluster } = &node;
                let expected = &self.node_cluster;
                tracing::warn!(
                    node = id,
                    cluster,
                    expected,
                    "an Envoy with an unknown node waits; set node.id and node.cluster in its bootstrap, or xds.node_cluster here"
                );
                card.update(|card| card.node = Some(node));
            }
            Note::Acknowledged(kind) => {
                self.metrics.acks.with_label_values(&[kind.name()]).inc();
            }
            Note::Refused(kind, rejection) => {
                self.metrics.nacks.with_label_values(&[kind.name()]).inc();
                let resources: Vec<String> = rejection.resources.iter().map(|(n, v)| format!("{n}@{v}")).collect();
                tracing::error!(%kind, ?resources, message = rejection.message, "an Envoy refused its configuration and keeps the last it took");
                card.update(|card| {
                    card.refused.insert(kind, rejection);
                });
            }
        }
    }
}

fn taken(request: DeltaDiscoveryRequest) -> delta::Request {
    delta::Request {
        node: request.node.map(|node| Node {
            id: node.id,
            cluster: node.cluster,
        }),
        subscribe: request.resource_names_subscribe,
        unsubscribe: request.resource_names_unsubscribe,
        initial_versions: request.initial_resource_versions.into_iter().collect(),
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
    }
}

fn given(answer: delta::Response) -> DeltaDiscoveryResponse {
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
