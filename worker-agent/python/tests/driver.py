"""Plays the agent: starts zygotes and workers over socket pairs and talks the worker protocol with them.

Writes and reads frames with code of its own, so that a mistake in `frames.py` cannot agree with itself.
"""

import array
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import time

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "graticule_worker")
PYTHON = "/usr/bin/python3"
TIMEOUT = 30
"""Seconds after which a silent worker is a failed test."""

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper():
    """Forked workers become children of this process, as of an agent."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Gone(Exception):
    """The other end closed its socket."""


class Peer:
    """One end of a channel, and the pid of who is at the other."""

    def __init__(self, sock, pid=None):
        self.socket = sock
        self.pid = pid
        self.socket.settimeout(TIMEOUT)

    def send(self, value, kind=b"H", descriptors=()):
        payload = json.dumps(value).encode()
        data = struct.pack(">I", len(payload)) + kind + payload
        if descriptors:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            assert self.socket.sendmsg([data], rights) == len(data)
        else:
            self.socket.sendall(data)

    def send_body(self, payload, chunk=1000):
        for at in range(0, len(payload), chunk):
            part = payload[at : at + chunk]
            self.socket.sendall(struct.pack(">I", len(part)) + b"B" + part)
        self.send({}, b"E")

    def receive(self):
        """(kind, payload) of the next frame."""
        length, kind = struct.unpack(">Ic", self._exactly(5))
        payload = self._exactly(length)
        return kind, payload if kind == b"B" else json.loads(payload)

    def expect(self, kind):
        got, payload = self.receive()
        assert got == kind, (got, payload)
        return payload

    def _exactly(self, count):
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise Gone(f"{len(data)} of {count} bytes")
            data += part
        return bytes(data)

    def close(self):
        self.socket.close()

    def wait(self, seconds=10):
        """The wait status of the process when it has ended; for our children only."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                return status
            time.sleep(0.005)
        raise AssertionError(f"process {self.pid} has not ended within {seconds} s")

    def end(self):
        """Leave nothing behind."""
        self.close()
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass  # not our child, or reaped by somebody else
            self.pid = None


class Answer:
    """What came for a request. `frames` are the sizes of the body frames."""

    def __init__(self):
        self.status = None
        self.headers = {}
        self.body = b""
        self.frames = []
        self.end = None
        self.first_byte = None

    @property
    def error(self):
        return self.end.get("error")

    @property
    def report(self):
        return self.end["report"]


class Worker(Peer):
    """A worker that has said `ready`."""

    _count = 0

    def ask(self, url, method="GET", headers=(), body=None, project=None, version="1", evict=(), keep=True, id=None,
            depth=None):  # fmt: skip
        self.start_request(url, method, headers, body, project, version, evict, id, depth)
        return self.answer(keep)

    def start_request(self, url, method="GET", headers=(), body=None, project=None, version="1", evict=(), id=None,
                      depth=None):  # fmt: skip
        Worker._count += 1
        self.last_id = id or f"r-{Worker._count}"
        self.send(
            {
                "op": "request",
                "id": self.last_id,
                "method": method,
                "url": url,
                "headers": [list(pair) for pair in headers],
                "project": {"uri": project or self.project, "version": version},
                "evict": list(evict),
                "body": body is not None,
                **({} if depth is None else {"depth": depth}),
            }
        )
        if body is not None:
            self.send_body(body)

    def answer(self, keep=True):
        answer, started, parts = Answer(), time.monotonic(), []
        while True:
            kind, payload = self.receive()
            if answer.first_byte is None:
                answer.first_byte = time.monotonic() - started
            if kind == b"H":
                assert payload["event"] == "response" and payload["id"] == self.last_id and answer.status is None
                answer.status, answer.headers = payload["status"], dict(payload["headers"])
            elif kind == b"B":
                assert answer.status is not None, "a body before its head"
                answer.frames.append(len(payload))
                if keep:
                    parts.append(payload)
            else:
                assert payload["id"] == self.last_id, payload
                answer.end, answer.body = payload, b"".join(parts)
                return answer

    def operate(self, op, **more):
        self.send({"op": op, "id": "o-1", **more})
        return self.expect(b"E")


def environment(role, settings, tmpdir, extra):
    variables = dict(os.environ)
    variables.update(
        GRATICULE_ROLE=role,
        GRATICULE_GENERATION="1",
        GRATICULE_SETTINGS=json.dumps(settings),
        TMPDIR=tmpdir,
        PYTHONDONTWRITEBYTECODE="1",
        QT_HASH_SEED="0",
    )
    variables.update(extra)
    return variables


def _start(role, settings, tmpdir, extra, stderr, code=None):
    ours, theirs = socket.socketpair()
    command = [PYTHON, PACKAGE] if code is None else [PYTHON, "-c", code]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=stderr, stderr=stderr, env=environment(role, settings, tmpdir, extra)
    )
    theirs.close()
    process.returncode = 0  # reaped by `Peer`, by pid
    return ours, process.pid


def spawn_worker(tmpdir, project=None, settings=None, extra=(), stderr=None):
    sock, pid = _start("worker", settings or {}, tmpdir, dict(extra), stderr)
    worker = Worker(sock, pid)
    worker.ready = worker.expect(b"H")
    worker.project = project
    return worker


class Zygote(Peer):
    """A zygote that has said `ready`."""

    def __init__(self, tmpdir, settings=None, extra=(), stderr=None, code=None):
        sock, pid = _start("zygote", settings or {}, tmpdir, dict(extra), stderr, code)
        super().__init__(sock, pid)
        self.began = []
        self.ready = self.expect(b"H")
        while self.ready["event"] == "preloading":
            self.began.append(self.ready["uri"])
            self.ready = self.expect(b"H")
        self.tmpdir = tmpdir
        self._forks = 0

    def fork(self, project=None):
        """A worker, or the reason it was refused. `output` is the reading end of its stdout and stderr."""
        self._forks += 1
        ours, theirs = socket.socketpair()
        output, output_in = os.pipe()
        tmpdir = os.path.join(self.tmpdir, f"w{self._forks}")
        self.send({"op": "fork", "worker": self._forks, "tmpdir": tmpdir}, descriptors=[theirs.fileno(), output_in])
        theirs.close()
        os.close(output_in)
        told = self.expect(b"H")
        assert told["worker"] == self._forks
        if told["event"] == "refused":
            ours.close()
            os.close(output)
            self.transient = told["transient"]
            return told["reason"]
        worker = Worker(ours, told["pid"])
        worker.output = output
        worker.tmpdir = tmpdir
        worker.ready = worker.expect(b"H")
        worker.project = project
        return worker
