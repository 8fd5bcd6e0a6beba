//! `QgisAdmin`: what operators ask of this agent. Pins are changed here, one at a time: the file on disk and the pool
//! always follow the same order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use graticule_daemon::quarantine::is_fingerprint;
use graticule_proto::v1::qgis_admin_server::QgisAdmin;
use graticule_proto::v1::{
    AgentKills, CachedProject, CatalogRequest, CheckoutProjectReply, CheckoutProjectRequest, ClearCacheReply,
    ClearCacheRequest, ClearQuarantineReply, ClearQuarantineRequest, DrainReply, DrainRequest, DropProjectReply,
    DropProjectRequest, DumpCacheRequest, GetConfigReply, GetConfigRequest, GetEnvReply, GetEnvRequest,
    GetProjectInfoRequest, LaneInfo, LayerLoad, ListCacheReply, ListCacheRequest, ListPluginsReply, ListPluginsRequest,
    ListQuarantineReply, ListQuarantineRequest, MemoryInfo, PinProjectReply, PinProjectRequest, ProjectInfo,
    QuarantineEntry, ReloadReply, ReloadRequest, ResizeReply, ResizeRequest, ResumeReply, ResumeRequest,
    SetConfigReply, SetConfigRequest, SetLogLevelReply, SetLogLevelRequest, SetServingReply, SetServingRequest,
    SleepReply, SleepRequest, StatsReply, StatsRequest, UnpinProjectReply, UnpinProjectRequest, UpdateCacheReply,
    UpdateCacheRequest, WorkerCache, WorkerInfo,
};
use tokio::sync::{Mutex, watch};
use tonic::{Request, Response, Status};

use super::cache::Cache;
use super::catalog::rpc;
use super::front::Front;
use super::metrics::Metrics;
use super::operate::{self, Desk};
use super::plugins::Plugins;
use super::settings::Settings;
use crate::adapters::fleet_pins::FleetPinsHandle;
use crate::adapters::pins::{Pins, PinsError};
use crate::adapters::quarantine::QuarantineHandle;
use crate::adapters::storage::{Storage, StorageError};
use crate::adapters::supervisor::{Cached, Pinned, Supervisor};
use crate::core::locate::ProjectName;
use crate::core::message::ProjectRef;
use crate::core::pool::{LaneView, MOST_WORKERS};
use crate::core::quarantine::Listed;
use graticule_proto::v1::AgentState;

/// The service; clones share it.
#[derive(Clone)]
pub struct Admin {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) supervisor: Supervisor,
    pub(super) storage: Storage,
    metrics: Arc<Metrics>,
    state: watch::Receiver<AgentState>,
    started: Instant,
    pub(super) pins: Mutex<Pins>,
    pub(super) names: watch::Sender<Vec<String>>,
    quarantine: QuarantineHandle,
    cache: Cache,
    plugins: Plugins,
    front: Front,
    desk: Desk,
    settings: Settings,
    fleet_pins: FleetPinsHandle,
}

impl Admin {
    /// Loads the pins that were kept into the pool. A pinned project that is not there stays pinned, and is said to be
    /// missing.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a part of the agent that operators ask of"
    )]
    pub async fn restore(
        pins: Pins,
        cache: Cache,
        front: Front,
        state: watch::Receiver<AgentState>,
        names: watch::Sender<Vec<String>>,
        fleet: &FleetPinsHandle,
        desk: Desk,
        settings: Settings,
    ) -> Self {
        let (supervisor, storage) = (cache.supervisor.clone(), cache.storage.clone());
        let found = look(&storage, fleet, pins.iter()).await;
        names.send_replace(pins.iter().map(str::to_owned).collect());
        if !found.is_empty() {
            tracing::info!(projects = found.len(), "restoring pinned projects");
            supervisor.set_pinned(found);
        }
        let started = Instant::now();
        Self {
            inner: Arc::new(Inner {
                supervisor,
                storage,
                metrics: Arc::clone(&front.metrics),
                state,
                started,
                pins: Mutex::new(pins),
                names,
                quarantine: front.quarantine.clone(),
                plugins: front.plugins.clone(),
                cache,
                front,
                desk,
                settings,
                fleet_pins: fleet.clone(),
            }),
        }
    }
}

/// Looks for pinned projects; what is wrong with those that are not found is noted.
pub(super) async fn look(storage: &Storage, fleet: &FleetPinsHandle, pins: impl Iterator<Item = &str>) -> Vec<Pinned> {
    // A storage that is down is waited for once, and not for each project.
    let looks = pins.map(async |pin| {
        let found = find(storage, pin).await;
        found.inspect_err(|status| {
            let problem = status.message();
            tracing::error!(project = pin, problem, "a pinned project is not there");
            fleet.lost([(pin.to_owned(), problem.to_owned())]);
        })
    });
    let found = futures::future::join_all(looks).await.into_iter().flatten();
    found
        .map(|(name, project)| Pinned {
            name: name.key().to_owned(),
            project,
        })
        .collect()
}

pub(super) async fn find(storage: &Storage, name: &str) -> Result<(ProjectName, ProjectRef), Status> {
    let name = ProjectName::parse(name).map_err(|error| Status::invalid_argument(error.to_string()))?;
    match storage.find(&name).await {
        Ok(project) => Ok((name, project)),
        Err(error @ StorageError::Outside(_)) => Err(Status::permission_denied(error.to_string())),
        Err(error @ (StorageError::Missing { .. } | StorageError::Gone { .. })) => {
            Err(Status::not_found(error.to_string()))
        }
        Err(error @ StorageError::Unavailable { .. }) => Err(Status::unavailable(error.to_string())),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn disk(error: PinsError) -> Status {
    Status::failed_precondition(error.to_string())
}

/// Pins a project. It is written down once it is loaded: what takes QGIS down must not be tried again at every start.
async fn pin(inner: Arc<Inner>, name: ProjectName, project: ProjectRef) -> Result<PinProjectReply, Status> {
    let mut pins = inner.pins.lock().await;
    let reply = |load_ms, already| PinProjectReply {
        project: name.key().into(),
        load_ms,
        already,
    };
    if pins.contains(name.key()) {
        // One that the fleet has pinned becomes this agent's own besides, and stays when the fleet's ends.
        pins.add(name.key()).map_err(disk)?;
        let cached = inner.supervisor.cached().await;
        let load_ms = cached
            .iter()
            .find(|cached| cached.uri == project.uri)
            .map_or(0.0, |cached| cached.record.load_ms);
        return Ok(reply(load_ms, true));
    }
    let pinned = Pinned {
        name: name.key().to_owned(),
        project,
    };
    let load_ms = inner.supervisor.pin(pinned).await.map_err(|problem| {
        Status::failed_precondition(format!(
            "the project '{name}' cannot be loaded, so it is not pinned: {problem}"
        ))
    })?;
    if let Err(error) = pins.add(name.key()) {
        inner.supervisor.repin(Vec::new(), vec![name.key().to_owned()]);
        return Err(disk(error));
    }
    inner.names.send_replace(pins.iter().map(str::to_owned).collect());
    tracing::info!(project = name.key(), load_ms, "pinned");
    Ok(reply(load_ms, false))
}

#[tonic::async_trait]
impl QgisAdmin for Admin {
    type CatalogStream = rpc::Items;

    async fn catalog(&self, request: Request<CatalogRequest>) -> Result<Response<rpc::Items>, Status> {
        rpc::catalog(&self.inner.front, request).await
    }

    async fn get_project_info(&self, request: Request<GetProjectInfoRequest>) -> Result<Response<ProjectInfo>, Status> {
        rpc::project_info(&self.inner.front, request).await
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        let inner = &self.inner;
        let names: std::collections::HashMap<String, String> = inner
            .supervisor
            .cached()
            .await
            .into_iter()
            .map(|cached| {
                (
                    cached.uri.clone(),
                    if cached.record.name.is_empty() {
                        cached.uri
                    } else {
                        cached.record.name
                    },
                )
            })
            .collect();
        // After the question before, so that it is of this moment.
        let status = inner.supervisor.status();
        let workers = status.view.workers.iter().map(|worker| WorkerInfo {
            id: worker.id,
            pid: status
                .pids
                .get(&worker.id)
                .and_then(|&pid| u32::try_from(pid).ok())
                .unwrap_or_default(),
            state: worker.state.to_owned(),
            start: worker.start.name().to_owned(),
            generation: worker.start.generation(),
            served: worker.served,
            private_bytes: worker.private_bytes,
            projects: worker
                .projects
                .iter()
                .map(|uri| names.get(uri).unwrap_or(uri).clone())
                .collect(),
            busy_seconds: worker.busy_for.as_secs_f64(),
        });
        Ok(Response::new(StatsReply {
            state: Some(inner.state.borrow().clone()),
            workers: workers.collect(),
            answers: inner.metrics.answers(),
            exits: inner.metrics.exits(),
            uptime_seconds: inner.started.elapsed().as_secs_f64(),
            lanes: status.view.lanes.iter().map(lane).collect(),
            memory: Some(MemoryInfo {
                total: status.view.memory.total,
                used: status.view.memory.used,
                source: inner.supervisor.memory_source().to_owned(),
                soft_limit: status.view.memory.soft_limit,
                hard_limit: status.view.memory.hard_limit,
            }),
            cache: Some(inner.metrics.cache()),
            control_planes: inner.fleet_pins.list(),
        }))
    }

    async fn pin_project(&self, request: Request<PinProjectRequest>) -> Result<Response<PinProjectReply>, Status> {
        let (name, project) = find(&self.inner.storage, &request.into_inner().project).await?;
        // In a task of its own: a client that leaves must not leave half a pin behind.
        let pinning = tokio::spawn(pin(Arc::clone(&self.inner), name, project));
        let reply = pinning.await.map_err(|error| Status::internal(error.to_string()))?;
        reply.map(Response::new)
    }

    async fn unpin_project(
        &self,
        request: Request<UnpinProjectRequest>,
    ) -> Result<Response<UnpinProjectReply>, Status> {
        let inner = &self.inner;
        let name = ProjectName::parse(&request.into_inner().project)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut pins = inner.pins.lock().await;
        if pins.is_fleets(name.key()) {
            return Err(Status::failed_precondition(format!(
                "'{name}' is pinned for the whole fleet; use `control-plane pins remove {}`",
                name.key()
            )));
        }
        let was_pinned = pins.remove(name.key()).map_err(disk)?;
        if was_pinned {
            inner.names.send_replace(pins.iter().map(str::to_owned).collect());
            // What is left is looked up anew: the file of the one that goes may be gone already.
            let mut left = Vec::new();
            for pin in pins.iter() {
                let found = find(&inner.storage, pin).await.ok();
                left.extend(found.map(|(name, project)| Pinned {
                    name: name.key().to_owned(),
                    project,
                }));
            }
            inner.supervisor.set_pinned(left);
            tracing::info!(project = name.key(), "unpinned");
        }
        Ok(Response::new(UnpinProjectReply {
            project: name.key().into(),
            was_pinned,
        }))
    }

    async fn list_cache(&self, _: Request<ListCacheRequest>) -> Result<Response<ListCacheReply>, Status> {
        let inner = &self.inner;
        let mut projects: Vec<CachedProject> = Vec::new();
        let pins: Vec<String> = inner.pins.lock().await.iter().map(str::to_owned).collect();
        let mut cached = inner.supervisor.cached().await;
        for name in pins {
            let found = find(&inner.storage, &name).await;
            let at = found
                .as_ref()
                .ok()
                .and_then(|(_, found)| cached.iter().position(|cached| cached.uri == found.uri));
            let mut project = at.map_or_else(CachedProject::default, |at| describe(cached.swap_remove(at)));
            if let Err(status) = found {
                status.message().clone_into(&mut project.problem);
            }
            projects.push(CachedProject {
                project: name,
                pinned: true,
                ..project
            });
        }
        projects.extend(cached.into_iter().map(describe));
        projects.sort_by(|a, b| a.project.cmp(&b.project));
        Ok(Response::new(ListCacheReply { projects }))
    }

    async fn checkout_project(
        &self,
        request: Request<CheckoutProjectRequest>,
    ) -> Result<Response<CheckoutProjectReply>, Status> {
        let CheckoutProjectRequest { project, pull } = request.into_inner();
        Ok(Response::new(self.inner.cache.check_out(&project, pull).await?))
    }

    async fn drop_project(&self, request: Request<DropProjectRequest>) -> Result<Response<DropProjectReply>, Status> {
        let project = request.into_inner().project;
        Ok(Response::new(self.inner.cache.drop_project(&project).await?))
    }

    async fn update_cache(&self, request: Request<UpdateCacheRequest>) -> Result<Response<UpdateCacheReply>, Status> {
        let projects = request.into_inner().projects;
        Ok(Response::new(self.inner.cache.update(&projects).await?))
    }

    async fn clear_cache(&self, _: Request<ClearCacheRequest>) -> Result<Response<ClearCacheReply>, Status> {
        Ok(Response::new(self.inner.cache.clear().await?))
    }

    type DumpCacheStream = futures::stream::BoxStream<'static, Result<WorkerCache, Status>>;

    async fn dump_cache(&self, _: Request<DumpCacheRequest>) -> Result<Response<Self::DumpCacheStream>, Status> {
        let dump = self.inner.cache.dump().await;
        Ok(Response::new(Box::pin(futures::stream::iter(dump.into_iter().map(Ok)))))
    }

    async fn resize(&self, request: Request<ResizeRequest>) -> Result<Response<ResizeReply>, Status> {
        let workers = request.into_inner().workers;
        let wanted = usize::try_from(workers).unwrap_or(usize::MAX);
        if !(1..=MOST_WORKERS).contains(&wanted) {
            return Err(Status::invalid_argument(format!(
                "`workers` is {workers}; expected 1 to {MOST_WORKERS}"
            )));
        }
        let before = self.inner.supervisor.status().view.capacity;
        self.inner.supervisor.resize(wanted);
        tracing::info!(before, after = workers, "resized");
        Ok(Response::new(ResizeReply {
            before: u32::try_from(before).unwrap_or(u32::MAX),
            after: workers,
        }))
    }

    async fn list_quarantine(
        &self,
        _: Request<ListQuarantineRequest>,
    ) -> Result<Response<ListQuarantineReply>, Status> {
        let entries = self.inner.quarantine.list().into_iter().map(entry).collect();
        Ok(Response::new(ListQuarantineReply { entries }))
    }

    async fn clear_quarantine(
        &self,
        request: Request<ClearQuarantineRequest>,
    ) -> Result<Response<ClearQuarantineReply>, Status> {
        let fingerprint = request.into_inner().fingerprint;
        if !fingerprint.is_empty() && !is_fingerprint(&fingerprint) {
            let start: String = fingerprint.chars().take(40).collect();
            return Err(Status::invalid_argument(format!(
                "fingerprint `{start}`: expected 16 hexadecimal digits in small letters"
            )));
        }
        let cleared = self.inner.quarantine.clear(&fingerprint);
        let cleared = u32::try_from(cleared).unwrap_or(u32::MAX);
        Ok(Response::new(ClearQuarantineReply { cleared }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let inner = &self.inner;
        let drained = operate::drain(&inner.front, &inner.desk, request.into_inner()).await;
        // The answer comes when everybody else knows.
        inner.desk.standing.until_told().await;
        drained.map(Response::new)
    }

    async fn resume(&self, _: Request<ResumeRequest>) -> Result<Response<ResumeReply>, Status> {
        let resumed = operate::resume(&self.inner.desk)?;
        self.inner.desk.standing.until_told().await;
        Ok(Response::new(resumed))
    }

    async fn reload(&self, _: Request<ReloadRequest>) -> Result<Response<ReloadReply>, Status> {
        operate::reload(&self.inner.front).await.map(Response::new)
    }

    async fn sleep(&self, request: Request<SleepRequest>) -> Result<Response<SleepReply>, Status> {
        let slept = operate::sleep(&self.inner.front, request.into_inner()).await;
        slept.map(Response::new)
    }

    async fn get_env(&self, _: Request<GetEnvRequest>) -> Result<Response<GetEnvReply>, Status> {
        let inner = &self.inner;
        Ok(Response::new(operate::environment(&inner.front, &inner.desk)))
    }

    async fn set_serving(&self, request: Request<SetServingRequest>) -> Result<Response<SetServingReply>, Status> {
        let set = operate::set_serving(&self.inner.desk, request.into_inner())?;
        self.inner.desk.standing.until_told().await;
        Ok(Response::new(set))
    }

    async fn get_config(&self, request: Request<GetConfigRequest>) -> Result<Response<GetConfigReply>, Status> {
        Ok(self.inner.settings.get_config(request))
    }

    async fn set_config(&self, request: Request<SetConfigRequest>) -> Result<Response<SetConfigReply>, Status> {
        self.inner.settings.set_config(request)
    }

    async fn set_log_level(&self, request: Request<SetLogLevelRequest>) -> Result<Response<SetLogLevelReply>, Status> {
        self.inner.settings.set_log_level(request)
    }

    async fn list_plugins(&self, _: Request<ListPluginsRequest>) -> Result<Response<ListPluginsReply>, Status> {
        Ok(Response::new(self.inner.plugins.list()))
    }
}

fn entry(listed: Listed) -> QuarantineEntry {
    let kills: usize = listed.agents.values().map(Vec::len).sum();
    let agents = listed.agents.into_iter().map(|(agent, ages)| {
        let ages_seconds = ages.iter().map(Duration::as_secs_f64).collect();
        (agent, AgentKills { ages_seconds })
    });
    QuarantineEntry {
        fingerprint: listed.culprit.fingerprint,
        project: listed.culprit.project,
        request: listed.culprit.request,
        kills: u32::try_from(kills).unwrap_or(u32::MAX),
        reason: listed.culprit.reason,
        refused: listed.refused,
        remaining_seconds: listed.remaining.as_secs_f64(),
        agents: agents.collect(),
    }
}

fn lane(lane: &LaneView) -> LaneInfo {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    LaneInfo {
        name: lane.lane.name().to_owned(),
        running: count(lane.running),
        waiting: count(lane.waiting),
        guaranteed: count(lane.guaranteed),
        maximum: count(lane.maximum),
    }
}

fn describe(cached: Cached) -> CachedProject {
    let record = cached.record;
    CachedProject {
        project: if record.name.is_empty() {
            cached.uri
        } else {
            record.name
        },
        pinned: cached.pinned,
        workers: u32::try_from(cached.workers).unwrap_or(u32::MAX),
        version: record.version,
        load_ms: record.load_ms,
        hits: record.hits,
        bad_layers: record.bad_layers,
        problem: record.problem,
        outdated: cached.outdated,
        slow_layers: record
            .slow_layers
            .into_iter()
            .map(|(layer, load_ms)| LayerLoad { layer, load_ms })
            .collect(),
    }
}
