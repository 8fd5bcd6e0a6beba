//! `cache checkout|drop|update|clear|dump`: the projects that workers hold.

use std::process::ExitCode;

use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use graticule_proto::v1::{
    CheckoutProjectReply, CheckoutProjectRequest, ClearCacheRequest, DropProjectRequest, DumpCacheRequest,
    UpdateCacheReply, UpdateCacheRequest, WorkerCache,
};
use serde_json::json;

use super::client::{connect, said};
use super::show::{row, table};
use super::{EXIT_REFUSED, Target};

pub(super) async fn check_out(target: &Target, project: String, pull: bool, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(&target.host).await?);
    let request = CheckoutProjectRequest { project, pull };
    let reply = client.checkout_project(request).await.map_err(|status| said(&status))?;
    let reply = reply.into_inner();
    if json {
        let value = json!({
            "project": reply.project, "version": reply.version, "current": reply.current,
            "outdated": reply.outdated, "workers": reply.workers, "problem": reply.problem,
        });
        println!("{value:#}");
    } else {
        println!("{}", checked_out(&reply));
    }
    let missed = pull && reply.current < reply.workers;
    Ok(if missed {
        ExitCode::from(EXIT_REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}

fn checked_out(reply: &CheckoutProjectReply) -> String {
    let mut text = format!("{} is in {} of {} workers", reply.project, reply.current, reply.workers);
    if reply.outdated > 0 {
        text.push_str(&format!(", and in {} at an older version", reply.outdated));
    }
    if !reply.problem.is_empty() {
        text.push_str(&format!("; it could not be loaded: {}", reply.problem));
    }
    text
}

pub(super) async fn drop_project(target: &Target, project: String) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(&target.host).await?);
    let request = DropProjectRequest { project };
    let reply = client.drop_project(request).await.map_err(|status| said(&status))?;
    let reply = reply.into_inner();
    match reply.workers {
        0 => println!("no worker held {}", reply.project),
        workers => println!("{} is gone from {workers} workers", reply.project),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn update(target: &Target, projects: Vec<String>, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(&target.host).await?);
    let request = UpdateCacheRequest { projects };
    let reply = client.update_cache(request).await.map_err(|status| said(&status))?;
    let reply = reply.into_inner();
    if json {
        let project = |project: &graticule_proto::v1::ProjectUpdate| {
            json!({
                "project": project.project, "state": project.state, "version": project.version,
                "problem": project.problem,
            })
        };
        let projects: Vec<_> = reply.projects.iter().map(project).collect();
        println!("{:#}", json!({ "projects": projects }));
    } else {
        print!("{}", updated(&reply));
    }
    let unavailable = reply.projects.iter().any(|project| project.state == "unavailable");
    Ok(if unavailable {
        ExitCode::from(EXIT_REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}

fn updated(reply: &UpdateCacheReply) -> String {
    if reply.projects.is_empty() {
        return "no project is in use\n".into();
    }
    let mut rows = vec![row(["PROJECT", "STATE", "NOTES"])];
    for project in &reply.projects {
        rows.push(row([&project.project, &project.state, &project.problem]));
    }
    table(&rows)
}

pub(super) async fn clear(target: &Target) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(&target.host).await?);
    let reply = client
        .clear_cache(ClearCacheRequest {})
        .await
        .map_err(|status| said(&status))?;
    println!(
        "{} projects were dropped; pinned ones stay",
        reply.into_inner().projects
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn dump(target: &Target, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = QgisAdminClient::new(connect(&target.host).await?);
    let reply = client
        .dump_cache(DumpCacheRequest {})
        .await
        .map_err(|status| said(&status))?;
    let mut stream = reply.into_inner();
    let mut workers = Vec::new();
    while let Some(worker) = stream.message().await.map_err(|status| said(&status))? {
        workers.push(worker);
    }
    if json {
        let worker =
            |worker: &WorkerCache| json!({"worker": worker.worker, "pid": worker.pid, "projects": worker.projects});
        let workers: Vec<_> = workers.iter().map(worker).collect();
        println!("{:#}", json!({ "workers": workers }));
    } else {
        print!("{}", dumped(&workers));
    }
    Ok(ExitCode::SUCCESS)
}

fn dumped(workers: &[WorkerCache]) -> String {
    let mut rows = vec![row(["WORKER", "PID", "PROJECT", "VERSION"])];
    for worker in workers {
        let (id, pid) = (worker.worker.to_string(), worker.pid.to_string());
        let mut projects: Vec<_> = worker.projects.iter().collect();
        projects.sort();
        if projects.is_empty() {
            rows.push(row([&id, &pid, "-", "-"]));
        }
        for (project, version) in projects {
            rows.push(row([&id, &pid, project, version]));
        }
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_says_how_far_it_came() {
        let mut reply = CheckoutProjectReply {
            project: "/world".into(),
            current: 1,
            outdated: 1,
            workers: 2,
            ..CheckoutProjectReply::default()
        };
        assert_eq!(
            checked_out(&reply),
            "/world is in 1 of 2 workers, and in 1 at an older version"
        );
        (reply.outdated, reply.problem) = (0, "no such file".into());
        assert_eq!(
            checked_out(&reply),
            "/world is in 1 of 2 workers; it could not be loaded: no such file"
        );
    }

    #[test]
    fn a_dump_has_a_line_for_each_worker_and_project() {
        let worker = |worker, projects: &[&str]| WorkerCache {
            worker,
            pid: 7,
            projects: projects
                .iter()
                .map(|name| ((*name).to_owned(), "1".to_owned()))
                .collect(),
        };
        let text = dumped(&[worker(1, &["/a", "/b"]), worker(2, &[])]);
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
