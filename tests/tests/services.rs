//! Every service that QGIS Server has, asked through Envoy in the ways that clients ask.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

use image::{ImageFormat, Rgba, RgbaImage};
use stack::{Answer, Plan, Stack};

/// A rectangle of Europe with the Mediterranean: land, sea and borders.
const EUROPE: &str = "35,-5,55,25";

/// How many colours there are in an image; a blank one has one.
fn count(image: &RgbaImage) -> usize {
    image.pixels().map(|Rgba(pixel)| *pixel).collect::<BTreeSet<_>>().len()
}

fn colours(answer: &Answer, format: ImageFormat, size: (u32, u32)) -> usize {
    let image = image::load_from_memory_with_format(&answer.expect(200).body, format)
        .unwrap()
        .to_rgba8();
    assert_eq!(image.dimensions(), size);
    count(&image)
}

fn map_query(more: &str) -> String {
    format!(
        "SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=coast_distance,countries,graticule&STYLES=&CRS=EPSG:4326\
         &BBOX={EUROPE}&WIDTH=300&HEIGHT=200{more}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_answers_rightly() {
    let stack = Plan::agents(2).start().await;
    capabilities(&stack).await;
    maps(&stack).await;
    feature_info_and_legend(&stack).await;
    print(&stack).await;
    wfs(&stack).await;
    wcs(&stack).await;
    wmts(&stack).await;
    ogc_api_features(&stack).await;
}

async fn capabilities(stack: &Stack) {
    for (query, root) in [
        ("SERVICE=WMS&REQUEST=GetCapabilities", "WMS_Capabilities"),
        (
            "SERVICE=WMS&VERSION=1.1.1&REQUEST=GetCapabilities",
            "WMT_MS_Capabilities",
        ),
        ("SERVICE=WFS&VERSION=1.0.0&REQUEST=GetCapabilities", "WFS_Capabilities"),
        ("SERVICE=WFS&VERSION=1.1.0&REQUEST=GetCapabilities", "WFS_Capabilities"),
        ("SERVICE=WCS&VERSION=1.0.0&REQUEST=GetCapabilities", "WCS_Capabilities"),
        ("SERVICE=WMTS&REQUEST=GetCapabilities", "Capabilities"),
    ] {
        let answer = stack.get(&format!("/?MAP=/world&{query}")).await;
        let document = answer.expect(200).xml();
        assert_eq!(document.name, root, "{query}");
        let layer = if query.contains("WCS") {
            "coast_distance"
        } else {
            "countries"
        };
        if !query.contains("WMTS") {
            assert!(
                document.all().iter().any(|element| element.text.trim() == layer),
                "{query} names no {layer}"
            );
        }
    }
}

async fn maps(stack: &Stack) {
    let png = stack
        .get(&format!("/?MAP=/world&{}", map_query("&FORMAT=image/png")))
        .await;
    assert_eq!(png.media_type(), "image/png");
    assert!(colours(&png, ImageFormat::Png, (300, 200)) > 20);
    assert!(!png.header("x-graticule-project-version").is_empty());
    assert!(!png.header("x-request-id").is_empty());

    let jpeg = stack
        .get(&format!("/?MAP=/world&{}", map_query("&FORMAT=image/jpeg")))
        .await;
    assert_eq!(jpeg.media_type(), "image/jpeg");
    assert!(colours(&jpeg, ImageFormat::Jpeg, (300, 200)) > 20);

    // Of a map with nothing in it there is an image as well, and the count tells it apart.
    let layer = "LAYERS=provinces&STYLES=&CRS=EPSG:4326&BBOX=-60,-40,-59,-39&WIDTH=50&HEIGHT=50&FORMAT=image/png";
    let empty = stack
        .get(&format!(
            "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&{layer}"
        ))
        .await;
    assert_eq!(colours(&empty, ImageFormat::Png, (50, 50)), 1);
}

async fn feature_info_and_legend(stack: &Stack) {
    let point =
        "LAYERS=countries&QUERY_LAYERS=countries&STYLES=&CRS=EPSG:4326&BBOX=46,2,48,4&WIDTH=101&HEIGHT=101&I=50&J=50";
    let info = |format: &str| {
        format!("/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetFeatureInfo&{point}&INFO_FORMAT={format}")
    };
    let json = stack.get(&info("application/json")).await;
    assert_eq!(json.expect(200).json()["features"][0]["properties"]["NAME"], "France");
    let gml = stack.get(&info("application/vnd.ogc.gml")).await;
    assert!(gml.expect(200).text().contains("France"));

    let legend = "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetLegendGraphic&LAYER=countries&FORMAT=image/png";
    let legend = stack.get(legend).await;
    let image = image::load_from_memory(&legend.expect(200).body).unwrap().to_rgba8();
    assert!(count(&image) > 5, "a legend in one colour");
}

async fn print(stack: &Stack) {
    let page = "TEMPLATE=A4&CRS=EPSG:4326&map0:EXTENT=30,-20,70,54&DPI=100";
    let pdf = stack
        .get(&format!(
            "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetPrint&FORMAT=pdf&{page}"
        ))
        .await;
    assert_eq!(pdf.expect(200).media_type(), "application/pdf");
    assert!(pdf.body.starts_with(b"%PDF-"));
    assert!(pdf.body.trim_ascii_end().ends_with(b"%%EOF"));
    assert!(pdf.body.len() > 50_000, "{} bytes are no map", pdf.body.len());
    let png = stack
        .get(&format!(
            "/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetPrint&FORMAT=png&{page}"
        ))
        .await;
    let image = image::load_from_memory(&png.expect(200).body).unwrap().to_rgba8();
    assert!(count(&image) > 20, "a page in few colours");
}

async fn wfs(stack: &Stack) {
    let query = "SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME=countries&MAXFEATURES=7";
    let json = stack
        .get(&format!("/?MAP=/world&{query}&OUTPUTFORMAT=application/json"))
        .await;
    let features = json.expect(200).json()["features"].as_array().unwrap().clone();
    assert_eq!(features.len(), 7);
    assert!(features[0]["geometry"]["coordinates"].is_array());

    let gml = stack.get(&format!("/?MAP=/world&{query}&OUTPUTFORMAT=GML3")).await;
    let collection = gml.expect(200).xml();
    assert_eq!(
        (collection.name.as_str(), collection.find_all("featureMember").len()),
        ("FeatureCollection", 7)
    );

    let body = r#"<wfs:GetFeature service="WFS" version="1.1.0" maxFeatures="7" xmlns:wfs="http://www.opengis.net/wfs">
        <wfs:Query typeName="countries"/></wfs:GetFeature>"#;
    for target in ["/?MAP=/world", "/ows/world", "/ows/world?SERVICE=WFS"] {
        let posted = stack.client().post(target, "text/xml; charset=utf-8", body).await;
        let collection = posted.expect(200).xml();
        assert_eq!(collection.find_all("featureMember").len(), 7, "{target}");
    }
    let schema = "/?MAP=/world&SERVICE=WFS&VERSION=1.1.0&REQUEST=DescribeFeatureType&TYPENAME=countries";
    assert_eq!(stack.get(schema).await.expect(200).xml().name, "schema");
}

async fn wcs(stack: &Stack) {
    let query = "SERVICE=WCS&VERSION=1.0.0&REQUEST=GetCoverage&COVERAGE=coast_distance&CRS=EPSG:4326&BBOX=-5,35,25,55";
    let answer = stack
        .get(&format!("/?MAP=/world&{query}&WIDTH=60&HEIGHT=40&FORMAT=GeoTIFF"))
        .await;
    assert_eq!(answer.expect(200).media_type(), "image/tiff");
    assert!(answer.body.starts_with(b"II*\0") || answer.body.starts_with(b"MM\0*"));
    // 60 by 40 numbers of four bytes each, and the tags.
    assert!(
        (9_600..60_000).contains(&answer.body.len()),
        "{} bytes",
        answer.body.len()
    );
    let about = stack
        .get("/?MAP=/world&SERVICE=WCS&VERSION=1.0.0&REQUEST=DescribeCoverage&COVERAGE=coast_distance")
        .await;
    assert_eq!(about.expect(200).xml().find("name").unwrap().text, "coast_distance");
}

async fn wmts(stack: &Stack) {
    let capabilities = stack
        .get("/?MAP=/world&SERVICE=WMTS&REQUEST=GetCapabilities")
        .await
        .xml();
    if let Some(layer) = capabilities
        .find("Contents")
        .and_then(|contents| contents.find("Layer"))
    {
        let layer = &layer.find("Identifier").unwrap().text;
        let tile = format!(
            "/?MAP=/world&SERVICE=WMTS&VERSION=1.0.0&REQUEST=GetTile&LAYER={layer}&STYLE=default&FORMAT=image/png\
             &TILEMATRIXSET=EPSG:4326&TILEMATRIX=0&TILEROW=0&TILECOL=0"
        );
        assert_eq!(stack.get(&tile).await.expect(200).media_type(), "image/png");
    }
}

async fn ogc_api_features(stack: &Stack) {
    for (base, map) in [("", "?MAP=/world"), ("/ows/world", ""), ("/ows/world.qgs", "")] {
        let with = |query: &str| match (map, query) {
            ("", "") => String::new(),
            ("", query) => format!("?{query}"),
            (map, "") => map.to_owned(),
            (map, query) => format!("{map}&{query}"),
        };
        let json = [("accept", "application/json")];
        let landing = stack
            .client()
            .get_with(&format!("{base}/wfs3{}", with("")), &json)
            .await;
        assert!(landing.expect(200).json()["links"].is_array(), "{base}");
        let collections = stack.get(&format!("{base}/wfs3/collections{}", with("f=json"))).await;
        let collections = collections.expect(200).json();
        let ids: Vec<&str> = collections["collections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["id"].as_str().unwrap())
            .collect();
        assert!(ids.contains(&"countries"), "{ids:?}");
        let items = stack
            .get(&format!(
                "{base}/wfs3/collections/countries/items.json{}",
                with("limit=5")
            ))
            .await;
        assert_eq!(items.expect(200).json()["features"].as_array().unwrap().len(), 5);
        let item = stack
            .get(&format!("{base}/wfs3/collections/countries/items/1.json{}", with("")))
            .await;
        assert_eq!(item.expect(200).json()["type"], "Feature");
        let page = stack
            .get(&format!(
                "{base}/wfs3/collections/countries/items.html{}",
                with("limit=2")
            ))
            .await;
        assert_eq!(page.expect(200).media_type(), "text/html");
        let api = stack.get(&format!("{base}/wfs3/api{}", with(""))).await;
        assert!(api.expect(200).media_type().contains("openapi"), "{}", api.media_type());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_spelling_of_a_request_gives_the_same_map() {
    let stack = Plan::agents(2).start().await;
    let query = map_query("&FORMAT=image/png");
    let first = stack.get(&format!("/?MAP=/world&{query}")).await;
    assert!(colours(&first, ImageFormat::Png, (300, 200)) > 20);
    let pixels = |answer: &Answer| {
        image::load_from_memory(&answer.expect(200).body)
            .unwrap()
            .to_rgba8()
            .into_raw()
    };
    let wanted = pixels(&first);

    let small = query
        .split('&')
        .map(|pair| {
            pair.split_once('=').map_or(pair.to_lowercase(), |(key, value)| {
                format!("{}={value}", key.to_lowercase())
            })
        })
        .collect::<Vec<_>>()
        .join("&");
    for target in [
        format!("/?map=/world&{small}"),
        format!(
            "/?{}&Map=world",
            query
                .replace("REQUEST=", "rEqUeSt=")
                .replace("SERVICE=WMS", "Service=wms")
        ),
        format!("/?MAP=%2Fworld&{query}"),
        format!("/?MAP=/world.qgs&{query}"),
        format!("/ows?MAP=/world&{query}"),
        format!("/cgi-bin/qgis_mapserv.fcgi?MAP=/world&{query}"),
        format!("/ows/world?{query}"),
        format!("/ows/world/?{query}"),
        format!("/ows/world.qgs?{query}"),
        format!("/ows/world.qgs/?{small}"),
    ] {
        let answer = stack.get(&target).await;
        answer.expect(200);
        assert!(pixels(&answer) == wanted, "{target} gives another map");
    }
    let form = "application/x-www-form-urlencoded";
    for (target, body) in [
        ("/", format!("MAP=%2Fworld&{query}")),
        ("/", format!("map=world&{small}")),
        ("/?MAP=/world", query.clone()),
        ("/ows/world", query.clone()),
        ("/ows/world?SERVICE=WMS", query.clone()),
    ] {
        let answer = stack.client().post(target, form, body.clone()).await;
        answer.expect(200);
        assert!(pixels(&answer) == wanted, "POST {target} {body} gives another map");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_project_is_named_with_or_without_its_ending() {
    let folder = tempfile::tempdir().unwrap();
    let demo = stack::parts::projects();
    for file in ["world.gpkg", "coast_distance.tif"] {
        std::os::unix::fs::symlink(demo.join(file), folder.path().join(file)).unwrap();
    }
    let mut zip = Command::new("/usr/bin/python3");
    zip.args(["-m", "zipfile", "-c"])
        .arg(folder.path().join("packed.qgz"))
        .arg(demo.join("world.qgs"));
    assert!(zip.status().unwrap().success());

    let stack = Plan::agents(1).projects(folder.path()).start().await;
    let query = map_query("&FORMAT=image/png");
    for target in [
        "/?MAP=/packed&",
        "/?MAP=/packed.qgz&",
        "/ows/packed?",
        "/ows/packed.qgz?",
    ] {
        let map = stack.get(&format!("{target}{query}")).await;
        assert!(colours(&map, ImageFormat::Png, (300, 200)) > 20, "{target}");
    }
    for target in [
        "/wfs3/collections.json?MAP=packed",
        "/ows/packed/wfs3/collections.json",
        "/ows/packed.qgz/wfs3/collections.json",
    ] {
        assert!(
            stack.get(target).await.expect(200).json()["collections"].is_array(),
            "{target}"
        );
    }
    // The other ending is another file, which is not there.
    stack.get(&format!("/?MAP=/packed.qgs&{query}")).await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_demo_project_draws_a_map() {
    let stack = Plan::agents(2).start().await;
    for project in ["world", "atlas150", "relief", "slow", "points", "public/roads"] {
        let url = format!("/?MAP=/{project}&SERVICE=WMS&VERSION=1.3.0");
        let document = stack
            .get(&format!("{url}&REQUEST=GetCapabilities"))
            .await
            .expect(200)
            .xml();
        let layers: Vec<_> = document
            .find_all("Layer")
            .into_iter()
            .filter(|layer| !layer.children.iter().any(|c| c.name == "Layer"))
            .collect();
        assert!(!layers.is_empty(), "{project}");
        let wanted = if project == "atlas150" { 150 } else { 1 };
        assert!(layers.len() >= wanted, "{project} has {} layers", layers.len());
        // The whole of it in its first coordinate system, drawn small.
        let root = document.find("Layer").unwrap();
        let boxes = root.find_all("BoundingBox");
        let bbox = boxes
            .iter()
            .find(|b| b.attribute("CRS") == Some("EPSG:3857"))
            .unwrap_or(&boxes[0]);
        let side = |name: &str| bbox.attribute(name).unwrap();
        let crs = side("CRS");
        let bbox = format!("{},{},{},{}", side("minx"), side("miny"), side("maxx"), side("maxy"));
        let name = root.find("Name").map_or("", |name| name.text.as_str());
        let map = format!(
            "{url}&REQUEST=GetMap&LAYERS={name}&STYLES=&CRS={crs}&BBOX={bbox}&WIDTH=120&HEIGHT=90&FORMAT=image/png"
        );
        let map = stack.get(&map).await;
        assert!(colours(&map, ImageFormat::Png, (120, 90)) > 1, "{project} is blank");
    }
}
