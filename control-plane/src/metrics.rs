//! Every metric of the control plane: its name, unit and help text stand here and nowhere else.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::adapters::store;
use crate::core::fleet::Phase;
use crate::core::placement::Reason;
use crate::core::resources::Kind;

/// Agents, by the phase they last said.
pub const AGENTS: &str = "graticule_cp_agents";
/// Agents, by what Envoy is told of them.
pub const AGENTS_TOLD: &str = "graticule_cp_agents_told";
/// Agents whose pool is not configured, so that no request reaches them.
pub const AGENTS_ASTRAY: &str = "graticule_cp_agents_astray";

/// See [`Metrics::agents_lost`].
pub const AGENTS_LOST: &str = "graticule_cp_agents_lost";
/// See [`Metrics::pools_awaited`].
pub const POOLS_AWAITED: &str = "graticule_cp_pools_awaited";
/// Snapshots published since the start.
pub const SNAPSHOTS: &str = "graticule_cp_snapshots_total";
/// Snapshots that were inconsistent and so were not published.
pub const SNAPSHOTS_REFUSED: &str = "graticule_cp_snapshots_inconsistent_total";
/// Pools whose agents may take longer than configured for Envoy.
pub const TIMEOUTS_RAISED: &str = "graticule_cp_timeouts_raised";
/// Requests that killed workers, by whether they are refused or only suspected.
pub const QUARANTINE: &str = "graticule_cp_quarantine_entries";
/// Pins of the fleet.
pub const FLEET_PINS: &str = "graticule_fleet_pins";
/// Pins of the fleet that some agent does not have loaded.
pub const FLEET_PINS_LACKING: &str = "graticule_fleet_pins_lacking";
/// Projects that are not left to Envoy's hash.
pub const PLACED: &str = "graticule_cp_placed_projects";
/// Changes of which agents serve a project, by their reason.
pub const PLACEMENT_MOVES: &str = "graticule_cp_placement_moves_total";
/// Agents that get less than the others of their pool.
pub const AGENTS_SPARED: &str = "graticule_cp_agents_spared";
/// Addresses that pools list, or that the names resolve to that they list.
pub const ADDRESSES: &str = "graticule_cp_addresses";
/// Calls that were carried to agents over their streams, by how they ended.
pub const AGENT_CALLS: &str = "graticule_cp_agent_calls_total";
/// How calls of agents end: well, with the agent's refusal, with its stream, past their deadline, or unwanted.
pub const OUTCOMES: [&str; 5] = ["ok", "refused", "lost", "late", "cancelled"];
/// Changes of the configuration, by what became of them.
pub const CONFIG_CHANGES: &str = "graticule_cp_config_changes_total";
/// Whether the last try to change the configuration was refused.
pub const CONFIG_REFUSED: &str = "graticule_cp_config_refused";
/// Writes to the store, by document and by what became of them.
pub const STORE_WRITES: &str = "graticule_cp_store_writes_total";
/// Whether the store does not answer.
pub const STORE_AWAY: &str = "graticule_cp_store_away";
/// Envoys attached.
pub const CLIENTS: &str = "graticule_xds_clients";
/// Envoys that came with an unknown node and wait.
pub const UNKNOWN_NODES: &str = "graticule_xds_unknown_nodes_total";
/// Answers sent to Envoys, by type.
pub const PUSHES: &str = "graticule_xds_pushes_total";
/// Answers that Envoys took, by type.
pub const ACKS: &str = "graticule_xds_acks_total";
/// Answers that Envoys refused, by type.
pub const NACKS: &str = "graticule_xds_nacks_total";

/// The metrics, registered. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// See [`AGENTS`].
    pub agents: IntGaugeVec,
    /// See [`AGENTS_TOLD`].
    pub agents_told: IntGaugeVec,
    /// See [`AGENTS_ASTRAY`].
    pub agents_astray: IntGauge,
    /// Agents that are told as before although all of their pool have broken off.
    pub agents_lost: IntGauge,
    /// Configured pools of which no agent has been ready since the start.
    pub pools_awaited: IntGauge,
    /// See [`SNAPSHOTS`].
    pub snapshots: IntCounter,
    /// See [`SNAPSHOTS_REFUSED`].
    pub snapshots_refused: IntCounter,
    /// See [`TIMEOUTS_RAISED`].
    pub timeouts_raised: IntGauge,
    /// See [`QUARANTINE`].
    pub quarantine: IntGaugeVec,
    /// See [`FLEET_PINS`].
    pub fleet_pins: IntGauge,
    /// See [`FLEET_PINS_LACKING`].
    pub fleet_pins_lacking: IntGauge,
    /// See [`PLACED`].
    pub placed: IntGauge,
    /// See [`PLACEMENT_MOVES`].
    pub placement_moves: IntCounterVec,
    /// See [`AGENTS_SPARED`].
    pub agents_spared: IntGauge,
    /// See [`ADDRESSES`].
    pub addresses: IntGauge,
    /// See [`AGENT_CALLS`].
    pub agent_calls: IntCounterVec,
    /// See [`CONFIG_CHANGES`].
    pub config_changes: IntCounterVec,
    /// See [`CONFIG_REFUSED`].
    pub config_refused: IntGauge,
    /// See [`STORE_WRITES`].
    pub store_writes: IntCounterVec,
    /// See [`STORE_AWAY`].
    pub store_away: IntGauge,
    /// See [`CLIENTS`].
    pub clients: IntGauge,
    /// See [`UNKNOWN_NODES`].
    pub unknown_nodes: IntCounter,
    /// See [`PUSHES`].
    pub pushes: IntCounterVec,
    /// See [`ACKS`].
    pub acks: IntCounterVec,
    /// See [`NACKS`].
    pub nacks: IntCounterVec,
}

impl Metrics {
    /// Makes and registers every metric. Those with labels start at zero for each known label, so that a rate over the
    /// first event is not lost.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help| registered(registry, IntCounter::new(name, help)?);
        let gauge = |name, help| registered(registry, IntGauge::new(name, help)?);
        let counters = |name, help| registered(registry, IntCounterVec::new(Opts::new(name, help), &["type"])?);
        let gauges = |name, help, label| registered(registry, IntGaugeVec::new(Opts::new(name, help), &[label])?);
        let metrics = Self {
            agents: gauges(AGENTS, "Agents known, by the phase they last said (agents).", "phase")?,
            agents_told: gauges(
                AGENTS_TOLD,
                "Agents known, by what Envoy is told of them (agents).",
                "told",
            )?,
            agents_astray: gauge(AGENTS_ASTRAY, "Agents whose pool is not configured (agents).")?,
            agents_lost: gauge(
                AGENTS_LOST,
                "Agents that are not heard any more, nor is any other of their pool; Envoys are told of them as before (agents).",
            )?,
            pools_awaited: gauge(
                POOLS_AWAITED,
                "Pools of which no agent has been ready since the start; Envoys that knew agents of them keep those (pools).",
            )?,
            snapshots: counter(SNAPSHOTS, "Changed snapshots published to Envoys (snapshots).")?,
            snapshots_refused: counter(SNAPSHOTS_REFUSED, "Snapshots withheld as inconsistent (snapshots).")?,
            timeouts_raised: gauge(
                TIMEOUTS_RAISED,
                "Pools whose agents may take longer than their configured timeouts, so that Envoy waits longer (pools).",
            )?,
            quarantine: gauges(
                QUARANTINE,
                "Requests that killed workers of the fleet, refused or suspected (fingerprints).",
                "state",
            )?,
            fleet_pins: gauge(FLEET_PINS, "Pins of the fleet (pins).")?,
            fleet_pins_lacking: gauge(
                FLEET_PINS_LACKING,
                "Pins of the fleet that some agent does not have loaded (pins).",
            )?,
            placed: gauge(PLACED, "Projects that are not left to Envoy's hash (projects).")?,
            placement_moves: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        PLACEMENT_MOVES,
                        "Changes of which agents serve a project, by their reason (changes).",
                    ),
                    &["reason"],
                )?,
            )?,
            agents_spared: gauge(
                AGENTS_SPARED,
                "Agents that get fewer requests than the others of their pool because they are strained (agents).",
            )?,
            addresses: gauge(
                ADDRESSES,
                "Addresses of agents that pools list or that listed names resolve to (addresses).",
            )?,
            agent_calls: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        AGENT_CALLS,
                        "Calls carried to agents over their streams, by how they ended (calls).",
                    ),
                    &["result"],
                )?,
            )?,
            config_changes: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        CONFIG_CHANGES,
                        "Tries to change the configuration of the running control plane (changes).",
                    ),
                    &["result"],
                )?,
            )?,
            config_refused: gauge(
                CONFIG_REFUSED,
                "1 while the configuration file, as it is now, or what another control plane has set is refused (0 or 1).",
            )?,
            store_writes: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(STORE_WRITES, "Documents written to the store, or not (writes)."),
                    &["document", "result"],
                )?,
            )?,
            store_away: gauge(STORE_AWAY, "1 while the store cannot be read or written (0 or 1).")?,
            clients: gauge(CLIENTS, "Envoys attached (streams).")?,
            unknown_nodes: counter(
                UNKNOWN_NODES,
                "Streams whose node is unknown, which get no answer (streams).",
            )?,
            pushes: counters(PUSHES, "Answers sent to Envoys (answers).")?,
            acks: counters(ACKS, "Answers that Envoys took (answers).")?,
            nacks: counters(NACKS, "Answers that Envoys refused (answers).")?,
        };
        for kind in Kind::ALL {
            for counters in [&metrics.pushes, &metrics.acks, &metrics.nacks] {
                counters.with_label_values(&[kind.name()]);
            }
        }
        for result in ["applied", "unchanged", "refused"] {
            metrics.config_changes.with_label_values(&[result]);
        }
        for document in store::Kind::ALL {
            for result in ["ok", "conflict", "failed"] {
                metrics.store_writes.with_label_values(&[document.name(), result]);
            }
        }
        for phase in Phase::ALL {
            metrics.agents.with_label_values(&[phase.name()]);
        }
        for reason in Reason::ALL {
            metrics.placement_moves.with_label_values(&[reason.name()]);
        }
        for result in OUTCOMES {
            metrics.agent_calls.with_label_values(&[result]);
        }
        for state in ["refused", "suspected"] {
            metrics.quarantine.with_label_values(&[state]);
        }
        Ok(metrics)
    }
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
