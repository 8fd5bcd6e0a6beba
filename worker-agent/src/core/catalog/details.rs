//! What a worker says of a project that it has loaded (`describe` of the worker protocol).

use serde::{Deserialize, Serialize};

/// A project in detail.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Details {
    /// The title of its services, else of the project; may be empty.
    #[serde(default)]
    pub title: String,
    /// The abstract of its services, else of the project.
    #[serde(default, rename = "abstract")]
    pub summary: String,
    /// Its own coordinate system, such as `EPSG:3857`; empty when that has no name.
    #[serde(default)]
    pub crs: String,
    /// Coordinate systems that its WMS offers.
    #[serde(default)]
    pub output_crs: Vec<String>,
    /// West, south, east and north in its own coordinate system.
    #[serde(default)]
    pub extent: Option<[f64; 4]>,
    /// The same in EPSG:4326, longitude first.
    #[serde(default)]
    pub extent_epsg4326: Option<[f64; 4]>,
    /// The layer tree, topmost first.
    #[serde(default)]
    pub layers: Vec<Layer>,
    /// The names of layers that can be drawn, lowest first.
    #[serde(default)]
    pub draw_order: Vec<String>,
    /// Layers that could not be opened.
    #[serde(default)]
    pub bad_layers: Vec<String>,
    /// Print layouts that `GetPrint` takes.
    #[serde(default)]
    pub layouts: Vec<String>,
    /// The largest map that its WMS draws, in pixels; 0: any.
    #[serde(default)]
    pub max_width: u32,
    /// The same for the height.
    #[serde(default)]
    pub max_height: u32,
    /// The version as the storage counts versions.
    #[serde(default)]
    pub version: String,
    /// How long loading it took, in milliseconds.
    #[serde(default)]
    pub load_ms: f64,
    /// The version of QGIS that saved it.
    #[serde(default)]
    pub qgis_version: String,
}

/// A layer or a group of layers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Layer {
    /// As WMS names it: short name, id or name, as the project has it set.
    pub name: String,
    /// In words.
    #[serde(default)]
    pub title: String,
    /// `group`, `vector`, `raster` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Point`, `LineString`, `MultiPolygon` and so on; of vector layers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry_type: Option<String>,
    /// Its coordinate system; not of groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crs: Option<String>,
    /// The smallest scale, as its denominator, at which it is drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_scale: Option<f64>,
    /// The largest scale, as its denominator, at which it is drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_scale: Option<f64>,
    /// Whether the project shows it.
    #[serde(default)]
    pub visible: bool,
    /// Whether `GetFeatureInfo` asks it.
    #[serde(default)]
    pub queryable: bool,
    /// The layers of a group, topmost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

impl Details {
    /// The names of drawable layers that the project shows, lowest first.
    #[must_use]
    pub fn shown(&self) -> Vec<&str> {
        fn collect<'a>(layers: &'a [Layer], found: &mut Vec<&'a str>) {
            for layer in layers {
                if layer.kind != "group" && layer.visible {
                    found.push(&layer.name);
                }
                collect(&layer.layers, found);
            }
        }
        let mut visible = Vec::new();
        collect(&self.layers, &mut visible);
        let visible: std::collections::HashSet<&str> = visible.into_iter().collect();
        let order = self.draw_order.iter().map(String::as_str);
        order.filter(|name| visible.contains(name)).collect()
    }
}
