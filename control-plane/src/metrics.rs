//! Every metric of the control plane: its name, unit and help text stand here and nowhere else.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::core::fleet::Phase;
use crate::core::resources::Kind;

/// Agents, by the phase they last said.
pub const AGENTS: &str = "graticule_cp_agents";
/// Agents, by what Envoy is told of them.
pub const AGENTS_TOLD: &str = "graticule_cp_agents_told";
/// Agents whose pool is not configured, so that no request reaches them.
pub const AGENTS_ASTRAY: &str = "graticule_cp_agents_astray";
/// Snapshots published since the start.
pub const SNAPSHOTS: &str = "graticule_cp_snapshots_total";
/// Snapshots that were inconsistent and so were not published.
pub const SNAPSHOTS_REFUSED: &str = "graticule_cp_snapshots_inconsistent_total";
/// Requests that killed workers, by whether they are refused or only suspected.
pub const QUARANTINE: &str = "graticule_cp_quarantine_entries";
/// Pins of the fleet.
pub const FLEET_PINS: &str = "graticule_fleet_pins";
/// Pins of the fleet that some agent does not have loaded.
pub const FLEET_PINS_LACKING: &str = "graticule_fleet_pins_lacking";
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
    /// See [`SNAPSHOTS`].
    pub snapshots: IntCounter,
    /// See [`SNAPSHOTS_REFUSED`].
    pub snapshots_refused: IntCounter,
    /// See [`QUARANTINE`].
    pub quarantine: IntGaugeVec,
    /// See [`FLEET_PINS`].
    pub fleet_pins: IntGauge,
    /// See [`FLEET_PINS_LACKING`].
    pub fleet_pins_lacking: IntGauge,
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
            snapshots: counter(SNAPSHOTS, "Changed snapshots published to Envoys (snapshots).")?,
            snapshots_refused: counter(SNAPSHOTS_REFUSED, "Snapshots withheld as inconsistent (snapshots).")?,
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
        for phase in Phase::ALL {
            metrics.agents.with_label_values(&[phase.name()]);
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
