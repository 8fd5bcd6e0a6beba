"""Server plugins in zygotes, forked and spawned workers, with real QGIS and the plugins of `tests/plugins`; and what is
found of plugins on disk."""

import os
import shutil
import sys
import tempfile
import unittest

import serving
from serving import driver, get_map, project

sys.path.insert(0, os.path.dirname(driver.PACKAGE))
from graticule_worker import plugin_files, plugin_probe, settings  # noqa: E402

ROOT = os.path.abspath(os.path.join(os.path.dirname(driver.PACKAGE), "..", ".."))
PLUGINS = os.path.join(ROOT, "tests", "plugins")
CAPS = "http://h:9080/ows/world?SERVICE=WMS&VERSION=1.3.0&REQUEST=GetCapabilities"
BIG = "http://h:9080/ows/big?SERVICE=WFS&REQUEST=GetFeature&TYPENAME=big&OUTPUTFORMAT=application/json"


def configured(*paths, allowed=None, required=(), patience_ms=10_000):
    plugins = {"paths": list(paths), "allowed": allowed, "required": list(required), "patience_ms": patience_ms}
    return {"plugins": plugins, "warm_up": False}


def write(folder, name, code, metadata="server=True"):
    path = os.path.join(folder, name)
    os.makedirs(path)
    with open(os.path.join(path, "metadata.txt"), "w", encoding="utf-8") as file:
        file.write(f"[general]\nname={name}\n{metadata}\n")
    with open(os.path.join(path, "__init__.py"), "w", encoding="utf-8") as file:
        file.write(code)
    return path


def by_name(ready):
    return {plugin["name"]: plugin for plugin in ready["plugins"]}


def threads(pid):
    names = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="utf-8") as comm:
            names.append(comm.read().strip())
    return names


class Loaded(serving.Case):
    """All plugins of `tests/plugins` at once. One of them hides the layer `areas`."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.stderr = open(os.path.join(cls.tmpdir, "stderr"), "wb")
        cls.addClassCleanup(cls.stderr.close)
        cls.zygote = driver.Zygote(cls.tmpdir, configured(PLUGINS), stderr=cls.stderr)
        cls.addClassCleanup(cls.zygote.end)

    def fork(self, name="world.qgs"):
        worker = self.zygote.fork(project(name))
        self.assertNotIsInstance(worker, str, worker)
        self.addCleanup(os.close, worker.output)
        return self.drop(worker)

    def test_each_is_told_with_where_it_is_loaded(self):
        told = by_name(self.zygote.ready)
        self.assertEqual(
            {name: plugin["where"] for name, plugin in told.items()},
            {
                "adds_header": "zygote",
                "hides_layer": "zygote",
                "keeps_documents": "zygote",
                "starts_thread": "worker",
                "raises": "",
                "for_newer_qgis": "",
            },
        )
        header = told["adds_header"]
        self.assertEqual(header["path"], os.path.join(PLUGINS, "adds_header"))
        self.assertEqual((header["version"], header["problem"]), ("1.2.0", ""))
        self.assertIn("100%", header["description"])
        self.assertIn("No module named 'no_such_module'", told["raises"]["problem"])
        self.assertIn("line 3", told["raises"]["problem"])
        self.assertIn("QGIS 99.0 or newer", told["for_newer_qgis"]["problem"])

    def test_filters_that_matter_to_caches_are_noticed(self):
        told = by_name(self.zygote.ready)
        self.assertEqual([name for name, plugin in told.items() if plugin["access_control"]], ["hides_layer"])
        self.assertEqual([name for name, plugin in told.items() if plugin["cache_filter"]], ["keeps_documents"])

    def test_what_a_failed_plugin_printed_is_not_lost(self):
        self.stderr.flush()
        with open(self.stderr.name, encoding="utf-8") as printed:
            self.assertIn("ModuleNotFoundError", printed.read())

    def test_a_filter_that_was_loaded_before_the_fork_works_after_it(self):
        for worker in (self.fork(), self.fork()):
            answer = worker.ask(get_map("hills"))
            self.assertEqual(answer.status, 200)
            said = f"loaded in {self.zygote.pid}, served by {worker.pid}"
            self.assertEqual(answer.headers["X-Adds-Header"], said)

    def test_a_filter_sets_headers_of_a_streamed_answer(self):
        answer = self.fork("big.qgs").ask(BIG)
        self.assertGreater(len(answer.frames), 2)
        self.assertIn("served by", answer.headers["X-Adds-Header"])

    def test_access_control_sees_the_headers(self):
        worker = self.fork()
        for _ in range(2):
            shown = worker.ask(CAPS, headers=[("x-map-word", "sesame")])
            self.assertIn(b"<Name>areas</Name>", shown.body)
            hidden = worker.ask(CAPS)
            self.assertNotIn(b"<Name>areas</Name>", hidden.body)
            self.assertIn(b"<Name>hills</Name>", hidden.body)

    def test_one_with_a_thread_is_loaded_after_the_fork(self):
        self.assertNotIn("ticks", " ".join(threads(self.zygote.pid)))
        first, second = self.fork(), self.fork()
        for worker in (first, second):
            self.assertEqual(worker.ready["start"], "fork")
            self.assertEqual(by_name(worker.ready)["starts_thread"]["where"], "worker")
            self.assertEqual(worker.ask(get_map("hills")).headers["X-Ticks"], "yes")

    def test_a_spawned_worker_has_the_same(self):
        worker = self.drop(driver.spawn_worker(self.tmpdir, project("world.qgs"), configured(PLUGINS), stderr=-3))
        told = by_name(worker.ready)
        self.assertEqual({plugin["where"] for plugin in told.values()}, {"worker", ""})
        self.assertTrue(told["hides_layer"]["access_control"])
        answer = worker.ask(get_map("hills"))
        self.assertEqual(answer.headers["X-Adds-Header"], f"loaded in {worker.pid}, served by {worker.pid}")
        self.assertEqual(answer.headers["X-Ticks"], "yes")


class Allowed(serving.Case):
    def test_only_allowed_ones_are_loaded_and_a_cache_filter_works(self):
        zygote = self.drop(driver.Zygote(self.tmpdir, configured(PLUGINS, allowed=["keeps_documents", "gone"])))
        told = by_name(zygote.ready)
        self.assertEqual({name: plugin["where"] for name, plugin in told.items()}, {"keeps_documents": "zygote", "gone": ""})
        worker = self.drop(zygote.fork(project("world.qgs")))
        os.close(worker.output)
        first, second = worker.ask(CAPS), worker.ask(CAPS)
        self.assertNotIn(b"kept by a plugin", first.body)
        self.assertIn(b"kept by a plugin", second.body)
        self.assertNotIn("X-Adds-Header", first.headers)


class Failing(serving.Case):
    """Plugins that are a danger to whoever loads them."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=self.tmpdir)

    def told(self, **more):
        self.zygote = self.drop(driver.Zygote(self.tmpdir, configured(self.folder, **more), stderr=-3))
        return by_name(self.zygote.ready)

    def worker(self):
        worker = self.drop(self.zygote.fork(project("world.qgs")))
        self.addCleanup(os.close, worker.output)
        return worker

    def test_none_stops_the_others(self):
        factory = "def serverClassFactory(iface):\n    "
        write(self.folder, "a_leaves", "import os\nos._exit(3)")
        write(self.folder, "b_exits", "import sys\nsys.exit(4)")
        write(self.folder, "c_syntax", "def :")
        write(self.folder, "d_crashes", "import os\nos.abort()")
        write(self.folder, "e_no_factory", "")
        write(self.folder, "f_in_factory", factory + "raise KeyError('no DATABASE_URL')")
        write(self.folder, "json", factory + "return 1")
        write(self.folder, "z_sound", factory + "return 1")
        os.makedirs(os.path.join(self.folder, "no_plugin"))
        told = self.told()
        for name, problem in {
            "a_leaves": "with code 3",
            "b_exits": "SystemExit(4)",
            "c_syntax": "SyntaxError",
            "d_crashes": "SIGABRT",
            "e_no_factory": "no serverClassFactory",
            "f_in_factory": "no DATABASE_URL",
            "json": "rename the plugin's folder",
        }.items():
            self.assertIn(problem, told[name]["problem"])
            self.assertEqual(told[name]["where"], "")
        self.assertEqual((told["z_sound"]["where"], told["z_sound"]["problem"]), ("zygote", ""))
        self.assertEqual(len(told), 8)
        self.assertEqual(self.worker().ask(get_map("areas")).status, 200)

    def test_one_that_hangs_is_left_out(self):
        write(self.folder, "a_hangs", "import time\ntime.sleep(600)")
        long = f"600.{os.getpid()}"
        write(self.folder, "b_hangs", f"import subprocess\nsubprocess.run(['sleep', '{long}'])")
        write(self.folder, "c_sound", "def serverClassFactory(iface):\n    return 1")
        told = self.told(patience_ms=700)
        self.assertIn("it hangs", told["a_hangs"]["problem"])
        self.assertIn("it hangs", told["b_hangs"]["problem"])
        # The time for all of them was over.
        self.assertIn("not tried", told["c_sound"]["problem"])
        self.assertEqual(self.worker().ask(get_map("areas")).status, 200)
        left = [pid for pid in os.listdir("/proc") if pid.isdigit() and command(pid) == f"sleep\x00{long}\x00"]
        self.assertEqual(left, [])

    def test_one_that_opens_a_connection_is_left_to_the_workers(self):
        code = "import socket\npair = socket.socketpair()\n"
        code += "def serverClassFactory(iface):\n    pair[0].send(b'x')\n    assert pair[1].recv(1) == b'x'\n    return 1"
        write(self.folder, "connects", code)
        self.assertEqual(self.told()["connects"]["where"], "worker")
        self.assertEqual(by_name(self.worker().ready)["connects"]["problem"], "")

    def test_access_control_that_is_registered_later_is_told(self):
        write(
            self.folder,
            "late",
            "from qgis.server import QgsAccessControlFilter, QgsServerFilter\n"
            "class Filter(QgsServerFilter):\n"
            "    def onRequestReady(self):\n"
            "        self.access = QgsAccessControlFilter(self.serverInterface())\n"
            "        self.serverInterface().registerAccessControl(self.access, 1)\n"
            "        return True\n"
            "def serverClassFactory(iface):\n"
            "    iface.registerFilter(Filter(iface), 1)\n",
        )
        self.assertFalse(self.told()["late"]["access_control"])
        worker = self.worker()
        first, second = worker.ask(get_map("areas")), worker.ask(get_map("areas"))
        self.assertTrue(by_name(first.report)["late"]["access_control"])
        self.assertNotIn("plugins", second.report)

    def test_one_may_use_another(self):
        write(self.folder, "a_uses", "import z_used\ndef serverClassFactory(iface):\n    return z_used.VALUE")
        write(self.folder, "z_used", "VALUE = 1\ndef serverClassFactory(iface):\n    return VALUE")
        told = self.told()
        self.assertEqual([plugin["problem"] for plugin in told.values()], ["", ""])

    def test_without_a_required_one_nothing_starts(self):
        write(self.folder, "guards", "raise ValueError('no key')")
        for required in ("guards", "nowhere"):
            with self.assertRaises(driver.Gone):
                self.told(required=[required])
        with self.assertRaises(driver.Gone):
            driver.spawn_worker(self.tmpdir, settings=configured(self.folder, required=["guards"]), stderr=-3)


def command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


class Found(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="graticule-test-")
        self.addCleanup(shutil.rmtree, self.folder)

    def find(self, allowed=None, qgis="3.40.6", paths=None):
        found = plugin_files.find(paths or [self.folder], allowed, qgis)
        return {plugin.name: plugin.problem for plugin in found}

    def test_only_allowed_ones_are_found(self):
        write(self.folder, "one", "")
        write(self.folder, "two", "")
        self.assertEqual(self.find(), {"one": "", "two": ""})
        self.assertEqual(self.find(allowed=["two"]), {"two": ""})
        self.assertEqual(self.find(allowed=[]), {})
        self.assertIn("no folder of this name", self.find(allowed=["three"])["three"])

    def test_what_is_no_server_plugin_is_passed_over_unless_it_is_named(self):
        write(self.folder, "desktop", "", "server=False")
        os.makedirs(os.path.join(self.folder, "empty"))
        self.assertEqual(self.find(), {})
        named = self.find(allowed=["desktop", "empty"])
        self.assertIn("server=True", named["desktop"])
        self.assertIn("no metadata.txt", named["empty"])

    def test_metadata_is_read_generously(self):
        for value, problem in {"Server = yes": "", "SERVER=TRUE": "", "server=True\nserver=True\nabout=50%": ""}.items():
            write(self.folder, f"p{len(os.listdir(self.folder))}", "", value)
        self.assertEqual(set(self.find().values()), {""})
        write(self.folder, "broken", "", "no equals sign\n[")
        self.assertIn("broken", self.find()["broken"])

    def test_the_version_of_qgis_is_kept_to(self):
        def problem(minimum, maximum, qgis="3.40.6"):
            shutil.rmtree(os.path.join(self.folder, "p"), ignore_errors=True)
            said = f"server=True\nqgisMinimumVersion={minimum}"
            write(self.folder, "p", "", said + (f"\nqgisMaximumVersion={maximum}" if maximum else ""))
            return self.find(qgis=qgis)["p"]

        for minimum, maximum in (("3.0", ""), ("3.40.6", ""), ("3.4", "3.40"), ("3.4", "3.99"), ("3.4", "4"), ("", "")):
            self.assertEqual(problem(minimum, maximum), "", (minimum, maximum))
        self.assertIn("3.41 or newer", problem("3.41", ""))
        self.assertIn("up to 3.34", problem("3.4", "3.34"))
        self.assertIn("up to 3.40.5", problem("3.4", "3.40.5"))
        self.assertIn("up to 2", problem("2.8", ""))
        self.assertEqual(problem("3.4", "", qgis="3.44.0-Solothurn"), "")

    def test_paths_that_cannot_be_meant_are_told(self):
        own = write(self.folder, "own", "")
        self.assertIn("plugin's own folder", self.find(paths=[own])["own"])
        self.assertIn("No such file", self.find(paths=["/nowhere/at_all"])["at_all"])

    def test_the_first_of_two_with_one_name_is_taken(self):
        second = os.path.join(self.folder, "more")
        first = write(self.folder, "same", "")
        write(second, "same", "")
        found = plugin_files.find([self.folder, second], None, "3.40.6")
        self.assertEqual([plugin.problem for plugin in found], ["", f"{first} has this name already"])


class Probed(unittest.TestCase):
    def test_what_was_returned_comes_back(self):
        self.assertEqual(plugin_probe.probe(lambda: [1, "a"], 5, set()), ([1, "a"], None))

    def test_nothing_is_left_open(self):
        before = len(os.listdir("/proc/self/fd"))
        plugin_probe.probe(lambda: None, 5, set())
        with self.assertRaises(plugin_probe.Hung):
            plugin_probe.probe(lambda: __import__("time").sleep(60), 0.1, set())
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class Settings(unittest.TestCase):
    def test_plugins_are_read_and_checked(self):
        read = settings.Settings.from_json('{"plugins": {"paths": ["/p"], "allowed": [], "patience_ms": 5}}').plugins
        self.assertEqual((read.paths, read.allowed, read.required, read.patience_ms), (["/p"], [], [], 5))
        self.assertIsNone(settings.Settings.from_json('{"plugins": {"allowed": null}}').plugins.allowed)
        for wrong in ('{"paths": "/p"}', '{"paths": [1]}', '{"allowed": {}}', '{"required": null}', '{"patience": 1}'):
            with self.assertRaises(ValueError, msg=wrong):
                settings.Settings.from_json('{"plugins": %s}' % wrong)


if __name__ == "__main__":
    unittest.main()
