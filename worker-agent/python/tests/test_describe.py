"""What a worker does besides requests: the answers to `describe` and `sleep`."""

import json
import unittest

import driver
import serving
from serving import get_map, project


class Describing(serving.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.worker = driver.spawn_worker(cls.tmpdir, project("world.qgs"))
        cls.addClassCleanup(cls.worker.end)

    def describe(self, name, version="1", evict=()):
        self.worker.last_id = "d-1"
        reference = {"uri": project(name), "version": version}
        self.worker.send({"op": "describe", "id": "d-1", "project": reference, "evict": list(evict), "depth": 0})
        return self.worker.answer()

    def details(self, name, **more):
        answer = self.describe(name, **more)
        self.assertNotIn("error", answer.end)
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/json"))
        return json.loads(answer.body), answer.report

    def test_a_project_is_described_and_kept(self):
        details, report = self.details("world.qgs", version="7")
        self.assertEqual(report["loaded"]["layers"], 2)
        self.assertEqual((details["crs"], details["version"]), ("EPSG:4326", "7"))
        self.assertEqual(details["extent"], details["extent_epsg4326"])
        self.assertEqual([round(number) for number in details["extent"]], [0, 0, 100, 60])
        areas, hills = details["layers"]
        self.assertEqual({**areas}, {"name": "areas", "title": "areas", "type": "vector", "visible": True,
                                     "queryable": True, "crs": "EPSG:4326", "geometry_type": "Polygon"})  # fmt: skip
        self.assertEqual((hills["name"], hills["type"]), ("hills", "raster"))
        self.assertEqual(details["draw_order"], ["hills", "areas"])
        self.assertEqual(details["layouts"], ["A4"])
        self.assertRegex(details["qgis_version"], r"^3\.")
        again, report = self.details("world.qgs", version="7")
        self.assertIsNone(report["loaded"])
        self.assertEqual(again, details)
        self.assertEqual(self.worker.ask(get_map("areas"), version="7").report["loaded"], None)

    def test_names_are_those_of_wms_and_what_it_hides_is_left_out(self):
        details, _ = self.details("named.qgs")
        self.assertEqual((details["title"], details["abstract"]), ("Service", "About it"))
        group, plain = details["layers"]
        self.assertEqual((group["name"], group["type"], group["visible"]), ("folder", "group", False))
        (inner,) = group["layers"]
        self.assertEqual((inner["name"], inner["title"], inner["visible"]), ("short", "A title", False))
        self.assertEqual((inner["min_scale"], inner["max_scale"]), (50000, 1000))
        self.assertEqual((plain["name"], plain["visible"]), ("a,b", True))
        self.assertEqual(details["draw_order"], ["short"], "a comma cannot be asked for")
        self.assertEqual([round(number, 3) for number in details["extent"]], [0, 0, 111319.491, 111325.143])
        self.assertEqual([round(number, 6) for number in details["extent_epsg4326"]], [0, 0, 1, 1])
        self.assertEqual((details["crs"], details["max_width"]), ("EPSG:3857", 2000))

    def test_evicted_projects_go_and_failures_are_told(self):
        self.details("world.qgs")
        _, report = self.details("zipped.qgz", evict=[project("world.qgs")])
        self.assertIsNotNone(report["loaded"])
        held = [held["uri"] for held in self.worker.operate("list")["result"]]
        self.assertNotIn(project("world.qgs"), held)
        self.assertEqual(self.details("partly.qgs")[0]["bad_layers"], ["lost"])
        for name, kind in [("broken.qgs", "project_broken"), ("nowhere.qgs", "project_missing")]:
            answer = self.describe(name)
            self.assertEqual((answer.status, answer.error["kind"]), (None, kind))

    def test_it_sleeps_as_long_as_asked_or_until_a_cancel(self):
        self.details("world.qgs")
        self.worker.last_id = "s-1"
        sleep = {"op": "sleep", "id": "s-1", "evict": [project("world.qgs")]}
        self.worker.send({**sleep, "seconds": 0.2})
        answer = self.worker.answer()
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertGreaterEqual(answer.report["wall_ms"], 190)
        held = [held["uri"] for held in self.worker.operate("list")["result"]]
        self.assertNotIn(project("world.qgs"), held)
        self.worker.last_id = "s-1"
        self.worker.send({**sleep, "seconds": 600})
        self.worker.send({"op": "cancel", "id": "s-1"})
        answer = self.worker.answer()
        self.assertEqual((answer.status, answer.error["kind"]), (None, "cancelled"))


if __name__ == "__main__":
    unittest.main()
