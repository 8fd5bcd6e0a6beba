//! Calls of an agent's `QgisAdmin` through the control plane, over the wire: an agent of the test's own answers them.

use graticule_daemon::calls::raw::RawCodec;
use graticule_proto::v1::fleet_link_client::FleetLinkClient;
use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use graticule_proto::v1::{
    AgentCall, AgentIntent, AgentUpdate, CallEnd, CallResult, CatalogItem, CatalogRequest, StatsReply, StatsRequest,
    agent_intent::Intent, agent_update, call_result,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

use crate::ports::{control_plane, hello};
use crate::stack::PATIENCE;

pub struct Agent {
    pub updates: mpsc::Sender<AgentUpdate>,
    intents: Streaming<AgentIntent>,
}

impl Agent {
    pub async fn attach(fleet: std::net::SocketAddr, name: &str, port: u16) -> Self {
        Self::attach_with(fleet, name, port, None).await
    }

    /// The same, showing a token.
    pub async fn attach_with(fleet: std::net::SocketAddr, name: &str, port: u16, token: Option<&str>) -> Self {
        let mut client = FleetLinkClient::connect(format!("http://{fleet}")).await.unwrap();
        let (updates, outgoing) = mpsc::channel(4);
        updates.send(hello(name, &format!("127.0.0.1:{port}"))).await.unwrap();
        let mut attaches = Request::new(ReceiverStream::new(outgoing));
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            attaches.metadata_mut().insert("authorization", bearer);
        }
        let mut intents = client.attach(attaches).await.unwrap().into_inner();
        let welcome = intents.message().await.unwrap().unwrap();
        assert!(matches!(welcome.intent, Some(Intent::Welcome(_))));
        Self { updates, intents }
    }

    /// What it is told of calls next.
    async fn told(&mut self) -> Intent {
        loop {
            let intent = tokio::time::timeout(PATIENCE, self.intents.message()).await;
            let intent = intent.expect("told in time").unwrap().expect("the stream goes on");
            match intent.intent {
                Some(Intent::Pins(_) | Intent::Quarantine(_)) | None => {}
                Some(intent) => return intent,
            }
        }
    }

    pub async fn called(&mut self) -> AgentCall {
        match self.told().await {
            Intent::Call(call) => call,
            other => panic!("{other:?}"),
        }
    }

    pub async fn says(&self, id: u64, part: call_result::Part) {
        let result = CallResult { id, part: Some(part) };
        let update = Some(agent_update::Update::Result(result));
        self.updates.send(AgentUpdate { update }).await.unwrap();
    }
}

pub fn end(code: Code, message: &str) -> call_result::Part {
    call_result::Part::End(CallEnd {
        code: code.into(),
        message: message.to_owned(),
        ..CallEnd::default()
    })
}

fn to<T>(agent: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("x-graticule-agent", agent.parse().unwrap());
    request
}

async fn admin(fleet: std::net::SocketAddr) -> QgisAdminClient<Channel> {
    QgisAdminClient::connect(format!("http://{fleet}")).await.unwrap()
}

#[tokio::test]
async fn a_call_goes_to_the_agent_that_is_named_and_its_answer_comes_back() {
    let bound = control_plane(|config| config.fleet.sync_window = 0.0).await;
    let fleet = bound.addresses.fleet;
    let mut client = admin(fleet).await;
    let nobody = client.stats(to("a", StatsRequest {})).await.unwrap_err();
    assert_eq!(
        (nobody.code(), nobody.message()),
        (Code::NotFound, "no agent `a` is attached; none is")
    );

    let mut a = Agent::attach(fleet, "a", 5200).await;
    let mut b = Agent::attach(fleet, "b", 5201).await;
    let unnamed = client.stats(StatsRequest {}).await.unwrap_err();
    assert_eq!(unnamed.code(), Code::InvalidArgument);
    assert!(
        unnamed.message().contains("set the metadata `x-graticule-agent`"),
        "{unnamed}"
    );
    let unknown = client.stats(to("c", StatsRequest {})).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().ends_with("there are a, b"), "{unknown}");

    // One message, then the end.
    let stats = async {
        let call = b.called().await;
        assert_eq!(call.method, "/graticule.v1.QgisAdmin/Stats");
        let reply = StatsReply {
            uptime_seconds: 7.5,
            ..StatsReply::default()
        };
        b.says(call.id, call_result::Part::Message(reply.encode_to_vec())).await;
        b.says(call.id, end(Code::Ok, "")).await;
    };
    let (answer, ()) = tokio::join!(client.stats(to("b", StatsRequest {})), stats);
    assert_eq!(answer.unwrap().into_inner().uptime_seconds, 7.5);

    // A refusal.
    let refusal = async {
        let call = a.called().await;
        a.says(call.id, end(Code::FailedPrecondition, "not now")).await;
    };
    let mut other = client.clone();
    let (answer, ()) = tokio::join!(other.stats(to("a", StatsRequest {})), refusal);
    let refused = answer.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::FailedPrecondition, "not now")
    );

    // Many messages, as they come; a reader that goes away is told of.
    let mut items = client
        .catalog(to(
            "a",
            CatalogRequest {
                location: "/x".to_owned(),
            },
        ))
        .await
        .unwrap()
        .into_inner();
    let call = a.called().await;
    assert_eq!(CatalogRequest::decode(&*call.request).unwrap().location, "/x");
    for project in ["/1", "/2"] {
        let item = CatalogItem {
            project: project.to_owned(),
            ..CatalogItem::default()
        };
        a.says(call.id, call_result::Part::Message(item.encode_to_vec())).await;
        assert_eq!(items.message().await.unwrap().unwrap().project, project);
        assert!(matches!(a.told().await, Intent::Taken(taken) if taken.id == call.id));
    }
    drop(items);
    assert!(matches!(a.told().await, Intent::Cancelled(cancelled) if cancelled.id == call.id));

    // The client's own deadline, and methods that nobody knows yet.
    let mut hasty = to("a", StatsRequest {});
    hasty.set_timeout(std::time::Duration::from_millis(200));
    assert!(client.stats(hasty).await.is_err());
    assert!(a.called().await.patience_seconds <= 0.2);
    let mut raw = tonic::client::Grpc::new(Channel::from_shared(format!("http://{fleet}")).unwrap().connect_lazy());
    raw.ready().await.unwrap();
    let path = "/graticule.v1.QgisAdmin/OfNextYear".parse().unwrap();
    let later = async {
        loop {
            if let Intent::Call(call) = a.told().await {
                break a.says(call.id, end(Code::Unimplemented, "")).await;
            }
        }
    };
    let asked = raw.unary(to("a", bytes::Bytes::new()), path, RawCodec);
    let (answer, ()) = tokio::join!(asked, later);
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);

    // An agent that goes takes its calls along.
    let lost = async {
        a.called().await;
        drop(a);
    };
    let mut other = client.clone();
    let (answer, ()) = tokio::join!(other.stats(to("a", StatsRequest {})), lost);
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    assert_eq!(
        client.stats(to("a", StatsRequest {})).await.unwrap_err().code(),
        Code::NotFound
    );
    bound.stop().await;
}
