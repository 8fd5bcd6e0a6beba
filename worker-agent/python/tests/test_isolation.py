"""What a worker has given up, as the kernel tells it, and that it still draws maps. Some of it only root can give up: when
root runs the tests, that is tested too."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

import serving
from serving import colours, driver, get_map, project
from test_zygote import field

sys.path.insert(0, os.path.dirname(driver.PACKAGE))
from graticule_worker import settings  # noqa: E402

ROOT = os.geteuid() == 0
NOBODY = {"name": "nobody", "uid": 65534, "gid": 65534, "groups": [65534, 65533]}
LIMITS = {"open_files": 512, "file_size": 5 << 20}


def limits(pid):
    """(soft, hard) by name."""
    names = {"Max core file size": "core", "Max open files": "open_files", "Max file size": "file_size"}
    with open(f"/proc/{pid}/limits", encoding="ascii") as lines:
        found = {line[:25].strip(): line[25:].split()[:2] for line in lines}
    return {short: found[name] for name, short in names.items()}


def oom_score(pid):
    with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


class Given(serving.Case):
    """Of a spawned worker, a zygote, and a worker forked from it."""

    isolation = LIMITS

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        given = {"isolation": cls.isolation, "warm_up": False}
        cls.spawned = driver.spawn_worker(cls.tmpdir, project("world.qgs"), given, cls.extra())
        cls.addClassCleanup(cls.spawned.end)
        cls.zygote = driver.Zygote(cls.tmpdir, {**given, "preload": [{"uri": project("raster.qgs"), "version": "1"}]}, cls.extra())
        cls.addClassCleanup(cls.zygote.end)
        cls.forked = cls.zygote.fork(project("world.qgs"))
        cls.addClassCleanup(os.close, cls.forked.output)
        cls.addClassCleanup(cls.forked.end)
        cls.processes = {"spawned": cls.spawned, "zygote": cls.zygote, "forked": cls.forked}

    @classmethod
    def extra(cls):
        return {}

    def each(self):
        for name, process in self.processes.items():
            with self.subTest(name):
                yield process.pid

    def test_no_capability_and_no_way_to_gain_one(self):
        for pid in self.each():
            # Only who has some can empty the bounding set.
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb", *(["CapBnd"] if ROOT else [])):
                self.assertEqual(int(field(pid, kind), 16), 0, kind)
            self.assertEqual(field(pid, "NoNewPrivs"), "1")

    def test_limits(self):
        for pid in self.each():
            self.assertEqual(
                limits(pid), {"core": ["0", "0"], "open_files": ["512", "512"], "file_size": [str(5 << 20)] * 2}
            )

    def test_the_kernel_takes_workers_first(self):
        own = oom_score(os.getpid())
        for name, more in (("spawned", 500), ("forked", 500), ("zygote", 300)):
            self.assertEqual(oom_score(self.processes[name].pid), min(own + more, 1000), name)

    def test_maps_are_drawn(self):
        for worker in (self.spawned, self.forked):
            answer = worker.ask(get_map("areas,hills"))
            self.assertEqual(answer.status, 200)
            self.assertGreater(colours(answer.body)[2], 50)
            self.assertGreater(answer.report["private_kb"], 0)
        self.assertEqual(self.forked.ask(get_map("hills"), project=project("raster.qgs")).status, 200)

    def test_the_peak_is_that_of_the_request(self):
        for worker in (self.spawned, self.forked):
            small = worker.ask(get_map("areas")).report["peak_kb"]
            large = worker.ask(get_map("areas", width=4000, height=4000), keep=False).report["peak_kb"]
            after = worker.ask(get_map("areas")).report["peak_kb"]
            self.assertGreater(large - small, 50_000)
            self.assertGreater(large - after, 25_000)


@unittest.skipUnless(ROOT, "only root can become another user")
class GivenAsNobody(Given):
    """The same as another user, and what comes with that."""

    isolation = {**LIMITS, "user": NOBODY}

    @classmethod
    def setUpClass(cls):
        # The agent hands its private directories to that user.
        cls.make = tempfile.mkdtemp

        def mkdtemp(**more):
            path = cls.make(**more)
            os.chown(path, NOBODY["uid"], NOBODY["gid"])
            return path

        os.chmod(serving.folder(), 0o755)
        tempfile.mkdtemp = mkdtemp
        try:
            super().setUpClass()
        finally:
            tempfile.mkdtemp = cls.make

    @classmethod
    def extra(cls):
        return {"HOME": cls.tmpdir}

    def test_who_it_is(self):
        for pid in self.each():
            self.assertEqual(field(pid, "Uid").split(), ["65534"] * 4)
            self.assertEqual(field(pid, "Gid").split(), ["65534"] * 4)
            self.assertEqual(sorted(field(pid, "Groups").split()), ["65533", "65534"])

    def test_it_may_look_at_itself(self):
        for pid in self.each():
            self.assertEqual(os.stat(f"/proc/{pid}/clear_refs").st_uid, 65534)

    def test_what_it_makes_is_its_own(self):
        self.assertEqual(self.forked.ask(get_map("areas"), project=project("zipped.qgz")).status, 200)
        for made in (self.forked.tmpdir, os.path.join(self.tmpdir, "xdg-65534")):
            status = os.stat(made)
            self.assertEqual((status.st_uid, status.st_mode & 0o777), (65534, 0o700), made)

    def test_a_closed_directory_is_said(self):
        with tempfile.TemporaryDirectory() as closed:
            done = start({"isolation": {"user": NOBODY}}, TMPDIR=closed)
            self.assertEqual(done.returncode, 70)
            self.assertIn(f"user nobody cannot reach {closed}: set worker.runtime_dir", done.stderr)

    def test_who_may_not_become_another_says_so(self):
        with tempfile.TemporaryDirectory() as closed:
            other = {**NOBODY, "name": "maps", "uid": 12345}
            done = start({"isolation": {"user": other}}, user=65534, TMPDIR=closed)
            self.assertEqual(done.returncode, 70)
            self.assertIn("cannot become user maps (worker.isolation.user): the agent needs", done.stderr)


def start(given, user=None, **environment):
    """A worker that must fail to start."""
    with tempfile.TemporaryDirectory() as folder:
        # A copy that anybody can read.
        os.chmod(folder, 0o755)
        package = shutil.copytree(driver.PACKAGE, os.path.join(folder, "graticule_worker"))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            return subprocess.run(
                [driver.PYTHON, "-B", package],
                env={**driver.environment("worker", given, folder, {}), **environment},
                stdin=theirs,
                capture_output=True,
                text=True,
                timeout=60,
                user=user,
            )


class Alone(unittest.TestCase):
    """Without QGIS."""

    def run_isolated(self, isolation, code):
        script = (
            "import os, resource, sys\n"
            f"sys.path.insert(0, {os.path.dirname(driver.PACKAGE)!r})\n"
            "from graticule_worker import isolation, settings\n"
            f"isolation.apply(settings.Isolation(**{isolation!r}), 500)\n{code}"
        )
        done = subprocess.run([driver.PYTHON, "-B", "-c", script], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def test_a_file_over_its_limit_is_an_error_and_no_end(self):
        code = (
            "import tempfile\n"
            "with tempfile.TemporaryFile(buffering=0) as file:\n"
            "    file.write(bytes(1 << 20))\n"
            "    try:\n"
            "        file.write(b'x')\n"
            "    except OSError as error:\n"
            "        print(error.strerror)\n"
        )
        self.assertEqual(self.run_isolated({"file_size": 1 << 20}, code), os.strerror(27))

    def test_limits_of_none_stay(self):
        code = "print([resource.getrlimit(what) for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)])"
        ours = [resource.getrlimit(what) for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)]
        self.assertEqual(self.run_isolated({}, code), str(ours))

    def test_a_limit_above_the_agents_is_the_agents(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        code = "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
        self.assertEqual(self.run_isolated({"open_files": hard + 1}, code), str((hard, hard)))

    def test_a_program_it_starts_has_no_more(self):
        code = (
            "import subprocess\n"
            "print(subprocess.run(['grep', '-E', 'Cap(Prm|Eff)|NoNew', '/proc/self/status'], text=True,"
            " capture_output=True).stdout)"
        )
        values = [line.split(":")[1].strip() for line in self.run_isolated({}, code).splitlines()]
        self.assertEqual(values, ["0" * 16, "0" * 16, "1"])

    def test_settings_that_no_agent_writes_are_refused(self):
        for text, word in (
            ('{"isolation": null}', "isolation"),
            ('{"isolation": {"users": 1}}', "'users'"),
            ('{"isolation": {"open_files": -1}}', "open_files"),
            ('{"isolation": {"open_files": true}}', "open_files"),
            ('{"isolation": {"user": "root"}}', "user"),
            ('{"isolation": {"user": {"uid": "0"}}}', "uid"),
            ('{"warm_up": 1}', "warm_up"),
            ("[]", "not a JSON object"),
        ):
            with self.assertRaises(ValueError, msg=text) as raised:
                settings.Settings.from_json(text)
            self.assertIn(word, str(raised.exception))
        given = settings.Settings.from_json('{"isolation": {"user": null, "open_files": 9}}')
        self.assertEqual(given.isolation, settings.Isolation(open_files=9))


if __name__ == "__main__":
    unittest.main()
