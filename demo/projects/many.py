"""many: 200 town maps for benches, `town000` to `town199`: eight to twelve layers each, as a small city would publish.

Ten towns share one gpkg of a few hundred made-up shapes a table; EPSG:25832, the square `EXTENT`. Layers are named after
their tables, topmost first as in `TABLES`; every town has the first eight. A bench that asks fewer towns takes the first.
"""

import random

import geodata
from kit import describe, dot, fill, label, line, new_project, publish, save, single, text
from osgeo import ogr, osr
from qgis.core import (
    QgsCategorizedSymbolRenderer,
    QgsGraduatedSymbolRenderer,
    QgsRendererCategory,
    QgsRendererRange,
)

TOWNS = 200
SHARE = 10
FEWEST, MOST = 8, 12
EXTENT = (500_000.0, 5_500_000.0, 504_096.0, 5_504_096.0)
KINDS = ["one", "two", "three", "four"]
COLORS = ["#e8cfa9", "#d7e3c4", "#c9d8e6", "#e3c9d4"]
# Name, shape, how many; topmost first.
TABLES = [
    ("stops", "point", 60), ("places", "point", 24), ("streets", "line", 160), ("paths", "line", 120),
    ("buildings", "square", 600), ("water", "square", 30), ("parks", "square", 40), ("parcels", "square", 400),
    ("trees", "point", 300), ("pipes", "line", 140), ("noise", "square", 60), ("districts", "square", 16),
]
SIZES = {"buildings": 28.0, "water": 160.0, "parks": 220.0, "parcels": 120.0, "noise": 320.0, "districts": 900.0}


def outline(shape, table, draw):
    """A shape of the table somewhere in the extent, as WKT."""
    left, bottom, right, top = EXTENT
    x, y = draw.uniform(left, right), draw.uniform(bottom, top)
    if shape == "point":
        return f"POINT ({x:.2f} {y:.2f})"
    if shape == "line":
        points = [(x, y)]
        for _ in range(7):
            points.append((points[-1][0] + draw.uniform(-90, 140), points[-1][1] + draw.uniform(-140, 90)))
        return "LINESTRING (" + ", ".join(f"{px:.2f} {py:.2f}" for px, py in points) + ")"
    size = SIZES[table]
    corners = [(x + dx * size * draw.uniform(0.7, 1.3), y + dy * size * draw.uniform(0.7, 1.3))
               for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.6, 0.1), (0.5, 0.5), (-0.5, 0.5))]
    return "POLYGON ((" + ", ".join(f"{px:.2f} {py:.2f}" for px, py in [*corners, corners[0]]) + "))"


def write_data(path, seed):
    """All tables of one gpkg."""
    draw = random.Random(seed)
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(25832)
    data = geodata.open_gpkg(path)
    types = {"point": ogr.wkbPoint, "line": ogr.wkbLineString, "square": ogr.wkbPolygon}
    for name, shape, count in TABLES:
        layer = data.CreateLayer(name, srs, types[shape], ["FID=fid", "GEOMETRY_NAME=geom"])
        for field, kind in (("name", ogr.OFTString), ("kind", ogr.OFTString), ("amount", ogr.OFTReal)):
            layer.CreateField(ogr.FieldDefn(field, kind))
        layer.StartTransaction()
        for number in range(count):
            feature = ogr.Feature(layer.GetLayerDefn())
            feature.SetField("name", f"{name} {number + 1}")
            feature.SetField("kind", KINDS[number % len(KINDS)])
            feature.SetField("amount", draw.uniform(0, 100))
            feature.SetGeometry(ogr.CreateGeometryFromWkt(outline(shape, name, draw)))
            layer.CreateFeature(feature)
        layer.CommitTransaction()


def symbol(shape, color):
    """A plain symbol that goes with the shape."""
    return {"point": lambda: dot(color, 1.8), "line": lambda: line(color, 0.5),
            "square": lambda: fill(color, "#8d8479", 0.1)}[shape]()


def styled(layer, name, shape):
    """Every third table is plain, by category, by amount; streets, places and districts have labels."""
    way = [table for table, _, _ in TABLES].index(name) % 3
    if way == 0:
        single(layer, symbol(shape, COLORS[0]))
    elif way == 1:
        layer.setRenderer(QgsCategorizedSymbolRenderer("kind", [
            QgsRendererCategory(kind, symbol(shape, color), kind.title()) for kind, color in zip(KINDS, COLORS)]))
    else:
        layer.setRenderer(QgsGraduatedSymbolRenderer("amount", [
            QgsRendererRange(low, low + 25, symbol(shape, color), f"from {low}")
            for low, color in zip((0, 25, 50, 75), COLORS)]))
    if name in ("streets", "places", "districts"):
        label(layer, "\"name\"", text(7, "#3f4a52", "#ffffff", 0.6))
    return describe(layer, name.title(), f"Made-up {name}.")


def write(kit):
    """town000.qgs to town199.qgs and their gpkgs."""
    for place in range(TOWNS // SHARE):
        write_data(kit.path(f"data{place:02d}.gpkg"), place)
    for town in range(TOWNS):
        wanted = TABLES[:FEWEST + town % (MOST - FEWEST + 1)]
        title = f"Town {town:03d}"
        project = new_project(title, f"The map of {title}.", crs="EPSG:25832", extent=EXTENT)
        file = f"data{town // SHARE:02d}.gpkg"
        publish(project, [styled(kit.vector(file, name), name, shape) for name, shape, _ in wanted])
        save(project, kit.path(f"town{town:03d}.qgs"))
