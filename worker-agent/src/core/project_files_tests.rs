use std::io::{Cursor, Write as _};

use super::*;

fn names(inner: &str) -> Vec<String> {
    let text = format!("<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n<qgis>{inner}</qgis>");
    named(&text).unwrap().into_iter().collect()
}

fn source(text: &str) -> Vec<String> {
    names(&format!("<maplayer><datasource>{text}</datasource></maplayer>"))
}

#[test]
fn data_sources_are_cut_down_to_their_files() {
    for (text, expected) in [
        (
            "./data/roads.gpkg|layername=roads|subset=\"a\" &lt; 'b./x'",
            &["./data/roads.gpkg"][..],
        ),
        ("../shared/my roads.shp", &["../shared/my roads.shp"]),
        ("../../x.tif", &["../../x.tif"]),
        ("roads.gpkg|layername=roads", &["roads.gpkg"]),
        ("data/relief.tif", &["data/relief.tif"]),
        ("./a&amp;b.tif", &["./a&b.tif"]),
        ("./gr&#xFC;n.tif", &["./grün.tif"]),
        ("<![CDATA[./c.tif]]>", &["./c.tif"]),
        (
            "file:./points%20a.csv?type=csv&amp;xField=x",
            &["./points a.csv", "./points%20a.csv"],
        ),
        ("dbname='./x.sqlite' table=\"t\" (geom)", &["./x.sqlite"]),
        ("GPKG:./rasters.gpkg:relief", &["./rasters.gpkg"]),
        ("NETCDF:\"./a b.nc\":t", &["./a b.nc"]),
        ("/vsizip/./data/all.zip/roads.shp|layername=x", &["./data/all.zip"]),
        ("/vsigzip/../x.csv.gz", &["../x.csv.gz"]),
        ("type=mbtiles&amp;url=./tiles.mbtiles&amp;zmax=4", &["./tiles.mbtiles"]),
        ("?layer=ogr:./a.gpkg:x&amp;query=SELECT 1", &["./a.gpkg"]),
        ("dbname='gis' host=db.example.org port=5432 table=\"a\".\"b\" (g)", &[]),
        ("contextualWMSLegend=0&amp;url=https://example.org/./x.map", &[]),
        ("https://example.org/a.tif", &[]),
        ("/srv/data/roads.gpkg|layername=x", &[]),
        // What looks like a file in a filter costs a look in vain.
        ("a.gpkg|subset=b = './c'", &["./c", "a.gpkg"]),
        ("Point?crs=EPSG:4326&amp;field=id:integer", &[]),
        ("memory", &[]),
        ("./folder/", &[]),
        ("", &[]),
    ] {
        let found = source(text);
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn symbols_layouts_and_embedded_projects_are_seen() {
    let inner = "<Option type='QString' name='name' value='./icons/a.svg'/>\
                 <prop k='imageFile' v=\"./icons/b.png\"/>\
                 <LayoutItem file='../logos/city.svg' other='a./b'/>\
                 <maplayer embedded='1' project='./base.qgs' id='x'/>\
                 <expr>'./photos/' || \"name\"</expr>\
                 <Option value='base64:iVBOR./x'/>\
                 <title>See ./docs. Or not</title>";
    assert_eq!(
        names(inner),
        ["../logos/city.svg", "./base.qgs", "./icons/a.svg", "./icons/b.png"]
    );
}

#[test]
fn files_are_seen_from_the_fence_and_never_above_it() {
    let text = "<qgis><datasource>../data/roads.shp</datasource><datasource>../../secret.gpkg</datasource>\
                <datasource>./a/../b/./c.gpkg</datasource><datasource>../../../maps/x/y.gpkg</datasource></qgis>";
    let files = of_project(text, "city/", "town.qgs").unwrap();
    assert_eq!(
        files.wanted.into_iter().collect::<Vec<_>>(),
        [
            "city/b/c.gpkg",
            "city/town.qgd",
            "city/town_attachments.zip",
            "data/roads.cpg",
            "data/roads.dbf",
            "data/roads.prj",
            "data/roads.qix",
            "data/roads.qml",
            "data/roads.shp",
            "data/roads.shx",
        ]
    );
    assert_eq!(
        files.outside.into_iter().collect::<Vec<_>>(),
        ["../../../maps/x/y.gpkg", "../../secret.gpkg"]
    );
    // Down and up again may pass through the fence's own folder, not above.
    assert_eq!(resolve("", "a/../../b"), None);
    assert_eq!(resolve("a/b/", "../../c").as_deref(), Some("c"));
}

#[test]
fn rasters_have_world_files() {
    let of = |path: &str| companions(path);
    assert!(of("d/a.tif").contains(&"d/a.tfw".to_owned()));
    assert!(of("d/a.tif").contains(&"d/a.tif.aux.xml".to_owned()));
    assert!(of("a.JPEG").contains(&"a.JGw".to_owned()) && of("a.png").contains(&"a.pgw".to_owned()));
    assert!(of("a.gpkg").is_empty() && of("noext").is_empty() && of("d.x/noext").is_empty());
}

#[test]
fn what_is_no_project_is_refused() {
    for text in ["", "no xml", "<qgis>", "<qgis></other>", "<qgis version='3.40'><half"] {
        assert!(matches!(named(text), Err(FilesError::Malformed(_))), "{text}");
    }
    let many: String = (0..=MOST_FILES).map(|n| format!("<a b='./{n}.svg'/>")).collect();
    assert_eq!(named(&format!("<qgis>{many}</qgis>")), Err(FilesError::TooMany));
    let shapes: String = (0..1000)
        .map(|n| format!("<datasource>./{n}.shp</datasource>"))
        .collect();
    assert_eq!(
        of_project(&format!("<qgis>{shapes}</qgis>"), "", "x.qgs"),
        Err(FilesError::TooMany)
    );
}

fn archived(name: &str, text: &[u8]) -> Cursor<Vec<u8>> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer
        .start_file(name, zip::write::SimpleFileOptions::default())
        .unwrap();
    writer.write_all(text).unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_zipped_project_is_unpacked_within_bounds() {
    assert_eq!(text_of(archived("x.qgs", b"<qgis/>"), true).unwrap(), "<qgis/>");
    assert_eq!(text_of(Cursor::new(b"<qgis/>"), false).unwrap(), "<qgis/>");
    assert!(matches!(
        text_of(archived("x.txt", b""), true),
        Err(FilesError::Archive(_))
    ));
    assert!(matches!(text_of(Cursor::new(b"PK"), true), Err(FilesError::Archive(_))));
    assert!(matches!(
        text_of(Cursor::new(b"\xFF"), false),
        Err(FilesError::Malformed(_))
    ));
    let bomb = archived("x.qgs", &vec![b' '; usize::try_from(LARGEST_TEXT).unwrap() + 1]);
    assert!(bomb.get_ref().len() < 1 << 20);
    assert_eq!(text_of(bomb, true), Err(FilesError::TooLarge));
}

#[test]
fn what_is_a_folder_once_decoded_is_no_file() {
    let files = of_project(
        "<qgis><a b=\"./.%2e\" c=\"./a%2f\" d=\"./.%2e/b%20c.csv\"/></qgis>",
        "x/",
        "p.qgz",
    )
    .unwrap();
    assert!(!files.wanted.contains(""), "{files:?}");
    assert!(files.wanted.iter().all(|path| !path.ends_with('/')), "{files:?}");
    assert!(files.wanted.contains("b c.csv"), "{files:?}");
}

/// Any bytes: it ends, and nothing it names leads above the fence.
#[test]
fn nothing_that_is_wanted_lies_above_the_fence() {
    use proptest::prelude::*;
    proptest!(|(pieces in proptest::collection::vec("[./a:'=|?%2eE]{0,6}", 0..12), up in 0..3_usize)| {
        let text = format!("<qgis><datasource>{}</datasource><a b=\"{}\"/></qgis>", pieces.concat(), pieces.join("./"));
        let files = of_project(&text, &"x/".repeat(up), "p.qgz").unwrap_or_default();
        for path in files.wanted {
            prop_assert!(!path.starts_with('/') && !path.is_empty(), "{path}");
            prop_assert!(path.split('/').all(|step| !matches!(step, "" | "." | "..")), "{path}");
        }
    });
}
