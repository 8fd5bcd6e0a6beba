//! `snapshot`: what Envoys are told, or what would change for them with another configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use control_plane::Config;
use graticule_cli::{Ink, exit, row, say, table};
use graticule_proto::v1::{SnapshotReply, SnapshotRequest, SnapshotResource};
use serde_json::json;

use crate::target::{Target, said};
use crate::{ConfigArgs, fail};

/// `control-plane snapshot`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  control-plane snapshot\n  control-plane snapshot --conf new.toml --diff")]
pub struct Command {
    /// What Envoys would be told with this configuration and the fleet as it is; CONF_ variables go before it
    #[arg(long, value_name = "FILE|URL")]
    conf: Option<String>,
    /// Only what would change for Envoys with the configuration.
    #[arg(long, requires = "conf")]
    diff: bool,
    /// The Envoys of this view only.
    #[arg(long, value_name = "VIEW")]
    view: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// Does what was asked.
///
/// # Errors
/// When no control plane answers, or it refuses.
#[tokio::main(flavor = "current_thread")]
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut configuration = String::new();
    if let Some(conf) = command.conf {
        let config: Config = match ConfigArgs::of(conf).load() {
            Ok(loaded) => loaded.config,
            Err(error) => return Ok(fail(&error, exit::USAGE)),
        };
        configuration = serde_json::to_string(&config)?;
    }
    let mut client = command.target.admin().await?;
    let mut ask = async |configuration: String| {
        let reply = client
            .get_snapshot(SnapshotRequest { configuration })
            .await
            .map_err(said)?;
        chosen(reply.into_inner(), command.view.as_deref())
    };
    let text = if command.diff {
        let (before, after) = (ask(String::new()).await?, ask(configuration).await?);
        let changes = changes(&before, &after);
        if command.target.json {
            changes_as_json(&changes)
        } else {
            changes_as_text(&changes)
        }
    } else {
        let told = ask(configuration).await?;
        if command.target.json {
            as_json(&told)
        } else {
            as_table(Ink::of_stdout(), &told)
        }
    };
    say(&text);
    Ok(ExitCode::SUCCESS)
}

fn chosen(mut reply: SnapshotReply, view: Option<&str>) -> anyhow::Result<SnapshotReply> {
    let Some(wanted) = view else { return Ok(reply) };
    let all: Vec<String> = reply.views.iter().map(|view| view.view.clone()).collect();
    reply.views.retain(|view| view.view == wanted);
    if reply.views.is_empty() {
        anyhow::bail!("there is no view `{wanted}`, take one of: {}", all.join(", "));
    }
    Ok(reply)
}

fn as_table(ink: Ink, told: &SnapshotReply) -> String {
    let head = row(["VIEW", "KIND", "NAME", "VERSION", "BYTES", "SAYS"]);
    let rows = told.views.iter().flat_map(|view| {
        view.resources.iter().map(|resource| {
            vec![
                view.view.clone(),
                resource.kind.clone(),
                resource.name.clone(),
                resource.version.clone(),
                resource.body.len().to_string(),
                resource.summary.clone(),
            ]
        })
    });
    table(ink, &std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn as_json(told: &SnapshotReply) -> String {
    let resource = |resource: &SnapshotResource| {
        json!({
            "kind": resource.kind,
            "name": resource.name,
            "version": resource.version,
            "says": resource.summary,
            "refers_to": resource.refers_to,
            "type_url": resource.type_url,
            "body": BASE64_STANDARD.encode(&resource.body),
        })
    };
    let views = told.views.iter().map(|view| {
        let resources: Vec<_> = view.resources.iter().map(resource).collect();
        json!({"view": view.view, "nodes": view.nodes, "resources": resources})
    });
    format!("{:#}\n", json!({"views": views.collect::<Vec<_>>()}))
}

/// A resource of a view that would be there, or not any more, or another one.
#[derive(Debug)]
struct Change<'a> {
    view: &'a str,
    before: Option<&'a SnapshotResource>,
    after: Option<&'a SnapshotResource>,
}

fn changes<'a>(before: &'a SnapshotReply, after: &'a SnapshotReply) -> Vec<Change<'a>> {
    fn index(told: &SnapshotReply) -> BTreeMap<(&str, &str, &str), &SnapshotResource> {
        let views = told.views.iter();
        views
            .flat_map(|view| {
                let resources = view.resources.iter();
                resources.map(|r| ((view.view.as_str(), r.kind.as_str(), r.name.as_str()), r))
            })
            .collect()
    }
    let (before, after) = (index(before), index(after));
    let mut keys: Vec<_> = before.keys().chain(after.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .map(|key| Change {
            view: key.0,
            before: before.get(&key).copied(),
            after: after.get(&key).copied(),
        })
        .filter(|change| change.before.map(|r| &r.version) != change.after.map(|r| &r.version))
        .collect()
}

fn changes_as_text(changes: &[Change<'_>]) -> String {
    if changes.is_empty() {
        return "nothing would change for Envoys\n".to_owned();
    }
    changes.iter().fold(String::new(), |mut text, change| {
        let view = change.view;
        let _ = match (change.before, change.after) {
            (Some(b), Some(a)) if b.summary == a.summary => writeln!(
                text,
                "~ {view}: {} {}: {} -> {} ({} -> {} bytes)",
                a.kind,
                a.name,
                b.version,
                a.version,
                b.body.len(),
                a.body.len()
            ),
            (Some(b), Some(a)) => writeln!(text, "~ {view}: {} {}: {} -> {}", a.kind, a.name, b.summary, a.summary),
            (None, Some(a)) => writeln!(text, "+ {view}: {} {}: {}", a.kind, a.name, a.summary),
            (Some(b), None) => writeln!(text, "- {view}: {} {}: {}", b.kind, b.name, b.summary),
            (None, None) => Ok(()),
        };
        text
    })
}

fn changes_as_json(changes: &[Change<'_>]) -> String {
    let side = |resource: Option<&SnapshotResource>| {
        resource.map(|r| json!({"version": r.version, "says": r.summary, "body": BASE64_STANDARD.encode(&r.body)}))
    };
    let change = |change: &Change<'_>| {
        let one = change.after.or(change.before);
        json!({
            "view": change.view,
            "kind": one.map(|r| &r.kind),
            "name": one.map(|r| &r.name),
            "before": side(change.before),
            "after": side(change.after),
        })
    };
    format!(
        "{:#}\n",
        json!({"changes": changes.iter().map(change).collect::<Vec<_>>()})
    )
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::ViewSnapshot;

    use super::*;

    fn told(resources: &[(&str, &str, &str, &str)]) -> SnapshotReply {
        let resource = |(kind, name, version, summary): &(&str, &str, &str, &str)| SnapshotResource {
            kind: (*kind).to_owned(),
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            summary: (*summary).to_owned(),
            body: vec![1, 2],
            ..SnapshotResource::default()
        };
        let view = ViewSnapshot {
            view: "default".to_owned(),
            resources: resources.iter().map(resource).collect(),
            ..ViewSnapshot::default()
        };
        SnapshotReply { views: vec![view] }
    }

    #[test]
    fn what_would_change_is_said_and_nothing_else() {
        let before = told(&[
            ("cds", "a", "1", "x"),
            ("cds", "same", "1", "x"),
            ("eds", "a", "1", "one agent"),
            ("lds", "front", "1", "here"),
        ]);
        let after = told(&[
            ("cds", "b", "1", "y"),
            ("cds", "same", "1", "x"),
            ("eds", "a", "2", "two agents"),
            ("lds", "front", "2", "here"),
        ]);
        assert_eq!(
            changes_as_text(&changes(&before, &after)),
            "- default: cds a: x\n+ default: cds b: y\n~ default: eds a: one agent -> two agents\n\
             ~ default: lds front: 1 -> 2 (2 -> 2 bytes)\n"
        );
        assert_eq!(
            changes_as_text(&changes(&before, &before)),
            "nothing would change for Envoys\n"
        );
        let value: serde_json::Value = serde_json::from_str(&changes_as_json(&changes(&before, &after))).unwrap();
        assert_eq!(value["changes"][0]["after"], serde_json::Value::Null);
        assert_eq!(value["changes"][2]["after"]["says"], "two agents");
    }

    #[test]
    fn one_view_can_be_chosen_and_a_wrong_name_is_said() {
        let reply = told(&[("cds", "a", "1", "x")]);
        assert!(as_table(Ink::PLAIN, &chosen(reply.clone(), Some("default")).unwrap()).contains("default  cds   a"));
        let error = chosen(reply, Some("edge")).unwrap_err().to_string();
        assert_eq!(error, "there is no view `edge`, take one of: default");
    }

    #[test]
    fn json_has_contents() {
        let value: serde_json::Value = serde_json::from_str(&as_json(&told(&[("cds", "a", "1", "x")]))).unwrap();
        assert_eq!(value["views"][0]["resources"][0]["body"], "AQI=");
    }
}
