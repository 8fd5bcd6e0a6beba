//! `plugin list`.

use std::process::ExitCode;

use clap::Subcommand;
use graticule_cli::{Ink, row, table};
use graticule_proto::v1::{ListPluginsReply, ListPluginsRequest, PluginInfo};
use serde_json::{Value, json};

use super::answer::Answer;
use super::ask::{ask, said};
use super::target::{Admin, Target};

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Show what is loaded, and why others are not
    #[command(after_help = "Example: worker-agent plugin list")]
    List {
        #[command(flatten)]
        target: Target,
    },
}

impl PluginCommand {
    pub(super) fn run(self) -> ExitCode {
        let Self::List { target } = self;
        ask(&target, "asking", list)
    }
}

async fn list(mut admin: Admin) -> anyhow::Result<Answer> {
    let reply = admin.list_plugins(ListPluginsRequest {}).await;
    let list = reply.map_err(|status| said(&status))?.into_inner();
    Ok(Answer::new(as_table(Ink::of_stdout(), &list), as_json(&list)))
}

const fn state(plugin: &PluginInfo) -> &'static str {
    if plugin.problem.is_empty() { "loaded" } else { "failed" }
}

fn as_table(ink: Ink, list: &ListPluginsReply) -> String {
    let mut text = if list.plugins.is_empty() {
        "there is no server plugin\n".to_owned()
    } else {
        let mut rows = vec![row(["PLUGIN", "VERSION", "STATE", "WHERE", "DOES", "PATH", "PROBLEM"])];
        for plugin in &list.plugins {
            let does = [
                (plugin.access_control, "access control"),
                (plugin.cache_filter, "cache"),
            ];
            let does: Vec<&str> = does.iter().filter(|(does, _)| *does).map(|(_, what)| *what).collect();
            rows.push(vec![
                plugin.name.clone(),
                plugin.version.clone(),
                state(plugin).into(),
                plugin.r#where.clone(),
                does.join(", "),
                plugin.path.clone(),
                plugin.problem.clone(),
            ]);
        }
        table(ink, &rows)
    };
    if !list.unshared.is_empty() {
        text.push_str("answers are neither kept nor shared: ");
        text.push_str(&list.unshared);
        text.push('\n');
    }
    text
}

fn as_json(list: &ListPluginsReply) -> Value {
    let plugins: Vec<_> = list
        .plugins
        .iter()
        .map(|plugin| {
            json!({
                "name": plugin.name, "version": plugin.version, "description": plugin.description,
                "path": plugin.path, "state": state(plugin), "where": plugin.r#where, "problem": plugin.problem,
                "access_control": plugin.access_control, "cache_filter": plugin.cache_filter,
            })
        })
        .collect();
    json!({ "plugins": plugins, "unshared": list.unshared })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_shown_to_people_and_programs() {
        let guard = PluginInfo {
            name: "guard".into(),
            version: "1.2".into(),
            r#where: "zygote".into(),
            access_control: true,
            ..PluginInfo::default()
        };
        let broken = PluginInfo {
            name: "broken".into(),
            problem: "ImportError: no".into(),
            ..PluginInfo::default()
        };
        let list = ListPluginsReply {
            plugins: vec![guard, broken],
            unshared: "the plugin guard controls access".into(),
        };
        let text = as_table(Ink::PLAIN, &list);
        assert!(
            text.contains("guard   1.2      loaded  zygote  access control"),
            "{text}"
        );
        assert!(text.contains("ImportError: no\n"), "{text}");
        assert!(
            text.ends_with("neither kept nor shared: the plugin guard controls access\n"),
            "{text}"
        );
        let value = as_json(&list);
        assert_eq!(
            (&value["plugins"][0]["state"], &value["plugins"][1]["state"]),
            (&json!("loaded"), &json!("failed"))
        );
        assert_eq!(
            as_table(Ink::PLAIN, &ListPluginsReply::default()),
            "there is no server plugin\n"
        );
    }
}
