//! The pins of the fleet on their way: from operators into the store and to the hub, to agents as messages, and what
//! agents say of them back to operators.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use graticule_daemon::project::ProjectName;
use graticule_proto::v1::{
    AgentIntent, AgentPin, AgentState, FleetPin, FleetPinProgress, FleetPinRequest, FleetPins, agent_intent,
};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::hub::{Event, Hub};
use crate::adapters::store::{Kind, Store, StoreError};
use crate::core::pins::{Desired, Key, Pins, State, Wished, Words};

/// For how long progress is told.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a change is tried that other control planes get in the way of.
const TRIES: usize = 5;

/// The state of an agent that went away while progress was told.
const GONE: &str = "gone";

/// The one who changes what is desired: first in the store, then in the hub. Clones share it.
#[derive(Clone, Debug)]
pub struct Keeper {
    kept: Arc<Mutex<Kept>>,
    hub: Hub,
}

#[derive(Debug)]
struct Kept {
    store: Store,
    desired: Desired,
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// False when it was so before.
    pub changed: bool,
    /// The revision that holds it.
    pub revision: u64,
}

impl Keeper {
    /// One for a store and what it holds.
    #[must_use]
    pub fn new(store: Store, desired: Desired, hub: Hub) -> Self {
        let kept = Arc::new(Mutex::new(Kept { store, desired }));
        Self { kept, hub }
    }

    /// Pins; `replicas` is 0 for as it is, or as the pool is configured.
    ///
    /// # Errors
    /// When the store cannot be written; nothing has changed then.
    pub async fn pin(&self, key: Key, replicas: u32) -> Result<Changed, Status> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        tracing::info!(
            project = key.project,
            pool = key.pool,
            replicas,
            "to be pinned for the fleet"
        );
        self.change(move |desired| desired.with(key.clone(), now.as_secs(), replicas))
            .await
    }

    /// Ends a pin.
    ///
    /// # Errors
    /// When the store cannot be written; nothing has changed then.
    pub async fn unpin(&self, key: Key) -> Result<Changed, Status> {
        tracing::info!(project = key.project, pool = key.pool, "to be unpinned for the fleet");
        self.change(move |desired| desired.without(&key)).await
    }

    /// Another control plane may have changed what is desired, in the store that both share.
    ///
    /// # Errors
    /// When the store has gone back behind what is known here; that counts still.
    pub async fn adopt(&self, mut desired: Desired) -> Result<(), StoreError> {
        let mut kept = self.kept.lock().await;
        if desired.revision < kept.desired.revision {
            // It may have been read just before a change of our own.
            desired = kept.store.pins().await?;
        }
        self.take_over(&mut kept, desired).await
    }

    async fn take_over(&self, kept: &mut Kept, desired: Desired) -> Result<(), StoreError> {
        let known = kept.desired.revision;
        kept.store.still_has(Kind::Pins, desired.revision, known)?;
        if desired.revision > known {
            kept.desired = desired.clone();
            self.hub.tell(Event::Desired(desired)).await;
        }
        Ok(())
    }

    async fn change(
        &self,
        change: impl Fn(&Desired) -> Option<Desired> + Send + Sync + 'static,
    ) -> Result<Changed, Status> {
        let keeper = self.clone();
        // To its end, even when whoever asked has gone: what is in the store and what counts are not to part.
        let done = tokio::spawn(async move { keeper.carry_out(change).await });
        done.await.map_err(|error| Status::internal(error.to_string()))?
    }

    async fn carry_out(&self, change: impl Fn(&Desired) -> Option<Desired> + Send + Sync) -> Result<Changed, Status> {
        let mut kept = self.kept.lock().await;
        let mut tries = 0..TRIES;
        loop {
            let Some(next) = change(&kept.desired) else {
                let revision = kept.desired.revision;
                return Ok(Changed {
                    changed: false,
                    revision,
                });
            };
            match kept.store.save_pins(&next).await {
                Ok(()) => {
                    let revision = next.revision;
                    kept.desired = next.clone();
                    if !self.hub.tell(Event::Desired(next)).await {
                        return Err(Status::unavailable("the control plane stops, ask again"));
                    }
                    return Ok(Changed {
                        changed: true,
                        revision,
                    });
                }
                // Another control plane was first: the change is made to what it has left.
                Err(StoreError::Conflict { .. }) if tries.next().is_some() => {
                    let there = kept.store.pins().await.map_err(|error| refused(&error))?;
                    let taken = self.take_over(&mut kept, there).await;
                    taken.map_err(|error| refused(&error))?;
                }
                Err(error) => return Err(refused(&error)),
            }
        }
    }
}

fn refused(error: &StoreError) -> Status {
    tracing::error!(%error, "the pins of the fleet cannot be kept, so they stay as they were");
    Status::failed_precondition(format!("nothing was changed: {error}"))
}

/// What is asked for, checked and in one spelling. With `pools`, the pool has to be one of them.
///
/// # Errors
/// When the name or the pool cannot be used.
pub fn key<'a>(request: &FleetPinRequest, pools: Option<impl Iterator<Item = &'a String>>) -> Result<Key, Status> {
    let name = project(&request.project)?;
    let pool = request.pool.clone();
    if let Some(pools) = pools.filter(|_| !pool.is_empty()) {
        let known: Vec<&str> = pools.map(String::as_str).collect();
        if !known.contains(&pool.as_str()) {
            let start: String = pool.chars().take(40).collect();
            return Err(Status::invalid_argument(format!(
                "there is no pool `{start}`; take one of {}, or none for all",
                known.join(", ")
            )));
        }
    }
    let project = name.key().to_owned();
    Ok(Key { project, pool })
}

/// A project as somebody names it, with or without its first slash.
///
/// # Errors
/// What of it is no name of a project.
pub fn project(name: &str) -> Result<ProjectName, Status> {
    ProjectName::parse(name).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// What an agent's state says of its pins.
#[must_use]
pub fn words(state: &AgentState) -> Words {
    Words {
        revision: state.pins_revision,
        loaded: state.pins.clone(),
        missing: state.missing_pins.clone(),
        problems: state.pin_problems.clone().into_iter().collect(),
    }
}

/// What an agent of a pool is told; nothing while it is not decided what it is to keep.
#[must_use]
pub fn intent(wished: &Wished, pool: &str, agent: &str) -> Option<AgentIntent> {
    let pins = FleetPins {
        projects: wished.of_agent(pool, agent)?,
        revision: wished.desired.revision,
    };
    Some(AgentIntent {
        intent: Some(agent_intent::Intent::Pins(pins)),
    })
}

/// What operators are shown.
#[must_use]
pub fn list(pins: &Pins) -> Vec<FleetPin> {
    let listed = pins.list().map(|listed| FleetPin {
        project: listed.key.project.clone(),
        pool: listed.key.pool.clone(),
        since: listed.pin.since,
        replicas: listed.pin.replicas,
        agents: listed
            .agents
            .iter()
            .map(|(agent, state)| message(agent, state))
            .collect(),
    });
    listed.collect()
}

fn message(agent: &str, state: &State) -> AgentPin {
    AgentPin {
        agent_id: agent.to_owned(),
        state: state.name().to_owned(),
        problem: state.problem().to_owned(),
    }
}

/// Tells how agents get on with a pin that has been kept.
#[must_use]
pub fn progress(hub: &Hub, key: Key, kept: Changed) -> ReceiverStream<Result<FleetPinProgress, Status>> {
    let (tell, told) = mpsc::channel(8);
    let (mut pins, mut synced) = (hub.pins.clone(), hub.told.clone());
    tokio::spawn(async move {
        let mut give_up = pin!(tokio::time::sleep(PATIENCE));
        let mut before: Option<BTreeMap<String, State>> = None;
        let mut late = false;
        loop {
            let all_there = synced.borrow_and_update().is_some();
            let now = {
                let pins = pins.borrow_and_update();
                (pins.desired().revision >= kept.revision).then(|| owned(&pins, &key))
            };
            if let Some(now) = now {
                let ended = now.is_none();
                let now = now.unwrap_or_default();
                let settled = all_there && now.values().all(|state| *state != State::Loading);
                let agents = if ended { Vec::new() } else { news(before.as_ref(), &now) };
                let done = ended || settled || late;
                if done || before.is_none() || !agents.is_empty() {
                    let progress = FleetPinProgress {
                        project: key.project.clone(),
                        pool: key.pool.clone(),
                        already: !kept.changed,
                        agents,
                        done,
                        ended,
                    };
                    // Whoever asked may have gone.
                    if tell.send(Ok(progress)).await.is_err() || done {
                        return;
                    }
                }
                before = Some(now);
            }
            let changed = tokio::select! {
                changed = pins.changed() => changed,
                changed = synced.changed(), if !all_there => changed,
                () = &mut give_up, if !late => { late = true; Ok(()) }
                () = tell.closed() => return,
            };
            if changed.is_err() {
                let stopping = Status::unavailable("the control plane stops; the pin is kept");
                let _ = tell.send(Err(stopping)).await;
                return;
            }
        }
    });
    ReceiverStream::new(told)
}

fn owned(pins: &Pins, key: &Key) -> Option<BTreeMap<String, State>> {
    let agents = pins.agents(key)?.into_iter();
    Some(agents.map(|(agent, state)| (agent.to_owned(), state)).collect())
}

/// What there is to tell after `before`.
fn news(before: Option<&BTreeMap<String, State>>, now: &BTreeMap<String, State>) -> Vec<AgentPin> {
    let known = |agent: &String| before.and_then(|before| before.get(agent));
    let changed = now.iter().filter(|(agent, state)| known(agent) != Some(*state));
    let mut news: Vec<AgentPin> = changed.map(|(agent, state)| message(agent, state)).collect();
    let gone = before
        .into_iter()
        .flatten()
        .filter(|(agent, _)| !now.contains_key(*agent));
    news.extend(gone.map(|(agent, _)| AgentPin {
        agent_id: agent.clone(),
        state: GONE.to_owned(),
        problem: String::new(),
    }));
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(project: &str, pool: &str) -> FleetPinRequest {
        FleetPinRequest {
            project: project.to_owned(),
            pool: pool.to_owned(),
            replicas: 0,
        }
    }

    #[test]
    fn a_wish_is_checked_and_spelled_in_one_way() {
        let pools = ["default".to_owned(), "maps".to_owned()];
        let spelled = key(&asked("world.qgs", "maps"), Some(pools.iter())).unwrap();
        assert_eq!((spelled.project.as_str(), spelled.pool.as_str()), ("/world", "maps"));
        let said = |project, pool| key(&asked(project, pool), Some(pools.iter())).unwrap_err();
        assert!(said("/../x", "").message().contains("steps through"));
        assert!(
            said("/x", "map")
                .message()
                .ends_with("take one of default, maps, or none for all")
        );
        // A pin of a pool that is no longer configured can be ended.
        assert!(key(&asked("/x", "map"), None::<std::slice::Iter<'_, String>>).is_ok());
    }

    #[test]
    fn only_what_changed_is_told_again() {
        let states = |states: &[(&str, State)]| -> BTreeMap<String, State> {
            let states = states.iter().cloned();
            states.map(|(agent, state)| (agent.to_owned(), state)).collect()
        };
        let first = states(&[("a", State::Loading), ("b", State::Loading), ("c", State::Loading)]);
        assert_eq!(news(None, &first).len(), 3);
        let then = states(&[("a", State::Loaded), ("c", State::Failed("no".into()))]);
        let told: Vec<_> = news(Some(&first), &then)
            .into_iter()
            .map(|pin| (pin.agent_id, pin.state, pin.problem))
            .collect();
        let said = |agent: &str, state: &str, problem: &str| (agent.to_owned(), state.to_owned(), problem.to_owned());
        assert_eq!(
            told,
            [
                said("a", "loaded", ""),
                said("c", "failed", "no"),
                said("b", "gone", "")
            ]
        );
        assert!(news(Some(&then), &then).is_empty());
    }
}
