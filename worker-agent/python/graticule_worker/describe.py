"""What a loaded project is, in detail: the answer to `describe`, for the catalog.

Names are those that WMS takes, and what WMS does not publish is left out. Knows QGIS's projects, not the channel.
"""

from qgis.core import (
    Qgis,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCsException,
    QgsLayerTree,
    QgsMapLayer,
    QgsMapLayerType,
    QgsWkbTypes,
)
from qgis.server import QgsServerProjectUtils

_TYPES = {
    QgsMapLayerType.VectorLayer: "vector",
    QgsMapLayerType.RasterLayer: "raster",
    QgsMapLayerType.MeshLayer: "mesh",
    QgsMapLayerType.VectorTileLayer: "vector tiles",
    QgsMapLayerType.AnnotationLayer: "annotations",
    QgsMapLayerType.PointCloudLayer: "point cloud",
}


def describe(held):
    """The DETAILS of the protocol for a `projects.Held`."""
    project = held.project
    tree = _Tree(project)
    extent = _extent(project)
    restricted = set(QgsServerProjectUtils.wmsRestrictedComposers(project))
    layouts = [layout.name() for layout in project.layoutManager().printLayouts()]
    return {
        "title": QgsServerProjectUtils.owsServiceTitle(project) or project.title(),
        "abstract": QgsServerProjectUtils.owsServiceAbstract(project) or project.metadata().abstract(),
        "crs": project.crs().authid(),
        "output_crs": list(QgsServerProjectUtils.wmsOutputCrsList(project)),
        "extent": _numbers(extent),
        "extent_epsg4326": _numbers(_in_degrees(extent, project)),
        "layers": tree.layers(project.layerTreeRoot()),
        "draw_order": tree.draw_order(),
        "bad_layers": held.bad_layers,
        "layouts": sorted(name for name in layouts if name not in restricted),
        "max_width": max(0, QgsServerProjectUtils.wmsMaxWidth(project)),
        "max_height": max(0, QgsServerProjectUtils.wmsMaxHeight(project)),
        "version": held.version,
        "load_ms": round(held.load_ms, 1),
        "qgis_version": project.lastSaveVersion().text(),
    }


def drawable(project):
    """The names under which WMS draws a project's layers, lowest first."""
    tree = _Tree(project)
    tree.layers(project.layerTreeRoot())
    return tree.draw_order()


class _Tree:
    """The layer tree as WMS shows it."""

    def __init__(self, project):
        self._project = project
        self._ids = QgsServerProjectUtils.wmsUseLayerIds(project)
        self._restricted = set(QgsServerProjectUtils.wmsRestrictedLayers(project))
        self._drawable = {}

    def layers(self, group):
        """The published children of a group, topmost first."""
        found = []
        for node in group.children():
            if QgsLayerTree.isGroup(node):
                if node.name() not in self._restricted:
                    found.append(self._group(node))
            else:
                layer = node.layer()
                if layer is not None and layer.name() not in self._restricted:
                    found.append(self._layer(node, layer))
        return found

    def draw_order(self):
        """The names of drawable layers that `layers` has found, lowest first, each once. A name with a comma cannot be
        asked for: WMS separates names with it."""
        order = reversed(self._project.layerTreeRoot().layerOrder())
        names = (self._drawable.get(layer.id()) for layer in order)
        return list(dict.fromkeys(name for name in names if name and "," not in name))

    def _group(self, node):
        short = node.customProperty("wmsShortName") or ""
        return {
            "name": short or node.name(),
            "title": node.customProperty("wmsTitle") or node.name(),
            "type": "group",
            "visible": node.isVisible(),
            "layers": self.layers(node),
        }

    def _layer(self, node, layer):
        name = layer.id() if self._ids else _short_name(layer) or layer.name()
        if layer.isSpatial():
            self._drawable[layer.id()] = name
        described = {
            "name": name,
            "title": _title(layer) or layer.name(),
            "type": _TYPES.get(layer.type(), "other"),
            "visible": node.isVisible(),
            "queryable": bool(layer.flags() & QgsMapLayer.Identifiable),
        }
        if layer.isSpatial():
            described["crs"] = layer.crs().authid()
        if layer.type() == QgsMapLayerType.VectorLayer:
            described["geometry_type"] = QgsWkbTypes.displayString(layer.wkbType())
        if layer.hasScaleBasedVisibility():
            # QGIS has 0 for a bound that is not set.
            for key, scale in (("min_scale", layer.minimumScale()), ("max_scale", layer.maximumScale())):
                if scale > 0:
                    described[key] = scale
        return described


def _short_name(layer):
    # QGIS 3.38 and later have it with the properties for the server.
    return layer.serverProperties().shortName() if hasattr(layer, "serverProperties") else layer.shortName()


def _title(layer):
    return layer.serverProperties().title() if hasattr(layer, "serverProperties") else layer.title()


def _extent(project):
    """The extent that WMS advertises, else that of all layers; None when there is none."""
    for extent in (QgsServerProjectUtils.wmsExtent(project), project.viewSettings().fullExtent()):
        if not extent.isNull() and extent.isFinite():
            return extent
    return None


def _in_degrees(extent, project):
    degrees = QgsCoordinateReferenceSystem("EPSG:4326")
    if extent is None or not project.crs().isValid():
        return None
    transform = QgsCoordinateTransform(project.crs(), degrees, project.transformContext())
    transform.setBallparkTransformsAreAppropriate(True)
    try:
        there = transform.transformBoundingBox(extent, Qgis.TransformDirection.Forward, True)
    except QgsCsException:
        return None
    return there if there.isFinite() else None


def _numbers(extent):
    if extent is None:
        return None
    return [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]
