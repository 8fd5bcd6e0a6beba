//! Builds the agent from its configuration, binds its ports, and runs it until it is to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use graticule_daemon::access::Door;
use graticule_daemon::config::{ConfigError, Loaded, Sources};
use graticule_daemon::current::Current;
use graticule_daemon::ops::{self, Ops};
use graticule_daemon::ready::Readiness;
use graticule_daemon::tls::{Gauges, ServerTls};
use graticule_proto::v1::qgis_admin_server::QgisAdminServer;
use graticule_proto::v1::qgis_server_server::QgisServerServer;
use graticule_proto::v1::{AgentHello, AgentPhase, AgentState};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::adapters::calls::CallsHandle;
use crate::adapters::demand::DemandHandle;
use crate::adapters::fleet_pins::FleetPinsHandle;
use crate::adapters::link::{self, Parts};
use crate::adapters::pins::Pins;
use crate::adapters::python::Python;
use crate::adapters::quarantine::QuarantineHandle;
use crate::adapters::runtime::Runtime;
use crate::adapters::storage::{self, Hosts, Storage, Surroundings};
use crate::adapters::supervisor::Supervisor;
use crate::adapters::user;
use crate::adapters::watch::Watch;
use crate::config::Config;
use crate::core::message::{Isolation, Settings, User};
use crate::links::{Way, links};
use crate::live::{self, Live};
use crate::serve;
use crate::serve::admin::Admin;
use crate::serve::answers::Answers;
use crate::serve::cache::Cache;
use crate::serve::catalog::Catalog;
use crate::serve::front::Front;
use crate::serve::grpc::Grpc;
use crate::serve::metrics::Metrics;
use crate::serve::operate::Desk;
use crate::serve::plugins::Plugins;
use crate::serve::standing::Standing;
use crate::serve::state;
use crate::serve::witness::Witness;

/// How long workers without a request may take to leave before they are killed.
const WORKERS_LEAVE: Duration = Duration::from_secs(3);

/// gRPC messages carry a request's body whole, and some room for the rest.
const GRPC_OVERHEAD: usize = 64 * 1024;

/// How often the other end of a gRPC connection is asked for a sign of life.
const GRPC_KEEPALIVE: Duration = Duration::from_secs(20);

/// An agent whose ports are bound. Nothing is served before [`Bound::run`].
pub struct Bound {
    /// Where the HTTP data port listens.
    pub http: SocketAddr,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where metrics and readiness are shown.
    pub metrics: SocketAddr,
    /// The agent's name.
    pub name: String,
    listeners: (TcpListener, TcpListener, TcpListener),
    routes: Routes,
    /// Of the gRPC port.
    door: Door,
    /// Of the data port.
    data_tls: Option<ServerTls>,
    gauges: Gauges,
    front: Front,
    ops: Ops,
    supervisor: Supervisor,
    standing: Standing,
    links: (Vec<Way>, AgentHello),
    quarantine: QuarantineHandle,
    fleet_pins: FleetPinsHandle,
    demand: DemandHandle,
    /// For each control plane.
    calls: Vec<CallsHandle>,
    state: watch::Receiver<AgentState>,
    drain_delay: Duration,
    shutdown_grace: Current<Duration>,
    configured: serve::settings::Settings,
    /// Removed when the agent has ended, unless it is a configured one.
    runtime: Runtime,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// It was told to stop.
    Stopped,
    /// Failure pressure went above its limit.
    GaveUp {
        /// The pressure.
        pressure: f64,
    },
}

/// Builds the agent. Workers start at once; ports are bound and not yet served.
///
/// # Errors
/// When a value does not fit, a port is in use, or a directory cannot be written; the text says which.
pub async fn build(loaded: &Loaded<Config>, sources: Sources) -> anyhow::Result<Bound> {
    let config = &loaded.config;
    let policy = config.policy()?;
    let classes = Current::new(config.classes()?);
    let shutdown_grace = Current::new(config.shutdown_grace()?);
    let paths = config.search_paths()?;

    let server = &config.server;
    let (door, data_tls) = (config.door()?, config.data_tls()?);
    let http = bind("server.http_listen", server.http_listen).await?;
    let grpc = bind("server.grpc_listen", server.grpc_listen).await?;
    let metrics_port = bind("server.metrics_listen", server.metrics_listen).await?;
    let (http_address, grpc_address) = (http.local_addr()?, grpc.local_addr()?);

    let name = agent_name(config, http_address);
    let runtime = runtime_dir(config)?;
    let isolation = &config.worker.isolation;
    let environment = isolation.environment()?;
    let user = worker_user(config)?.map(user::to_become).transpose();
    let user = user.map_err(not_this_user)?.flatten();
    let qgis = &config.worker.qgis;
    let plugin_settings = config.plugins()?;
    let plugins_configured = !plugin_settings.paths.is_empty();
    let settings = Settings {
        ignore_bad_layers: qgis.ignore_bad_layers,
        force_readonly_layers: qgis.force_readonly_layers,
        trust_layer_metadata: qgis.trust_layer_metadata,
        disable_getprint: qgis.disable_getprint,
        warm_up: qgis.warm_up,
        isolation: Isolation {
            user: user.clone(),
            open_files: isolation.open_files,
            file_size: isolation.file_size,
        },
        plugins: plugin_settings,
        preload: Vec::new(),
    };
    let variables = storage::worker_variables(&paths, std::env::vars_os().collect(), runtime.path(), user.as_ref());
    let python = variables
        .and_then(|variables| {
            let variables = variables.into_iter();
            Python::install(&config.worker.python, runtime.path(), settings, &environment, variables)
        })
        .with_context(|| format!("worker.runtime_dir {}", runtime.path().display()))?;
    let state_dir = state_dir(config, http_address)?;
    let pins = Pins::open(&state_dir)?;

    let (sharing_rules, cache_limits) = config.sharing_rules()?;
    let metrics = Arc::new(Metrics::new(policy.max_failure_pressure)?);
    let quarantine = QuarantineHandle::new(&name, config.worker.quarantine.rule()?);
    let plugins = Plugins::new(plugins_configured, !sharing_rules.vary_headers.is_empty());
    let witness = Arc::new(Witness {
        metrics: Arc::clone(&metrics),
        quarantine: quarantine.clone(),
        plugins: plugins.clone(),
    });
    let projects = &config.worker.qgis.projects;
    let workers_environment = python.environment();
    let grace = policy.grace;
    let supervisor = Supervisor::new(policy, live::loading(config), python.clone(), witness)?;
    let standing = Standing::default();
    let drain_delay = Duration::from_secs_f64(server.drain_delay.clamp(0.0, 60.0));
    let surroundings = Surroundings {
        state_dir,
        user,
        hosts: Some(Hosts::new(python, supervisor.processes())),
        any_file: projects.allow_direct_path_resolution,
        data_files: config.worker.qgis.force_readonly_layers,
        ..Surroundings::default()
    };
    let storage = Storage::new(paths, &config.worker.storage, &surroundings)?;
    let demand = DemandHandle::default();
    let front = Front {
        agent: name.as_str().into(),
        storage: storage.clone(),
        supervisor: supervisor.clone(),
        quarantine: quarantine.clone(),
        forwarded: Current::new(sharing_rules.forwarded.clone()),
        plugins: plugins.clone(),
        answers: Answers::new(sharing_rules, cache_limits, grace, Arc::clone(&metrics)),
        catalog: Catalog::new(storage.clone(), &config.catalog)?,
        metrics: Arc::clone(&metrics),
        demand: demand.clone(),
        standing: standing.clone(),
        classes,
        max_body_size: server.max_body_size,
    };
    let work = state::Work {
        demand: demand.clone(),
        configured: Current::new(state::Configured::of(config)),
    };
    let (publish, agent_state) = watch::channel(AgentState::default());
    let (names, pinned) = watch::channel(Vec::new());
    let (every, looked_at) = watch::channel(config.worker.storage.check_interval()?);
    let cache = Cache {
        watch: Watch::start(storage.clone(), supervisor.clone(), pinned.clone(), looked_at),
        supervisor: supervisor.clone(),
        storage: storage.clone(),
    };
    let parts = Live {
        supervisor: supervisor.clone(),
        answers: front.answers.clone(),
        classes: front.classes.clone(),
        forwarded: front.forwarded.clone(),
        catalog: front.catalog.clone(),
        quarantine: quarantine.clone(),
        plugins: plugins.clone(),
        storage,
        every,
        shutdown_grace: shutdown_grace.clone(),
        told: work.configured.clone(),
        metrics: Arc::clone(&metrics),
    };
    let configured = serve::settings::Settings::new(loaded, sources, Box::new(parts), Arc::clone(&metrics));
    let desk = Desk {
        standing: standing.clone(),
        // Without a control plane nobody is told that could send requests elsewhere.
        drain_delay: if config.fleet.control_plane.is_empty() {
            Duration::ZERO
        } else {
            drain_delay
        },
        environment: workers_environment,
    };
    let restored = pins.iter().map(str::to_owned).collect();
    let fleet_pins = FleetPinsHandle::new(&config.fleet.control_plane, pins.last());
    let admin = Admin::restore(
        pins,
        cache,
        front.clone(),
        agent_state.clone(),
        names,
        &fleet_pins,
        desk,
        configured.clone(),
    )
    .await;
    supervisor.begin();
    tokio::spawn(serve::fleet_pins::follow(admin.clone(), fleet_pins.clone()));

    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(graticule_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let qgis_server = QgisServerServer::new(Grpc::new(front.clone(), http_address.to_string()))
        .max_decoding_message_size(server.max_body_size.saturating_add(GRPC_OVERHEAD));
    let routes = Routes::new(health_service)
        .add_service(reflection)
        .add_service(qgis_server)
        .add_service(QgisAdminServer::new(admin.clone()));
    let links = links(config, &name, http_address, grpc_address)?;
    let calls = links
        .0
        .iter()
        .map(|_| CallsHandle::new(QgisAdminServer::new(admin.clone())));
    let calls = calls.collect();

    let readiness = Readiness::new();
    let pins = state::Pins {
        names: pinned,
        patience: config.pins_patience()?,
        restored,
        fleet: fleet_pins.clone(),
    };
    let following = state::follow(
        supervisor.clone(),
        standing.clone(),
        pins,
        work,
        readiness.clone(),
        health,
        publish,
    );
    tokio::spawn(following.await);
    let shown = (Arc::clone(&metrics), supervisor.clone(), quarantine.clone(), plugins);
    let (told, control_planes) = (agent_state.clone(), fleet_pins.clone());
    let ops = Ops {
        registry: metrics.registry(),
        readiness,
        refresh: Arc::new(move || {
            shown.0.refresh(&shown.1.status());
            shown.0.ready(told.borrow().phase() == AgentPhase::Ready);
            shown.0.quarantined(&shown.2);
            shown.0.plugins(shown.3.counts());
            shown.0.control_planes(&control_planes.standings());
        }),
        pages: Arc::new(|_| None),
    };
    let gauges = Gauges::register(&metrics.registry())?;
    Ok(Bound {
        http: http_address,
        grpc: grpc_address,
        metrics: metrics_port.local_addr()?,
        name,
        listeners: (http, grpc, metrics_port),
        routes,
        door,
        data_tls,
        gauges,
        front,
        ops,
        supervisor,
        standing,
        links,
        quarantine,
        fleet_pins,
        demand,
        calls,
        state: agent_state,
        drain_delay,
        shutdown_grace,
        configured,
        runtime,
    })
}

impl Bound {
    /// How the agent stands, as the control plane is told.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.state.clone()
    }

    /// Asks the pool, and is ready when that has answered.
    pub fn heart(&self) -> impl Fn() -> BoxFuture<'static, bool> + Send + 'static {
        let supervisor = self.supervisor.clone();
        move || {
            let supervisor = supervisor.clone();
            Box::pin(async move {
                supervisor.holdings().await;
                true
            })
        }
    }

    /// Serves until `stop` is ready or the pool gives up, then drains: says so, lets Envoy hear of it, finishes what runs,
    /// and ends every process. Once `hurry` is ready, what runs is cut short.
    pub async fn run(self, stop: impl Future<Output = ()>, hurry: impl Future<Output = ()>) -> Outcome {
        let (http_port, grpc_port, metrics_port) = self.listeners;
        let attached = !self.links.0.is_empty();
        let (closing, closed) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(ops::serve(metrics_port, self.ops, closed.clone()));
        if let Some(tls) = self.data_tls.clone() {
            tokio::spawn(tls.follow(self.gauges.clone(), closed.clone()));
        }
        let serving = tokio::spawn(serve::http::serve(
            http_port,
            self.data_tls,
            self.front,
            self.state.clone(),
            closing.clone(),
        ));
        let server = tonic::transport::Server::builder().http2_keepalive_interval(Some(GRPC_KEEPALIVE));
        let grpc = self
            .door
            .serve(server, self.routes, grpc_port, self.gauges, closing.clone());
        let grpc = tokio::spawn(grpc);
        let (ways, hello) = self.links;
        for (place, (way, calls)) in ways.into_iter().zip(self.calls).enumerate() {
            let parts = Parts {
                quarantine: self.quarantine.link(place),
                pins: self.fleet_pins.link(place),
                demand: self.demand.clone(),
                calls,
            };
            let way = (way.endpoint, way.dial);
            tokio::spawn(link::run(way, hello.clone(), self.state.clone(), parts));
        }

        tokio::spawn(reread(self.configured, closed.clone()));

        let mut pool = self.supervisor.watch();
        let gave_up = async {
            loop {
                if let Some(pressure) = pool.borrow_and_update().gave_up {
                    return pressure;
                }
                if pool.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let outcome = tokio::select! {
            () = stop => Outcome::Stopped,
            pressure = gave_up => Outcome::GaveUp { pressure },
        };
        self.standing.stop();
        tracing::info!(?outcome, "draining");
        let drained = async {
            if attached {
                tokio::time::sleep(self.drain_delay).await;
            }
            closing.cancel();
            let finished = async { drop(tokio::join!(serving, grpc)) };
            if tokio::time::timeout(*self.shutdown_grace.get(), finished)
                .await
                .is_err()
            {
                tracing::warn!("requests still run after server.shutdown_grace_period; they are cut short");
            }
            self.supervisor.close(WORKERS_LEAVE).await;
        };
        let hurried = tokio::select! {
            () = drained => false,
            () = hurry => true,
        };
        if hurried {
            tracing::warn!("told again: what runs is cut short");
            closing.cancel();
            self.supervisor.close(Duration::ZERO).await;
        }
        closed.cancel();
        drop(self.runtime);
        tracing::info!("stopped");
        outcome
    }
}

/// Reads the configuration again at each SIGHUP, until `closed`.
async fn reread(configured: serve::settings::Settings, closed: CancellationToken) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        tracing::error!("SIGHUP cannot be heard");
        return;
    };
    loop {
        tokio::select! {
            () = closed.cancelled() => break,
            Some(()) = hangups.recv() => {
                tracing::info!("SIGHUP: the configuration is read again");
                let settings = configured.clone();
                // What came of it is logged and counted there.
                drop(tokio::task::spawn_blocking(move || settings.reload().map(drop)).await);
            }
        }
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{key} {address}: change it, or stop who uses the port"))
}

fn agent_name(config: &Config, http: SocketAddr) -> String {
    if !config.worker.name.is_empty() {
        return config.worker.name.clone();
    }
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    format!("{host}-{}", http.port())
}

/// The user that workers are to run as, when one is configured.
///
/// # Errors
/// When there is no such user.
pub fn worker_user(config: &Config) -> Result<Option<User>, ConfigError> {
    match config.worker.isolation.user.as_str() {
        "" => Ok(None),
        name => user::find(name).map(Some).map_err(not_this_user),
    }
}

fn not_this_user(problem: String) -> ConfigError {
    ConfigError::Invalid {
        origin: "configuration".into(),
        key: "worker.isolation.user".into(),
        problem,
    }
}

fn runtime_dir(config: &Config) -> anyhow::Result<Runtime> {
    let configured = &config.worker.runtime_dir;
    let base = std::env::temp_dir();
    Runtime::make(configured, &base).with_context(|| {
        let place: &Path = if configured.as_os_str().is_empty() {
            &base
        } else {
            configured
        };
        format!("worker.runtime_dir {}", place.display())
    })
}

/// The configured directory for what outlives the agent, else one below the user's own, as the XDG Base Directory
/// Specification has it.
fn state_dir(config: &Config, http: SocketAddr) -> anyhow::Result<PathBuf> {
    if !config.worker.state_dir.as_os_str().is_empty() {
        return Ok(config.worker.state_dir.clone());
    }
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = base
        .or_else(home)
        .context("worker.state_dir is not set and there is no HOME: set it")?;
    Ok(base.join(format!("graticule-{}", http.port())))
}
