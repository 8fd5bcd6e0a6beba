"""public/roads: a small made-up road map in a folder of its own, asked for as `/public/roads`.

Layers `towns` (points) over `roads` (lines), EPSG:4326 around 10° E, 50° N.
"""

import math

import geodata
from kit import describe, dot, label, line, new_project, publish, save, single, text
from osgeo import ogr
from qgis.core import QgsCategorizedSymbolRenderer, QgsRendererCategory

EXTENT = (9.0, 49.4, 11.0, 50.6)
TOWNS = ["Ahausen", "Birkfeld", "Dornbach", "Eschental", "Furtwies", "Grauberg", "Hohenau", "Ilmenstein", "Kaltbrunn"]


def write_data(path):
    """Nine towns on a ring and in its middle, motorways round it, roads across."""
    data = geodata.open_gpkg(path)
    where = [(10.0, 50.0)] + [
        (10.0 + 0.8 * math.cos(math.tau * n / 8), 50.0 + 0.45 * math.sin(math.tau * n / 8)) for n in range(8)
    ]
    towns = data.CreateLayer("towns", geodata.WGS84, ogr.wkbPoint, ["FID=fid", "GEOMETRY_NAME=geom"])
    towns.CreateField(ogr.FieldDefn("name", ogr.OFTString))
    towns.CreateField(ogr.FieldDefn("people", ogr.OFTInteger))
    for number, (name, (x, y)) in enumerate(zip(TOWNS, where)):
        feature = ogr.Feature(towns.GetLayerDefn())
        feature.SetField("name", name)
        feature.SetField("people", 4000 + number * 3517 % 20000)
        feature.SetGeometry(ogr.CreateGeometryFromWkt(f"POINT ({x:.5f} {y:.5f})"))
        towns.CreateFeature(feature)
    roads = data.CreateLayer("roads", geodata.WGS84, ogr.wkbLineString, ["FID=fid", "GEOMETRY_NAME=geom"])
    roads.CreateField(ogr.FieldDefn("name", ogr.OFTString))
    roads.CreateField(ogr.FieldDefn("kind", ogr.OFTString))
    pairs = [("motorway", n, n % 8 + 1) for n in range(1, 9)] + [("road", 0, n) for n in range(1, 9)]
    for number, (kind, start, end) in enumerate(pairs):
        (x1, y1), (x2, y2) = where[start], where[end]
        bend = (x1 + x2) / 2 + (y2 - y1) * 0.12, (y1 + y2) / 2 - (x2 - x1) * 0.08
        feature = ogr.Feature(roads.GetLayerDefn())
        feature.SetField("name", f"{'A' if kind == 'motorway' else 'L'} {number + 1}")
        feature.SetField("kind", kind)
        feature.SetGeometry(ogr.CreateGeometryFromWkt(
            f"LINESTRING ({x1:.5f} {y1:.5f}, {bend[0]:.5f} {bend[1]:.5f}, {x2:.5f} {y2:.5f})"))
        roads.CreateFeature(feature)


def write(kit):
    """public/roads.gpkg and public/roads.qgs."""
    write_data(kit.path("public/roads.gpkg"))
    project = new_project("Roads", "A small made-up road map.", extent=EXTENT)
    towns = single(kit.vector("public/roads.gpkg", "towns"), dot("#c0392b", 2.6))
    label(towns, "\"name\"", text(9, "#3f4a52", "#ffffff", 0.8), dist=2)
    roads = kit.vector("public/roads.gpkg", "roads")
    roads.setRenderer(QgsCategorizedSymbolRenderer("kind", [
        QgsRendererCategory("motorway", line("#e08e45", 1.2), "Motorway"),
        QgsRendererCategory("road", line("#c9b458", 0.7), "Road"),
    ]))
    publish(project, [describe(towns, "Towns", "Made-up towns."), describe(roads, "Roads", "Made-up roads.")])
    save(project, kit.path("public/roads.qgs"))
