"""Writes the small projects that the tests serve: `make_data.py FOLDER`. A program of its own, so that the process that
runs the tests has no QGIS in it."""

import os
import sqlite3
import sys

os.environ["QT_QPA_PLATFORM"] = "offscreen"

from osgeo import gdal, ogr, osr  # noqa: E402
from qgis.core import (  # noqa: E402
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsLayoutItemMap,
    QgsPrintLayout,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QRectF  # noqa: E402

AREAS = 50
BIG = 20_000
BIG_TEXT = 900


def wgs84():
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(4326)
    return reference


def write_vector(path, name, rows, wal=False):
    """Rectangles in a GeoPackage; `rows` are (x, y, size, text, number)."""
    source = ogr.GetDriverByName("GPKG").CreateDataSource(path)
    layer = source.CreateLayer(name, wgs84(), ogr.wkbPolygon)
    layer.CreateField(ogr.FieldDefn("name", ogr.OFTString))
    layer.CreateField(ogr.FieldDefn("n", ogr.OFTInteger))
    layer.StartTransaction()
    for x, y, size, text, number in rows:
        feature = ogr.Feature(layer.GetLayerDefn())
        feature.SetField("name", text)
        feature.SetField("n", number)
        ring = f"{x} {y},{x + size} {y},{x + size} {y + size},{x} {y + size},{x} {y}"
        feature.SetGeometry(ogr.CreateGeometryFromWkt(f"POLYGON(({ring}))"))
        layer.CreateFeature(feature)
    layer.CommitTransaction()
    del layer, source
    if wal:
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        connection.close()


def write_raster(path):
    """Every row and column differs, so that a read at a wrong offset gives a wrong picture."""
    width, height = 600, 400
    source = gdal.GetDriverByName("GTiff").Create(
        path, width, height, 1, gdal.GDT_Byte, ["COMPRESS=DEFLATE", "TILED=YES"]
    )
    source.SetGeoTransform([0, 100 / width, 0, 60, 0, -60 / height])
    source.SetProjection(wgs84().ExportToWkt())
    rows = bytes((x * 7 + y * 13 + x * y // 11) % 256 for y in range(height) for x in range(width))
    source.GetRasterBand(1).WriteRaster(0, 0, width, height, rows)
    source.BuildOverviews("NEAREST", [2, 4])


def write_project(path, layers, wfs=(), wcs=(), layout=False):
    project = QgsProject()
    project.setCrs(QgsCoordinateReferenceSystem("EPSG:4326"))
    project.addMapLayers(layers)
    project.writeEntry("WFSLayers", "/", [layer.id() for layer in wfs])
    project.writeEntry("WCSLayers", "/", [layer.id() for layer in wcs])
    if layout:
        page = QgsPrintLayout(project)
        page.initializeDefaults()
        page.setName("A4")
        item = QgsLayoutItemMap(page)
        item.attemptSetSceneRect(QRectF(10, 10, 200, 120))
        item.setExtent(QgsRectangle(0, 0, 100, 60))
        page.addLayoutItem(item)
        project.layoutManager().addLayout(page)
    assert project.write(path), path


def write_named(path, layers):
    """One with names of its own for WMS: a group that is off, a short name, a name with a comma, a restricted layer."""
    project = QgsProject()
    project.setCrs(QgsCoordinateReferenceSystem("EPSG:3857"))
    project.addMapLayers(layers, False)
    inner, comma, secret = layers
    if hasattr(inner, "serverProperties"):  # QGIS 3.38
        inner.serverProperties().setShortName("short")
        inner.serverProperties().setTitle("A title")
    else:
        inner.setShortName("short")
        inner.setTitle("A title")
    inner.setScaleBasedVisibility(True)
    inner.setMinimumScale(50000)
    inner.setMaximumScale(1000)
    comma.setName("a,b")
    secret.setName("secret")
    group = project.layerTreeRoot().addGroup("A group")
    group.setCustomProperty("wmsShortName", "folder")
    group.addLayer(inner)
    group.setItemVisibilityChecked(False)
    project.layerTreeRoot().addLayer(comma)
    project.layerTreeRoot().addLayer(secret)
    project.writeEntry("WMSRestrictedLayers", "/", ["secret"])
    project.writeEntry("WMSServiceCapabilities", "/", True)
    project.writeEntry("WMSServiceTitle", "/", "Service")
    project.writeEntry("WMSServiceAbstract", "/", "About it")
    project.writeEntry("WMSExtent", "/", ["0", "0", "111319.491", "111325.143"])
    project.writeEntry("WMSMaxWidth", "/", 2000)
    assert project.write(path), path


def main(folder):
    def vector(file, name):
        layer = QgsVectorLayer(f"{folder}/{file}|layername={name}", name, "ogr")
        assert layer.isValid(), file
        return layer

    write_vector(
        f"{folder}/areas.gpkg", "areas", [(10 * (i % 10), 10 * (i // 10), 8, f"a{i}", i) for i in range(AREAS)]
    )
    write_vector(f"{folder}/live.gpkg", "live", [(i, i, 1, f"l{i}", i) for i in range(5)], wal=True)
    big = ((i % 200 / 2, i // 200 / 2, 0.4, "x" * BIG_TEXT, i) for i in range(BIG))
    write_vector(f"{folder}/big.gpkg", "big", big)
    write_raster(f"{folder}/hills.tif")

    areas, hills = vector("areas.gpkg", "areas"), QgsRasterLayer(f"{folder}/hills.tif", "hills")
    assert hills.isValid()
    write_project(f"{folder}/world.qgs", [areas, hills], [areas], [hills], layout=True)
    write_project(f"{folder}/zipped.qgz", [vector("areas.gpkg", "areas")])
    write_project(f"{folder}/raster.qgs", [QgsRasterLayer(f"{folder}/hills.tif", "hills")])
    write_named(f"{folder}/named.qgs", [vector("areas.gpkg", "areas") for _ in range(3)])
    layer = vector("big.gpkg", "big")
    write_project(f"{folder}/big.qgs", [layer], [layer])
    layer = vector("live.gpkg", "live")
    write_project(f"{folder}/live.qgs", [layer], [layer])

    # A layer of a kind that must not be loaded before a fork. Nothing is asked for: the project is only written.
    remote = QgsRasterLayer("url=http://127.0.0.1:9/&layers=a&styles=&format=image/png&crs=EPSG:4326", "far", "wms")
    write_project(f"{folder}/remote.qgs", [vector("areas.gpkg", "areas"), remote])

    tiles = QgsRasterLayer("type=xyz&url=http://127.0.0.1:9/{z}/{x}/{y}.png&zmin=0&zmax=5", "tiles", "wms")
    assert tiles.isValid()
    write_project(f"{folder}/tiles.qgs", [tiles])

    write_vector(f"{folder}/lost.gpkg", "lost", [(0, 0, 1, "lost", 0)])
    write_project(f"{folder}/partly.qgs", [vector("areas.gpkg", "areas"), vector("lost.gpkg", "lost")])
    os.remove(f"{folder}/lost.gpkg")
    with open(f"{folder}/broken.qgs", "w", encoding="utf-8") as file:
        file.write("<qgis><not closed")


if __name__ == "__main__":
    application = QgsApplication([], False)
    application.initQgis()
    main(os.path.abspath(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
