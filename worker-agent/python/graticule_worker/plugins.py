"""Server plugins: loads them where they may be loaded, keeps them, and knows what they are to the agent.

A zygote loads what a fork may inherit. A plugin that starts threads or opens connections is left to the workers, which
load it after their fork; so each plugin is tried in a child first. One that fails is told with its problem and stops no
other. Plugins get the server's own interface, and stay until the process ends.
"""

import importlib.util
import os
import sys
import time
import traceback

from . import plugin_files, plugin_probe

ZYGOTE = "zygote"
WORKER = "worker"
_LONGEST_PROBLEM = 1000


class RequiredPluginError(ValueError):
    """A plugin without which nothing may be served could not be loaded."""


class Plugin:
    """One plugin. `where` is in which process it has been or is to be loaded, empty when it cannot be."""

    def __init__(self, found):
        self.found = found
        self.where = ""
        self.problem = found.problem
        self.access_control = False
        self.cache_filter = False
        self.object = None

    def fail(self, problem):
        self.problem, self.where = problem[:_LONGEST_PROBLEM], ""

    def describe(self):
        """The PLUGIN of the protocol."""
        return {
            "name": self.found.name,
            "version": self.found.version,
            "description": self.found.description,
            "path": self.found.path,
            "where": self.where,
            "problem": self.problem,
            "access_control": self.access_control,
            "cache_filter": self.cache_filter,
        }


class Plugins:
    """All plugins of this process. `allowed_threads` are those that do not forbid a fork."""

    def __init__(self, qgis, settings, allowed_threads):
        self._interface = qgis.server.serverInterface()
        self._settings = settings.plugins
        self._allowed_threads = allowed_threads
        self._loading = None
        self._changed = False
        self._all = []
        if not self._settings.paths:
            return
        self._watch_registrations()
        for path in (*self._settings.paths, os.path.join(qgis.application.pkgDataPath(), "python", "plugins")):
            if path not in sys.path:
                sys.path.append(path)  # not before Python's own: a plugin must not hide a module of QGIS's or of ours
        found = plugin_files.find(self._settings.paths, self._settings.allowed, qgis.version)
        self._all = [Plugin(one) for one in found]

    def load_before_forks(self):
        """In a zygote: load what workers may inherit, and find out what each worker has to load by itself."""
        self._load_tried(ZYGOTE)

    def load_here(self):
        """In a worker that no zygote has made ready: load all of them."""
        self._load_tried(WORKER)

    def load_rest(self):
        """In a forked worker: load what could not be inherited."""
        for plugin in self._all:
            if plugin.where == WORKER:
                self._load(plugin)
        self._check_required()

    def list(self):
        return [plugin.describe() for plugin in self._all]

    def news(self):
        """The list when a plugin has done since the last call what the agent must know of, else None."""
        changed, self._changed = self._changed, False
        return self.list() if changed else None

    def _load_tried(self, here):
        patience = self._settings.patience_ms / 1000
        # Together they may not take so long that the agent gives this process up.
        give_up = time.monotonic() + 2 * patience
        for plugin in self._all:
            if plugin.problem:
                continue
            left = give_up - time.monotonic()
            if left <= 0:
                plugin.fail("it was not tried: those before it took too long")
                continue
            plugin.where = here
            try:
                flags, reason = plugin_probe.probe(
                    lambda plugin=plugin: self._attempt(plugin), min(patience, left), self._allowed_threads
                )
            except plugin_probe.ProbeError as error:
                plugin.fail(str(error))
                continue
            plugin.access_control, plugin.cache_filter = flags
            if reason and here == ZYGOTE:
                plugin.where = WORKER
                print(f"each worker loads the plugin {plugin.found.name} by itself: {reason}", flush=True)
            else:
                self._load(plugin)
        self._check_required()

    def _attempt(self, plugin):
        """In a child that ends after it."""
        self._load(plugin)
        if plugin.problem:
            raise plugin_probe.ProbeError(plugin.problem)
        return plugin.access_control, plugin.cache_filter

    def _load(self, plugin):
        self._loading = plugin
        try:
            plugin.object = _make(plugin.found, self._interface)
        except BaseException as error:  # whatever it is, it must not end this process
            traceback.print_exc()
            sys.stderr.flush()
            plugin.fail(_describe_error(error, plugin.found.path))
        finally:
            self._loading = None

    def _check_required(self):
        for name in self._settings.required:
            plugin = next((plugin for plugin in self._all if plugin.found.name == name), None)
            problem = "there is none of this name" if plugin is None else plugin.problem
            if problem:
                raise RequiredPluginError(
                    f"the plugin {name}, which worker.qgis.plugins.required names, is not loaded: {problem}"
                )

    def _watch_registrations(self):
        """Notices filters that make answers depend on who asks. QGIS does not tell how many it has."""
        from qgis.server import QgsAccessControl, QgsServerCacheManager, QgsServerInterface

        for cls, name, flag in (
            (QgsServerInterface, "registerAccessControl", "access_control"),
            (QgsAccessControl, "registerAccessControl", "access_control"),
            (QgsServerInterface, "registerServerCache", "cache_filter"),
            (QgsServerCacheManager, "registerServerCache", "cache_filter"),
        ):
            setattr(cls, name, self._noticed(cls.__dict__[name], flag))

    def _noticed(self, original, flag):
        def register(interface, *arguments, **named):
            self._notice(flag)
            # Bound: sip takes a call of the class's own method for one of an abstract method.
            return original.__get__(interface, type(interface))(*arguments, **named)

        return register

    def _notice(self, flag):
        plugin = self._loading
        if plugin is not None:
            setattr(plugin, flag, True)
            return
        # Later than at its load, while a request is served: which one it was cannot be told, so each may be it.
        for plugin in self._all:
            if plugin.where and not getattr(plugin, flag):
                setattr(plugin, flag, True)
                self._changed = True


def _make(found, interface):
    """Import the plugin from its own folder and have it made."""
    file = os.path.join(found.path, "__init__.py")
    module = sys.modules.get(found.name)
    if module is None:
        module = _import(found, file)
    elif os.path.realpath(getattr(module, "__file__", None) or "") != os.path.realpath(file):
        raise ImportError(f"Python has loaded another module called {found.name} already: rename the plugin's folder")
    factory = getattr(module, "serverClassFactory", None)
    if factory is None:
        raise ImportError("its __init__.py has no serverClassFactory(serverIface)")
    return factory(interface)


def _import(found, file):
    """From this very folder, whatever else on Python's path has the name."""
    spec = importlib.util.spec_from_file_location(found.name, file, submodule_search_locations=[found.path])
    module = importlib.util.module_from_spec(spec)
    sys.modules[found.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(found.name, None)
        raise
    return module


def _describe_error(error, path):
    """In one line, with the place in the plugin."""
    if isinstance(error, SystemExit):
        return f"it ends the process: SystemExit({error.code!r})"
    text = traceback.format_exception_only(type(error), error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{text} ({error.filename}, line {error.lineno})" if error.filename not in text else text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(path)]
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text
