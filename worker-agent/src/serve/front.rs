//! The way of a request, whichever port it came in by: read it, find its project, wait for a worker, put it to QGIS,
//! say what happened. The ports turn bytes into an [`Asked`] and a [`Told`] into bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use super::home;
use super::metrics::Metrics;
use super::told::{Asked, Told, ToldBody};
use crate::adapters::exchange::{self, Answer, Body, Failure, Job};
use crate::adapters::storage::{Storage, StorageError};
use crate::adapters::supervisor::{NoLease, Supervisor};
use crate::core::message::{ErrorKind, ProjectRef};
use crate::core::ogc::{
    self, Incoming, Kind, OgcRequest, Origin, Refusal, Refused, fingerprint, pass_headers, upstream,
};
use crate::core::pool;

/// What every request needs; clones share it.
#[derive(Clone)]
pub struct Front {
    /// The agent's name.
    pub agent: Arc<str>,
    /// Where projects are.
    pub storage: Storage,
    /// The pool.
    pub supervisor: Supervisor,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How long a request may take, waiting included.
    pub timeout: Duration,
    /// How long a client should wait before it comes back after a full queue, in seconds.
    pub retry_after: u32,
    /// The largest request body, in bytes.
    pub max_body_size: usize,
}

/// What the log and the metrics say of a request.
#[derive(Default)]
struct Account {
    service: &'static str,
    operation: String,
    project: String,
    version: Option<String>,
    fingerprint: String,
    waited: Duration,
    worker: u64,
}

impl Front {
    /// Answers a request. Dropping the future, or the answer's body, means that the client has gone.
    pub async fn answer(&self, asked: Asked) -> Told {
        let mut account = Account::default();
        let mut told = match self.render(&asked, &mut account).await {
            Ok(told) => told,
            Err(refused) => self.refuse(&refused, &asked.id),
        };
        let took = asked.accepted.elapsed();
        self.metrics
            .answered(account.service, told.status.as_u16(), took, account.waited);
        log(&asked, &account, told.status, took);
        let mut own = |name: &str, value: &str| told.headers.push((name.to_owned(), value.to_owned()));
        own("x-request-id", &asked.id);
        own("x-graticule-agent", &self.agent);
        if let Some(version) = &account.version {
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

    async fn render(&self, asked: &Asked, account: &mut Account) -> Result<Told, Refused> {
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
            return Ok(home::page(&self.agent));
        }
        let dialect = request.dialect();
        let refused = |reason| Refused { reason, dialect };
        let origin = Origin::from_headers(&asked.headers, asked.authority.as_deref(), "http")
            .map_err(|error| refused(error.into()))?;
        account.fingerprint = fingerprint(&request, &asked.body);
        let (name, project) = self.project(&request).await.map_err(refused)?;
        account.project.clone_from(&name);

        let waiting = Instant::now();
        let lease = self
            .supervisor
            .lease(&name, project, asked.accepted + self.timeout)
            .await;
        account.waited = waiting.elapsed();
        let lease = lease.map_err(|why| refused(self.no_lease(why)))?;
        account.worker = lease.worker;
        account.version = Some(lease.project.version.clone());

        let answer = exchange::run(lease, job(asked, &request, &origin)).await;
        let answer = answer.map_err(|failure| refused(self.failed(failure, &request, &name)))?;
        Ok(self.told(answer))
    }

    /// Finds the project. A file of an API's web pages needs none: QGIS gets an empty one.
    async fn project(&self, request: &OgcRequest) -> Result<(String, ProjectRef), Refusal> {
        let Some(name) = &request.project else {
            return Ok((
                String::new(),
                ProjectRef {
                    uri: String::new(),
                    version: String::new(),
                },
            ));
        };
        let found = self.storage.find(name).await.map_err(|error| match error {
            StorageError::Outside(error) => error.into(),
            StorageError::Missing { project } => Refusal::UnknownProject { project },
            StorageError::Unavailable { .. } => Refusal::StorageUnavailable {
                message: error.to_string(),
            },
        })?;
        Ok((name.key().to_owned(), found))
    }

    fn no_lease(&self, why: NoLease) -> Refusal {
        match why {
            NoLease::Refused(pool::Refused::QueueFull) => Refusal::QueueFull {
                waiting: self.supervisor.status().view.waiting,
                retry_after: self.retry_after,
            },
            NoLease::Refused(pool::Refused::Deadline) => self.too_late(),
            NoLease::Refused(pool::Refused::Closing) | NoLease::Ended => Refusal::Draining,
        }
    }

    fn too_late(&self) -> Refusal {
        Refusal::Deadline {
            seconds: self.timeout.as_secs(),
        }
    }

    fn failed(&self, failure: Failure, request: &OgcRequest, name: &str) -> Refusal {
        let error = match failure {
            Failure::Deadline => return self.too_late(),
            Failure::Died(error) => {
                return Refusal::WorkerDied {
                    safe: request.safe,
                    verdict: error.to_string(),
                };
            }
            Failure::Worker(error) => error,
        };
        match error.kind {
            ErrorKind::ProjectMissing => Refusal::UnknownProject {
                project: name.to_owned(),
            },
            ErrorKind::ProjectBroken => Refusal::ProjectBroken {
                project: name.to_owned(),
                message: error.message,
                layers: Vec::new(),
            },
            ErrorKind::Cancelled => self.too_late(),
            ErrorKind::Internal => Refusal::Internal { message: error.message },
        }
    }

    fn told(&self, answer: Answer) -> Told {
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

    fn refuse(&self, refused: &Refused, id: &str) -> Told {
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

/// What QGIS is handed.
fn job(asked: &Asked, request: &OgcRequest, origin: &Origin) -> Job {
    let upstream = upstream(request, &asked.body, origin);
    let headers = pass_headers(&asked.headers);
    Job {
        id: asked.id.clone(),
        method: upstream.method.to_string(),
        url: upstream.url,
        headers,
        body: upstream.body.map_or_else(|| asked.body.clone(), Bytes::from),
        depth: 0,
    }
}

fn log(asked: &Asked, account: &Account, status: StatusCode, took: Duration) {
    let (took_ms, waited_ms) = (took.as_secs_f64() * 1e3, account.waited.as_secs_f64() * 1e3);
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                request = asked.id,
                project = account.project,
                service = account.service,
                operation = account.operation,
                fingerprint = account.fingerprint,
                status = status.as_u16(),
                worker = account.worker,
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
