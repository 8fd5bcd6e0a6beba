//! The map that shows a project: its extent, in a coordinate system whose axes need no thought.

use super::details::Details;
use super::links::escaped;

/// The width of a preview in pixels.
pub const PREVIEW_WIDTH: u32 = 240;
/// The height of a preview in pixels.
pub const PREVIEW_HEIGHT: u32 = 160;

/// The coordinate system and the extent to look at: the project's own, else longitude and latitude.
pub(super) fn view(details: &Details) -> Option<(&str, [f64; 4])> {
    let sound = |extent: &[f64; 4]| {
        extent.iter().all(|number| number.is_finite()) && extent[0] <= extent[2] && extent[1] <= extent[3]
    };
    // A coordinate system of the user's own has a number that only this QGIS knows.
    let own = (!details.crs.is_empty() && !details.crs.starts_with("USER:")).then_some(details.crs.as_str());
    match (own, details.extent.filter(sound)) {
        (Some(crs), Some(extent)) => Some((crs, extent)),
        _ => Some(("EPSG:4326", details.extent_epsg4326.filter(sound)?)),
    }
}

/// The extent with a little air around it, widened to the shape of an image.
fn fitted(extent: [f64; 4], width: u32, height: u32) -> [f64; 4] {
    let [west, south, east, north] = extent;
    let (x, y) = (f64::midpoint(west, east), f64::midpoint(south, north));
    let mut pixel = ((east - west) / f64::from(width)).max((north - south) / f64::from(height)) * 1.04;
    if pixel <= 0.0 {
        // All of it is one point.
        pixel = x.abs().max(y.abs()).max(1.0) * 1e-5;
    }
    let (wide, high) = (pixel * f64::from(width) / 2.0, pixel * f64::from(height) / 2.0);
    [x - wide, y - high, x + wide, y + high]
}

/// The parameters of a `GetMap` that shows the project, `MAP` left out; none when there is nothing to show.
///
/// Version 1.1.1 has the axes of every coordinate system in one order.
#[must_use]
pub fn preview_query(details: &Details) -> Option<String> {
    let (crs, extent) = view(details)?;
    let layers: Vec<String> = details.shown().into_iter().map(escaped).collect();
    if layers.is_empty() {
        return None;
    }
    let [west, south, east, north] = fitted(extent, PREVIEW_WIDTH, PREVIEW_HEIGHT);
    Some(format!(
        "SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS={}&STYLES=&SRS={}&BBOX={west},{south},{east},{north}\
         &WIDTH={PREVIEW_WIDTH}&HEIGHT={PREVIEW_HEIGHT}&FORMAT=image/png",
        layers.join(","),
        escaped(crs)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalog::Layer;

    fn layer(name: &str, visible: bool) -> Layer {
        Layer {
            name: name.into(),
            kind: "vector".into(),
            visible,
            ..Layer::default()
        }
    }

    fn details() -> Details {
        let group = Layer {
            name: "g".into(),
            kind: "group".into(),
            visible: true,
            layers: vec![layer("b&c", true), layer("off", false)],
            ..Layer::default()
        };
        Details {
            crs: "EPSG:3857".into(),
            extent: Some([0.0, 0.0, 100.0, 300.0]),
            extent_epsg4326: Some([0.0, 0.0, 1.0, 3.0]),
            layers: vec![layer("a", true), group],
            draw_order: vec!["off".into(), "b&c".into(), "a".into(), "of no tree".into()],
            ..Details::default()
        }
    }

    #[test]
    fn visible_layers_are_drawn_lowest_first_and_the_extent_fits() {
        let query = preview_query(&details()).unwrap();
        assert!(query.contains("&LAYERS=b%26c,a&"), "{query}");
        assert!(query.contains("&SRS=EPSG%3A3857&"), "{query}");
        let bbox: Vec<f64> = query
            .split("BBOX=")
            .nth(1)
            .and_then(|rest| rest.split('&').next())
            .unwrap()
            .split(',')
            .map(|number| number.parse().unwrap())
            .collect();
        assert!(bbox[1] < 0.0 && bbox[3] > 300.0 && bbox[0] < -100.0, "{bbox:?}");
        let shape = (bbox[2] - bbox[0]) / (bbox[3] - bbox[1]);
        assert!((shape - 1.5).abs() < 1e-9, "{shape}");
    }

    #[test]
    fn without_a_named_system_longitude_and_latitude_are_used() {
        for crs in ["", "USER:100000"] {
            let mut details = details();
            details.crs = crs.into();
            assert!(preview_query(&details).unwrap().contains("SRS=EPSG%3A4326"), "{crs}");
            details.extent_epsg4326 = None;
            assert_eq!(preview_query(&details), None);
        }
    }

    #[test]
    fn nothing_to_show_gives_no_map_and_a_point_gives_one() {
        let mut nothing = details();
        nothing.draw_order.clear();
        assert_eq!(preview_query(&nothing), None);
        let mut wrong = details();
        wrong.extent = Some([5.0, 0.0, -5.0, f64::NAN]);
        assert!(preview_query(&wrong).unwrap().contains("EPSG%3A4326"));
        let [west, south, east, north] = fitted([7.0, 7.0, 7.0, 7.0], 240, 160);
        assert!(west < 7.0 && south < 7.0 && east > 7.0 && north > 7.0);
    }
}
