//! The agent's metrics: each name once, here, with its help text and unit. `docs/metrics.md` and the dashboards name no
//! other; a test keeps them in step.

use std::time::Duration;

use graticule_proto::v1::CacheInfo;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::answers::How;
use crate::adapters::quarantine::QuarantineHandle;
use crate::adapters::supervisor::Status;
use crate::core::control_planes::Standing;
use crate::core::lane::Lane;
use crate::core::message::Report;
use crate::core::pool::ExitReason;

/// A metric's name and what it counts.
pub struct Metric {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// In words, with the unit.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $help:literal;)*) => {
        $(const $constant: Metric = Metric { name: $name, help: $help };)*
        /// Every metric of the agent.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    REQUESTS = "graticule_requests_total", "Requests answered, by service, lane and HTTP status.";
    SECONDS = "graticule_request_duration_seconds", "From a request's acceptance to the beginning of its answer, by service, in seconds.";
    WAIT = "graticule_queue_wait_seconds", "How long requests waited for a worker, by lane, in seconds.";
    REFUSALS = "graticule_refusals_total", "Requests that the agent itself refused or gave up on, by code of the exception.";
    CACHE_REQUESTS = "graticule_cache_requests_total", "Requests by how their answer came to be: hit, miss, joined or bypass.";
    CACHE_BYTES = "graticule_cache_bytes", "What the answers in the response cache take, in bytes.";
    CACHE_LIMIT = "graticule_cache_limit_bytes", "What they may take, in bytes; 0 when the response cache is off.";
    CACHE_ENTRIES = "graticule_cache_entries", "Answers in the response cache.";
    CPU = "graticule_render_cpu_seconds", "Processor time that QGIS spent on a request, in seconds.";
    EXITS = "graticule_worker_exits_total", "Workers that left, by reason; docs/lifecycle.md explains each.";
    STARTS = "graticule_worker_start_seconds", "From the order to start a worker until it was ready, by way of starting, in seconds.";
    FORK_REFUSED = "graticule_fork_refused_total", "Forks that a zygote refused because they would not be safe.";
    CAPACITY = "graticule_workers_configured", "Workers configured.";
    WORKERS = "graticule_workers", "Workers by state.";
    MEMORY = "graticule_workers_private_bytes", "Private dirty memory of all workers, as last reported, in bytes.";
    MEMORY_TOTAL = "graticule_memory_total_bytes", "What the agent and its workers may use, by control group or host, in bytes.";
    MEMORY_USED = "graticule_memory_used_bytes", "What is in use of it, in bytes.";
    MEMORY_LIMIT = "graticule_worker_memory_limit_bytes", "Private dirty memory above which a worker is killed, in bytes; 0 before it is known.";
    PEAK = "graticule_request_peak_bytes", "Peak resident memory of a worker during a request, in bytes.";
    LANE_WAITING = "graticule_lane_waiting", "Requests that wait for a worker, by lane.";
    LANE_RUNNING = "graticule_lane_running", "Requests that have a worker, by lane.";
    DEGRADED = "graticule_degraded", "1 while failure pressure is above half of its limit, else 0.";
    WAITING = "graticule_queue_waiting", "Requests that wait for a worker.";
    FAILURE_PRESSURE = "graticule_failure_pressure", "Failed workers within the window over configured workers.";
    FAILURE_LIMIT = "graticule_failure_pressure_limit", "Failure pressure above which the agent gives up and exits.";
    REQUEST_PRESSURE = "graticule_request_pressure", "Running and waiting requests over configured workers.";
    GENERATION = "graticule_generation", "The generation that new workers come from; 0 while there is none.";
    PINS = "graticule_pins", "Pinned projects.";
    LOADS = "graticule_project_loads_total", "Projects that workers loaded or tried to, by result: ok or broken.";
    BROKEN = "graticule_projects_broken", "Projects that could not be loaded when that was tried last.";
    QUARANTINE = "graticule_quarantine_entries", "Requests that killed workers, refused or only suspected.";
    QUARANTINED = "graticule_quarantined_total", "How often kills on this agent made a request refused.";
    PLUGINS = "graticule_plugins", "QGIS's server plugins by state: loaded, failed.";
    CONFIG_CHANGES = "graticule_config_changes_total", "Changes of the configuration of the running agent, by result: applied, unchanged or refused.";
    CONTROL_PLANE_CONNECTED = "graticule_control_plane_connected", "1 while the agent is attached to this control plane, else 0.";
    CONTROL_PLANE_IGNORED = "graticule_control_plane_pins_ignored", "1 while the pins of the fleet that this control plane tells do not count here, else 0.";
    READY = "graticule_ready", "1 when requests should be sent to this agent, else 0.";
}

/// Bounds of histograms from a millisecond to a minute, in seconds.
const SECONDS_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0,
];

/// Bounds of histograms of memory, in bytes: 64 MiB and twice as much each time.
const BYTES_BUCKETS: &[f64] = &[
    67_108_864.0,
    134_217_728.0,
    268_435_456.0,
    536_870_912.0,
    1_073_741_824.0,
    2_147_483_648.0,
    4_294_967_296.0,
    8_589_934_592.0,
];

const STATES: [&str; 6] = ["starting", "idle", "busy", "cancelling", "loading", "leaving"];

/// The agent's metrics, registered.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    wait: HistogramVec,
    refusals: IntCounterVec,
    cache_requests: IntCounterVec,
    cache_bytes: IntGauge,
    cache_limit: IntGauge,
    cache_entries: IntGauge,
    cpu: Histogram,
    exits: IntCounterVec,
    starts: HistogramVec,
    fork_refused: IntCounter,
    capacity: IntGauge,
    workers: IntGaugeVec,
    memory: IntGauge,
    memory_total: IntGauge,
    memory_used: IntGauge,
    memory_limit: IntGauge,
    peak: Histogram,
    lane_waiting: IntGaugeVec,
    lane_running: IntGaugeVec,
    degraded: IntGauge,
    waiting: IntGauge,
    failure_pressure: Gauge,
    failure_limit: Gauge,
    config_changes: IntCounterVec,
    request_pressure: Gauge,
    generation: IntGauge,
    pins: IntGauge,
    loads: IntCounterVec,
    broken: IntGauge,
    quarantine: IntGaugeVec,
    quarantined: IntCounter,
    plugins: IntGaugeVec,
    control_plane_connected: IntGaugeVec,
    control_plane_ignored: IntGaugeVec,
    ready: IntGauge,
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// When two have the same name.
    pub fn new(failure_limit: f64) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let opts = |metric: Metric| Opts::new(metric.name, metric.help);
        let buckets = |metric: Metric| HistogramOpts::new(metric.name, metric.help).buckets(SECONDS_BUCKETS.to_vec());
        macro_rules! registered {
            ($collector:expr) => {{
                let collector = $collector?;
                registry.register(Box::new(collector.clone()))?;
                collector
            }};
        }
        let limit = registered!(Gauge::with_opts(opts(FAILURE_LIMIT)));
        limit.set(failure_limit);
        let config_changes = registered!(IntCounterVec::new(opts(CONFIG_CHANGES), &["result"]));
        ["applied", "unchanged", "refused"]
            .iter()
            .for_each(|result| drop(config_changes.with_label_values(&[*result])));
        let exits = registered!(IntCounterVec::new(opts(EXITS), &["reason"]));
        // A counter that is there from the start lets `rate()` see its first step.
        ExitReason::NAMES
            .iter()
            .for_each(|reason| drop(exits.with_label_values(&[*reason])));
        let cache_requests = registered!(IntCounterVec::new(opts(CACHE_REQUESTS), &["result"]));
        How::ALL
            .iter()
            .for_each(|how| drop(cache_requests.with_label_values(&[how.name()])));
        Ok(Self {
            requests: registered!(IntCounterVec::new(opts(REQUESTS), &["service", "lane", "status"])),
            seconds: registered!(HistogramVec::new(buckets(SECONDS), &["service"])),
            wait: registered!(HistogramVec::new(buckets(WAIT), &["lane"])),
            refusals: registered!(IntCounterVec::new(opts(REFUSALS), &["code"])),
            cache_requests,
            cache_bytes: registered!(IntGauge::with_opts(opts(CACHE_BYTES))),
            cache_limit: registered!(IntGauge::with_opts(opts(CACHE_LIMIT))),
            cache_entries: registered!(IntGauge::with_opts(opts(CACHE_ENTRIES))),
            cpu: registered!(Histogram::with_opts(buckets(CPU))),
            exits,
            starts: registered!(HistogramVec::new(buckets(STARTS), &["start"])),
            fork_refused: registered!(IntCounter::with_opts(opts(FORK_REFUSED))),
            capacity: registered!(IntGauge::with_opts(opts(CAPACITY))),
            workers: registered!(IntGaugeVec::new(opts(WORKERS), &["state"])),
            memory: registered!(IntGauge::with_opts(opts(MEMORY))),
            memory_total: registered!(IntGauge::with_opts(opts(MEMORY_TOTAL))),
            memory_used: registered!(IntGauge::with_opts(opts(MEMORY_USED))),
            memory_limit: registered!(IntGauge::with_opts(opts(MEMORY_LIMIT))),
            peak: registered!(Histogram::with_opts(
                HistogramOpts::new(PEAK.name, PEAK.help).buckets(BYTES_BUCKETS.to_vec())
            )),
            lane_waiting: registered!(IntGaugeVec::new(opts(LANE_WAITING), &["lane"])),
            lane_running: registered!(IntGaugeVec::new(opts(LANE_RUNNING), &["lane"])),
            degraded: registered!(IntGauge::with_opts(opts(DEGRADED))),
            waiting: registered!(IntGauge::with_opts(opts(WAITING))),
            failure_pressure: registered!(Gauge::with_opts(opts(FAILURE_PRESSURE))),
            request_pressure: registered!(Gauge::with_opts(opts(REQUEST_PRESSURE))),
            generation: registered!(IntGauge::with_opts(opts(GENERATION))),
            pins: registered!(IntGauge::with_opts(opts(PINS))),
            loads: registered!(IntCounterVec::new(opts(LOADS), &["result"])),
            broken: registered!(IntGauge::with_opts(opts(BROKEN))),
            quarantine: registered!(IntGaugeVec::new(opts(QUARANTINE), &["state"])),
            quarantined: registered!(IntCounter::with_opts(opts(QUARANTINED))),
            plugins: registered!(IntGaugeVec::new(opts(PLUGINS), &["state"])),
            control_plane_connected: registered!(IntGaugeVec::new(opts(CONTROL_PLANE_CONNECTED), &["control_plane"])),
            control_plane_ignored: registered!(IntGaugeVec::new(opts(CONTROL_PLANE_IGNORED), &["control_plane"])),
            failure_limit: limit,
            config_changes,
            ready: registered!(IntGauge::with_opts(opts(READY))),
            registry,
        })
    }

    /// The configuration was to change.
    pub fn config_changed(&self, result: &str) {
        self.config_changes.with_label_values(&[result]).inc();
    }

    /// The agent gives up above another failure pressure from now on.
    pub fn set_failure_limit(&self, limit: f64) {
        self.failure_limit.set(limit);
    }

    /// Where the metrics are registered.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// A request has its answer, or the beginning of one; `waited` for a worker, if it asked for one. Without a lane it
    /// never came so far.
    pub fn answered(&self, service: &str, lane: Option<Lane>, status: u16, took: Duration, waited: Option<Duration>) {
        let service = if service.is_empty() { "unknown" } else { service };
        let name = lane.map_or("none", Lane::name);
        self.requests
            .with_label_values(&[service, name, &status.to_string()])
            .inc();
        self.seconds.with_label_values(&[service]).observe(took.as_secs_f64());
        if let (Some(waited), true) = (waited, lane.is_some()) {
            self.wait.with_label_values(&[name]).observe(waited.as_secs_f64());
        }
    }

    /// QGIS has answered.
    pub fn rendered(&self, report: &Report) {
        self.cpu.observe(report.cpu_ms / 1e3);
        #[allow(clippy::cast_precision_loss, reason = "a size to show")]
        self.peak.observe(report.peak_kb as f64 * 1024.0);
    }

    /// An answer came to be in this way.
    pub fn cached(&self, how: How) {
        self.cache_requests.with_label_values(&[how.name()]).inc();
    }

    /// The response cache may take so many bytes.
    pub fn cache_limit(&self, bytes: usize) {
        self.cache_limit.set(whole(bytes));
    }

    /// The response cache holds so much.
    pub fn cache_holds(&self, entries: usize, bytes: usize) {
        self.cache_entries.set(whole(entries));
        self.cache_bytes.set(whole(bytes));
    }

    /// The response cache in figures.
    #[must_use]
    pub fn cache(&self) -> CacheInfo {
        let gauge = |gauge: &IntGauge| u64::try_from(gauge.get()).unwrap_or_default();
        let count = |how: How| self.cache_requests.with_label_values(&[how.name()]).get();
        CacheInfo {
            entries: gauge(&self.cache_entries),
            bytes: gauge(&self.cache_bytes),
            max_bytes: gauge(&self.cache_limit),
            hits: count(How::Hit),
            misses: count(How::Miss),
            joined: count(How::Joined),
        }
    }

    /// The agent refused a request.
    pub fn refused(&self, code: &str) {
        self.refusals.with_label_values(&[code]).inc();
    }

    /// Brings the gauges up to date.
    pub fn refresh(&self, status: &Status) {
        let view = &status.view;
        self.capacity.set(whole(view.capacity));
        for state in STATES {
            let count = view.workers.iter().filter(|worker| worker.state == state).count();
            self.workers.with_label_values(&[state]).set(whole(count));
        }
        self.memory
            .set(bytes(view.workers.iter().map(|worker| worker.private_bytes).sum()));
        self.memory_total.set(bytes(view.memory.total));
        self.memory_used.set(bytes(view.memory.used));
        self.memory_limit.set(bytes(view.memory.hard_limit));
        self.degraded.set(i64::from(view.degraded));
        for lane in &view.lanes {
            let name = [lane.lane.name()];
            self.lane_waiting.with_label_values(&name).set(whole(lane.waiting));
            self.lane_running.with_label_values(&name).set(whole(lane.running));
        }
        self.waiting.set(whole(view.waiting));
        self.failure_pressure.set(view.failure_pressure);
        self.request_pressure.set(request_pressure(status));
        self.generation.set(
            view.start
                .map_or(0, |start| i64::try_from(start.generation()).unwrap_or(i64::MAX)),
        );
        self.pins.set(whole(status.pinned.len()));
        self.broken.set(whole(status.broken));
    }

    /// Whether requests should be sent here, as everybody is told.
    pub fn ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// Brings what is known of the quarantine up to date.
    pub fn quarantined(&self, quarantine: &QuarantineHandle) {
        let (refused, suspected) = quarantine.counts();
        self.quarantine.with_label_values(&["refused"]).set(whole(refused));
        self.quarantine.with_label_values(&["suspected"]).set(whole(suspected));
        self.quarantined.inc_by(quarantine.take_refused());
    }

    /// So many server plugins are loaded, and so many could not be.
    pub fn plugins(&self, (loaded, failed): (usize, usize)) {
        self.plugins.with_label_values(&["loaded"]).set(whole(loaded));
        self.plugins.with_label_values(&["failed"]).set(whole(failed));
    }

    /// How the agent stands with each control plane, by its address.
    pub fn control_planes(&self, standings: &[(&str, Standing)]) {
        for (address, standing) in standings {
            let set = |gauge: &IntGaugeVec, is: bool| gauge.with_label_values(&[*address]).set(i64::from(is));
            set(&self.control_plane_connected, standing.is_attached());
            set(&self.control_plane_ignored, standing.is_ignored());
        }
    }

    /// Requests answered so far, by HTTP status.
    #[must_use]
    pub fn answers(&self) -> std::collections::HashMap<u32, u64> {
        let mut answers = std::collections::HashMap::new();
        for (labels, count) in counts(&self.requests) {
            if let Some(status) = labels.get("status").and_then(|status| status.parse().ok()) {
                *answers.entry(status).or_default() += count;
            }
        }
        answers
    }

    /// Workers gone so far, by reason.
    #[must_use]
    pub fn exits(&self) -> std::collections::HashMap<String, u64> {
        counts(&self.exits)
            .filter_map(|(mut labels, count)| Some((labels.remove("reason")?, count)))
            .collect()
    }
}

impl Metrics {
    /// A worker has become ready.
    pub fn started(&self, how: &'static str, took: Duration) {
        self.starts.with_label_values(&[how]).observe(took.as_secs_f64());
    }

    /// A worker has gone.
    pub fn gone(&self, reason: ExitReason) {
        self.exits.with_label_values(&[reason.name()]).inc();
    }

    /// A worker has loaded a project, or could not.
    pub fn loaded(&self, sound: bool) {
        let result = if sound { "ok" } else { "broken" };
        self.loads.with_label_values(&[result]).inc();
    }

    /// A worker had to be spawned because its zygote may not be forked from.
    pub fn fork_refused(&self) {
        self.fork_refused.inc();
    }
}

/// (running + waiting) over configured workers.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of workers and requests are small")]
pub fn request_pressure(status: &Status) -> f64 {
    (status.view.busy + status.view.waiting) as f64 / status.view.capacity.max(1) as f64
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The series of a counter with their labels.
fn counts(counter: &IntCounterVec) -> impl Iterator<Item = (std::collections::HashMap<String, String>, u64)> {
    use prometheus::core::Collector as _;
    let families = counter.collect();
    families
        .into_iter()
        .flat_map(|family| family.get_metric().to_vec())
        .map(|metric| {
            let labels = metric
                .get_label()
                .iter()
                .map(|pair| (pair.name().to_owned(), pair.value().to_owned()))
                .collect();
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a counter of whole numbers"
            )]
            let count = metric.get_counter().get_value() as u64;
            (labels, count)
        })
}
