"""A zygote and the workers forked from it, with real QGIS: the rules of what a fork may inherit, each seen to hold."""

import glob
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
import unittest

import serving
from serving import GET_MAP, colours, driver, get_map, project

PRELOADED = ("world.qgs", "zipped.qgz", "raster.qgs", "live.qgs", "partly.qgs")
URL = "http://h:9080/ows/world?"
LIVE = URL + "SERVICE=WFS&REQUEST=GetFeature&TYPENAME=live&OUTPUTFORMAT=application/json&RESULTTYPE="


def preload(*names):
    return {"preload": [{"uri": project(name), "version": "1"} for name in names]}


def kinds(pid):
    """What each descriptor of a process is, by number."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass
    return found


def field(pid, name):
    with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(name + ":"))


class Forking(serving.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.zygote = driver.Zygote(cls.tmpdir, preload(*PRELOADED, "remote.qgs", "broken.qgs", "nope.qgs"))
        cls.addClassCleanup(cls.zygote.end)

    def fork(self, name="world.qgs"):
        worker = self.zygote.fork(project(name))
        self.assertNotIsInstance(worker, str, worker)
        self.addCleanup(os.close, worker.output)
        return self.drop(worker)

    def test_ready_says_what_is_loaded_and_what_is_not(self):
        ready = self.zygote.ready
        self.assertEqual((ready["event"], ready["pid"]), ("ready", self.zygote.pid))
        self.assertEqual([held["uri"] for held in ready["projects"]], [project(name) for name in PRELOADED])
        self.assertEqual([failed["uri"] for failed in ready["failed"]], [project("broken.qgs"), project("nope.qgs")])
        self.assertEqual([one["uri"] for one in ready["not_preloaded"]], [project("remote.qgs")])
        self.assertIn("wms", ready["not_preloaded"][0]["reason"])
        every = [*PRELOADED, "remote.qgs", "broken.qgs", "nope.qgs"]
        self.assertEqual(self.zygote.began, [project(name) for name in every])

    def test_a_worker_belongs_to_the_agent(self):
        worker = self.fork()
        self.assertEqual(worker.ready["start"], "fork")
        self.assertEqual(worker.ready["pid"], worker.pid)
        self.assertEqual(worker.ready["projects"], self.zygote.ready["projects"])
        self.assertEqual(int(field(worker.pid, "PPid")), os.getpid())
        self.assertEqual(os.getsid(worker.pid), worker.pid)
        self.assertRegex(field(worker.pid, "Name"), r"^graticule-w\d+$")
        worker.send({"op": "quit"})
        self.assertEqual(worker.wait(), 0)  # reaped here, with its status

    def test_no_zombie_stays_with_the_zygote(self):
        for _ in range(5):
            self.fork().end()
        children = subprocess.run(["ps", "--ppid", str(self.zygote.pid), "-o", "pid="], capture_output=True, text=True)
        self.assertEqual(children.stdout.strip(), "")

    def test_a_preloaded_project_is_not_loaded_again(self):
        answer = self.fork().ask(get_map("areas"))
        self.assertEqual(answer.status, 200)
        self.assertIsNone(answer.report["loaded"])

    def test_one_that_was_not_preloaded_is_loaded_by_the_worker(self):
        answer = self.fork().ask(URL + "SERVICE=WFS&REQUEST=GetCapabilities", project=project("big.qgs"))
        self.assertEqual(answer.report["loaded"]["uri"], project("big.qgs"))

    def test_forked_and_spawned_draw_the_same(self):
        forked = self.fork()
        spawned = self.drop(driver.spawn_worker(self.tmpdir, project("world.qgs")))
        for layers in ("areas", "hills", "areas,hills"):
            mine, theirs = forked.ask(get_map(layers)), spawned.ask(get_map(layers))
            self.assertGreater(colours(mine.body)[2], 1)
            self.assertEqual(mine.body, theirs.body)

    def test_a_raster_is_right_in_four_children_at_once(self):
        boxes = [f"{y},{x},{y + 15},{x + 25}" for x in range(0, 75, 15) for y in range(0, 45, 15)]
        spawned = self.drop(driver.spawn_worker(self.tmpdir, project("raster.qgs")))
        right = [spawned.ask(get_map("hills", box)).body for box in boxes]
        self.assertEqual(len(set(right)), len(boxes))
        workers, wrong, done = [self.fork("raster.qgs") for _ in range(4)], [], []

        def draw(worker, shift):
            for turn in range(40):
                at = (turn * 7 + shift * 3) % len(boxes)
                if worker.ask(get_map("hills", boxes[at])).body != right[at]:
                    wrong.append((shift, turn))
            done.append(shift)

        threads = [threading.Thread(target=draw, args=pair) for pair in zip(workers, range(4), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((wrong, sorted(done)), ([], [0, 1, 2, 3]))

    def test_print_and_api_in_a_child(self):
        worker = self.fork()
        url = URL + "SERVICE=WMS&REQUEST=GetPrint&TEMPLATE=A4&FORMAT=pdf&CRS=EPSG:4326&map0:EXTENT=0,0,60,100&DPI=50"
        self.assertTrue(worker.ask(url).body.startswith(b"%PDF"))
        self.assertEqual(worker.ask("http://h/ows/world/wfs3/collections/areas/items.json").status, 200)

    def test_descriptors_are_the_childs_own(self):
        worker = self.fork()
        parent, child = kinds(self.zygote.pid), kinds(worker.pid)
        self.assertEqual((parent[0], child[0]), ("/dev/null", "/dev/null"))
        self.assertEqual(child[1], child[2])
        self.assertTrue(child[1].startswith("pipe:"))
        shared = [kind for kind in child.values() if kind.startswith("socket:") and kind in parent.values()]
        self.assertEqual(shared, [])
        # A file moved in one process does not move in the other, and kinds stay what they were.
        self.assertTrue(any(path.endswith("hills.tif") for path in child.values()))
        for number, kind in child.items():
            if number > 2 and parent.get(number, "").startswith(("/", "anon_inode")):
                self.assertEqual(kind, parent[number])
        self.assertEqual(field(worker.pid, "Threads"), "2")  # the main one and the control thread

    def test_output_comes_through_the_pipe(self):
        worker = self.fork()
        worker.ask(URL + "SERVICE=NOPE")
        self.assertIn(b"NOPE", os.read(worker.output, 65536))

    def test_each_child_has_its_own_temporary_folder(self):
        one, two = self.fork(), self.fork()
        # A project has a temporary folder while it is loaded.
        self.assertEqual(one.ask(get_map("big"), project=project("big.qgs")).status, 200)
        self.assertNotEqual(os.listdir(one.tmpdir), [])
        self.assertEqual(os.listdir(two.tmpdir), [])

    def test_a_killed_child_leaves_the_others_unharmed(self):
        workers = [self.fork() for _ in range(3)]
        right = workers[0].ask(get_map("areas,hills")).body
        workers[1].start_request(URL + GET_MAP + "&LAYERS=hills&BBOX=0,0,60,100&WIDTH=4000&HEIGHT=4000")
        time.sleep(0.1)
        os.kill(workers[1].pid, signal.SIGKILL)
        status = workers[1].wait()
        self.assertTrue(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
        with self.assertRaises(driver.Gone):
            workers[1].answer()
        for worker in (workers[0], workers[2], self.fork()):
            self.assertEqual(worker.ask(get_map("areas,hills")).body, right)

    def test_the_end_of_the_socket_ends_a_child_in_mid_request(self):
        worker = self.fork("big.qgs")
        worker.start_request(URL + GET_MAP + "&LAYERS=big&BBOX=0,0,60,100&WIDTH=6000&HEIGHT=6000")
        time.sleep(0.4)
        started = time.monotonic()
        worker.close()
        self.assertEqual(worker.wait(), 0)
        self.assertLess(time.monotonic() - started, 1)

    def test_commits_to_a_wal_geopackage_are_seen(self):
        worker = self.fork("live.qgs")
        self.assertEqual(worker.ask(LIVE + "results").body.count(b'"Feature"'), 5)
        for added in range(1, 4):
            connection = sqlite3.connect(project("live.gpkg"))
            # The triggers of a GeoPackage call spatial functions; without them the row is written all the same.
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f'DROP TRIGGER "{name}"')
            connection.execute("INSERT INTO live (geom, name, n) SELECT geom, 'new', 9 FROM live LIMIT 1")
            connection.commit()
            connection.close()
            self.assertEqual(worker.ask(LIVE + "results").body.count(b'"Feature"'), 5 + added)
            self.assertEqual(self.fork("live.qgs").ask(LIVE + "results").body.count(b'"Feature"'), 5 + added)

    def test_many_forks_in_a_row(self):
        times = []
        for _ in range(20):
            started = time.perf_counter()
            worker = self.fork()
            times.append((time.perf_counter() - started) * 1000)
            worker.end()
        times.sort()
        with open(f"/proc/{self.fork().pid}/smaps_rollup", encoding="ascii") as lines:
            private = next(line.split()[1] for line in lines if line.startswith("Private_Dirty:"))
        print(f"\nfork to ready: {times[10]:.1f} ms median, {times[-1]:.1f} ms at most; private idle {private} KiB")


class Endings(serving.Case):
    def test_quit_and_the_end_of_the_socket(self):
        for way in (lambda zygote: zygote.send({"op": "quit"}), lambda zygote: zygote.close()):
            zygote = self.drop(driver.Zygote(self.tmpdir, {"warm_up": False}))
            way(zygote)
            self.assertEqual(zygote.wait(), 0)

    def test_settings_may_be_in_a_file_which_is_read_once(self):
        file = os.path.join(self.tmpdir, "settings.json")
        with open(file, "w", encoding="utf-8") as opened:
            json.dump({**preload("world.qgs"), "warm_up": False}, opened)
        zygote = self.drop(driver.Zygote(self.tmpdir, extra={"GRATICULE_SETTINGS_FILE": file}))
        self.assertEqual([held["uri"] for held in zygote.ready["projects"]], [project("world.qgs")])
        self.assertFalse(os.path.exists(file))

    def test_workers_outlive_their_zygote(self):
        zygote = self.drop(driver.Zygote(self.tmpdir, preload("world.qgs")))
        worker = self.drop(zygote.fork(project("world.qgs")))
        self.addCleanup(os.close, worker.output)
        right = worker.ask(get_map("areas")).body
        zygote.end()
        self.assertEqual(worker.ask(get_map("areas")).body, right)
        worker.send({"op": "quit"})
        self.assertEqual(worker.wait(), 0)

    def test_nobody_outlives_a_killed_agent(self):
        script = (
            f"import sys; sys.path.insert(0, {os.path.dirname(driver.__file__)!r})\n"
            "import driver, time\n"
            "driver.become_subreaper()\n"
            f"zygote = driver.Zygote({self.tmpdir!r})\n"
            f"spawned = driver.spawn_worker({self.tmpdir!r})\n"
            "print(zygote.pid, zygote.fork().pid, spawned.pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        agent = subprocess.Popen([driver.PYTHON, "-B", "-c", script], stdout=subprocess.PIPE, text=True)
        pids = [int(pid) for pid in agent.stdout.readline().split()]
        self.assertEqual(len(pids), 3)
        agent.kill()
        agent.wait()
        agent.stdout.close()
        # This process is a subreaper too: what was the agent's is ours now, with its status.
        for pid in pids:
            until = time.monotonic() + 5
            while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < until:
                time.sleep(0.01)
            self.assertEqual(ended[0], pid)

    def test_warm_up_is_as_configured(self):
        for warm_up in (True, False):
            with open(os.path.join(self.tmpdir, "log"), "w+", encoding="utf-8") as log:
                # At this level QGIS tells the parameters of every request.
                extra = {"QGIS_SERVER_LOG_LEVEL": "0"}
                self.drop(driver.Zygote(self.tmpdir, {"warm_up": warm_up}, extra, stderr=log))
                log.seek(0)
                self.assertEqual("LAYERS:warm" in log.read().replace(" ", ""), warm_up)

    def test_requests_the_zygote_does_not_know(self):
        zygote = self.drop(driver.Zygote(self.tmpdir, {"warm_up": False}))
        zygote.send({"op": "request", "id": "r-1"})
        self.assertEqual(os.waitstatus_to_exitcode(zygote.wait()), 76)

    def test_a_fork_without_descriptors_is_refused(self):
        zygote = self.drop(driver.Zygote(self.tmpdir, {"warm_up": False}))
        zygote.send({"op": "fork", "worker": 9, "tmpdir": self.tmpdir})
        told = zygote.expect(b"H")
        self.assertEqual((told["event"], told["worker"], told["transient"]), ("refused", 9, False))
        self.assertIn("descriptors", told["reason"])
        worker = self.drop(zygote.fork(project("world.qgs")))
        self.assertEqual(worker.ask(get_map("areas")).status, 200)
        os.close(worker.output)


class Refusing(serving.Case):
    # Runs the package with a thread beside it, as a plugin would start one.
    WITH_THREAD = (
        "import runpy, sys, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        f"sys.path.insert(0, {driver.PACKAGE!r})\n"
        f"runpy.run_path({os.path.join(driver.PACKAGE, '__main__.py')!r}, run_name='__main__')\n"
    )

    def test_a_zygote_with_a_thread_does_not_fork(self):
        zygote = self.drop(driver.Zygote(self.tmpdir, {"warm_up": False}, code=self.WITH_THREAD))
        reason = zygote.fork(project("world.qgs"))
        self.assertIsInstance(reason, str)
        self.assertIn("threads", reason)
        self.assertFalse(zygote.transient)
        children = glob.glob(f"/proc/{zygote.pid}/task/*/children")
        self.assertEqual([open(path, encoding="ascii").read() for path in children if os.path.getsize(path)], [])

    def test_a_fork_for_which_there_is_no_room_may_be_tried_again(self):
        code = (
            "import errno, os, runpy, sys\n"
            "fork, failures = os.fork, [OSError(errno.EAGAIN, 'no room'), OSError(errno.EPERM, 'forbidden')]\n"
            "def failing():\n"
            "    if failures:\n"
            "        raise failures.pop(0)\n"
            "    return fork()\n"
            "os.fork = failing\n"
            f"sys.path.insert(0, {driver.PACKAGE!r})\n"
            f"runpy.run_path({os.path.join(driver.PACKAGE, '__main__.py')!r}, run_name='__main__')\n"
        )
        zygote = self.drop(driver.Zygote(self.tmpdir, {"warm_up": False}, code=code))
        before = kinds(zygote.pid)
        self.assertIn("no room", zygote.fork(project("world.qgs")))
        self.assertTrue(zygote.transient)
        self.assertIn("forbidden", zygote.fork(project("world.qgs")))
        self.assertFalse(zygote.transient)
        self.assertEqual(kinds(zygote.pid), before)
        worker = self.drop(zygote.fork(project("world.qgs")))
        self.assertEqual(worker.ask(get_map("areas")).status, 200)
        os.close(worker.output)

    def test_a_project_that_starts_threads_is_named(self):
        # With the rules that keep such a project out switched off: what they are for, and what holds without them.
        code = (
            "import runpy, sys\n"
            f"sys.path.insert(0, {os.path.dirname(driver.PACKAGE)!r})\n"
            "from graticule_worker import preload\n"
            "preload.reason_against = lambda uri, settings: None\n"
            f"sys.path.insert(0, {driver.PACKAGE!r})\n"
            f"runpy.run_path({os.path.join(driver.PACKAGE, '__main__.py')!r}, run_name='__main__')\n"
        )
        settings = {**preload("remote.qgs", "world.qgs"), "warm_up": False}
        zygote = self.drop(driver.Zygote(self.tmpdir, settings, code=code))
        self.assertEqual([one["uri"] for one in zygote.ready["not_preloaded"]], [project("remote.qgs")])
        self.assertIn("started threads", zygote.ready["not_preloaded"][0]["reason"])
        self.assertEqual([held["uri"] for held in zygote.ready["projects"]], [project("world.qgs")])
        self.assertIn("threads", zygote.fork(project("world.qgs")))

    def test_writable_projects_are_left_to_the_workers(self):
        settings = {**preload("world.qgs"), "force_readonly_layers": False, "warm_up": False}
        zygote = self.drop(driver.Zygote(self.tmpdir, settings))
        self.assertEqual(zygote.ready["projects"], [])
        self.assertIn("force_readonly_layers", zygote.ready["not_preloaded"][0]["reason"])


if __name__ == "__main__":
    unittest.main()
