//! What the commands ask of a running agent. Answers go to standard output, everything else to standard error.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use graticule_proto::v1::{ListCacheRequest, PinProjectRequest, ResizeRequest, StatsRequest, UnpinProjectRequest};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{EXIT_NOT_READY, EXIT_REFUSED, show};

/// An agent that has not taken the connection after this long is not there.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn run(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(work));
    done.unwrap_or_else(|error| {
        eprintln!("worker-agent: {error:#}");
        ExitCode::from(EXIT_REFUSED)
    })
}

pub(super) async fn connect(host: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{host}"))
        .map_err(|_| anyhow::anyhow!("--host `{host}`: expected HOST:PORT, such as 127.0.0.1:23456"))?;
    endpoint.connect_timeout(PATIENCE).connect().await.map_err(|_| {
        anyhow::anyhow!("no agent answers at {host}: is it running, and is this its gRPC port (server.grpc_listen)?")
    })
}

pub(super) fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the agent refused: {}", status.message())
}

pub(super) async fn healthcheck(host: &str) -> anyhow::Result<ExitCode> {
    let mut client = HealthClient::new(connect(host).await?);
    let answer = client
        .check(HealthCheckRequest::default())
        .await
        .map_err(|status| said(&status))?
        .into_inner();
    if answer.status() == ServingStatus::Serving {
        println!("ready");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("not ready");
        Ok(ExitCode::from(EXIT_NOT_READY))
    }
}

pub(super) async fn stats(host: &str, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(host).await?);
    let stats = client
        .stats(StatsRequest {})
        .await
        .map_err(|status| said(&status))?
        .into_inner();
    print!(
        "{}",
        if json {
            show::stats_json(&stats)
        } else {
            show::stats(&stats)
        }
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resize(host: &str, workers: u32) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(host).await?);
    let done = client
        .resize(ResizeRequest { workers })
        .await
        .map_err(|status| said(&status))?
        .into_inner();
    println!("{} workers are wanted now, {} before", done.after, done.before);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn pin(host: &str, project: String) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(host).await?);
    let pinned = client
        .pin_project(PinProjectRequest { project })
        .await
        .map_err(|status| said(&status))?
        .into_inner();
    if pinned.already {
        println!("{} was pinned before", pinned.project);
    } else {
        println!("{} is pinned; it loaded in {:.0} ms", pinned.project, pinned.load_ms);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn unpin(host: &str, project: String) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(host).await?);
    let done = client
        .unpin_project(UnpinProjectRequest { project })
        .await
        .map_err(|status| said(&status))?
        .into_inner();
    println!(
        "{} {}",
        done.project,
        if done.was_pinned {
            "is no longer pinned"
        } else {
            "was not pinned"
        }
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn list(host: &str, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(host).await?);
    let cache = client
        .list_cache(ListCacheRequest {})
        .await
        .map_err(|status| said(&status))?
        .into_inner();
    print!(
        "{}",
        if json {
            show::cache_json(&cache)
        } else {
            show::cache(&cache)
        }
    );
    Ok(ExitCode::SUCCESS)
}
