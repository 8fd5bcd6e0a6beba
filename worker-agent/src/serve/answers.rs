//! Answers that serve more than one request: the response cache, the joining of identical requests in flight, and the
//! conditional requests of clients that have an answer already. It knows how answers are shared, not how they are made.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graticule_daemon::current::Current;
use http::{Method, StatusCode};

use super::metrics::Metrics;
use super::render::Served;
use super::shared::{self, Outcome, Shared};
use super::told::{Asked, Told, ToldBody};
use crate::core::conditional::{REPEATED, Wants, etag, has_already, may_be_kept};
use crate::core::message::ProjectRef;
use crate::core::ogc::{self, OgcRequest, Origin, Refusal, Refused, Sharing, SharingRules};
use crate::core::response_cache::{Key, Limits, ResponseCache, Stored};

/// The header that says how an answer came to be.
const CACHE_HEADER: &str = "x-graticule-cache";

/// How an answer came to be, as the metric and the header name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was kept.
    Hit,
    /// It is of a kind that is kept, and was rendered.
    Miss,
    /// Another request that was running already got the same.
    Joined,
    /// It was rendered, and is of a kind that is not kept, or for this client alone.
    Bypass,
}

impl How {
    /// Every way, in the words of the metric.
    pub const ALL: [Self; 4] = [Self::Hit, Self::Miss, Self::Joined, Self::Bypass];

    /// One word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Bypass => "bypass",
        }
    }
}

/// What a render came to.
#[derive(Debug)]
pub struct Rendered {
    /// Who rendered.
    pub served: Served,
    /// The answer.
    pub result: Result<Told, Refused>,
}

/// An answer, and how it came to be.
#[derive(Debug)]
pub struct Answered {
    /// Who rendered.
    pub served: Served,
    /// How it came to be.
    pub how: How,
    /// The answer.
    pub result: Result<Told, Refused>,
}

/// A request whose project was found.
#[derive(Debug)]
pub struct Call<'a> {
    /// As it came.
    pub asked: &'a Asked,
    /// As it was understood.
    pub request: &'a OgcRequest,
    /// The project as the storage holds it now.
    pub project: &'a ProjectRef,
    /// How it may be shared.
    pub sharing: Sharing,
    /// When it must have its answer.
    pub deadline: Instant,
    /// What to say when that passes while it waits for the answer of another.
    pub too_late: Refusal,
}

/// The cache and the flights; clones share them.
#[derive(Clone)]
pub struct Answers {
    inner: Arc<Inner>,
}

struct Inner {
    rules: Current<(SharingRules, Limits)>,
    cache: Mutex<ResponseCache>,
    flights: Shared<Arc<Whole>>,
    /// How often something may have changed data. An answer that was begun before is not given to who asks after.
    changes: AtomicU64,
    /// For how long a worker may run on that nobody waits for any more.
    grace: Current<Duration>,
    metrics: Arc<Metrics>,
}

/// A whole answer, for all who wait for it.
#[derive(Debug)]
struct Whole {
    served: Served,
    result: Result<Pieces, Refused>,
}

#[derive(Debug, Clone)]
struct Pieces {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Vec<Bytes>,
}

/// What is to be known when a render has ended: whether and as what its answer is kept.
struct Keeping {
    project: ProjectRef,
    question: String,
    sharing: Sharing,
    /// The client said that it is not to be kept.
    unkept: bool,
    changes: u64,
}

type Ended = shared::Rendered<Arc<Whole>, Rendered>;

/// A worker that is killed at the end of its grace may have handed its change to a database just before.
const SETTLING: Duration = Duration::from_secs(1);

/// Something may be changing data of a project. Its end, however it comes about, makes what was rendered before old.
struct Changing<'a> {
    answers: &'a Answers,
    uri: &'a str,
    /// It was answered, so nothing of it is to come.
    answered: bool,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.answers.changed(self.uri);
        if self.answered {
            return;
        }
        // Its client has left or its time is over, and the worker may go on until it is killed.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (answers, uri) = (self.answers.clone(), self.uri.to_owned());
            runtime.spawn(async move {
                tokio::time::sleep(*answers.inner.grace.get() + SETTLING).await;
                answers.changed(&uri);
            });
        }
    }
}

impl Answers {
    /// Nothing is kept yet. A worker may run on for `grace` when nobody waits for it any more.
    #[must_use]
    pub fn new(rules: SharingRules, limits: Limits, grace: Duration, metrics: Arc<Metrics>) -> Self {
        metrics.cache_limit(limits.max_bytes);
        Self {
            inner: Arc::new(Inner {
                rules: Current::new((rules, limits)),
                cache: Mutex::new(ResponseCache::new(limits)),
                flights: Shared::default(),
                changes: AtomicU64::new(0),
                grace: Current::new(grace),
                metrics,
            }),
        }
    }

    /// Drops every answer that is kept; what is being rendered now is not kept either.
    pub fn forget_all(&self) {
        self.inner.changes.fetch_add(1, Ordering::SeqCst);
        let mut cache = self.cache();
        cache.clear();
        self.show(&cache);
    }

    /// Data of the project with this uri may have changed.
    fn changed(&self, uri: &str) {
        self.inner.changes.fetch_add(1, Ordering::SeqCst);
        let mut cache = self.cache();
        cache.forget_project(uri);
        self.show(&cache);
    }

    /// From now on workers may run on for so long when nobody waits for them any more.
    pub fn set_grace(&self, grace: Duration) {
        self.inner.grace.set(grace);
    }

    /// Keeps and shares by other rules from now on.
    pub fn adopt(&self, rules: SharingRules, limits: Limits) {
        self.inner.metrics.cache_limit(limits.max_bytes);
        self.inner.rules.set((rules, limits));
        let mut cache = self.cache();
        cache.set_limits(limits);
        self.show(&cache);
    }

    /// How a request may be shared.
    #[must_use]
    pub fn sharing(&self, asked: &Asked, request: &OgcRequest, origin: &Origin) -> Sharing {
        let now = self.inner.rules.get();
        let (rules, limits) = &*now;
        let mut sharing = ogc::sharing(request, &asked.body, &asked.headers, origin, rules);
        if limits.max_bytes == 0 {
            (sharing.keep, sharing.fresh) = (None, None);
        }
        sharing
    }

    /// Answers a call: with what is kept, with what another request gets, or by `render`. Dropping the returned future
    /// means that this client has gone.
    pub async fn answer<F>(&self, call: Call<'_>, render: impl Fn() -> F) -> Answered
    where
        F: Future<Output = Rendered> + Send + 'static,
    {
        let answered = self.find(&call, render).await;
        self.inner.metrics.cached(answered.how);
        let Answered { served, how, result } = answered;
        let result = result.map(|mut told| {
            if has_it(call.asked, &told) {
                told = not_modified(told);
            }
            told.headers.push((CACHE_HEADER.into(), how.name().into()));
            told
        });
        Answered { served, how, result }
    }

    async fn find<F>(&self, call: &Call<'_>, render: impl Fn() -> F) -> Answered
    where
        F: Future<Output = Rendered> + Send + 'static,
    {
        let sharing = &call.sharing;
        let rendered_as = |how: How, Rendered { served, result }| Answered { served, how, result };
        let Some(question) = &sharing.key else {
            let mut changing = (!call.request.safe).then_some(Changing {
                answers: self,
                uri: &call.project.uri,
                answered: false,
            });
            let rendered = render().await;
            if let Some(changing) = &mut changing {
                changing.answered = rendered.result.is_ok();
            }
            drop(changing);
            return rendered_as(How::Bypass, rendered);
        };
        let wants = Wants::of(&call.asked.headers);
        if sharing.keep.is_some()
            && !wants.anew
            && let Some(answered) = self.look_up(call.project, question)
        {
            return answered;
        }
        let own = if sharing.keep.is_some() { How::Miss } else { How::Bypass };
        let begin = || {
            let keeping = Keeping {
                project: call.project.clone(),
                question: question.clone(),
                sharing: sharing.clone(),
                unkept: wants.unkept,
                changes: self.inner.changes.load(Ordering::SeqCst),
            };
            let (answers, rendering) = (self.clone(), render());
            async move { answers.finish(rendering.await, &keeping) }
        };
        let apart = |ended: Ended| match ended {
            shared::Rendered::Whole(whole) => given(&whole, own),
            shared::Rendered::Single(rendered) => rendered_as(own, rendered),
        };
        if !sharing.join || wants.anew || wants.unkept {
            return apart(begin().await);
        }
        let flight = format!(
            "{}\0{}\0{}\0{question}",
            self.inner.changes.load(Ordering::SeqCst),
            call.project.uri,
            call.project.version
        );
        let refused = |reason| Answered {
            served: Served::default(),
            how: How::Joined,
            result: Err(Refused {
                reason,
                dialect: call.request.dialect(),
            }),
        };
        match self.inner.flights.answer(flight, call.deadline.into(), begin()).await {
            Outcome::Led(whole) => given(&whole, own),
            Outcome::LedSingle(rendered) => rendered_as(own, rendered),
            Outcome::Joined(whole) => {
                let mut answered = given(&whole, How::Joined);
                (answered.served.worker, answered.served.waited) = (0, None);
                answered
            }
            Outcome::Alone => apart(begin().await),
            Outcome::Late => refused(call.too_late.clone()),
            Outcome::Lost => refused(Refusal::Internal {
                message: "the render ended without an answer".into(),
            }),
        }
    }

    fn look_up(&self, project: &ProjectRef, question: &str) -> Option<Answered> {
        let mut cache = self.cache();
        let hit = cache.get(
            Instant::now(),
            Key {
                project: &project.uri,
                version: &project.version,
                question,
            },
        );
        self.show(&cache);
        drop(cache);
        let hit = hit?;
        let mut headers = hit.answer.headers.clone();
        headers.push(("age".into(), hit.age.as_secs().to_string()));
        Some(Answered {
            served: Served {
                version: Some(project.version.clone()),
                ..Served::default()
            },
            how: How::Hit,
            result: Ok(Told {
                status: StatusCode::from_u16(hit.answer.status).unwrap_or(StatusCode::OK),
                headers,
                body: ToldBody::Whole(vec![hit.answer.body.clone()]),
            }),
        })
    }

    /// Makes what was rendered an answer for all who wait for it, and keeps it when it may be kept.
    fn finish(&self, rendered: Rendered, keeping: &Keeping) -> Ended {
        let Rendered { served, result } = rendered;
        let result = match result {
            Ok(told) => match told.body {
                ToldBody::Whole(body) => Ok(Pieces {
                    status: told.status,
                    headers: told.headers,
                    body,
                }),
                ToldBody::Stream(_) => {
                    return shared::Rendered::Single(Rendered {
                        served,
                        result: Ok(told),
                    });
                }
            },
            Err(refused) => Err(refused),
        };
        let result = result.map(|pieces| match keeping.sharing.keep {
            Some(age) => self.keep(pieces, &served, keeping, age),
            None => pieces,
        });
        shared::Rendered::Whole(Arc::new(Whole { served, result }))
    }

    fn keep(&self, pieces: Pieces, served: &Served, keeping: &Keeping, age: Duration) -> Pieces {
        // One piece of its own: those of an exchange are slices of what was read from the worker.
        let body = Bytes::from(pieces.body.concat());
        let Pieces {
            status, mut headers, ..
        } = pieces;
        if may_be_kept(status.as_u16(), &headers, &body, &keeping.sharing.varies_by) {
            describe(&mut headers, &body, &keeping.sharing);
            let answer = Stored {
                status: status.as_u16(),
                headers: headers.clone(),
                body: body.clone(),
                cost: served.cost,
            };
            let mut cache = self.cache();
            // Held here, so that a change either sees the answer in the cache or is seen by it.
            let unchanged = self.inner.changes.load(Ordering::SeqCst) == keeping.changes;
            // A pinned project is served from its old version while the new one loads: nobody would ask for that.
            if unchanged && !keeping.unkept && served.version.as_ref() == Some(&keeping.project.version) {
                let key = Key {
                    project: &keeping.project.uri,
                    version: &keeping.project.version,
                    question: &keeping.question,
                };
                cache.put(Instant::now(), key, Arc::new(answer), age);
                self.show(&cache);
            }
        }
        Pieces {
            status,
            headers,
            body: vec![body],
        }
    }

    /// The cache is whole after every call, so a panic elsewhere does not spoil it.
    fn cache(&self) -> MutexGuard<'_, ResponseCache> {
        self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, cache: &ResponseCache) {
        let counters = cache.counters();
        self.inner.metrics.cache_holds(counters.entries, counters.bytes);
    }
}

fn given(whole: &Whole, how: How) -> Answered {
    Answered {
        served: whole.served.clone(),
        how,
        result: whole.result.clone().map(|pieces| Told {
            status: pieces.status,
            headers: pieces.headers,
            body: ToldBody::Whole(pieces.body),
        }),
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// Adds the headers by which clients can keep an answer, where QGIS and its plugins have not set them.
fn describe(headers: &mut Vec<(String, String)>, body: &[u8], sharing: &Sharing) {
    if header(headers, "etag").is_none() {
        let tag = etag(header(headers, "content-type").unwrap_or_default(), body);
        headers.push(("etag".into(), tag));
    }
    if header(headers, "cache-control").is_none() {
        // `no-cache` is not `no-store`: the client keeps it, and asks each time whether it still holds.
        let fresh = sharing
            .fresh
            .map_or_else(|| "no-cache".to_owned(), |age| format!("max-age={}", age.as_secs()));
        let whose = if sharing.private { "private, " } else { "" };
        headers.push(("cache-control".into(), format!("{whose}{fresh}")));
    }
    if !sharing.varies_by.is_empty() {
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("vary"));
        headers.push(("vary".into(), sharing.varies_by.join(", ")));
    }
}

/// Whether the client has this answer already.
fn has_it(asked: &Asked, told: &Told) -> bool {
    let reads = [Method::GET, Method::HEAD].contains(&asked.method);
    reads
        && told.status == StatusCode::OK
        && matches!(told.body, ToldBody::Whole(_))
        && header(&told.headers, "etag").is_some_and(|tag| has_already(&asked.headers, tag))
}

fn not_modified(told: Told) -> Told {
    let mut headers = told.headers;
    headers.retain(|(name, _)| REPEATED.iter().any(|repeated| name.eq_ignore_ascii_case(repeated)));
    Told {
        status: StatusCode::NOT_MODIFIED,
        headers,
        body: ToldBody::Whole(Vec::new()),
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
