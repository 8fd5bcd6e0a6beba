#!/usr/bin/python3
"""Projects of one layer, `sheet`: a rectangle as large as the world in one plain colour. Puts them where QGIS keeps projects.

    /usr/bin/python3 tests/storage/sheets.py make FOLDER [SOURCE]   FOLDER/red.qgs, green.qgs, blue.qgs, each as .qgz, too
    /usr/bin/python3 tests/storage/sheets.py put FILE URI           stores a project as QGIS Desktop does: URI is QGIS's own
    /usr/bin/python3 tests/storage/sheets.py remove URI             and takes it out again

SOURCE is the PostGIS data source of the layer; without one it is a file in FOLDER, by its absolute path, so that a
project may be copied anywhere.
"""

import os
import sys
import tempfile
from pathlib import Path

COLOURS = {"red": "#c80000", "green": "#00c800", "blue": "#0000c8"}


def start_qgis(home):
    os.environ.update(QT_QPA_PLATFORM="offscreen", QGIS_CUSTOM_CONFIG_PATH=home, XDG_RUNTIME_DIR=home,
                      QT_LOGGING_RULES="*.debug=false;qt.qpa.*=false")
    from qgis.core import QgsApplication

    QgsApplication.setPrefixPath(os.environ.get("QGIS_PREFIX_PATH", "/usr"), True)
    application = QgsApplication([], False)
    application.initQgis()
    return application


def draw_sheet(path):
    """A gpkg with one polygon, the world."""
    from osgeo import ogr, osr

    ogr.UseExceptions()
    system = osr.SpatialReference()
    system.ImportFromEPSG(4326)
    data = ogr.GetDriverByName("GPKG").CreateDataSource(str(path))
    layer = data.CreateLayer("sheet", system, ogr.wkbPolygon, ["FID=fid", "GEOMETRY_NAME=geom"])
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(ogr.CreateGeometryFromWkt("POLYGON((-180 -90,180 -90,180 90,-180 90,-180 -90))"))
    layer.CreateFeature(feature)


def make(folder, source):
    from qgis.core import QgsCoordinateReferenceSystem, QgsFillSymbol, QgsProject, QgsSingleSymbolRenderer, QgsVectorLayer

    folder.mkdir(parents=True, exist_ok=True)
    provider = "postgres" if source else "ogr"
    if not source:
        draw_sheet(folder / "sheet.gpkg")
        source = f"{folder / 'sheet.gpkg'}|layername=sheet"
    for name, colour in COLOURS.items():
        layer = QgsVectorLayer(source, "sheet", provider)
        if not layer.isValid():
            sys.exit(f"error: {source} cannot be opened: {layer.error().message()}")
        symbol = QgsFillSymbol.createSimple({"color": colour, "outline_style": "no"})
        layer.setRenderer(QgsSingleSymbolRenderer(symbol))
        project = QgsProject()
        project.setTitle(name)
        project.setCrs(QgsCoordinateReferenceSystem("EPSG:4326"))
        project.writeEntry("Paths", "/Absolute", True)
        project.addMapLayer(layer)
        project.writeEntry("WFSLayers", "/", [layer.id()])
        for suffix in ("qgs", "qgz"):
            if not project.write(str(folder / f"{name}.{suffix}")):
                sys.exit(f"error: {project.error()}")


def put(file, uri):
    from qgis.core import QgsProject

    project = QgsProject()
    if not project.read(file) or not project.write(uri):
        sys.exit(f"error: {file} could not be stored as {uri}: {project.error()}")


def remove(uri):
    from qgis.core import QgsApplication

    storage = QgsApplication.projectStorageRegistry().projectStorageFromUri(uri)
    if storage is None or not storage.removeProject(uri):
        sys.exit(f"error: {uri} could not be removed")


def main():
    verb, *rest = sys.argv[1:] or [""]
    counts = {"make": (1, 2), "put": (2,), "remove": (1,)}
    if len(rest) not in counts.get(verb, ()):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="graticule-qgis-") as home:
        _application = start_qgis(home)
        if verb == "make":
            make(Path(rest[0]).absolute(), rest[1] if len(rest) > 1 else None)
        elif verb == "put":
            put(*rest)
        else:
            remove(*rest)
        sys.stdout.flush()
    os._exit(0)  # QGIS's own tear-down may crash in Python's; everything is on disk


if __name__ == "__main__":
    main()
