"""A worker in a process of its own, with real QGIS: what it answers, how it fails, how it ends."""

import json
import os
import re
import subprocess
import time
import unittest
from urllib.parse import parse_qs, urlsplit

import serving
from serving import GET_MAP, WMS, colours, driver, get_map, project

URL = "http://h:9080/ows/world?"
FORM = [("content-type", "application/x-www-form-urlencoded")]
XML = [("content-type", "text/xml")]
BASES = (
    "http://h:9080/?MAP=/world&",
    "http://h:9080/ows/world?",
    "https://[::1]:9443/ows/world?",
    "https://maps.example.test/gis/ows/world?",
    "https://maps.example.test:8443/gis/?map=/world&",
)
API_PATHS = (
    "/wfs3",
    "/wfs3/conformance",
    "/wfs3/collections",
    "/wfs3/collections/areas",
    "/wfs3/collections/areas.html",
    "/wfs3/collections/areas/items",
    "/wfs3/collections/areas/items/1",
)
# Hosts of schemas, scripts and credits that QGIS's documents point to.
FOREIGN = (".opengis.net", "w3.org", "qgis.org", "unpkg.com", "cloudflare.com", "jquery.com", "bootstrapcdn.com",
           "inspire.org", "openstreetmap.org")  # fmt: skip
HUGE = "&BBOX=0,0,60,100&WIDTH=6000&HEIGHT=6000"


class Serving(serving.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.worker = driver.spawn_worker(cls.tmpdir, project("world.qgs"))
        cls.addClassCleanup(cls.worker.end)

    def ask(self, url, **more):
        answer = self.worker.ask(url, **more)
        self.assertNotIn("error", answer.end)
        return answer

    def error(self, name, **more):
        answer = self.worker.ask(get_map("areas"), project=project(name), **more)
        self.assertIsNone(answer.status)
        return answer.error

    def test_ready(self):
        self.assertEqual(self.worker.ready["event"], "ready")
        self.assertEqual(self.worker.ready["start"], "spawn")
        self.assertEqual(self.worker.ready["pid"], self.worker.pid)
        self.assertRegex(self.worker.ready["qgis"], r"^3\.\d+\.\d+$")
        self.assertEqual(sorted(self.worker.ready["versions"]), ["gdal", "python", "qgis", "qt"])

    def test_map(self):
        answer = self.ask(get_map("areas,hills"))
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "image/png"))
        self.assertEqual(answer.headers["Content-Length"], str(len(answer.body)))
        self.assertEqual(answer.report["bytes"], len(answer.body))
        width, height, different = colours(answer.body)
        self.assertEqual((width, height), (200, 120))
        self.assertGreater(different, 50)
        self.assertGreater(answer.report["cpu_ms"], 0)
        self.assertGreaterEqual(answer.report["peak_kb"], answer.report["private_kb"])
        self.assertGreater(answer.report["private_kb"], 1000)

    def test_other_requests(self):
        for query, kind, start in [
            (WMS + "GetLegendGraphic&LAYERS=areas&FORMAT=image/png", "image/png", b"\x89PNG"),
            (WMS + "GetPrint&TEMPLATE=A4&FORMAT=pdf&CRS=EPSG:4326&map0:EXTENT=0,0,60,100&DPI=50", "application/pdf",
             b"%PDF"),
            ("SERVICE=WCS&VERSION=1.0.0&REQUEST=GetCoverage&COVERAGE=hills&CRS=EPSG:4326&BBOX=0,0,100,60&WIDTH=10"
             "&HEIGHT=6&FORMAT=GTiff", "image/tiff", b"II*"),
            (WMS + "GetFeatureInfo&LAYERS=areas&QUERY_LAYERS=areas&CRS=EPSG:4326&STYLES=&BBOX=0,0,60,100&WIDTH=200"
             "&HEIGHT=120&I=8&J=112&INFO_FORMAT=application/json", "application/json", b"{"),
        ]:  # fmt: skip
            answer = self.ask(URL + query)
            self.assertEqual(answer.status, 200, query)
            self.assertTrue(answer.headers["Content-Type"].startswith(kind), query)
            self.assertTrue(answer.body.startswith(start), query)

    def test_services_and_api(self):
        for service in ("WMS", "WFS", "WCS", "WMTS"):
            answer = self.ask(f"{URL}SERVICE={service}&REQUEST=GetCapabilities")
            self.assertIn(b"Capabilities", answer.body[:300], service)
        items = json.loads(self.ask("http://h:9080/ows/world/wfs3/collections/areas/items.json?limit=7").body)
        self.assertEqual((len(items["features"]), items["numberMatched"]), (7, 50))

    def test_head_has_no_body(self):
        answer = self.ask(get_map("areas"), method="HEAD")
        self.assertEqual((answer.status, answer.body, answer.report["bytes"]), (200, b"", 0))
        self.assertEqual(answer.headers["Content-Length"], str(len(self.ask(get_map("areas")).body)))

    def test_an_unknown_method(self):
        answer = self.ask(get_map("areas"), method="BREW")
        self.assertEqual(answer.status, 405)
        self.assertIn("GET", answer.headers["Allow"])

    def test_form_body(self):
        query = f"{GET_MAP}&LAYERS=areas&BBOX=0,0,60,100&WIDTH=200&HEIGHT=120"
        answer = self.ask("http://h:9080/ows/world", method="POST", headers=FORM, body=query.encode())
        self.assertEqual(answer.body, self.ask(get_map("areas")).body)

    def test_xml_body(self):
        body = (
            b'<wfs:GetFeature service="WFS" version="1.1.0" xmlns:wfs="http://www.opengis.net/wfs"'
            b' xmlns:ogc="http://www.opengis.net/ogc"><wfs:Query typeName="areas"><ogc:Filter><ogc:PropertyIsEqualTo>'
            b"<ogc:PropertyName>name</ogc:PropertyName><ogc:Literal>a7</ogc:Literal>"
            b"</ogc:PropertyIsEqualTo></ogc:Filter></wfs:Query></wfs:GetFeature>"
        )
        for url in ("http://h:9080/ows/world", "http://h:9080/?MAP=/world&SERVICE=WFS"):
            answer = self.ask(url, method="POST", headers=XML, body=body)
            self.assertEqual(answer.status, 200)
            self.assertEqual(re.findall(rb"<qgs:name>(.*?)</qgs:name>", answer.body), [b"a7"])

    def test_exceptions_of_qgis(self):
        answer = self.ask(get_map("nowhere"))
        self.assertEqual(answer.status, 400)
        self.assertIn(b"LayerNotDefined", answer.body)

    def test_missing_and_broken_projects(self):
        self.assertEqual(self.error("nope.qgs")["kind"], "project_missing")
        broken = self.error("broken.qgs")
        self.assertEqual(broken["kind"], "project_broken")
        self.assertIn("broken.qgs", broken["message"])
        self.assertEqual(self.ask(get_map("areas")).status, 200)

    def test_bad_layers_are_left_out(self):
        partly = project("partly.qgs")
        answer = self.ask(get_map("areas"), project=partly)
        self.assertEqual(answer.report["loaded"]["bad_layers"], ["lost"])
        self.assertEqual(answer.report["loaded"]["layers"], 2)
        self.assertGreater(colours(answer.body)[2], 1)
        self.assertNotIn(b"lost", self.ask(URL + WMS + "GetCapabilities", project=partly).body)
        self.assertEqual(self.ask(get_map("lost"), project=partly).status, 400)

    def test_a_first_map_for_nobody(self):
        world = {"uri": project("world.qgs"), "version": "1"}
        self.worker.operate("load", project=world)
        self.assertIs(self.worker.operate("warm", uri=world["uri"])["result"], True)
        self.assertIs(self.worker.operate("warm", uri="/not/held")["result"], False)
        self.assertEqual(self.ask(get_map("areas")).status, 200)

    def test_load_list_unload_ping(self):
        zipped = {"uri": project("zipped.qgz"), "version": "7"}
        result = self.worker.operate("load", project=zipped)["result"]
        self.assertEqual((result["uri"], result["version"], result["layers"]), (zipped["uri"], "7", 1))
        self.assertGreater(result["load_ms"], 0)
        self.assertIn(result, self.worker.operate("list")["result"])
        self.assertIs(self.worker.operate("unload", uri=zipped["uri"])["result"], True)
        self.assertIs(self.worker.operate("unload", uri=zipped["uri"])["result"], False)
        self.assertNotIn(result, self.worker.operate("list")["result"])
        self.assertEqual(self.worker.operate("ping", echo="ä")["result"], "ä")
        missing = self.worker.operate("load", project={"uri": project("nope.qgs"), "version": "1"})
        self.assertEqual(missing["error"]["kind"], "project_missing")
        self.assertEqual(self.worker.operate("dance")["error"]["kind"], "internal")

    def test_no_project_is_an_empty_one(self):
        before = self.worker.operate("list")["result"]
        self.worker.project, named = "", self.worker.project
        try:
            answer = self.ask("http://h:9080/wfs3/static/style.css", version="")
        finally:
            self.worker.project = named
        self.assertEqual(answer.status, 200)
        self.assertIsNone(answer.report["loaded"])
        self.assertEqual(self.worker.operate("list")["result"], before)

    def test_evict(self):
        old = project("zipped.qgz")
        self.worker.operate("load", project={"uri": old, "version": "1"})
        self.ask(get_map("areas"), evict=[old, "/never/held.qgs"])
        self.assertNotIn(old, [held["uri"] for held in self.worker.operate("list")["result"]])

    def test_another_version_is_loaded_anew(self):
        path = os.path.join(self.tmpdir, "changing.qgs")
        with open(project("world.qgs"), encoding="utf-8") as file:
            text = file.read().replace(">./", f">{serving.folder()}/")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        url = URL + WMS + "GetCapabilities"
        first = self.ask(url, project=path, version="1")
        self.assertEqual(first.report["loaded"]["version"], "1")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("<layername>areas</layername>", "<layername>renamed</layername>"))
        again = self.ask(url, project=path, version="1")
        self.assertIsNone(again.report["loaded"])
        self.assertEqual(again.body, first.body)
        anew = self.ask(url, project=path, version="2")
        self.assertEqual(anew.report["loaded"]["version"], "2")
        self.assertIn(b"<Name>renamed</Name>", anew.body)
        self.assertNotIn(b"<Name>areas</Name>", anew.body)

    def test_a_large_answer_streams(self):
        big = project("big.qgs")
        url = URL + "SERVICE=WFS&REQUEST=GetFeature&TYPENAME=big&OUTPUTFORMAT=application/json"
        before = self.ask(url + "&MAXFEATURES=5", project=big).report["peak_kb"]
        answer = self.ask(url, project=big, keep=False)
        self.assertGreater(answer.report["bytes"], 18_000_000)
        self.assertEqual(sum(answer.frames), answer.report["bytes"])
        self.assertGreater(len(answer.frames), 40)
        self.assertLessEqual(max(answer.frames), 1 << 20)
        self.assertNotIn("Content-Length", answer.headers)
        self.assertLess(answer.report["peak_kb"] - before, 10_000)

    # Links: every one must be reachable where the client found the document.

    def links(self, url, headers=()):
        answer = self.ask(url, headers=list(headers) + [("host", "elsewhere:1"), ("x-forwarded-host", "evil.example")])
        self.assertEqual(answer.status, 200, url)
        self.assertNotIn(b"elsewhere", answer.body)
        self.assertNotIn(b"evil", answer.body)
        text = answer.body.decode().replace("&amp;", "&")
        found = re.findall(r'(?:href"?[=:]|onlineResource=|schemaLocation="[^"]*? )\s*"?\s*(https?://[^"\s]+)', text)
        return [link for link in found if not any(host in urlsplit(link).netloc for host in FOREIGN)]

    def test_links_of_services(self):
        for base in BASES:
            for query in ("WMS", "WMS&VERSION=1.1.1", "WFS", "WFS&VERSION=1.0.0", "WCS", "WMTS"):
                links = self.links(f"{base}SERVICE={query}&REQUEST=GetCapabilities")
                self.assertTrue(links, base + query)
                for link in links:
                    self.same_place(base, link)

    def same_place(self, base, link):
        wanted, got = urlsplit(base), urlsplit(link)
        self.assertEqual((got.scheme, got.netloc, got.path), (wanted.scheme, wanted.netloc, wanted.path), link)
        if "map=" in wanted.query.lower():
            values = {key.lower(): value for key, value in parse_qs(got.query).items()}
            self.assertEqual(values.get("map"), ["/world"], link)

    def test_links_of_the_api(self):
        for base, query in (("http://h:9080/ows/world", ""), ("http://h:9080", "MAP=/world"),
                            ("https://maps.example.test:8443/gis", "map=/world"),
                            ("https://maps.example.test/gis/ows/world", "")):  # fmt: skip
            for path in API_PATHS:
                more = "&".join(filter(None, [query, "limit=5" if path.endswith("items") else ""]))
                links = self.links(f"{base}{path}?{more}", [("accept", "application/json")])
                self.assertTrue(links, path)
                for link in links:
                    self.assertTrue(link.startswith((base + "/wfs3", base + "/?")), link)
                    if query:
                        values = {key.lower(): value for key, value in parse_qs(urlsplit(link).query).items()}
                        self.assertEqual(values.get("map"), ["/world"], link)

    def test_pages_can_be_followed(self):
        url, seen = "http://h:9080/wfs3/collections/areas/items.json?MAP=/world&limit=20", 0
        while url:
            document = json.loads(self.ask(url).body)
            seen += len(document["features"])
            url = next((link["href"] for link in document["links"] if link["rel"] == "next"), None)
        self.assertEqual(seen, 50)

    def test_the_schema_link_of_a_collection_with_map(self):
        document = json.loads(self.ask("http://h:9080/wfs3/collections/areas.json?MAP=/world").body)
        href = next(link["href"] for link in document["links"] if link["rel"] == "describedBy")
        answer = self.ask(href)
        self.assertEqual(answer.status, 200)
        self.assertIn(b"areasType", answer.body)


class Strict(serving.Case):
    def test_settings_reach_qgis(self):
        settings = {"ignore_bad_layers": False, "disable_getprint": True, "force_readonly_layers": True}
        worker = self.drop(driver.spawn_worker(self.tmpdir, project("world.qgs"), settings))
        answer = worker.ask(get_map("areas"), project=project("partly.qgs"))
        self.assertEqual(answer.error["kind"], "project_broken")
        self.assertIn("lost", answer.error["message"])
        answer = worker.ask(URL + WMS + "GetPrint&TEMPLATE=A4&FORMAT=pdf&CRS=EPSG:4326&map0:EXTENT=0,0,60,100")
        self.assertGreaterEqual(answer.status, 400)
        self.assertNotIn(b"%PDF", answer.body)


class Ending(serving.Case):
    def setUp(self):
        self.log = open(os.path.join(self.tmpdir, "log"), "w+b")
        self.addCleanup(self.log.close)
        self.worker = self.drop(driver.spawn_worker(self.tmpdir, project("world.qgs"), stderr=self.log))

    def start_long(self):
        self.worker.start_request(URL + GET_MAP + "&LAYERS=big" + HUGE, project=project("big.qgs"))
        time.sleep(0.4)

    def test_quit(self):
        self.worker.send({"op": "quit"})
        self.assertEqual(self.worker.wait(), 0)

    def test_end_of_the_socket(self):
        self.worker.close()
        self.assertEqual(self.worker.wait(), 0)

    def test_end_of_the_socket_in_mid_request(self):
        self.start_long()
        self.assertEqual(os.waitpid(self.worker.pid, os.WNOHANG), (0, 0))
        started = time.monotonic()
        self.worker.close()
        self.assertEqual(self.worker.wait(), 0)
        self.assertLess(time.monotonic() - started, 1)

    def test_no_protocol(self):
        self.worker.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(os.waitstatus_to_exitcode(self.worker.wait()), 76)
        self.log.seek(0)
        self.assertIn(b"protocol", self.log.read())

    def test_cancel_in_sequential_rendering_is_seen_at_the_end(self):
        self.worker.start_request(get_map("big", width=2000, height=1200), project=project("big.qgs"))
        self.worker.send({"op": "cancel", "id": "another"})
        self.worker.send({"op": "cancel", "id": self.worker.last_id})
        answer = self.worker.answer()
        self.assertEqual(answer.error["kind"], "cancelled")
        self.assertIsNone(answer.status)
        # It is held from now on, and who keeps the books has to know.
        self.assertEqual(answer.end["loaded"]["uri"], project("big.qgs"))
        self.assertIn(project("big.qgs"), [held["uri"] for held in self.worker.operate("list")["result"]])
        self.worker.start_request(get_map("big", width=2000, height=1200), project=project("big.qgs"))
        self.worker.send({"op": "cancel", "id": self.worker.last_id})
        answer = self.worker.answer()
        self.assertEqual(answer.error["kind"], "cancelled")
        self.assertNotIn("loaded", answer.end)
        self.assertEqual(self.worker.ask(get_map("areas")).status, 200)

    def test_the_log_is_short(self):
        self.worker.ask(get_map("areas"))
        self.worker.ask(URL + "SERVICE=NOPE")
        self.log.seek(0)
        lines = self.log.read().decode().splitlines()
        self.assertEqual([line for line in lines if "NOPE" not in line], [])
        self.assertEqual(len(lines), 1)


class Cancelling(serving.Case):
    def test_cancel_in_parallel_rendering_stops_the_map(self):
        extra = {"QGIS_SERVER_PARALLEL_RENDERING": "1", "QGIS_SERVER_MAX_THREADS": "2"}
        worker = self.drop(driver.spawn_worker(self.tmpdir, project("big.qgs"), extra=extra))
        self.assertEqual(worker.ask(get_map("big")).status, 200)
        started = time.monotonic()
        worker.start_request(URL + GET_MAP + "&LAYERS=big" + HUGE)
        time.sleep(0.2)
        worker.send({"op": "cancel", "id": worker.last_id})
        answer = worker.answer()
        cancelled = time.monotonic() - started
        self.assertEqual(answer.error["kind"], "cancelled")
        self.assertIsNone(answer.status)
        started = time.monotonic()
        self.assertEqual(worker.ask(URL + GET_MAP + "&LAYERS=big" + HUGE, keep=False).status, 200)
        print(f"\nparallel 6000 px: cancelled after {cancelled:.2f} s, whole in {time.monotonic() - started:.2f} s")


class Starting(unittest.TestCase):
    def test_a_start_that_fails_says_why(self):
        for role, settings, word in [("cook", "{}", "GRATICULE_ROLE"), ("worker", "{", "could not start"),
                                     ("worker", '{"nope": 1}', "nope")]:  # fmt: skip
            environment = {**os.environ, "GRATICULE_ROLE": role, "GRATICULE_SETTINGS": settings}
            done = subprocess.run(
                [driver.PYTHON, "-B", driver.PACKAGE],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=30,
            )
            self.assertEqual(done.returncode, 70)
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
