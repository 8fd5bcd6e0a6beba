"""The projects that this process holds: loads, forgets and describes them.

Holds what it is told to hold; which projects, and when one is stale, is the agent's to decide.
"""

import time
from dataclasses import dataclass

from qgis.core import Qgis, QgsProject

from . import project_file
from .project_file import ProjectError

_SLOWEST = 5
"""Layers whose time to open a description tells."""

_MAX_NAMED = 50
"""Bad layers that a description names; a head frame is bounded, a project's layers are not."""


@dataclass
class Held:
    """A loaded project. `load_ms` is what reading it took, in milliseconds; `layers` counts the bad ones as well."""

    uri: str
    version: str
    project: QgsProject
    load_ms: float
    layers: int
    bad_layers: list
    slow_layers: list

    def describe(self):
        """The PROJECT of the protocol."""
        return {
            "uri": self.uri,
            "version": self.version,
            "load_ms": round(self.load_ms, 1),
            "layers": self.layers,
            "bad_layers": self.bad_layers[:_MAX_NAMED],
            "slow_layers": self.slow_layers,
        }


class LayerTimes:
    """How long each layer took to open: from the layer before to its own word."""

    def __init__(self):
        self.last = 0.0
        self._times = []

    def opened(self, layer, _element):
        now = time.perf_counter()
        self._times.append((layer.name(), round((now - self.last) * 1000, 1)))
        self.last = now

    def slowest(self):
        return sorted(self._times, key=lambda pair: -pair[1])[:_SLOWEST]


class Projects:
    """An own cache: QGIS's would watch files, and look at them at every request."""

    def __init__(self, server, settings):
        self._server = server
        self._settings = settings
        self._held = {}

    def list(self):
        return [held.describe() for held in self._held.values()]

    def get(self, project):
        """(Held, whether it was loaded now) for the protocol's `project`. A copy at another version stays when the wanted one
        cannot be loaded, and is dropped when it has been. An empty uri is an empty project, which is not kept."""
        uri, version = project["uri"], project.get("version", "")
        if not uri:
            # What QGIS answers without a project, such as the files of its pages, it still answers with one in hand.
            return Held("", version, QgsProject(None, Qgis.ProjectCapabilities()), 0.0, 0, [], []), False
        held = self._held.get(uri)
        if held is not None and held.version == version:
            return held, False
        held = self._load(uri, version, project.get("file") or uri)
        self.unload(uri)
        self._held[uri] = held
        return held, True

    def held(self, uri):
        """The Held, or None."""
        return self._held.get(uri)

    def unload(self, uri):
        """Whether it was held."""
        held = self._held.pop(uri, None)
        if held is None:
            return False
        # QGIS keeps capabilities by path, so a project loaded anew would be described as it was.
        self._server.serverInterface().capabilitiesCache().removeCapabilitiesDocument(held.project.fileName())
        if QgsProject.instance() is held.project:
            QgsProject.setInstance(None)
        return True

    def _load(self, uri, version, file):
        project_file.check(file)
        # No style database and no spatial bookmarks of its own: a server has no use for them.
        project = QgsProject(None, Qgis.ProjectCapabilities())
        layer_times = LayerTimes()
        project.readMapLayer.connect(layer_times.opened)
        started = layer_times.last = time.perf_counter()
        if not project.read(file, self._flags()):
            reason = project.error().strip() or "it is not a project file that this QGIS can read"
            raise ProjectError("project_broken", f"QGIS could not read {uri}: {reason}")
        load_ms = (time.perf_counter() - started) * 1000
        layers = project.mapLayers()
        bad = {identity: layer.name() for identity, layer in layers.items() if not layer.isValid()}
        names = sorted(bad.values())
        if bad and not self._settings.ignore_bad_layers:
            raise ProjectError(
                "project_broken",
                f"{uri} has {len(bad)} bad layer(s): {', '.join(names[:_MAX_NAMED])}."
                " Repair their data sources, or set ignore_bad_layers to serve the others.",
            )
        # QGIS would list them in its capabilities and draw nothing for them, with status 200.
        project.removeMapLayers(list(bad))
        return Held(uri, version, project, load_ms, len(layers), names, layer_times.slowest())

    def _flags(self):
        chosen = Qgis.ProjectReadFlags()
        chosen |= Qgis.ProjectReadFlag.DontLoad3DViews
        if self._settings.force_readonly_layers:
            chosen |= Qgis.ProjectReadFlag.ForceReadOnlyLayers
        if self._settings.trust_layer_metadata:
            chosen |= Qgis.ProjectReadFlag.TrustLayerMetadata
        if self._settings.disable_getprint:
            chosen |= Qgis.ProjectReadFlag.DontLoadLayouts
        return chosen
