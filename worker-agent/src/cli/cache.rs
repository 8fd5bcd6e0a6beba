//! `cache …`: the projects that workers hold, and pins.

use std::process::ExitCode;

use clap::Subcommand;
use graticule_cli::{Ink, row, table};
use graticule_proto::v1::{
    CheckoutProjectReply, CheckoutProjectRequest, ClearCacheRequest, DropProjectRequest, DumpCacheRequest,
    ListCacheRequest, PinProjectRequest, UnpinProjectRequest, UpdateCacheReply, UpdateCacheRequest, WorkerCache,
};
use serde_json::json;

use super::answer::Answer;
use super::ask::{FOLLOWED, ask, for_long, said};
use super::target::{Admin, Target};
use super::{catalog, show};

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Keep a project loaded in every worker, now and after every restart
    #[command(after_help = "Example: worker-agent cache pin /world")]
    Pin {
        /// The project as clients name it
        project: String,
        #[command(flatten)]
        target: Target,
    },
    /// End a pin
    #[command(after_help = "Example: worker-agent cache unpin /world")]
    Unpin {
        /// The project as clients name it
        project: String,
        #[command(flatten)]
        target: Target,
    },
    /// Show what is loaded and what is pinned
    #[command(after_help = "Example: worker-agent cache list --fleet 127.0.0.1:18001 --agent maps-1")]
    List {
        #[command(flatten)]
        target: Target,
    },
    #[command(flatten)]
    Catalog(catalog::CatalogCommand),
    /// Compare a project with its storage, or load it into every worker
    #[command(after_help = "Example: worker-agent cache checkout --pull /world")]
    Checkout {
        /// The project as clients name it
        project: String,
        /// Load it into every worker, and wait for that
        #[arg(long)]
        pull: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Have every worker drop a project, and wait until it is gone
    #[command(after_help = "Example: worker-agent cache drop /world")]
    Drop {
        /// The project as clients name it
        project: String,
        #[command(flatten)]
        target: Target,
    },
    /// Look at the storage now; what has changed is loaded anew
    #[command(after_help = "Example: worker-agent cache update /world")]
    Update {
        /// The projects as clients name them; all that are in use when none is named
        projects: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Have every worker drop all but pinned projects
    #[command(after_help = "Example: worker-agent cache clear")]
    Clear {
        #[command(flatten)]
        target: Target,
    },
    /// Show what each worker holds, at which version
    #[command(after_help = "Example: worker-agent cache dump --json")]
    Dump {
        #[command(flatten)]
        target: Target,
    },
}

impl CacheCommand {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Pin { project, target } => ask(&target, "loading", async |admin| pin(admin, &project).await),
            Self::Unpin { project, target } => ask(&target, "asking", async |admin| unpin(admin, &project).await),
            Self::List { target } => ask(&target, "asking", list),
            Self::Catalog(command) => command.run(),
            Self::Checkout { project, pull, target } => {
                let what = if pull { "loading" } else { "asking" };
                ask(&target, what, async |admin| check_out(admin, &project, pull).await)
            }
            Self::Drop { project, target } => {
                ask(&target, "dropping", async |admin| drop_project(admin, &project).await)
            }
            Self::Update { projects, target } => ask(&target, "asking", async |admin| update(admin, &projects).await),
            Self::Clear { target } => ask(&target, "dropping", clear),
            Self::Dump { target } => ask(&target, "asking", dump),
        }
    }
}

async fn pin(mut admin: Admin, project: &str) -> anyhow::Result<Answer> {
    let project = project.to_owned();
    let reply = admin
        .pin_project(for_long(PinProjectRequest { project }, FOLLOWED))
        .await;
    let pinned = reply.map_err(|status| said(&status))?.into_inner();
    let text = if pinned.already {
        format!("{} was pinned before", pinned.project)
    } else {
        format!("{} is pinned; it loaded in {:.0} ms", pinned.project, pinned.load_ms)
    };
    let value = json!({"project": pinned.project, "already": pinned.already, "load_ms": pinned.load_ms});
    Ok(Answer::new(text, value))
}

async fn unpin(mut admin: Admin, project: &str) -> anyhow::Result<Answer> {
    let project = project.to_owned();
    let reply = admin.unpin_project(UnpinProjectRequest { project }).await;
    let done = reply.map_err(|status| said(&status))?.into_inner();
    let was = if done.was_pinned {
        "is no longer pinned"
    } else {
        "was not pinned"
    };
    let text = format!("{} {was}", done.project);
    Ok(Answer::new(
        text,
        json!({"project": done.project, "was_pinned": done.was_pinned}),
    ))
}

async fn list(mut admin: Admin) -> anyhow::Result<Answer> {
    let reply = admin.list_cache(ListCacheRequest {}).await;
    let cache = reply.map_err(|status| said(&status))?.into_inner();
    Ok(Answer::new(
        show::cache(Ink::of_stdout(), &cache),
        show::cache_json(&cache),
    ))
}

async fn check_out(mut admin: Admin, project: &str, pull: bool) -> anyhow::Result<Answer> {
    let project = project.to_owned();
    let reply = admin.checkout_project(CheckoutProjectRequest { project, pull }).await;
    let reply = reply.map_err(|status| said(&status))?.into_inner();
    let value = json!({
        "project": reply.project, "version": reply.version, "current": reply.current,
        "outdated": reply.outdated, "workers": reply.workers, "problem": reply.problem,
    });
    let missed = pull && reply.current < reply.workers;
    Ok(Answer::new(checked_out(&reply), value).unless(!missed))
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

async fn drop_project(mut admin: Admin, project: &str) -> anyhow::Result<Answer> {
    let project = project.to_owned();
    let reply = admin.drop_project(DropProjectRequest { project }).await;
    let reply = reply.map_err(|status| said(&status))?.into_inner();
    let text = match reply.workers {
        0 => format!("no worker held {}", reply.project),
        workers => format!("{} is gone from {workers} workers", reply.project),
    };
    Ok(Answer::new(
        text,
        json!({"project": reply.project, "workers": reply.workers}),
    ))
}

async fn update(mut admin: Admin, projects: &[String]) -> anyhow::Result<Answer> {
    let projects = projects.to_vec();
    let reply = admin.update_cache(UpdateCacheRequest { projects }).await;
    let reply = reply.map_err(|status| said(&status))?.into_inner();
    let project = |project: &graticule_proto::v1::ProjectUpdate| {
        json!({
            "project": project.project, "state": project.state, "version": project.version,
            "problem": project.problem,
        })
    };
    let projects: Vec<_> = reply.projects.iter().map(project).collect();
    let unavailable = reply.projects.iter().any(|project| project.state == "unavailable");
    let answer = Answer::new(updated(Ink::of_stdout(), &reply), json!({ "projects": projects }));
    Ok(answer.unless(!unavailable))
}

fn updated(ink: Ink, reply: &UpdateCacheReply) -> String {
    if reply.projects.is_empty() {
        return "no project is in use\n".into();
    }
    let mut rows = vec![row(["PROJECT", "STATE", "NOTES"])];
    for project in &reply.projects {
        rows.push(row([&project.project, &project.state, &project.problem]));
    }
    table(ink, &rows)
}

async fn clear(mut admin: Admin) -> anyhow::Result<Answer> {
    let reply = admin.clear_cache(ClearCacheRequest {}).await;
    let projects = reply.map_err(|status| said(&status))?.into_inner().projects;
    let text = format!("{projects} projects were dropped; pinned ones stay");
    Ok(Answer::new(text, json!({ "projects": projects })))
}

async fn dump(mut admin: Admin) -> anyhow::Result<Answer> {
    let reply = admin.dump_cache(DumpCacheRequest {}).await;
    let mut stream = reply.map_err(|status| said(&status))?.into_inner();
    let mut workers = Vec::new();
    while let Some(worker) = stream.message().await.map_err(|status| said(&status))? {
        workers.push(worker);
    }
    let worker =
        |worker: &WorkerCache| json!({"worker": worker.worker, "pid": worker.pid, "projects": worker.projects});
    let value: Vec<_> = workers.iter().map(worker).collect();
    Ok(Answer::new(
        dumped(Ink::of_stdout(), &workers),
        json!({ "workers": value }),
    ))
}

fn dumped(ink: Ink, workers: &[WorkerCache]) -> String {
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
    table(ink, &rows)
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
        let text = dumped(Ink::PLAIN, &[worker(1, &["/a", "/b"]), worker(2, &[])]);
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
