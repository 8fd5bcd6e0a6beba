"""points: 200,000 made-up measuring points. The whole layer as GeoJSON is about 60 MB, which an answer has to stream.

Layer `points` with the fields `name`, `sensor`, `value`, `taken` and `remark`.
"""

import geodata
from kit import describe, dot, new_project, publish, save, single
from osgeo import ogr

COUNT = 200_000
SENSORS = ["thermometer", "barometer", "hygrometer", "anemometer"]
REMARK = "checked on site, calibrated against the reference station"


def write_data(path):
    """Points on a golden-angle lattice, so that they cover the map evenly and the same each time."""
    data = geodata.open_gpkg(path)
    layer = data.CreateLayer("points", geodata.WGS84, ogr.wkbPoint, ["FID=fid", "GEOMETRY_NAME=geom"])
    for name, kind in (("name", ogr.OFTString), ("sensor", ogr.OFTString), ("value", ogr.OFTReal),
                       ("taken", ogr.OFTString), ("remark", ogr.OFTString)):
        layer.CreateField(ogr.FieldDefn(name, kind))
    layer.StartTransaction()
    feature = ogr.Feature(layer.GetLayerDefn())
    for number in range(COUNT):
        feature.SetFID(number + 1)
        point = ogr.Geometry(ogr.wkbPoint)
        point.AddPoint_2D((number * 137.50776405) % 360 - 180, (number * 0.00085) % 170 - 85)
        feature.SetGeometryDirectly(point)
        feature.SetField(0, f"point {number:06d}")
        feature.SetField(1, SENSORS[number % len(SENSORS)])
        feature.SetField(2, (number * 7919 % 100_003) / 1000)
        feature.SetField(3, f"2026-{number % 12 + 1:02d}-{number % 28 + 1:02d}T{number % 24:02d}:00:00Z")
        feature.SetField(4, REMARK)
        layer.CreateFeature(feature)
    layer.CommitTransaction()


def write(kit):
    """points.gpkg and points.qgs."""
    write_data(kit.path("points.gpkg"))
    project = new_project("Measuring points", f"{COUNT:,} made-up measuring points.")
    points = single(kit.vector("points.gpkg", "points"), dot("#2f7ea8", 1.2))
    publish(project, [describe(points, "Points", "Made-up measuring points.")])
    save(project, kit.path("points.qgs"))
