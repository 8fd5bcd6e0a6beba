//! `FleetAdmin`: what people and tools ask of the whole fleet. What concerns agents themselves is asked of them over their
//! own streams.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{Stream, StreamExt as _};
use graticule_proto::v1::fleet_admin_server::FleetAdmin;
use graticule_proto::v1::{
    AgentCache, AgentHello, AgentRecord, AgentState, AgentUpdates, AgentsChange, CatalogItem, CatalogRequest,
    ClearQuarantineReply, ClearQuarantineRequest, DrainRequest, FleetCatalogItem, FleetConfig, FleetConfigChange,
    FleetConfigChanges, FleetConfigChangesRequest, FleetConfigRequest, FleetOrder, FleetPinProgress, FleetPinRequest,
    FleetReloadConfigRequest, FleetSetConfigRequest, FleetUnpinReply, GetAgentReply, GetAgentRequest, ListAgentsReply,
    ListAgentsRequest, ListCacheReply, ListCacheRequest, ListCatalogRequest, ListFleetCacheRequest, ListPinsReply,
    ListPinsRequest, ListPlacementsReply, ListPlacementsRequest, ListQuarantineReply, ListQuarantineRequest,
    ReloadRequest, ResizeAgentsRequest, ResizeRequest, ResumeRequest, SnapshotReply, SnapshotRequest, StatsReply,
    StatsRequest, UpdateCacheReply, UpdateCacheRequest, UpdateFleetCacheRequest, WatchAgentsRequest,
};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::fleet::FleetPort;
use super::hub::{Event, Roster};
use super::live::Cause;
use super::orders::{self, Order, Progress};
use super::{pins, quarantine, snapshots};
use crate::config::MOST_REPLICAS;
use crate::core::fleet::Agent;

/// Between two words about changes of the fleet: agents that are busy change all the time.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// Messages on their way to one who reads slowly.
const AHEAD: usize = 64;

#[tonic::async_trait]
impl FleetAdmin for FleetPort {
    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsReply>, Status> {
        let agents = self.hub.roster.borrow().iter().map(|agent| record(agent)).collect();
        Ok(Response::new(ListAgentsReply { agents }))
    }

    async fn get_snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<SnapshotReply>, Status> {
        let request = request.into_inner();
        snapshots::answer(&self.hub, &request.configuration)
            .await
            .map(Response::new)
    }

    async fn list_placements(
        &self,
        _: Request<ListPlacementsRequest>,
    ) -> Result<Response<ListPlacementsReply>, Status> {
        let (tell, told) = oneshot::channel();
        self.tell(Event::Placements(tell)).await?;
        told.await
            .map(Response::new)
            .map_err(|_| Status::unavailable("the control plane stops, ask again"))
    }

    type WatchAgentsStream = ReceiverStream<Result<AgentsChange, Status>>;

    async fn watch_agents(&self, _: Request<WatchAgentsRequest>) -> Result<Response<Self::WatchAgentsStream>, Status> {
        let (tell, told) = mpsc::channel(1);
        let (mut roster, stop) = (self.hub.roster.clone(), self.stop.clone());
        tokio::spawn(async move {
            let mut before = None;
            loop {
                let now = records(&roster.borrow_and_update());
                let change = change(before.as_ref(), &now);
                let news = before.is_none() || change != AgentsChange::default();
                if news && tell.send(Ok(change)).await.is_err() {
                    return;
                }
                before = Some(now);
                let changed = tokio::select! {
                    changed = roster.changed() => changed.is_ok(),
                    () = stop.cancelled() => false,
                    () = tell.closed() => return,
                };
                if !changed {
                    // Whoever watched may have gone.
                    let _ = tell
                        .send(Err(Status::unavailable("the control plane stops, ask again")))
                        .await;
                    return;
                }
                tokio::time::sleep(WATCH_EVERY).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<GetAgentReply>, Status> {
        let id = request.into_inner().agent_id;
        let found = self
            .hub
            .roster
            .borrow()
            .iter()
            .find(|agent| *agent.identity.id == *id)
            .map(|agent| record(agent));
        // Said as for a call of an agent that is not there.
        let line = self.switchboard.line(&id);
        let agent = match (found, &line) {
            (None, Err(status)) => return Err(status.clone()),
            (found, _) => found,
        };
        let stats = match line {
            Ok(line) => {
                line.ask::<_, StatsReply>("/graticule.v1.QgisAdmin/Stats", &StatsRequest {})
                    .await
            }
            Err(_) => Err(Status::unavailable("its stream is broken")),
        };
        let (stats, problem) = match stats {
            Ok(stats) => (Some(stats), String::new()),
            Err(status) => (None, status.message().to_owned()),
        };
        Ok(Response::new(GetAgentReply { agent, stats, problem }))
    }

    type DrainAgentsStream = Progress;

    async fn drain_agents(&self, request: Request<FleetOrder>) -> Result<Response<Progress>, Status> {
        let order = order("/graticule.v1.QgisAdmin/Drain", &DrainRequest::default(), false);
        self.order(&request.into_inner(), order)
    }

    type ResumeAgentsStream = Progress;

    async fn resume_agents(&self, request: Request<FleetOrder>) -> Result<Response<Progress>, Status> {
        let order = order("/graticule.v1.QgisAdmin/Resume", &ResumeRequest::default(), true);
        self.order(&request.into_inner(), order)
    }

    type ReloadAgentsStream = Progress;

    async fn reload_agents(&self, request: Request<FleetOrder>) -> Result<Response<Progress>, Status> {
        let order = order("/graticule.v1.QgisAdmin/Reload", &ReloadRequest::default(), true);
        self.order(&request.into_inner(), order)
    }

    type ResizeAgentsStream = Progress;

    async fn resize_agents(&self, request: Request<ResizeAgentsRequest>) -> Result<Response<Progress>, Status> {
        let ResizeAgentsRequest { agents, workers } = request.into_inner();
        let order = order("/graticule.v1.QgisAdmin/Resize", &ResizeRequest { workers }, true);
        self.order(&agents.unwrap_or_default(), order)
    }

    type ListFleetCacheStream = BoxStream<'static, Result<AgentCache, Status>>;

    async fn list_fleet_cache(
        &self,
        request: Request<ListFleetCacheRequest>,
    ) -> Result<Response<Self::ListFleetCacheStream>, Status> {
        let answers = self.each("ListCache", &request.into_inner().pool, &ListCacheRequest::default())?;
        let told = answers.map(|(pool, agent_id, answer)| {
            let (cache, problem) = told::<ListCacheReply>(answer);
            Ok(AgentCache {
                agent_id,
                pool,
                projects: cache.projects,
                problem,
            })
        });
        Ok(Response::new(told.boxed()))
    }

    type UpdateFleetCacheStream = BoxStream<'static, Result<AgentUpdates, Status>>;

    async fn update_fleet_cache(
        &self,
        request: Request<UpdateFleetCacheRequest>,
    ) -> Result<Response<Self::UpdateFleetCacheStream>, Status> {
        let UpdateFleetCacheRequest { project, pool } = request.into_inner();
        let projects = match project.as_str() {
            "" => Vec::new(),
            name => vec![pins::project(name)?.key().to_owned()],
        };
        let answers = self.each("UpdateCache", &pool, &UpdateCacheRequest { projects })?;
        let told = answers.map(|(pool, agent_id, answer)| {
            let (seen, problem) = told::<UpdateCacheReply>(answer);
            Ok(AgentUpdates {
                agent_id,
                pool,
                projects: seen.projects,
                problem,
            })
        });
        Ok(Response::new(told.boxed()))
    }

    type ListCatalogStream = ReceiverStream<Result<FleetCatalogItem, Status>>;

    async fn list_catalog(
        &self,
        request: Request<ListCatalogRequest>,
    ) -> Result<Response<Self::ListCatalogStream>, Status> {
        let ListCatalogRequest { pool, location } = request.into_inner();
        let agents = attached(&self.hub.roster.borrow(), &pool)?;
        let (tell, told) = mpsc::channel(AHEAD);
        let switchboard = self.switchboard.clone();
        tokio::spawn(async move {
            let pools: BTreeSet<String> = agents.iter().map(|(pool, _)| pool.clone()).collect();
            for pool in pools {
                let mut problem = String::new();
                for (_, agent_id) in agents.iter().filter(|(of, _)| *of == pool) {
                    let location = location.clone();
                    let items = switchboard.line(agent_id).and_then(|line| {
                        line.stream::<_, CatalogItem>("/graticule.v1.QgisAdmin/Catalog", &CatalogRequest { location })
                    });
                    let done = pass_on(items, &tell, &pool, agent_id).await;
                    match done {
                        Ok(()) => problem.clear(),
                        Err(Passed::Gone) => return,
                        Err(Passed::Failed { begun, status }) => {
                            problem = format!("{agent_id}: {}", status.message());
                            // Another one would say again what has been said.
                            if !begun {
                                continue;
                            }
                        }
                    }
                    break;
                }
                if !problem.is_empty() {
                    let item = FleetCatalogItem {
                        pool,
                        problem,
                        ..FleetCatalogItem::default()
                    };
                    if tell.send(Ok(item)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn list_quarantine(
        &self,
        _: Request<ListQuarantineRequest>,
    ) -> Result<Response<ListQuarantineReply>, Status> {
        let entries = quarantine::entries(&self.hub.quarantine.borrow());
        Ok(Response::new(ListQuarantineReply { entries }))
    }

    async fn clear_quarantine(
        &self,
        request: Request<ClearQuarantineRequest>,
    ) -> Result<Response<ClearQuarantineReply>, Status> {
        let fingerprint =
            quarantine::fingerprint_or_all(request.into_inner().fingerprint).map_err(Status::invalid_argument)?;
        let (answer, cleared) = oneshot::channel();
        self.tell(Event::Clear(fingerprint, answer)).await?;
        let cleared = cleared
            .await
            .map_err(|_| Status::unavailable("the control plane stops, ask again"))?;
        let cleared = u32::try_from(cleared).unwrap_or(u32::MAX);
        Ok(Response::new(ClearQuarantineReply { cleared }))
    }

    type PinProjectStream = ReceiverStream<Result<FleetPinProgress, Status>>;

    async fn pin_project(&self, request: Request<FleetPinRequest>) -> Result<Response<Self::PinProjectStream>, Status> {
        let pools = self.hub.config.borrow().effective_pools().into_owned();
        let request = request.into_inner();
        let key = pins::key(&request, Some(pools.keys()))?;
        if request.replicas > MOST_REPLICAS {
            return Err(Status::invalid_argument(format!(
                "replicas is {}, take a number up to {MOST_REPLICAS}, or 0 for as the pool is configured",
                request.replicas
            )));
        }
        let kept = self.keeper.pin(key.clone(), request.replicas).await?;
        Ok(Response::new(pins::progress(&self.hub, key, kept)))
    }

    async fn unpin_project(&self, request: Request<FleetPinRequest>) -> Result<Response<FleetUnpinReply>, Status> {
        let key = pins::key(&request.into_inner(), None::<std::iter::Empty<&String>>)?;
        let project = key.project.clone();
        let was_pinned = self.keeper.unpin(key).await?.changed;
        Ok(Response::new(FleetUnpinReply { project, was_pinned }))
    }

    async fn get_config(&self, _: Request<FleetConfigRequest>) -> Result<Response<FleetConfig>, Status> {
        Ok(Response::new(self.live.get().await))
    }

    async fn set_config(&self, request: Request<FleetSetConfigRequest>) -> Result<Response<FleetConfigChange>, Status> {
        let FleetSetConfigRequest {
            patch_json,
            validate_only,
        } = request.into_inner();
        let patch = serde_json::from_str(&patch_json).map_err(|error| {
            Status::invalid_argument(format!(
                "patch_json: {error}; expected an object such as {{\"front\": {{\"request_timeout\": 90.0}}}}"
            ))
        })?;
        Ok(Response::new(self.live.set(patch, validate_only).await?))
    }

    async fn reload_config(&self, _: Request<FleetReloadConfigRequest>) -> Result<Response<FleetConfigChange>, Status> {
        Ok(Response::new(self.live.reload(Cause::Reload).await))
    }

    async fn list_config_changes(
        &self,
        _: Request<FleetConfigChangesRequest>,
    ) -> Result<Response<FleetConfigChanges>, Status> {
        let changes = self.live.log().await;
        Ok(Response::new(FleetConfigChanges { changes }))
    }

    async fn list_pins(&self, _: Request<ListPinsRequest>) -> Result<Response<ListPinsReply>, Status> {
        let pins = pins::list(&self.hub.pins.borrow());
        Ok(Response::new(ListPinsReply { pins }))
    }
}

impl FleetPort {
    fn order(&self, which: &FleetOrder, order: Order) -> Result<Response<Progress>, Status> {
        orders::carry_out(&self.hub, &self.switchboard, which, order).map(Response::new)
    }

    /// Asks every agent of a pool, or all, the same question of `QgisAdmin`: pool, agent and answer, as they answer.
    fn each<Q, R>(
        &self,
        method: &str,
        pool: &str,
        question: &Q,
    ) -> Result<impl Stream<Item = (String, String, Result<R, Status>)> + Send + use<Q, R>, Status>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let path = format!("/graticule.v1.QgisAdmin/{method}");
        let asked = attached(&self.hub.roster.borrow(), pool)?
            .into_iter()
            .map(|(pool, agent)| {
                let (switchboard, path, question) = (self.switchboard.clone(), path.clone(), question.clone());
                async move {
                    let answer = match switchboard.line(&agent) {
                        Ok(line) => line.ask(&path, &question).await,
                        Err(status) => Err(status),
                    };
                    (pool, agent, answer)
                }
            });
        Ok(asked.collect::<FuturesUnordered<_>>())
    }
}

/// An agent's answer, or why there is none.
fn told<R: Default>(answer: Result<R, Status>) -> (R, String) {
    match answer {
        Ok(answer) => (answer, String::new()),
        Err(status) => (R::default(), status.message().to_owned()),
    }
}

fn order(method: &'static str, request: &impl Message, until_ready: bool) -> Order {
    Order {
        method,
        request: Bytes::from(request.encode_to_vec()),
        until_ready,
    }
}

/// Pools and ids of the agents that can be asked, of one pool or all.
///
/// # Errors
/// When a pool is named of which nobody is there, as with orders: whoever has misspelt it is not to take that for done.
fn attached(roster: &Roster, pool: &str) -> Result<Vec<(String, String)>, Status> {
    let attached = roster
        .iter()
        .filter(|agent| agent.attached)
        .map(|agent| &agent.identity);
    let meant: Vec<(String, String)> = attached
        .filter(|agent| pool.is_empty() || *agent.pool == *pool)
        .map(|agent| (agent.pool.to_string(), agent.id.to_string()))
        .collect();
    if meant.is_empty() && !pool.is_empty() {
        return Err(orders::nobody_of(roster, pool));
    }
    Ok(meant)
}

/// Why items were not all passed on.
enum Passed {
    /// Whoever asked has gone.
    Gone,
    Failed {
        begun: bool,
        status: Status,
    },
}

async fn pass_on(
    items: Result<impl Stream<Item = Result<CatalogItem, Status>> + Unpin, Status>,
    tell: &mpsc::Sender<Result<FleetCatalogItem, Status>>,
    pool: &str,
    agent_id: &str,
) -> Result<(), Passed> {
    let mut begun = false;
    let mut items = items.map_err(|status| Passed::Failed { begun, status })?;
    while let Some(item) = items.next().await {
        let item = Some(item.map_err(|status| Passed::Failed { begun, status })?);
        begun = true;
        let item = FleetCatalogItem {
            pool: pool.to_owned(),
            agent_id: agent_id.to_owned(),
            item,
            problem: String::new(),
        };
        tell.send(Ok(item)).await.map_err(|_| Passed::Gone)?;
    }
    Ok(())
}

type Records = BTreeMap<String, AgentRecord>;

fn records(roster: &Roster) -> Records {
    let records = roster
        .iter()
        .map(|agent| (agent.identity.id.to_string(), record(agent)));
    records.collect()
}

/// What there is to tell after `before`.
fn change(before: Option<&Records>, now: &Records) -> AgentsChange {
    let known = |id: &String| before.and_then(|before| before.get(id));
    let changed = now.iter().filter(|(id, record)| known(id) != Some(*record));
    let agents = changed.map(|(_, record)| record.clone()).collect();
    let gone = before
        .into_iter()
        .flat_map(BTreeMap::keys)
        .filter(|id| !now.contains_key(*id));
    let gone = gone.cloned().collect();
    AgentsChange { agents, gone }
}

fn record(agent: &Agent<AgentState>) -> AgentRecord {
    let identity = &agent.identity;
    AgentRecord {
        hello: Some(AgentHello {
            agent_id: identity.id.to_string(),
            pool: identity.pool.to_string(),
            data_address: identity.data_address.to_string(),
            grpc_address: identity.grpc_address.clone(),
            version: identity.version.clone(),
            longest_timeout: identity.longest_timeout.as_secs_f64(),
        }),
        state: agent.state.as_ref().map(|(_, state)| state.clone()),
        attached: agent.attached,
        told: agent.told().name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::core::fleet::{Fleet, Identity, Session, Timing};

    fn records(agents: &[(&str, &str)]) -> Records {
        let record = |(id, told): &(&str, &str)| {
            let told = (*told).to_owned();
            (
                (*id).to_owned(),
                AgentRecord {
                    told,
                    ..AgentRecord::default()
                },
            )
        };
        agents.iter().map(record).collect()
    }

    #[test]
    fn a_pool_of_which_nobody_is_there_is_not_asked_in_vain() {
        let timing = Timing {
            disconnect_grace: Duration::from_secs(1),
            sync_window: Duration::ZERO,
            silence_limit: Duration::from_secs(15),
        };
        let mut fleet: Fleet<AgentState> = Fleet::new(timing);
        let identity = Identity {
            id: "a".into(),
            pool: "maps".into(),
            data_address: ([127, 0, 0, 1], 1).into(),
            grpc_address: String::new(),
            version: "0".to_owned(),
            longest_timeout: Duration::ZERO,
        };
        fleet.attach(Duration::ZERO, Session(1), identity);
        let roster: Roster = Arc::new(fleet.agents().cloned().collect());
        let meant = [("maps".to_owned(), "a".to_owned())];
        assert_eq!(attached(&roster, "").unwrap(), meant);
        assert_eq!(attached(&roster, "maps").unwrap(), meant);
        let refused = attached(&roster, "map").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::NotFound);
        assert_eq!(refused.message(), "no agent of pool `map` is attached; there are maps");
        assert_eq!(attached(&Roster::default(), "").unwrap(), []);
    }

    #[test]
    fn who_watches_is_told_everything_and_then_what_changed() {
        let first = records(&[("a", "healthy"), ("b", "none")]);
        assert_eq!(change(None, &first).agents.len(), 2);
        let then = records(&[("a", "healthy"), ("c", "none")]);
        let told = change(Some(&first), &then);
        assert_eq!((told.agents.len(), told.gone), (1, vec!["b".to_owned()]));
        let then = records(&[("a", "draining"), ("b", "none")]);
        assert_eq!(change(Some(&first), &then).agents[0].told, "draining");
        assert_eq!(change(Some(&first), &first), AgentsChange::default());
    }
}
