//! The way of a request, whichever port it came in by: read it, find its project, wait for a worker, put it to QGIS,
//! say what happened. The ports turn bytes into an [`Asked`] and a [`Told`] into bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use graticule_daemon::current::Current;
use http::StatusCode;

use super::answers::{Answers, Call, Rendered};
use super::catalog::Catalog;
use super::home;
use super::metrics::Metrics;
use super::plugins::Plugins;
use super::render::{Served, Work, render};
use super::standing::Standing;
use super::told::{Asked, Told, ToldBody};
use crate::adapters::demand::DemandHandle;
use crate::adapters::exchange::{Answer, Body, Job, Task};
use crate::adapters::quarantine::QuarantineHandle;
use crate::adapters::storage::{Storage, StorageError};
use crate::adapters::supervisor::{Line, Supervisor, Wanted};
use crate::core::catalog::page_of;
use crate::core::lane::Lane;
use crate::core::message::{Begun, ProjectRef};
use crate::core::ogc::{
    self, Class, Classes, Dialect, Forwarded, Incoming, Kind, OgcRequest, Origin, Refusal, Refused, Sharing,
    fingerprint, upstream,
};

/// What every request needs; clones share it.
#[derive(Clone)]
pub struct Front {
    /// The agent's name.
    pub agent: Arc<str>,
    /// Where projects are.
    pub storage: Storage,
    /// The pool.
    pub supervisor: Supervisor,
    /// Requests that kill workers.
    pub quarantine: QuarantineHandle,
    /// Which headers reach QGIS.
    pub forwarded: Current<Forwarded>,
    /// QGIS's server plugins, and whether they let answers be shared.
    pub plugins: Plugins,
    /// Answers that serve more than one request.
    pub answers: Answers,
    /// Which projects there are.
    pub catalog: Catalog,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the control plane is told of requests.
    pub demand: DemandHandle,
    /// Whether requests are taken.
    pub standing: Standing,
    /// What requests are allowed.
    pub classes: Current<Classes>,
    /// The largest request body, in bytes.
    pub max_body_size: usize,
}

/// What the log and the metrics say of a request.
#[derive(Default)]
pub(super) struct Account {
    pub service: &'static str,
    pub operation: String,
    /// None before it is known, and for what needs no worker.
    pub lane: Option<Lane>,
    pub project: String,
    pub fingerprint: String,
    /// How the answer came to be; empty when the request did not come so far.
    pub cache: &'static str,
    pub served: Served,
}

impl Front {
    /// Answers a request. Dropping the future, or the answer's body, means that the client has gone.
    pub async fn answer(&self, asked: Asked) -> Told {
        let mut account = Account::default();
        let mut told = match self.find_answer(&asked, &mut account).await {
            Ok(told) => told,
            Err(refused) => self.refuse(&refused, &asked.id),
        };
        let took = asked.accepted.elapsed();
        self.metrics.answered(
            account.service,
            account.lane,
            told.status.as_u16(),
            took,
            account.served.waited,
        );
        if let (Some(waited), Some(_)) = (account.served.waited, &account.served.version) {
            self.demand.served(&account.project, waited);
        }
        log(&asked, &account, told.status, took);
        let mut own = |name: &str, value: &str| told.headers.push((name.to_owned(), value.to_owned()));
        own("x-request-id", &asked.id);
        own("x-graticule-agent", &self.agent);
        if let Some(version) = &account.served.version {
            own("x-graticule-project-version", version);
        }
        told
    }

    /// An exception document for a request that was not read to its end.
    #[must_use]
    pub fn refuse_unread(&self, reason: Refusal, path: &str, query: Option<&str>, id: &str) -> Told {
        let mut told = self.refuse(
            &Refused {
                reason,
                dialect: ogc::dialect_of(path, query),
            },
            id,
        );
        told.headers.push(("x-request-id".into(), id.into()));
        told.headers.push(("x-graticule-agent".into(), self.agent.to_string()));
        told
    }

    async fn find_answer(&self, asked: &Asked, account: &mut Account) -> Result<Told, Refused> {
        let drained = self.standing.refuses(asked.accepted);
        if let Some(page) = page_of(&asked.path) {
            if drained {
                let (reason, dialect) = (Refusal::Draining, Dialect::Json);
                return Err(Refused { reason, dialect });
            }
            return Box::pin(self.catalog(asked, page, account)).await;
        }
        let request = ogc::parse(&Incoming {
            method: &asked.method,
            path: &asked.path,
            query: asked.query.as_deref(),
            content_type: asked
                .headers
                .get(http::header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok()),
            body: &asked.body,
        })?;
        account.service = request.service_name();
        account.operation = request.operation();
        if request.kind == Kind::Home {
            return Ok(home::page(&self.agent, self.catalog.is_enabled()));
        }
        let dialect = request.dialect();
        let refused = |reason| Refused { reason, dialect };
        if let Some(name) = &request.project {
            name.key().clone_into(&mut account.project);
        }
        let class = self.classes.get().of(&request, &asked.headers).map_err(refused)?;
        account.lane = Some(class.lane);
        // What a worker asks for while it serves is a part of what runs.
        if drained && class.depth == 0 {
            return Err(refused(Refusal::Draining));
        }
        let origin = Origin::from_headers(&asked.headers, asked.authority.as_deref(), "http")
            .map_err(|error| refused(error.into()))?;
        account.fingerprint = fingerprint(&request, &asked.body);
        let (name, project) = self.project(&request).await.map_err(refused)?;

        let sharing = self.sharing(asked, &request, &origin, class);
        let deadline = asked.accepted + class.allowed;
        let work = Work {
            wanted: Wanted {
                name,
                project: project.clone(),
                lane: class.lane,
                depth: class.depth,
                deadline,
                again: false,
                fingerprint: account.fingerprint.as_str().into(),
                line: line(asked),
            },
            job: self.job(asked, &request, &origin, sharing.hold, class.depth),
            safe: request.safe,
            timeout: class.allowed,
        };
        let call = Call {
            asked,
            request: &request,
            project: &project,
            sharing,
            deadline,
            too_late: Refusal::deadline(class.allowed),
        };
        let answered = self.answers.answer(call, || self.clone().work(work.clone(), dialect));
        let answered = within(asked.accepted, class, answered).await.map_err(refused)?;
        account.cache = answered.how.name();
        account.served = answered.served;
        answered.result
    }

    /// Has a worker answer.
    async fn work(self, work: Work, dialect: Dialect) -> Rendered {
        let (answer, served) = render(&self.supervisor, &self.quarantine, work).await;
        let result = answer
            .map(|answer| self.told(answer))
            .map_err(|reason| Refused { reason, dialect });
        Rendered { served, result }
    }

    /// Finds the project. A file of an API's web pages needs none: QGIS gets an empty one.
    pub(super) async fn project(&self, request: &OgcRequest) -> Result<(String, ProjectRef), Refusal> {
        let Some(name) = &request.project else {
            return Ok((
                String::new(),
                ProjectRef {
                    uri: String::new(),
                    version: String::new(),
                    file: None,
                    begun: Begun::default(),
                },
            ));
        };
        let found = self.storage.find(name).await.map_err(|error| match error {
            StorageError::Outside(error) => error.into(),
            StorageError::Missing { project } => Refusal::UnknownProject { project },
            StorageError::Gone { project } => Refusal::ProjectGone { project },
            StorageError::Unavailable { .. } => Refusal::StorageUnavailable {
                message: error.to_string(),
            },
        })?;
        Ok((name.key().to_owned(), found))
    }

    /// Whom an answer may serve besides who asks.
    pub(super) fn sharing(&self, asked: &Asked, request: &OgcRequest, origin: &Origin, class: Class) -> Sharing {
        let mut sharing = self.answers.sharing(asked, request, origin);
        if !self.plugins.let_share() {
            sharing = sharing.alone();
        }
        // Whom it would join may be waiting for the very worker that asks.
        sharing.join &= class.depth == 0;
        sharing
    }

    /// What QGIS is handed.
    pub(super) fn job(&self, asked: &Asked, request: &OgcRequest, origin: &Origin, hold: usize, depth: u32) -> Job {
        let upstream = upstream(request, &asked.body, origin);
        Job {
            task: Task::Request,
            id: asked.id.clone(),
            method: upstream.method.to_string(),
            url: upstream.url,
            headers: self.forwarded.get().pass(&asked.headers),
            body: upstream.body.map_or_else(|| asked.body.clone(), Bytes::from),
            hold,
            depth,
        }
    }

    pub(super) fn told(&self, answer: Answer) -> Told {
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = answer.headers;
        let body = match answer.body {
            Body::Whole(pieces, report) => {
                self.metrics.rendered(&report);
                let length: usize = pieces.iter().map(Bytes::len).sum();
                headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
                headers.push(("content-length".into(), length.to_string()));
                ToldBody::Whole(pieces.into())
            }
            Body::Stream(pieces) => {
                headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
                ToldBody::Stream(pieces)
            }
        };
        Told { status, headers, body }
    }

    pub(super) fn refuse(&self, refused: &Refused, id: &str) -> Told {
        let reason = &refused.reason;
        self.metrics.refused(reason.code());
        let (content_type, text) = refused.document(id);
        let mut headers = vec![
            ("content-type".to_owned(), content_type.to_owned()),
            ("content-length".to_owned(), text.len().to_string()),
        ];
        if let Some(seconds) = reason.retry_after() {
            headers.push(("retry-after".into(), seconds.to_string()));
        }
        if reason.retry_elsewhere() {
            headers.push(("x-agent-retry".into(), "1".into()));
        }
        if let Some(allow) = reason.allow() {
            headers.push(("allow".into(), allow.into()));
        }
        Told {
            status: reason.status(),
            headers,
            body: ToldBody::Whole(vec![text.into()]),
        }
    }
}

/// Waits for an answer. At a deadline that is the client's own, the work ends as if the client had gone; the pool keeps to
/// what the operator allows.
pub(super) async fn within<T>(
    accepted: Instant,
    class: Class,
    answered: impl Future<Output = T>,
) -> Result<T, Refusal> {
    if class.timeout == class.allowed {
        return Ok(answered.await);
    }
    let deadline = accepted + class.timeout;
    let answered = tokio::time::timeout_at(deadline.into(), answered).await;
    answered.map_err(|_| Refusal::deadline(class.timeout))
}

/// The request as it came, for the log when it kills its worker.
pub(super) fn line(asked: &Asked) -> Arc<Line> {
    Arc::new(Line {
        method: asked.method.to_string(),
        path: asked.path.clone(),
        query: asked.query.clone(),
        body: asked.body.clone(),
    })
}

fn log(asked: &Asked, account: &Account, status: StatusCode, took: Duration) {
    let waited = account.served.waited.unwrap_or_default();
    let (took_ms, waited_ms) = (took.as_secs_f64() * 1e3, waited.as_secs_f64() * 1e3);
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                request = asked.id,
                project = account.project,
                service = account.service,
                operation = account.operation,
                lane = account.lane.map(Lane::name),
                fingerprint = account.fingerprint,
                status = status.as_u16(),
                cache = account.cache,
                worker = account.served.worker,
                attempts = account.served.attempts,
                took_ms,
                waited_ms,
                "answered"
            )
        };
    }
    if status.is_server_error() {
        event!(warn);
    } else {
        event!(debug);
    }
}
