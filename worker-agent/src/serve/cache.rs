//! What operators ask of the projects that workers hold: check out, drop, update, clear, dump.

use std::time::{Duration, Instant};

use graticule_proto::v1::{
    CheckoutProjectReply, ClearCacheReply, DropProjectReply, ProjectUpdate, UpdateCacheReply, WorkerCache,
};
use tonic::Status;

use super::admin::find;
use crate::adapters::storage::Storage;
use crate::adapters::supervisor::{Cached, Pinned, Supervisor};
use crate::adapters::watch::{Seen, Watch};
use crate::core::locate::ProjectName;

/// How long an operator's call waits for workers.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it looks.
const EVERY: Duration = Duration::from_millis(30);

/// The service; clones share it.
#[derive(Clone)]
pub struct Cache {
    /// The pool.
    pub supervisor: Supervisor,
    /// Where projects are.
    pub storage: Storage,
    /// Who follows those in use.
    pub watch: Watch,
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Cache {
    /// Compares a project with its storage, and has every worker load it with `pull`.
    ///
    /// # Errors
    /// When it cannot be found.
    pub async fn check_out(&self, project: &str, pull: bool) -> Result<CheckoutProjectReply, Status> {
        let (name, found) = find(&self.storage, project).await?;
        let give_up = Instant::now() + PATIENCE;
        if pull {
            self.supervisor.check_out(Pinned {
                name: name.key().to_owned(),
                project: found.clone(),
            });
        }
        loop {
            let cached = self.cached(&found.uri).await;
            let holdings = self.supervisor.holdings().await;
            let versions: Vec<&String> = holdings
                .iter()
                .filter_map(|holding| holding.projects.get(name.key()))
                .collect();
            let current = versions.iter().filter(|version| ***version == found.version).count();
            let problem = cached.map(|cached| cached.record.problem).unwrap_or_default();
            let waits = pull && current < holdings.len() && problem.is_empty();
            if !waits || Instant::now() > give_up {
                return Ok(CheckoutProjectReply {
                    project: name.key().to_owned(),
                    version: found.version,
                    current: count(current),
                    outdated: count(versions.len() - current),
                    workers: count(holdings.len()),
                    problem,
                });
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Has every worker drop a project.
    ///
    /// # Errors
    /// When it is pinned, or a worker keeps it for too long because its request does not end.
    pub async fn drop_project(&self, project: &str) -> Result<DropProjectReply, Status> {
        let name = parse(project)?;
        let held = self.supervisor.cached().await;
        let Some(held) = held.into_iter().find(|cached| cached.record.name == name.key()) else {
            return Ok(DropProjectReply {
                project: name.key().to_owned(),
                workers: 0,
            });
        };
        if held.pinned {
            return Err(Status::failed_precondition(format!(
                "the project '{name}' is pinned; end that with `cache unpin {name}`"
            )));
        }
        self.supervisor.drop_project(Some(held.uri.clone()));
        self.wait_until_gone(|cached| cached.uri == held.uri).await?;
        tracing::info!(project = name.key(), "dropped");
        Ok(DropProjectReply {
            project: name.key().to_owned(),
            workers: count(held.workers),
        })
    }

    /// Looks at the storage of these projects, or of all in use.
    ///
    /// # Errors
    /// When a name breaks a rule.
    pub async fn update(&self, projects: &[String]) -> Result<UpdateCacheReply, Status> {
        let names = projects
            .iter()
            .map(|project| parse(project))
            .collect::<Result<Vec<_>, _>>()?;
        let before = self.supervisor.cached().await;
        let looked = self.watch.look(names).await;
        let mut projects: Vec<ProjectUpdate> = looked
            .into_iter()
            .map(|looked| {
                let held = before.iter().find(|cached| cached.record.name == looked.project);
                let (state, version, problem) = match looked.seen {
                    Seen::Version(version) => {
                        let same = held.is_none_or(|held| held.record.version == version);
                        (if same { "current" } else { "changed" }, version, String::new())
                    }
                    Seen::Removed => ("removed", String::new(), String::new()),
                    Seen::Unavailable(problem) => ("unavailable", String::new(), problem),
                };
                ProjectUpdate {
                    project: looked.project,
                    state: state.to_owned(),
                    version,
                    problem,
                }
            })
            .collect();
        projects.sort_by(|a, b| a.project.cmp(&b.project));
        Ok(UpdateCacheReply { projects })
    }

    /// Has every worker drop all projects but pinned ones.
    ///
    /// # Errors
    /// When a worker keeps one for too long because its request does not end.
    pub async fn clear(&self) -> Result<ClearCacheReply, Status> {
        let held = self.supervisor.cached().await;
        let held: Vec<Cached> = held.into_iter().filter(|cached| !cached.pinned).collect();
        self.supervisor.drop_project(None);
        self.wait_until_gone(|cached| held.iter().any(|other| other.uri == cached.uri))
            .await?;
        tracing::info!(projects = held.len(), "cleared");
        Ok(ClearCacheReply {
            projects: count(held.len()),
        })
    }

    /// What each worker holds.
    pub async fn dump(&self) -> Vec<WorkerCache> {
        let pids = self.supervisor.status();
        let pid = |worker: &u64| pids.pids.get(worker).and_then(|&pid| u32::try_from(pid).ok());
        let holdings = self.supervisor.holdings().await.into_iter();
        holdings
            .map(|holding| WorkerCache {
                pid: pid(&holding.worker).unwrap_or_default(),
                worker: holding.worker,
                projects: holding.projects.into_iter().collect(),
            })
            .collect()
    }

    async fn cached(&self, uri: &str) -> Option<Cached> {
        self.supervisor
            .cached()
            .await
            .into_iter()
            .find(|cached| cached.uri == uri)
    }

    async fn wait_until_gone(&self, what: impl Fn(&Cached) -> bool) -> Result<(), Status> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let cached = self.supervisor.cached().await;
            let left = cached
                .iter()
                .find(|cached| cached.workers > 0 && !cached.pinned && what(cached));
            let Some(left) = left else { return Ok(()) };
            if Instant::now() > give_up {
                return Err(Status::deadline_exceeded(format!(
                    "a worker still holds '{}': its request does not end, or it is asked for again and again",
                    left.record.name
                )));
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

fn parse(project: &str) -> Result<ProjectName, Status> {
    ProjectName::parse(project).map_err(|error| Status::invalid_argument(error.to_string()))
}
