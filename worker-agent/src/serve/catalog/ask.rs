//! A worker's word on one project, and its map: asked for, waited for, shared and kept as requests for maps are.

use bytes::Bytes;
use http::Method;
use http::header::IF_NONE_MATCH;

use super::svg;
use crate::adapters::exchange::{Job, Task};
use crate::adapters::supervisor::Wanted;
use crate::core::catalog::{Details, Links, placeholder, preview_query};
use crate::core::locate::ProjectName;
use crate::core::message::ProjectRef;
use crate::core::ogc::{self, Class, Dialect, Incoming, OgcRequest, Origin, Refusal, Refused, Sharing, fingerprint};
use crate::serve::answers::{Answered, Call, Rendered};
use crate::serve::front::{Account, Front, line, within};
use crate::serve::render::{Served, Work, render};
use crate::serve::told::{Asked, Told, ToldBody};

/// What is asked of a project, as a request that the pool and the response cache understand.
struct Question {
    asked: Asked,
    request: OgcRequest,
    project: ProjectRef,
    class: Class,
    sharing: Sharing,
    work: Work,
}

impl Question {
    fn call(&self) -> Call<'_> {
        Call {
            asked: &self.asked,
            request: &self.request,
            project: &self.project,
            sharing: self.sharing.clone(),
            deadline: self.work.wanted.deadline,
            too_late: Refusal::deadline(self.class.allowed),
        }
    }
}

impl Front {
    /// Whether the catalog shows a project at all.
    pub(super) fn is_shown(&self, name: &ProjectName) -> Result<(), Refusal> {
        if self.catalog.inner.shown.get().hidden.hides(name.key()) {
            let project = name.to_string();
            return Err(Refusal::UnknownProject { project });
        }
        Ok(())
    }

    /// What a project is, and how that came to be known.
    pub(super) async fn details(
        &self,
        asked: &Asked,
        name: &ProjectName,
        origin: &Origin,
        account: &mut Account,
    ) -> Result<(Details, &'static str), Refusal> {
        let mut question = self.question(asked, name, origin, "project", account).await?;
        // What the client has is the document that is made of this answer.
        question.asked.headers.remove(IF_NONE_MATCH);
        let render = || self.clone().describe(question.work.clone());
        let answered = self.answers.answer(question.call(), render);
        let answered = within(asked.accepted, question.class, answered).await?;
        let told = settle(answered, account)?;
        Ok((read(&told)?, account.cache))
    }

    /// A small map of a project.
    pub(super) async fn preview(
        &self,
        asked: &Asked,
        name: &ProjectName,
        origin: &Origin,
        account: &mut Account,
    ) -> Result<Told, Refusal> {
        self.is_shown(name)?;
        let question = self.question(asked, name, origin, "preview", account).await?;
        let render = || {
            let (asked, origin) = (question.asked.clone(), origin.clone());
            Box::pin(self.clone().draw(question.work.clone(), asked, name.clone(), origin))
        };
        let answered = self.answers.answer(question.call(), render);
        let answered = within(asked.accepted, question.class, answered).await?;
        settle(answered, account)
    }

    /// Reads `what` is asked of a project. It is treated as a request for the project's description is: its lane, its
    /// deadline, who may share it and for how long it is kept are the same; its fingerprint is its own.
    async fn question(
        &self,
        asked: &Asked,
        name: &ProjectName,
        origin: &Origin,
        what: &str,
        account: &mut Account,
    ) -> Result<Question, Refusal> {
        name.key().clone_into(&mut account.project);
        let query = format!("SERVICE=WMS&VERSION=1.3.0&REQUEST=GetProjectSettings&CATALOG={what}");
        let asked = as_wms(asked, name, &query);
        let request = read_wms(&asked)?;
        let class = self.classes.get().of(&request, &asked.headers)?;
        account.lane = Some(class.lane);
        account.fingerprint = fingerprint(&request, b"");
        let (key, project) = self.project(&request).await?;
        // A client can ask QGIS the same to the letter.
        let sharing = self.sharing(&asked, &request, origin, class).of_ours(what);
        let wanted = Wanted {
            name: key,
            project: project.clone(),
            lane: class.lane,
            depth: class.depth,
            deadline: asked.accepted + class.allowed,
            again: false,
            fingerprint: account.fingerprint.as_str().into(),
            line: line(&asked),
        };
        let work = Work {
            wanted,
            job: Job {
                task: Task::Describe,
                id: asked.id.clone(),
                method: Method::GET.to_string(),
                url: String::new(),
                headers: Vec::new(),
                body: Bytes::new(),
                hold: sharing.hold,
                depth: class.depth,
            },
            safe: true,
            timeout: class.allowed,
        };
        Ok(Question {
            asked,
            request,
            project,
            class,
            sharing,
            work,
        })
    }

    async fn describe(self, work: Work) -> Rendered {
        let (answer, served) = render(&self.supervisor, &self.quarantine, work).await;
        let result = answer.map(|answer| self.told(answer)).and_then(whole);
        rendered(served, result)
    }

    async fn draw(self, work: Work, asked: Asked, name: ProjectName, origin: Origin) -> Rendered {
        let Rendered { served, result } = self.clone().describe(work.clone()).await;
        let told = match result {
            Ok(told) => told,
            Err(refused) => return rendered(served, Err(refused.reason)),
        };
        let details = match read(&told) {
            Ok(details) => details,
            Err(reason) => return rendered(served, Err(reason)),
        };
        let Some(query) = preview_query(&details) else {
            let why = "The project shows no layer that can be drawn.";
            return rendered(served, Ok(svg(placeholder("no layers", why))));
        };
        let asked = as_wms(&asked, &name, &query);
        let request = match read_wms(&asked) {
            Ok(request) => request,
            Err(reason) => return rendered(served, Err(reason)),
        };
        let wanted = Wanted {
            fingerprint: fingerprint(&request, b"").into(),
            line: line(&asked),
            ..work.wanted
        };
        let job = self.job(&asked, &request, &origin, work.job.hold, work.job.depth);
        let (answer, second) = render(&self.supervisor, &self.quarantine, Work { wanted, job, ..work }).await;
        let result = answer.map(|answer| self.told(answer)).and_then(whole).and_then(is_map);
        rendered(both(&served, second), result)
    }
}

/// The request of the catalog as one to the project's WMS, with the headers of who asks.
fn as_wms(asked: &Asked, name: &ProjectName, query: &str) -> Asked {
    let target = Links::new("").services(&name.spelled());
    let map = target.trim_start_matches("/?");
    Asked {
        method: Method::GET,
        path: "/".into(),
        query: Some(format!("{map}&{query}")),
        body: Bytes::new(),
        ..asked.clone()
    }
}

fn read_wms(asked: &Asked) -> Result<OgcRequest, Refusal> {
    let incoming = Incoming {
        method: &asked.method,
        path: &asked.path,
        query: asked.query.as_deref(),
        content_type: None,
        body: &[],
    };
    ogc::parse(&incoming).map_err(|refused| refused.reason)
}

fn rendered(served: Served, result: Result<Told, Refusal>) -> Rendered {
    let dialect = Dialect::Json;
    Rendered {
        served,
        result: result.map_err(|reason| Refused { reason, dialect }),
    }
}

/// Says in the account how the answer came to be.
fn settle(answered: Answered, account: &mut Account) -> Result<Told, Refusal> {
    account.cache = answered.how.name();
    account.served = answered.served;
    answered.result.map_err(|refused| refused.reason)
}

/// What two turns with a worker took together.
fn both(first: &Served, second: Served) -> Served {
    Served {
        attempts: first.attempts + second.attempts,
        waited: Some(first.waited.unwrap_or_default() + second.waited.unwrap_or_default()),
        cost: first.cost + second.cost,
        ..second
    }
}

/// An answer that was held until it was whole.
fn whole(told: Told) -> Result<Told, Refusal> {
    match told.body {
        ToldBody::Whole(_) => Ok(told),
        ToldBody::Stream(_) => Err(Refusal::Internal {
            message: "the answer is too large for the catalog".into(),
        }),
    }
}

/// QGIS says in words what it cannot draw.
fn is_map(told: Told) -> Result<Told, Refusal> {
    let is_picture = |(name, value): &(String, String)| {
        name.eq_ignore_ascii_case("content-type") && value.trim_start().starts_with("image/")
    };
    if told.status.is_success() && told.headers.iter().any(is_picture) {
        return Ok(told);
    }
    Err(Refusal::Internal {
        message: format!("QGIS drew no map of it (status {})", told.status.as_u16()),
    })
}

fn read(told: &Told) -> Result<Details, Refusal> {
    let ToldBody::Whole(pieces) = &told.body else {
        return Err(Refusal::Internal {
            message: "a project's description came in pieces".into(),
        });
    };
    serde_json::from_slice(&pieces.concat()).map_err(|error| Refusal::Internal {
        message: format!("a project's description cannot be read: {error}"),
    })
}
