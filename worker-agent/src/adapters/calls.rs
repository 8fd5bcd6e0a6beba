//! Calls that the control plane makes over this agent's own stream, and that the agent answers from a service of its own,
//! in its own process. The books are [`graticule_daemon::calls`]'s; here are the lock, the tasks and the messages. It knows
//! the service's name and none of its methods.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use graticule_daemon::calls::raw::RawCodec;
use graticule_daemon::calls::{Answer, Ask, Callee, End, Offer, Order};
use graticule_proto::v1::agent_intent::Intent;
use graticule_proto::v1::{CallEnd, CallResult, call_result};
use http::uri::PathAndQuery;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::server::NamedService;
use tonic::{Code, Request, Status};

/// No call runs longer, whatever its caller says.
const LONGEST: Duration = Duration::from_secs(600);

type Messages = BoxStream<'static, Result<Bytes, Status>>;
type Service = dyn Fn(PathAndQuery, Bytes) -> BoxFuture<'static, Result<Messages, Status>> + Send + Sync;

/// The calls of this agent; clones share them.
#[derive(Clone)]
pub struct CallsHandle {
    inner: Arc<Inner>,
}

struct Inner {
    /// "/" and the service's name and "/".
    prefix: String,
    service: Box<Service>,
    books: Mutex<Books>,
    /// There is something to send.
    news: Notify,
    /// There may be room for another message.
    room: Notify,
}

#[derive(Default)]
struct Books {
    callee: Callee,
    running: HashMap<u64, AbortHandle>,
    /// Counts streams: what a task of an earlier one says does not count.
    stream: u64,
}

impl CallsHandle {
    /// One that answers from this service.
    pub fn new<S>(service: S) -> Self
    where
        S: GrpcService<Body, ResponseBody = Body> + NamedService + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        let carry = move |path: PathAndQuery, request: Bytes| {
            let mut grpc = Grpc::new(service.clone()).max_decoding_message_size(usize::MAX);
            async move {
                grpc.ready()
                    .await
                    .map_err(|error| Status::unavailable(error.into().to_string()))?;
                let answer = grpc.server_streaming(Request::new(request), path, RawCodec).await?;
                Ok(answer.into_inner().boxed())
            }
            .boxed()
        };
        Self {
            inner: Arc::new(Inner {
                prefix: format!("/{}/", S::NAME),
                service: Box::new(carry),
                books: Mutex::default(),
                news: Notify::new(),
                room: Notify::new(),
            }),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new stream begins, or there is none any more: calls of the one before are stopped.
    pub fn begin(&self) {
        let mut books = self.books();
        books.stream += 1;
        books.callee.lost();
        for (_, task) in books.running.drain() {
            task.abort();
        }
    }

    /// Takes what the control plane says of calls; gives back what is about something else.
    pub fn take(&self, intent: Intent) -> Option<Intent> {
        let ask = match intent {
            Intent::Call(call) => Ask::Call {
                id: call.id,
                method: call.method,
                request: call.request.into(),
                patience: Duration::try_from_secs_f64(call.patience_seconds).map_or(LONGEST, |wish| wish.min(LONGEST)),
            },
            Intent::Cancelled(cancelled) => Ask::Cancel(cancelled.id),
            Intent::Taken(taken) => Ask::Taken(taken.id, usize::try_from(taken.bytes).unwrap_or(usize::MAX)),
            other => return Some(other),
        };
        let mut books = self.books();
        match books.callee.hear(ask) {
            Some(Order::Start {
                id,
                method,
                request,
                patience,
            }) => {
                tracing::debug!(id, method, "called over the stream");
                let work = self.clone().work(books.stream, id, method, request, patience);
                let task = tokio::spawn(work).abort_handle();
                books.running.insert(id, task);
            }
            Some(Order::Stop(id)) => {
                if let Some(task) = books.running.remove(&id) {
                    task.abort();
                }
            }
            None => {}
        }
        drop(books);
        self.inner.news.notify_one();
        self.inner.room.notify_waiters();
        None
    }

    /// Waits until there is something to send.
    pub async fn changed(&self) {
        loop {
            let news = self.inner.news.notified();
            if self.books().callee.has_answer() {
                return;
            }
            news.await;
        }
    }

    /// What is to be sent next.
    #[must_use]
    pub fn next_result(&self) -> Option<CallResult> {
        let answer = self.books().callee.next_answer()?;
        self.inner.room.notify_waiters();
        let (id, part) = match answer {
            Answer::Message(id, message) => (id, call_result::Part::Message(message.into())),
            Answer::End(id, End { code, message, details }) => {
                let details = details.into();
                (id, call_result::Part::End(CallEnd { code, message, details }))
            }
        };
        Some(CallResult { id, part: Some(part) })
    }

    async fn work(self, stream: u64, id: u64, method: String, request: Bytes, patience: Duration) {
        let done = tokio::time::timeout(patience, self.answer(stream, id, &method, request)).await;
        let end = match done {
            Ok(Ok(())) => End::well(),
            Ok(Err(status)) => End::from(&status),
            Err(_) => End::failed(Code::DeadlineExceeded, "the call took longer than its caller waits"),
        };
        let mut books = self.books();
        if books.stream == stream {
            books.callee.end(id, end);
            books.running.remove(&id);
        }
        drop(books);
        self.inner.news.notify_one();
    }

    async fn answer(&self, stream: u64, id: u64, method: &str, request: Bytes) -> Result<(), Status> {
        let start: String = method.chars().take(100).collect();
        let path = PathAndQuery::try_from(method)
            .ok()
            .filter(|_| method.starts_with(&self.inner.prefix))
            .ok_or_else(|| Status::unimplemented(format!("an agent has no method `{start}`")))?;
        let mut messages = (self.inner.service)(path, request).await?;
        while let Some(message) = messages.next().await {
            let mut message = message?;
            loop {
                // It hears of all room that is made from here on.
                let room = pin!(self.inner.room.notified());
                let offer = {
                    let mut books = self.books();
                    if books.stream != stream {
                        return Ok(());
                    }
                    books.callee.offer(id, message)
                };
                self.inner.news.notify_one();
                match offer {
                    Offer::Accepted => break,
                    Offer::Over => return Ok(()),
                    Offer::Later(back) => message = back,
                }
                room.await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::qgis_server_server::{QgisServer, QgisServerServer};
    use graticule_proto::v1::{
        AgentCall, ApiRequest, CallCancelled, CallTaken, OwsRequest, PingReply, PingRequest, ResponseChunk,
        response_chunk,
    };
    use prost::Message as _;
    use tonic::Response;

    use super::*;

    /// Any service will do: this one pings, and streams without an end.
    #[derive(Clone)]
    struct Endless;

    #[tonic::async_trait]
    impl QgisServer for Endless {
        type ExecuteOwsRequestStream = BoxStream<'static, Result<ResponseChunk, Status>>;
        type ExecuteApiRequestStream = BoxStream<'static, Result<ResponseChunk, Status>>;

        async fn execute_ows_request(
            &self,
            _: Request<OwsRequest>,
        ) -> Result<Response<Self::ExecuteOwsRequestStream>, Status> {
            let part = Some(response_chunk::Part::Body(vec![1; 100 * 1024]));
            let chunk = ResponseChunk { part };
            Ok(Response::new(futures::stream::repeat(Ok(chunk)).boxed()))
        }

        async fn execute_api_request(
            &self,
            _: Request<ApiRequest>,
        ) -> Result<Response<Self::ExecuteApiRequestStream>, Status> {
            futures::future::pending().await
        }

        async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
            let echo = request.into_inner().echo;
            match echo.as_str() {
                "no" => Err(Status::failed_precondition("not now")),
                _ => Ok(Response::new(PingReply { echo })),
            }
        }
    }

    fn handle() -> CallsHandle {
        let handle = CallsHandle::new(QgisServerServer::new(Endless));
        handle.begin();
        handle
    }

    fn call(id: u64, method: &str, request: Vec<u8>, patience_seconds: f64) -> Intent {
        Intent::Call(AgentCall {
            id,
            method: method.to_owned(),
            request,
            patience_seconds,
        })
    }

    async fn next(handle: &CallsHandle) -> (u64, call_result::Part) {
        let result = async {
            handle.changed().await;
            handle.next_result().unwrap()
        };
        let result = tokio::time::timeout(Duration::from_secs(20), result).await.unwrap();
        (result.id, result.part.unwrap())
    }

    async fn ended(handle: &CallsHandle) -> (u64, i32, String) {
        match next(handle).await {
            (id, call_result::Part::End(end)) => (id, end.code, end.message),
            (id, call_result::Part::Message(_)) => panic!("a message of call {id}"),
        }
    }

    #[tokio::test]
    async fn a_call_reaches_the_service_and_its_answer_and_its_refusal_come_back() {
        let handle = handle();
        let ping = |echo: &str| PingRequest { echo: echo.to_owned() }.encode_to_vec();
        handle.take(call(1, "/graticule.v1.QgisServer/Ping", ping("hello"), 5.0));
        let (id, part) = next(&handle).await;
        let call_result::Part::Message(message) = part else {
            panic!("{part:?}")
        };
        assert_eq!((id, PingReply::decode(&*message).unwrap().echo.as_str()), (1, "hello"));
        assert_eq!(ended(&handle).await, (1, 0, String::new()));
        handle.take(call(2, "/graticule.v1.QgisServer/Ping", ping("no"), 5.0));
        assert_eq!(
            ended(&handle).await,
            (2, Code::FailedPrecondition.into(), "not now".to_owned())
        );
        for (id, method) in [
            (3, "/graticule.v1.QgisServer/Nothing"),
            (4, "/grpc.health.v1.Health/Check"),
            (5, "x"),
        ] {
            handle.take(call(id, method, Vec::new(), 5.0));
            assert_eq!(ended(&handle).await.1, i32::from(Code::Unimplemented), "{method}");
        }
        handle.take(call(6, "/graticule.v1.QgisServer/ExecuteApiRequest", Vec::new(), 0.02));
        assert_eq!(ended(&handle).await.1, i32::from(Code::DeadlineExceeded));
    }

    #[tokio::test]
    async fn an_endless_answer_waits_for_its_reader_and_stops_when_nobody_wants_it() {
        let handle = handle();
        handle.take(call(1, "/graticule.v1.QgisServer/ExecuteOwsRequest", Vec::new(), 60.0));
        let mut got = 0;
        while tokio::time::timeout(Duration::from_millis(300), handle.changed())
            .await
            .is_ok()
        {
            handle.next_result().unwrap();
            got += 1;
        }
        assert_eq!(got, 2, "two of 100 KiB go into the window");
        handle.take(Intent::Taken(CallTaken { id: 1, bytes: 250_000 }));
        assert_eq!(next(&handle).await.0, 1);
        let id = 1;
        assert_eq!(handle.take(Intent::Cancelled(CallCancelled { id })), None);
        assert!(handle.books().running.is_empty());
        assert!(
            tokio::time::timeout(Duration::from_millis(100), handle.changed())
                .await
                .is_err()
        );
        // A new stream counts anew, and the old one's tasks are gone.
        handle.take(call(2, "/graticule.v1.QgisServer/ExecuteOwsRequest", Vec::new(), 60.0));
        handle.begin();
        assert!(handle.books().running.is_empty() && handle.next_result().is_none());
    }
}
