"""What every project script needs: opening layers, publishing them, and writing the project so that it may move.

Knows QGIS, and nothing of any one project. What QGIS draws by lot when it saves (ids, dates, default colours) is taken
out again, so that the files come out the same each time.
"""

import re
import zipfile
from pathlib import Path

from osgeo import ogr
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsFillSymbol,
    QgsLineSymbol,
    QgsMarkerSymbol,
    QgsPalLayerSettings,
    QgsProject,
    QgsRasterLayer,
    QgsReferencedRectangle,
    QgsRectangle,
    QgsSingleSymbolRenderer,
    QgsTextBufferSettings,
    QgsTextFormat,
    QgsVectorLayer,
    QgsVectorLayerSimpleLabeling,
)
from qgis.PyQt.QtCore import QSizeF
from qgis.PyQt.QtGui import QColor, QFont

ogr.UseExceptions()

WORLD = (-180.0, -90.0, 180.0, 90.0)
FONT = "DejaVu Sans"


class Kit:
    """Where to write, and QGIS's world map."""

    def __init__(self, folder, world_map):
        self.folder = Path(folder)
        self.world_map = Path(world_map)

    def path(self, name):
        """A file of that name under the target directory; its folder is made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def vector(self, file, table, name=None, where=None):
        """A vector layer from a table of a gpkg in the target directory."""
        source = f"{self.path(file)}|layername={table}" + (f"|subset={where}" if where else "")
        return self._checked(QgsVectorLayer(source, name or table, "ogr"), name or table)

    def raster(self, file, name):
        """A raster layer from a file in the target directory."""
        return self._checked(QgsRasterLayer(str(self.path(file)), name), name)

    @staticmethod
    def _checked(layer, name):
        if not layer.isValid():
            raise RuntimeError(f"layer {name} cannot be opened: {layer.error().message()}")
        if hasattr(layer, "setId"):  # QGIS 3.38 and later
            # Longer than ten letters: QGIS replaces a shorter id when it reads the project, but not in the layer tree, and
            # QGIS Server 3.40 then crashes when a map of a group is asked.
            layer.setId(f"{name}_demo_layer")
        return layer


def new_project(title, abstract, crs="EPSG:4326", extent=WORLD, extra_crs=("EPSG:3857",)):
    """A project with the service metadata that capabilities show. No advertised URL: answers carry the client's own."""
    project = QgsProject()
    project.setTitle(title)
    project.setCrs(QgsCoordinateReferenceSystem(crs))
    project.setPresetHomePath("")
    rectangle = QgsRectangle(*extent)
    project.viewSettings().setDefaultViewExtent(QgsReferencedRectangle(rectangle, project.crs()))
    project.writeEntry("Paths", "/Absolute", False)
    project.writeEntry("WMSServiceCapabilities", "/", True)
    for key, value in {
        "WMSServiceTitle": title, "WMSServiceAbstract": abstract, "WMSContactOrganization": "Graticule demo",
        "WMSContactPosition": "pointOfContact", "WMSFees": "no conditions apply", "WMSAccessConstraints": "None",
        "WMSRootName": "root",
    }.items():
        project.writeEntry(key, "/", value)
    project.writeEntry("WMSKeywordList", "/", ["Graticule", "demo"])
    project.writeEntry("WMSExtent", "/", [str(value) for value in extent])
    project.writeEntry("WMSCrsList", "/", list(dict.fromkeys([crs, "EPSG:4326", *extra_crs])))
    project.writeEntry("WMSAddWktGeometry", "/", True)
    project.writeEntry("WMSPrecision", "/", 6)
    return project


def publish(project, layers, group=None):
    """Adds `layers` (topmost first) and publishes vectors by WFS and OGC API Features, rasters by WCS; WMS has all."""
    root = group or project.layerTreeRoot()
    for layer in layers:
        project.addMapLayer(layer, False)
        root.addLayer(layer).setExpanded(False)
    for kind, service in ((QgsVectorLayer, "WFS"), (QgsRasterLayer, "WCS")):
        known, _ = project.readListEntry(f"{service}Layers", "/")
        names = known + [layer.id() for layer in layers if isinstance(layer, kind)]
        if names:
            project.writeEntry(f"{service}Layers", "/", names)
    for layer in layers:
        if isinstance(layer, QgsVectorLayer):
            project.writeEntry("WFSLayersPrecision", f"/{layer.id()}", 6)


def describe(layer, title, abstract):
    """Title and abstract as capabilities show them."""
    server = layer.serverProperties() if hasattr(layer, "serverProperties") else None
    if server is not None:
        server.setTitle(title)
        server.setAbstract(abstract)
    else:
        layer.setTitle(title)
        layer.setAbstract(abstract)
    return layer


def save(project, path):
    """Writes `project` to `path`, .qgs or .qgz; a project that cannot be written stops everything."""
    plain = path.with_suffix(".qgs")
    if not project.write(str(plain)):
        raise RuntimeError(f"cannot write {plain}: {project.error()}")
    project.clear()
    plain.with_name(f"{plain.stem}_attachments.zip").unlink(missing_ok=True)  # an empty style database
    settled = settle(plain.read_text(encoding="utf-8"))
    if path == plain:
        plain.write_text(settled, encoding="utf-8")
        return
    plain.unlink()
    entry = zipfile.ZipInfo(plain.name, date_time=(2026, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, settled, zipfile.ZIP_DEFLATED)


def settle(xml):
    """The project text without what differs from run to run: who saved it when, ids drawn by lot, hash order."""
    xml = re.sub(r' saveUser(Full)?="[^"]*"| saveDateTime="[^"]*"', "", xml)
    xml = re.sub(r'\s*<date type="Created" [^>]*>|\s*<creation>[^<]*</creation>', "", xml)
    xml = re.sub(r'"attachment:///[^"]*"', '"attachment:///"', xml)
    # Elevation profiles have symbols of random colours, and the server has no use for them.
    xml = re.sub(r"\s*<elevation\b(?:[^>]*/>|.*?</elevation>)", "", xml, flags=re.DOTALL)
    xml = re.sub(r"\s*<snapping-settings\b.*?</snapping-settings>", "", xml, flags=re.DOTALL)
    known = {}

    def number(match):
        place = known.setdefault(match[0], len(known) + 1)
        return f"{place:08x}-0000-0000-0000-000000000000".replace("-", match[1])

    return re.sub(r"(?<![0-9a-f])[0-9a-f]{8}([-_])(?:[0-9a-f]{4}\1){3}[0-9a-f]{12}", number, xml)


def copy_table(source, table, target, name=None, where=None, columns="*"):
    """Copies a table of a gpkg (`columns` as in SQL, `where` an SQL condition) into the gpkg `target` as `name`."""
    name = name or table
    kept = None if columns == "*" else columns
    data = ogr.Open(str(source))
    layer = data.GetLayerByName(table)
    layer.SetAttributeFilter(where)
    driver = ogr.GetDriverByName("GPKG")
    out = ogr.Open(str(target), update=1) if Path(target).exists() else driver.CreateDataSource(str(target))
    made = out.CreateLayer(name, layer.GetSpatialRef(), layer.GetGeomType(), ["FID=fid", "GEOMETRY_NAME=geom"])
    fields = layer.GetLayerDefn()
    indexes = [i for i in range(fields.GetFieldCount()) if kept is None or fields.GetFieldDefn(i).GetName() in kept]
    for index in indexes:
        made.CreateField(fields.GetFieldDefn(index))
    made.StartTransaction()
    for feature in layer:
        row = ogr.Feature(made.GetLayerDefn())
        row.SetGeometry(feature.GetGeometryRef())
        for place, index in enumerate(indexes):
            if not feature.IsFieldNull(index):
                row.SetField(place, feature.GetField(index))
        made.CreateFeature(row)
    made.CommitTransaction()


def fill(color, outline="#ffffff", width=0.16):
    """A plain fill with an outline, width in millimetres."""
    return QgsFillSymbol.createSimple(
        {"color": color, "outline_color": outline, "outline_width": str(width), "joinstyle": "round"})


def line(color, width, style="solid"):
    """A plain line, width in millimetres."""
    return QgsLineSymbol.createSimple(
        {"color": color, "width": str(width), "line_style": style, "capstyle": "round", "joinstyle": "round"})


def dot(color, size, outline="#ffffff", width=0.2):
    """A round marker, size in millimetres."""
    return QgsMarkerSymbol.createSimple(
        {"color": color, "size": str(size), "outline_color": outline, "outline_width": str(width)})


def single(layer, symbol):
    """One symbol for all features of the layer."""
    layer.setRenderer(QgsSingleSymbolRenderer(symbol))
    return layer


def text(size, color="#3f4a52", halo="#ffffff", halo_size=0.7, weight=QFont.Normal, italic=False, spacing=0.0):
    """A text format: size in points, halo in millimetres."""
    font = QFont(FONT)
    font.setWeight(weight)
    font.setItalic(italic)
    if spacing:
        font.setLetterSpacing(QFont.AbsoluteSpacing, spacing)
    style = QgsTextFormat()
    style.setFont(font)
    style.setSize(size)
    style.setColor(QColor(color))
    if halo:
        buffer = QgsTextBufferSettings()
        buffer.setEnabled(True)
        buffer.setSize(halo_size)
        buffer.setColor(QColor(halo))
        buffer.setOpacity(0.75)
        style.setBuffer(buffer)
    return style


def label(layer, expression, style, placement=QgsPalLayerSettings.Horizontal, **settings):
    """Labels from a QGIS expression; `settings` are attributes of QgsPalLayerSettings."""
    pal = QgsPalLayerSettings()
    pal.fieldName = expression
    pal.isExpression = True
    pal.placement = placement
    pal.setFormat(style)
    for key, value in settings.items():
        setattr(pal, key, value)
    layer.setLabeling(QgsVectorLayerSimpleLabeling(pal))
    layer.setLabelsEnabled(True)
    return pal


def size_mm(width, height):
    """A size in millimetres, for layouts."""
    return QSizeF(width, height)
