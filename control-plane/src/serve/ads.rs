//! The port for Envoy: ADS, in both variants. Each stream has a task that feeds requests and snapshots to its
//! [`Client`] and sends what comes out. A snapshot that comes while a slow client is being written to
//! replaces the one it has not seen, so nobody waits for it and nothing piles up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::clients::{Attached, Clients};
use super::hub::Hub;
use super::wire::Speech;
use crate::adapters::envoy::kind_of;
use crate::core::ads::{self, Client, Node, Note};
use crate::core::resources::Kind;
use crate::core::views::Views;
use crate::metrics::Metrics;

/// Answers on their way to one Envoy: one of each kind, for the next waits for the acknowledgement.
const ANSWERS: usize = Kind::ALL.len();

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
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.attach(request))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.attach(request))
    }
}

impl XdsPort {
    fn attach<S: Speech>(&self, request: Request<Streaming<S>>) -> Response<Answers<S::Answer>> {
        let peer = request.remote_addr();
        let requests = request.into_inner();
        let (answers, outgoing) = mpsc::channel(ANSWERS);
        let client = Client::new(S::VARIANT, &self.node_cluster);
        let (port, card) = (self.clone(), self.clients.attach(peer, client));
        tokio::spawn(async move {
            if let Err(status) = port.serve(requests, &card, &answers).await {
                tracing::debug!(%status, ?peer, "an Envoy's stream ended");
                // It may be Envoy that went away; then nobody reads this.
                let _ = answers.try_send(Err(status));
            }
        });
        Response::new(ReceiverStream::new(outgoing).boxed())
    }

    async fn serve<S: Speech>(
        &self,
        mut requests: Streaming<S>,
        card: &Attached,
        answers: &mpsc::Sender<Result<S::Answer, Status>>,
    ) -> Result<(), Status> {
        let mut views = self.hub.views.clone();
        views.mark_changed();
        let settled = tokio::time::sleep(SETTLED_AFTER);
        tokio::pin!(settled);
        let (mut waits_to_settle, mut known) = (true, false);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Err(Status::unavailable("the control plane stops")),
                request = requests.message() => {
                    let Some(request) = request? else { return Ok(()) };
                    let Some(kind) = kind_of(request.type_url()) else {
                        tracing::warn!(type_url = request.type_url(), "an Envoy asks for a type that is not served");
                        continue;
                    };
                    let notes = request.say(&mut card.client(), kind);
                    for note in notes {
                        self.note(note, card)?;
                    }
                    known = true;
                }
                // Which view it gets depends on who it is.
                changed = views.changed(), if known => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control plane stops"));
                    }
                    if let Some(views) = &*views.borrow_and_update() {
                        offer(card, views);
                    }
                }
                () = &mut settled, if waits_to_settle => {
                    waits_to_settle = false;
                    card.client().settle();
                }
            }
            let all: Vec<ads::Response> = card.client().answers();
            for answer in all {
                self.metrics.pushes.with_label_values(&[answer.kind.name()]).inc();
                if answers.send(Ok(S::answer(answer))).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    fn note(&self, note: Note, card: &Attached) -> Result<(), Status> {
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
            Note::Excessive(kind) => {
                tracing::warn!(%kind, "an Envoy asks for so many names that its stream is closed");
                return Err(Status::resource_exhausted(format!(
                    "names of {kind} resources are watched up to 4 MiB, ask for fewer or for `*`"
                )));
            }
        }
        Ok(())
    }
}

/// Offers the client what its view has.
fn offer(card: &Attached, views: &Views) {
    let mut client = card.client();
    let view = views.name(client.node().map_or("", |node| &node.id));
    if let Some(snapshot) = views.get(view) {
        client.offer(Arc::clone(snapshot));
    }
    drop(client);
    card.update(|card| view.clone_into(&mut card.view));
}
