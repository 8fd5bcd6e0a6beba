//! `GetSnapshot`: what Envoys are told, or would be told with another configuration.

use graticule_proto::v1::{SnapshotReply, SnapshotResource, ViewSnapshot};
use tokio::sync::{Semaphore, oneshot};
use tonic::Status;

use super::hub::{Event, Hub};
use crate::adapters::envoy::{self, Member, summary, type_url};
use crate::adapters::secrets::Secrets;
use crate::config::Config;
use crate::core::resources::{Kind, Resource, Snapshot};
use crate::core::views::Views;

/// Another configuration is tried by one at a time: whoever may only read is not to take every processor and all memory.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// The most that a configuration to be tried may come to, in bytes of its JSON times views: each view has a copy of it.
const MOST_WORK: usize = 128 * 1024 * 1024;

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
    let stops = || Status::unavailable("the control plane stops, ask again");
    let turn = ONE_AT_A_TIME.acquire().await.map_err(|_| stops())?;
    let (tell, told) = oneshot::channel();
    if !hub.tell(Event::Members(tell)).await {
        return Err(stops());
    }
    let members = told.await.map_err(|_| stops())?;
    let (configuration, known) = (configuration.to_owned(), hub.secrets.borrow().clone());
    let made = tokio::task::spawn_blocking(move || {
        // To its end, also when whoever asked has gone.
        let _turn = turn;
        preview(&configuration, &members, &known)
    });
    made.await.map_err(|error| Status::internal(error.to_string()))?
}

/// What these agents would be told of with another configuration.
fn preview(configuration: &str, members: &[Member], known: &Secrets) -> Result<SnapshotReply, Status> {
    let config: Config = serde_json::from_str(configuration)
        .map_err(|problem| Status::invalid_argument(format!("the configuration cannot be read: {problem}")))?;
    let work = configuration.len().saturating_mul(config.views.len() + 1);
    if work > MOST_WORK {
        return Err(Status::invalid_argument(format!(
            "the configuration is too large to be tried: its {} bytes of JSON times its {} views, with the one for all others, are \
             over {} MiB; try it with fewer views",
            configuration.len(),
            config.views.len() + 1,
            MOST_WORK / 1024 / 1024
        )));
    }
    config
        .check()
        .map_err(|problem| Status::invalid_argument(problem.to_string()))?;
    // Files that another configuration names are looked at when it is applied.
    let secrets = Secrets::unread(&config, known);
    let views = envoy::views(&config, members, &secrets).map_err(|problems| {
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
        body: if resource.confidential {
            Vec::new()
        } else {
            resource.body.to_vec()
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_secrets_is_shown_without_its_content() {
        let cluster = |name: &str, tls: serde_json::Value| {
            json!({"name": name, "transport_socket": {"name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {"tls_certificates": [tls]},
            }}})
        };
        let of = |http_filters: serde_json::Value| {
            let key = json!({"private_key": {"inline_string": "hush"}});
            let chain = json!({"certificate_chain": {"filename": "/a.pem"}});
            let clusters = [cluster("secret", key), cluster("open", chain)];
            let own = json!({"clusters": clusters, "http_filters": http_filters});
            let asked = json!({"fragments": {"own": own}}).to_string();
            let reply = preview(&asked, &[], &Secrets::default()).unwrap();
            let resources = reply.views[0].resources.iter();
            let empty = resources.filter(|resource| resource.body.is_empty());
            empty.map(|resource| resource.name.clone()).collect::<Vec<_>>()
        };
        let filter = |credentials: serde_json::Value| {
            json!([{"name": "own", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.oauth2.v3.OAuth2",
                "config": {"credentials": credentials},
            }}])
        };
        assert_eq!(of(json!([])), ["secret"]);
        assert_eq!(of(filter(json!({"token_secret": {"name": "x"}}))), ["secret", "front"]);
    }

    #[test]
    fn what_is_too_large_to_be_tried_is_refused_with_the_bound() {
        let with = |views: usize| {
            let views = (0..views).map(|n| (format!("view-{n}"), json!({"nodes": [n.to_string()]})));
            let views: serde_json::Map<_, _> = views.collect();
            preview(&json!({ "views": views }).to_string(), &[], &Secrets::default())
        };
        assert_eq!(with(20).unwrap().views.len(), 21);
        let refused = with(4000).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("over 128 MiB"), "{refused}");
    }
}
