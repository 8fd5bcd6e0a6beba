"""The worker: serves one request at a time on its channel until told to quit or until the agent has gone.

Two threads. The main one calls QGIS. The control thread reads the socket, so that a `cancel` and the end of the socket
are seen while QGIS renders (QGIS releases the interpreter meanwhile). It is started here, after the fork: a zygote has
no threads. Leaves by `os._exit` only, because what QGIS would clean up belongs to the zygote as well.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from urllib.parse import urlsplit

from qgis.core import QgsFeedback
from qgis.server import QgsBufferServerRequest, QgsServerRequest

from . import describe, frames, outgoing, plugins, process, projects, qgis_init, response, warming
from .project_file import ProjectError

EXIT_OK = 0
EXIT_PROTOCOL = 76

_METHODS = {
    "GET": QgsServerRequest.GetMethod,
    "HEAD": QgsServerRequest.HeadMethod,
    "POST": QgsServerRequest.PostMethod,
    "PUT": QgsServerRequest.PutMethod,
    "PATCH": QgsServerRequest.PatchMethod,
    "DELETE": QgsServerRequest.DeleteMethod,
}
# QGIS would make links from these before the URL. The agent has read them already, as far as it trusts their sender.
_DROPPED_HEADERS = {"Host", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"}
_CONTROL_STACK = 512 * 1024
_LONGEST_MESSAGE = 4000


def run_spawned(sock, settings):
    """A worker in a process of its own."""
    qgis = qgis_init.start()
    loaded = plugins.Plugins(qgis, settings, {qgis_init.BEARER_THREAD})
    loaded.load_here()
    held = projects.Projects(qgis.server, settings)
    Worker(sock, qgis, held, loaded, "spawn").run()


class Request:
    """A request as the agent sent it. `cancelled` and `feedback` are shared by both threads. `loaded` is the Held that it made the
    worker load and that is kept."""

    def __init__(self, message):
        self.id = message["id"]
        self.describes = message["op"] == "describe"
        self.sleeps = message.get("seconds", 0) if message["op"] == "sleep" else None
        self.method = message.get("method", "GET")
        self.url = message.get("url", "")
        self.headers = message.get("headers", [])
        self.project = message.get("project")
        self.evict = message.get("evict", [])
        self.depth = message.get("depth", 0)
        self.body = bytearray()
        self.cancelled = False
        self.feedback = None
        self.loaded = None
        self._stopped = threading.Event()

    def begin(self):
        """Called by the thread that renders; from now on a cancel can reach QGIS. One that came earlier does too."""
        self.feedback = QgsFeedback()
        if self.cancelled:
            self.feedback.cancel()

    def cancel(self):
        """Called by the control thread, at any time."""
        self.cancelled = True
        self._stopped.set()
        if self.feedback is not None:
            self.feedback.cancel()

    def sleep(self):
        """Wait as long as asked, or until a cancel. Called by the thread that renders."""
        self._stopped.wait(self.sleeps)

    def for_qgis(self):
        # HTTP/2 and most libraries write header names in lower case; QGIS looks for `Accept` and `X-Qgis-Service-Url`.
        headers = {name.title(): value for name, value in self.headers}
        for name in _DROPPED_HEADERS:
            headers.pop(name, None)
        headers["Host"] = urlsplit(self.url).netloc.rpartition("@")[2]
        data = bytes(self.body) if self.body else None
        return QgsBufferServerRequest(self.url, _METHODS[self.method], headers, data)


class Worker:
    """`start` is "fork" or "spawn"; `held` are the projects and `loaded` the plugins, with those inherited from a zygote
    in them."""

    def __init__(self, sock, qgis, held, loaded, start):
        self._socket = sock
        self._channel = frames.Channel(sock)
        self._qgis = qgis
        self._projects = held
        self._plugins = loaded
        self._start = start
        self._work = queue.SimpleQueue()
        self._current = None
        self._private = process.PrivateMemory()
        self._peak = process.PeakMemory()
        self._outgoing = outgoing.Outgoing(qgis.gdal)

    def run(self):
        """Serve. Does not return."""
        size = threading.stack_size(_CONTROL_STACK)
        threading.Thread(target=self._control, name="control", daemon=True).start()
        threading.stack_size(size)
        try:
            self._channel.head(
                {
                    "event": "ready",
                    "pid": os.getpid(),
                    "qgis": self._qgis.version,
                    "versions": self._qgis.versions(),
                    "start": self._start,
                    "projects": self._projects.list(),
                    "plugins": self._plugins.list(),
                }
            )
            while True:
                self._do(self._work.get())
        except OSError:
            leave(EXIT_OK)  # the socket is closed: the agent has gone

    # The control thread.

    def _control(self):
        decoder = frames.Decoder()
        collecting = None
        try:
            while True:
                try:
                    data = self._socket.recv(frames.CHUNK)
                except OSError:
                    data = b""
                if not data:
                    leave(EXIT_OK)
                for kind, payload in decoder.feed(data):
                    collecting = self._accept(kind, payload, collecting)
        except Exception as error:
            if not isinstance(error, frames.FrameError):
                traceback.print_exc()
            print(f"the agent broke the worker protocol: {error!r}", file=sys.stderr)
            leave(EXIT_PROTOCOL)

    def _accept(self, kind, payload, collecting):
        """Takes one frame; returns the request whose body is still to come, if any."""
        if kind == frames.HEAD:
            if payload.get("op") == "cancel":
                self._cancel(payload.get("id"))
                return collecting
            if collecting is not None:
                raise frames.FrameError(f"{payload.get('op')!r} before the end of a body")
            if payload.get("op") not in ("request", "describe", "sleep"):
                self._work.put(payload)
                return None
            request = self._current = Request(payload)
            if payload.get("body"):
                return request
            self._work.put(request)
            return None
        if collecting is None:
            raise frames.FrameError("a body or end frame without a request")
        if kind == frames.BODY:
            collecting.body += payload
            return collecting
        self._work.put(collecting)
        return None

    def _cancel(self, identity):
        request = self._current
        if request is not None and request.id == identity:
            request.cancel()

    # The main thread.

    def _do(self, work):
        if isinstance(work, Request):
            self._serve(work)
            return
        op = work.get("op")
        if op == "quit":
            leave(EXIT_OK)
        answer = {"id": work.get("id")}
        try:
            answer["result"] = self._operate(op, work)
        except Exception as error:
            answer["error"] = _describe_error(error)
        self._channel.end(answer)

    def _operate(self, op, work):
        if op == "load":
            self._outgoing.serving(0)
            held, _ = self._projects.get(work["project"])
            return held.describe()
        if op == "unload":
            return self._projects.unload(work["uri"])
        if op == "warm":
            return self._warm(work["uri"])
        if op == "list":
            return self._projects.list()
        if op == "ping":
            return work.get("echo")
        raise ValueError(
            f"unknown op {op!r}; known are request, describe, sleep, load, unload, warm, list, ping, cancel and quit"
        )

    def _warm(self, uri):
        """Whether a map was drawn. None is while a plugin says who may see what: it would be asked about nobody."""
        held = self._projects.held(uri)
        if held is None or any(plugin["access_control"] for plugin in self._plugins.list()):
            return False
        self._outgoing.serving(0)
        return warming.first_map(self._qgis, held.project)

    def _serve(self, request):
        wall, cpu = time.perf_counter(), time.process_time()
        self._peak.reset()
        self._outgoing.serving(request.depth)
        answer = response.Response(self._channel, request)
        end = {"id": request.id}
        try:
            self._render(request, answer)
            if answer.failure is not None:
                raise answer.failure
            if request.cancelled and not answer.whole:
                end["error"] = {"kind": "cancelled", "message": "stopped by a cancel"}
            else:
                end["report"] = self._report(request.loaded, answer, wall, cpu)
        except Exception as error:
            if isinstance(error, OSError) and error is answer.failure:
                raise  # not QGIS's failure: the channel is closed
            end["error"] = _describe_error(error)
        if "error" in end and request.loaded is not None:
            end["loaded"] = request.loaded.describe()
        self._current = None
        self._channel.end(end)

    def _render(self, request, answer):
        for uri in request.evict:
            self._projects.unload(uri)
        if request.sleeps is not None:
            request.sleep()
            if not request.cancelled:
                answer.finish()
            return
        held, loaded_now = self._projects.get(request.project)
        request.loaded = held if loaded_now else None
        request.begin()
        if request.describes:
            answer.setHeader("Content-Type", "application/json")
            answer.io().write(json.dumps(describe.describe(held), separators=(",", ":")).encode())
        elif request.method not in _METHODS:
            answer.setHeader("Allow", ", ".join(_METHODS))
            answer.refuse(405, f"QGIS has no answer to the method {request.method}")
        else:
            self._qgis.server.handleRequest(request.for_qgis(), answer, held.project)
        answer.finish()
        if loaded_now and request.depth and held.bad_layers:
            # At the end of a chain of requests to this very server a layer of its own cannot be opened. Others, who ask
            # from outside, are to find it whole.
            self._projects.unload(request.project["uri"])
            request.loaded = None

    def _report(self, loaded, answer, wall, cpu):
        worked = time.perf_counter() - wall
        news = self._plugins.news()
        return {
            "loaded": None if loaded is None else loaded.describe(),
            "cpu_ms": round((time.process_time() - cpu) * 1000, 1),
            "wall_ms": round(worked * 1000, 1),
            "bytes": answer.bytes,
            "peak_kb": self._peak.kb(),
            "private_kb": self._private.kb(worked),
            **({} if news is None else {"plugins": news}),
        }


def _describe_error(error):
    """The `error` of the protocol. What nobody expected also goes to stderr, with its traceback."""
    if isinstance(error, ProjectError):
        kind, message = error.kind, str(error)
    else:
        traceback.print_exception(type(error), error, error.__traceback__)
        kind, message = "internal", traceback.format_exception_only(type(error), error)[-1].strip()
    return {"kind": kind, "message": message[:_LONGEST_MESSAGE]}


def leave(code):
    """End this process now, from any thread, without a destructor being run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
