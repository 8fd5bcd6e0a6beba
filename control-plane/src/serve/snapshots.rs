//! `GetSnapshot`: what Envoys are told, or would be told with another configuration.

use graticule_proto::v1::{SnapshotReply, SnapshotResource, ViewSnapshot};
use tokio::sync::oneshot;
use tonic::Status;

use super::hub::{Event, Hub};
use crate::adapters::envoy::{summary, type_url};
use crate::config::Config;
use crate::core::resources::{Kind, Resource, Snapshot};
use crate::core::views::Views;

/// What Envoys are told when `configuration` is empty; else what they would be told with it.
///
/// # Errors
/// When the configuration cannot be used, and before the fleet is known.
pub async fn answer(hub: &Hub, configuration: &str) -> Result<SnapshotReply, Status> {
    if configuration.is_empty() {
        let views = hub.views.borrow().clone();
        return views.as_ref().map(reply).ok_or_else(|| {
            Status::unavailable("it still learns the fleet and tells Envoys nothing yet, ask again in a moment")
        });
    }
    let config: Config = serde_json::from_str(configuration)
        .map_err(|problem| Status::invalid_argument(format!("the configuration cannot be read: {problem}")))?;
    config
        .check()
        .map_err(|problem| Status::invalid_argument(problem.to_string()))?;
    let (tell, told) = oneshot::channel();
    let stops = || Status::unavailable("the control plane stops, ask again");
    if !hub.tell(Event::Preview(Box::new(config), tell)).await {
        return Err(stops());
    }
    let views = told.await.map_err(|_| stops())?.map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Status::failed_precondition(problems.join("; "))
    })?;
    Ok(reply(&views))
}

fn reply(views: &Views) -> SnapshotReply {
    let view = |(view, snapshot): (&str, &std::sync::Arc<Snapshot>)| ViewSnapshot {
        view: view.to_owned(),
        nodes: views.nodes(view).map(str::to_owned).collect(),
        resources: Kind::ALL
            .into_iter()
            .flat_map(|kind| snapshot.of(kind).map(move |r| resource(kind, r)))
            .collect(),
    };
    SnapshotReply {
        views: views.iter().map(view).collect(),
    }
}

fn resource(kind: Kind, resource: &Resource) -> SnapshotResource {
    SnapshotResource {
        kind: kind.name().to_owned(),
        name: resource.name.clone(),
        version: resource.version.clone(),
        summary: summary(kind, &resource.body),
        refers_to: resource.refs.iter().map(|r| format!("{} {}", r.kind, r.name)).collect(),
        type_url: type_url(kind),
        // Private keys are for Envoys alone.
        body: if kind == Kind::Secret {
            Vec::new()
        } else {
            resource.body.to_vec()
        },
    }
}
