"""The process of a handler of projects: started as the agent does, with real pipes, and its rules one by one."""

import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "graticule_worker")
sys.path.insert(0, os.path.dirname(PACKAGE))

from graticule_worker import storage_host  # noqa: E402

HANDLER = """
    import os, sys, threading, time
    print("a module prints")

    class Store:
        def __init__(self, options):
            self.options = options
            threading.Thread(target=time.sleep, args=(3600,)).start()

        def look(self, url, relative, suffix):
            print("looking for", relative)
            os.write(1, b"past Python\\n")
            if relative == "none":
                return None
            if relative == "down":
                raise RuntimeError("the depot\\nis closed")
            if relative == "input":
                return {"uri": "x", "version": repr(sys.stdin.read())}
            return {"uri": f"{url}/{relative}{suffix or ''}", "version": self.options["version"], "file": "/tmp/x.qgs"}

        def list(self, url):
            yield {"relative": "a/b.qgs", "modified": 7, "bytes": 3}
            yield {"relative": "c"}

    class Lookless:
        def __init__(self, options): pass

    class Failing:
        def __init__(self, options): raise KeyError("root")
"""


class Process:
    """A host with a handler, as the agent has it."""

    def __init__(self, folder, handler="store.Store", options=None):
        command = ["/usr/bin/python3", "-B", os.path.join(PACKAGE, "storage_host.py")]
        environment = {"PATH": os.environ["PATH"], "GRATICULE_SETTINGS": "{}"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        self.tell({"handler": handler, "options": options or {"version": "7"}, "python_path": [folder]})
        self.first = self.hear()

    def tell(self, value):
        self.process.stdin.write(json.dumps(value).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, call, **arguments):
        self.tell(dict(arguments, call=call, id=1))
        return self.hear()

    def look(self, relative, suffix=None):
        return self.ask("look", url="depot:maps", relative=relative, suffix=suffix)

    def end(self):
        self.process.stdin.close()
        code = self.process.wait(10)
        said = self.process.stderr.read().decode()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, said


class TestProcess(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        with open(os.path.join(self.folder, "store.py"), "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(HANDLER))

    def test_orders_are_answered_one_by_one_and_prints_go_to_the_log(self):
        host = Process(self.folder)
        self.assertEqual(host.first, {"ready": True})
        found = {"uri": "depot:maps/x.qgz", "version": "7", "file": "/tmp/x.qgs"}
        self.assertEqual(host.look("x", ".qgz"), {"id": 1, "found": found})
        self.assertEqual(host.look("none"), {"id": 1, "found": None})
        self.assertEqual(host.look("down"), {"id": 1, "error": "the depot is closed"})
        self.assertEqual(host.look("input")["found"]["version"], "''", "it reads nothing of ours")
        entries = [{"relative": "a/b", "suffix": ".qgs", "modified": 7.0, "bytes": 3}, {"relative": "c"}]
        self.assertEqual(host.ask("list", url="depot:maps"), {"id": 1, "listed": entries})
        code, said = host.end()
        self.assertEqual(code, 0, "it ends with the agent, whatever threads the handler has")
        for line in ("a module prints", "looking for x", "past Python"):
            self.assertIn(line, said)

    def test_a_handler_that_cannot_be_made_says_why(self):
        for handler, expected in [
            ("Store", "names no module"),
            ("nowhere.Store", "No module named 'nowhere'"),
            ("store.Other", "module store has no class Other"),
            ("store.Lookless", "has no method look"),
            ("store.Failing", "KeyError: 'root'"),
        ]:
            host = Process(self.folder, handler)
            self.assertIn(expected, host.first["error"])
            self.assertEqual(host.end()[0], storage_host.EXIT_START_FAILED)

    def test_it_has_given_up_what_a_worker_has(self):
        host = Process(self.folder)
        with open(f"/proc/{host.process.pid}/status", encoding="ascii") as file:
            status = dict(line.strip().split(":", 1) for line in file)
        self.assertEqual(int(status["CapEff"], 16), 0)
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        host.end()

    def test_it_ends_when_the_agent_is_killed(self):
        script = f"""
            import subprocess, time
            host = subprocess.Popen(["/usr/bin/python3", "-B", {os.path.join(PACKAGE, "storage_host.py")!r}],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            host.stdin.write({json.dumps({"handler": "store.Store", "options": {}, "python_path": [self.folder]})!r}.encode() + b"\\n")
            host.stdin.flush()
            host.stdout.readline()
            print(host.pid, flush=True)
            time.sleep(60)
        """
        agent = subprocess.Popen(
            ["/usr/bin/python3", "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        pid = int(agent.stdout.readline())
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        agent.stdout.close()
        for _ in range(500):
            if not _runs(pid):
                return
            time.sleep(0.02)
        self.fail("it lives on")


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Fixed:
    """A handler that gives what it was given."""

    def __init__(self, found=None, entries=()):
        self.found, self.entries = found, entries

    def look(self, url, relative, suffix):
        return self.found

    def list(self, url):
        return self.entries


class TestRules(unittest.TestCase):
    def test_a_wrong_answer_is_told(self):
        for found, expected in [
            ("x", "look() gave str"),
            ({"version": "1"}, "look() gave a uri that is no text"),
            ({"uri": "x", "version": 1}, "look() gave a version that is no text"),
            ({"uri": "x\ny", "version": "1"}, "look() gave a uri that is no text"),
            ({"uri": "x", "version": "1", "file": "x.qgs"}, "not an absolute path"),
            ({"uri": "x", "version": "1", "path": "x.qgs"}, "gave the key 'path'"),
        ]:
            said = storage_host.answer(Fixed(found), {"call": "look", "url": "", "relative": "", "suffix": None})
            self.assertIn("the handler is wrong: ", said["error"])
            self.assertIn(expected, said["error"])
        for entries, expected in [
            (["x"], "list() gave str"),
            ([{}], "list() gave a relative that is no text"),
            ([{"relative": "x", "modified": "today"}], "list() gave modified as 'today'"),
            (({"relative": "x"} for _ in range(storage_host.MOST_LISTED + 1)), "more than 100000"),
            (3, "not iterable"),
        ]:
            said = storage_host.answer(Fixed(entries=entries), {"call": "list", "url": ""})
            self.assertIn(expected, said["error"])

    def test_times_may_be_datetimes(self):
        when = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
        entries = storage_host.listed(Fixed(entries=[{"relative": "/x/", "modified": when}]), "")
        self.assertEqual(entries, [{"relative": "x", "modified": 1767225600.0}])

    def test_a_handler_without_list_says_so(self):
        class Plain:
            def look(self, url, relative, suffix):
                return None

        self.assertIn("no method list", storage_host.answer(Plain(), {"call": "list", "url": ""})["error"])


if __name__ == "__main__":
    unittest.main()
