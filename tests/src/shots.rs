//! Safe requests as clients of a map send them, each with what its answer must be.

use crate::client::Answer;

/// A request and how to know a right answer.
#[derive(Debug, Clone)]
pub struct Shot {
    /// What it asks, for people.
    pub name: &'static str,
    /// The path and query.
    pub target: String,
    /// The media type that the answer must have.
    pub media_type: &'static str,
    /// What the answer's body must hold.
    pub holds: &'static [u8],
}

impl Shot {
    /// Whether an answer is right.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&self, answer: &Answer) -> Result<(), String> {
        let start = || answer.text().chars().take(300).collect::<String>();
        if answer.status != 200 {
            return Err(format!("{} {}", answer.status, start()));
        }
        if answer.media_type() != self.media_type {
            return Err(format!(
                "{} instead of {}: {}",
                answer.media_type(),
                self.media_type,
                start()
            ));
        }
        if !answer.body.windows(self.holds.len()).any(|window| window == self.holds) {
            return Err(format!("no {:?} in {}", String::from_utf8_lossy(self.holds), start()));
        }
        Ok(())
    }
}

/// How every PNG begins.
pub const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A WMS GetMap 1.3.0 in EPSG:4326 of the world project, a PNG of the countries.
#[must_use]
pub fn get_map(bbox: &str, size: u32) -> String {
    format!(
        "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=countries&STYLES=&CRS=EPSG:4326&BBOX={bbox}\
         &WIDTH={size}&HEIGHT={size}&FORMAT=image/png"
    )
}

/// A mix of light requests for several projects in several spellings.
#[must_use]
pub fn mix() -> Vec<Shot> {
    let shot = |name, target: String, media_type, holds| Shot {
        name,
        target,
        media_type,
        holds,
    };
    let tile = |bbox: &str| get_map(bbox, 128);
    let roads = "/ows/public/roads?SERVICE=WMS&REQUEST=GetCapabilities";
    vec![
        shot("a tile", tile("40,0,60,20"), "image/png", PNG),
        shot("capabilities", "/?MAP=/world&SERVICE=WMS&REQUEST=GetCapabilities".into(), "text/xml", b"WMS_Capabilities"),
        shot("another tile", tile("-40,-80,0,-40"), "image/png", PNG),
        shot(
            "feature info",
            "/ows/world?SERVICE=WMS&VERSION=1.3.0&REQUEST=GetFeatureInfo&LAYERS=countries&QUERY_LAYERS=countries&STYLES=\
             &CRS=EPSG:4326&BBOX=40,0,50,10&WIDTH=101&HEIGHT=101&I=50&J=50&INFO_FORMAT=application/json"
                .into(),
            "application/json",
            b"FeatureCollection",
        ),
        shot("roads", roads.into(), "text/xml", b"WMS_Capabilities"),
        shot(
            "features",
            "/?map=world.qgs&service=WFS&version=1.1.0&request=GetFeature&typename=countries&maxfeatures=2\
             &outputformat=application/json"
                .into(),
            "application/vnd.geo+json",
            b"FeatureCollection",
        ),
        shot("collections", "/ows/world/wfs3/collections.json".into(), "application/json", b"countries"),
    ]
}
