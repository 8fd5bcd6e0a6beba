"""Which projects a zygote may load, and the small pure parts beside it: settings and links."""

import json
import os
import sys
import tempfile
import unittest
import zipfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from graticule_worker import links, preload  # noqa: E402
from graticule_worker.project_file import ProjectError  # noqa: E402
from graticule_worker.settings import Settings  # noqa: E402


class Preload(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.write("data.gpkg", b"not looked into")
        self.write("far.vrt", b"<VRTDataset><SourceFilename>/vsicurl/http://a/b.tif</SourceFilename></VRTDataset>")
        self.write("near.vrt", b"<VRTDataset><SourceFilename>data.tif</SourceFilename></VRTDataset>")
        self.write("tms.xml", b"<GDAL_WMS><Service name='TMS'/></GDAL_WMS>")
        with zipfile.ZipFile(os.path.join(self.folder, "data.zip"), "w") as archive:
            archive.writestr("a.shp", b"")

    def write(self, name, data):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def reason(self, provider, source, settings=None, extra=""):
        source = source.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
        layer = f"<maplayer type='vector' {extra}><datasource>{source}</datasource>"
        layer += f"<layername>roads</layername><provider>{provider}</provider><x><maplayer/></x></maplayer>"
        text = f"<!DOCTYPE qgis SYSTEM 'q.dtd'><qgis><projectlayers>{layer}</projectlayers></qgis>"
        return preload.reason_against(self.write("p.qgs", text.encode()), settings or Settings())

    def test_files_and_memory_may(self):
        for provider, source in [
            ("ogr", "./data.gpkg|layername=a"),
            ("ogr", f"{self.folder}/data.gpkg|layername=a|subset=n > 1"),
            ("gdal", "near.vrt"),
            ("gdal", "GPKG:./data.gpkg:tiles"),
            ("ogr", f"/vsizip/{self.folder}/data.zip/a.shp"),
            ("ogr", "/vsizip/data.zip/a.shp"),
            ("delimitedtext", f"file://{self.folder}/data.gpkg?type=csv"),
            ("memory", "Point?crs=EPSG:4326"),
            ("ogr", "./gone.shp"),
        ]:
            self.assertIsNone(self.reason(provider, source), source)

    def test_everything_else_may_not(self):
        for provider, source in [
            ("wms", "url=http://a/b&layers=c"),
            ("postgres", 'service=\'gis\' table="a"."b"'),
            ("spatialite", "dbname='./data.gpkg'"),
            ("virtual", "?query=select 1"),
            ("WFS", "url='http://a'"),
            ("ogr", "PG:dbname=gis"),
            ("ogr", "/vsicurl/https://a/b.fgb"),
            ("gdal", "/vsis3/bucket/a.tif"),
            ("gdal", "far.vrt"),
            ("gdal", "tms.xml"),
            ("gdal", "<GDAL_WMS></GDAL_WMS>"),
            ("ogr", "https://a/b.geojson"),
            ("ogr", "/vsizip//vsicurl/https://a/b.zip"),
            ("", "?"),
        ]:
            reason = self.reason(provider, source)
            self.assertIsNotNone(reason, source)
            self.assertIn("roads", reason)

    def test_embedded_and_writable_may_not(self):
        self.assertIn("embedded", self.reason("ogr", "./data.gpkg", extra="embedded='1' project='q.qgs'"))
        self.assertIn("force_readonly_layers", self.reason("ogr", "./data.gpkg", Settings(force_readonly_layers=False)))
        self.assertIsNotNone(preload.reason_against("postgresql://h/?dbname=a&project=b", Settings()))

    def test_remote_pictures_in_layouts_may_not(self):
        for item, refused in [('file="https://a/b.svg"', True), ('file="./b.svg"', False), ('url="http://a/"', True)]:
            path = self.write(
                "p.qgs", f"<qgis><Layouts><Layout><LayoutItem {item}/></Layout></Layouts></qgis>".encode()
            )
            self.assertEqual(preload.reason_against(path, Settings()) is not None, refused, item)

    def test_zipped(self):
        path = os.path.join(self.folder, "p.qgz")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("p.qgs", "<qgis><maplayer><provider>wms</provider></maplayer></qgis>")
        self.assertIn("wms", preload.reason_against(path, Settings()))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("p.txt", "")
        with self.assertRaises(ProjectError) as raised:
            preload.reason_against(path, Settings())
        self.assertEqual(raised.exception.kind, "project_broken")

    def test_unreadable(self):
        for name, kind in [("nope.qgs", "project_missing"), ("bad.qgs", "project_broken")]:
            path = os.path.join(self.folder, name)
            if kind == "project_broken":
                self.write(name, b"<qgis><open")
            with self.assertRaises(ProjectError) as raised:
                preload.reason_against(path, Settings())
            self.assertEqual(raised.exception.kind, kind)


class SettingsText(unittest.TestCase):
    def test_defaults_and_values(self):
        self.assertEqual(Settings.from_json("{}"), Settings())
        text = json.dumps({"ignore_bad_layers": False, "preload": [{"uri": "/a", "version": "1"}]})
        self.assertFalse(Settings.from_json(text).ignore_bad_layers)

    def test_mistakes_name_the_key(self):
        for text, word in [
            ('{"ignore_bad_layer": true}', "ignore_bad_layer"),
            ('{"warm_up": 1}', "warm_up"),
            ('{"preload": [{}]}', "preload"),
            ("[]", "object"),
        ]:
            with self.assertRaisesRegex(ValueError, word):
                Settings.from_json(text)


class Links(unittest.TestCase):
    URL = "http://h:9080/wfs3/collections/a?f=json&map=/world"

    def test_the_schema_link(self):
        body = b'{"href":"http://h:9080/?MAP=/world?request=DescribeFeatureType&typenames=a"}'
        self.assertEqual(
            links.mend(body, self.URL, "application/json"),
            b'{"href":"http://h:9080/?MAP=/world&request=DescribeFeatureType&typenames=a"}',
        )

    def test_static_files(self):
        body = b'<link href="/wfs3/static/style.css"><script src="https://cdn/static/x.js"></script>'
        self.assertEqual(
            links.mend(body, self.URL, "text/html"),
            b'<link href="/wfs3/static/style.css?map=/world"><script src="https://cdn/static/x.js"></script>',
        )

    def test_only_where_it_is_wrong(self):
        self.assertTrue(links.needs_mending(self.URL, "application/json"))
        self.assertFalse(links.needs_mending("http://h/ows/world/wfs3/collections", "application/json"))
        self.assertFalse(links.needs_mending(self.URL, "application/geo+json"))
        self.assertFalse(links.needs_mending("http://h/?MAP=/world&SERVICE=WMS", "text/html"))


if __name__ == "__main__":
    unittest.main()
