//! Requests for the towns of `demo/projects/many.py`, as browsers with a map of them send: tiles mostly, now and then
//! capabilities or a click on the map.

use crate::draw::Draw;
use crate::shots::{PNG, Shot};

/// How many towns there are.
pub const TOWNS: u32 = 200;

/// What a map shows at first: every town has these, topmost last as WMS wants it.
const LAYERS: &str = "parcels,buildings,streets,places";

/// Of a hundred requests, so many are for capabilities, and as many are clicks.
const SELDOM: u32 = 5;

/// The lower left corner of every town, in metres of EPSG:25832.
const CORNER: (u32, u32) = (500_000, 5_500_000);

/// Tiles along each side of a town, and how long a tile's sides are, in metres.
const TILES: u32 = 8;
const TILE: u32 = 512;

/// The name of a town's project.
#[must_use]
pub fn name(town: usize) -> String {
    format!("town{town:03}")
}

/// A request by lot for the project that `map` names.
#[must_use]
pub fn request(map: &str, draw: &mut Draw) -> Shot {
    match draw.below(100) {
        kind if kind < SELDOM => capabilities(map),
        kind if kind < 2 * SELDOM => click(map, draw),
        _ => tile(map, draw.below(TILES * TILES)),
    }
}

/// A tile of 256 pixels, one of 64.
#[must_use]
pub fn tile(map: &str, number: u32) -> Shot {
    let place = window(number);
    Shot {
        name: "tile",
        target: format!("/?MAP={map}&REQUEST=GetMap&{place}&WIDTH=256&HEIGHT=256&FORMAT=image/png&TRANSPARENT=true"),
        media_type: "image/png",
        holds: PNG,
    }
}

/// Capabilities of its WMS.
#[must_use]
pub fn capabilities(map: &str) -> Shot {
    Shot {
        name: "capabilities",
        target: format!("/?MAP={map}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetCapabilities"),
        media_type: "text/xml",
        holds: b"WMS_Capabilities",
    }
}

fn click(map: &str, draw: &mut Draw) -> Shot {
    let place = window(draw.below(TILES * TILES));
    let (i, j) = (draw.below(256), draw.below(256));
    Shot {
        name: "click",
        target: format!(
            "/?MAP={map}&REQUEST=GetFeatureInfo&{place}&WIDTH=256&HEIGHT=256&QUERY_LAYERS=parcels,buildings&I={i}&J={j}\
             &INFO_FORMAT=application/json"
        ),
        media_type: "application/json",
        holds: b"FeatureCollection",
    }
}

fn window(number: u32) -> String {
    let (left, bottom) = (CORNER.0 + number % TILES * TILE, CORNER.1 + number / TILES * TILE);
    let (right, top) = (left + TILE, bottom + TILE);
    format!("SERVICE=WMS&VERSION=1.3.0&LAYERS={LAYERS}&STYLES=&CRS=EPSG:25832&BBOX={left},{bottom},{right},{top}")
}
