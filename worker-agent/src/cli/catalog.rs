//! `cache catalog` and `cache info`: which projects there are, and what one of them is.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Subcommand;
use graticule_cli::{Ink, row, table};
use graticule_proto::v1::{CatalogItem, CatalogRequest, Extent, GetProjectInfoRequest, ProjectInfo, ProjectLayer};
use serde_json::{Value, json};

use super::answer::Answer;
use super::ask::{ask, said};
use super::show::plain;
use super::target::{Admin, Target};

#[derive(Debug, Subcommand)]
pub(super) enum CatalogCommand {
    /// Show which projects there are; nothing is loaded for it
    #[command(
        after_help = "Exits 1 when a storage does not answer.\n\nExample: worker-agent cache catalog --location /public"
    )]
    Catalog {
        /// Only projects at or below this
        #[arg(long, default_value = "", hide_default_value = true, value_name = "PATH")]
        location: String,
        #[command(flatten)]
        target: Target,
    },
    /// Show what a project is, in detail; it is loaded when no worker holds it
    #[command(after_help = "Example: worker-agent cache info /world")]
    Info {
        /// The project as clients name it
        project: String,
        #[command(flatten)]
        target: Target,
    },
}

impl CatalogCommand {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Catalog { location, target } => ask(&target, "asking", async |admin| catalog(admin, &location).await),
            Self::Info { project, target } => ask(&target, "asking", async |admin| info(admin, &project).await),
        }
    }
}

async fn catalog(mut admin: Admin, location: &str) -> anyhow::Result<Answer> {
    let location = location.to_owned();
    let asked = admin.catalog(CatalogRequest { location }).await;
    let mut items = asked.map_err(|status| said(&status))?.into_inner();
    let (mut projects, mut problems) = (Vec::new(), Vec::new());
    while let Some(item) = items.message().await.map_err(|status| said(&status))? {
        if item.problem.is_empty() {
            projects.push(item);
        } else {
            problems.push(item);
        }
    }
    let told = |item: &CatalogItem| format!("the storage of {} does not answer: {}", item.location, item.problem);
    let notes = problems.iter().map(told).collect();
    let answer = Answer::new(as_table(Ink::of_stdout(), &projects), as_json(&projects, &problems));
    Ok(answer.notes(notes).unless(problems.is_empty()))
}

async fn info(mut admin: Admin, project: &str) -> anyhow::Result<Answer> {
    let project = project.to_owned();
    let asked = admin.get_project_info(GetProjectInfoRequest { project }).await;
    let info = asked.map_err(|status| said(&status))?.into_inner();
    Ok(Answer::new(info_text(Ink::of_stdout(), &info), info_json(&info)))
}

fn as_table(ink: Ink, projects: &[CatalogItem]) -> String {
    if projects.is_empty() {
        return "there is no project\n".into();
    }
    let mut rows = vec![row(["PROJECT", "STORAGE", "CHANGED", "BYTES"])];
    rows.extend(projects.iter().map(|item| {
        vec![
            plain(&item.project),
            item.storage.clone(),
            item.modified.clone(),
            item.bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
        ]
    }));
    table(ink, &rows)
}

fn as_json(projects: &[CatalogItem], problems: &[CatalogItem]) -> Value {
    let project = |item: &CatalogItem| {
        let modified = Some(&item.modified).filter(|text| !text.is_empty());
        json!({
            "project": item.project, "location": item.location, "storage": item.storage, "modified": modified,
            "bytes": item.bytes,
        })
    };
    let problem = |item: &CatalogItem| json!({"location": item.location, "problem": item.problem});
    let projects: Vec<Value> = projects.iter().map(project).collect();
    let problems: Vec<Value> = problems.iter().map(problem).collect();
    json!({"projects": projects, "problems": problems})
}

fn info_text(ink: Ink, info: &ProjectInfo) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<14} {}", plain(value));
        }
    };
    line("project", &info.project);
    line("title", &info.title);
    line("abstract", &info.r#abstract);
    line("crs", &info.crs);
    line("extent", &extent(info.extent.as_ref()));
    line("in EPSG:4326", &extent(info.extent_epsg4326.as_ref()));
    line("layouts", &info.layouts.join(", "));
    line("bad layers", &info.bad_layers.join(", "));
    line("saved with", &info.qgis_version);
    line("version", &info.version);
    line("loaded in", &format!("{:.0} ms", info.load_ms));
    let mut rows = vec![row(["LAYER", "TYPE", "GEOMETRY", "CRS", "VISIBLE"])];
    layer_rows(&mut rows, &info.layers, 0);
    text.push_str(&table(ink, &rows));
    text
}

fn extent(extent: Option<&Extent>) -> String {
    extent.map_or_else(String::new, |extent| {
        format!("{}, {}, {}, {}", extent.west, extent.south, extent.east, extent.north)
    })
}

fn layer_rows(rows: &mut Vec<Vec<String>>, layers: &[ProjectLayer], depth: usize) {
    for layer in layers {
        rows.push(vec![
            format!("{}{}", "  ".repeat(depth), plain(&layer.name)),
            layer.r#type.clone(),
            layer.geometry_type.clone(),
            plain(&layer.crs),
            if layer.visible { "yes" } else { "no" }.into(),
        ]);
        layer_rows(rows, &layer.layers, depth + 1);
    }
}

fn info_json(info: &ProjectInfo) -> Value {
    let extent = |extent: Option<&Extent>| extent.map(|e| [e.west, e.south, e.east, e.north]);
    json!({
        "project": info.project, "title": info.title, "abstract": info.r#abstract, "crs": info.crs,
        "output_crs": info.output_crs, "extent": extent(info.extent.as_ref()),
        "extent_epsg4326": extent(info.extent_epsg4326.as_ref()),
        "layers": info.layers.iter().map(layer_json).collect::<Vec<_>>(), "draw_order": info.draw_order,
        "bad_layers": info.bad_layers, "layouts": info.layouts, "version": info.version, "load_ms": info.load_ms,
        "qgis_version": info.qgis_version, "max_width": info.max_width, "max_height": info.max_height,
    })
}

fn layer_json(layer: &ProjectLayer) -> Value {
    json!({
        "name": layer.name, "title": layer.title, "type": layer.r#type, "geometry_type": layer.geometry_type,
        "crs": layer.crs, "min_scale": layer.min_scale, "max_scale": layer.max_scale, "visible": layer.visible,
        "queryable": layer.queryable, "layers": layer.layers.iter().map(layer_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_shown_to_people_and_programs() {
        let item = CatalogItem {
            project: "/public/ro\u{1b}ads".into(),
            location: "/public".into(),
            storage: "directory".into(),
            bytes: Some(7),
            ..CatalogItem::default()
        };
        let shown = as_table(Ink::PLAIN, std::slice::from_ref(&item));
        assert!(
            shown.contains("/public/ro ads  directory") && !shown.contains('\u{1b}'),
            "{shown}"
        );
        let problem = CatalogItem {
            location: "/far".into(),
            problem: "no answer".into(),
            ..CatalogItem::default()
        };
        let value = as_json(&[item], &[problem]);
        assert_eq!(
            (&value["projects"][0]["bytes"], &value["projects"][0]["modified"]),
            (&7.into(), &Value::Null)
        );
        assert_eq!(value["problems"][0]["location"], "/far");
        assert_eq!(as_table(Ink::PLAIN, &[]), "there is no project\n");
    }

    #[test]
    fn a_tree_of_layers_is_indented() {
        let layer = |name: &str, layers| ProjectLayer {
            name: name.into(),
            layers,
            ..ProjectLayer::default()
        };
        let info = ProjectInfo {
            project: "/world".into(),
            layers: vec![layer("group", vec![layer("inner", Vec::new())])],
            extent: Some(Extent {
                east: 2.5,
                ..Extent::default()
            }),
            ..ProjectInfo::default()
        };
        let text = info_text(Ink::PLAIN, &info);
        assert!(text.contains("\n  inner") && text.contains("0, 0, 2.5, 0"), "{text}");
        assert_eq!(info_json(&info)["layers"][0]["layers"][0]["name"], "inner");
    }
}
