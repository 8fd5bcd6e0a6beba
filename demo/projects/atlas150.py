"""atlas150: a world atlas of 150 layers, one for each country, the largest first. Heavy to load, cheap to draw.

Layers are named after the country's code, such as `FRA`, and all come from one table with a filter each. It shows what a
pin is for: the first request on it takes seconds when a worker has to load it, and a moment when it was inherited.
"""

from kit import copy_table, describe, fill, label, new_project, publish, save, single, text
from osgeo import ogr

LAYERS = 150
COLORS = ["#f6d9c4", "#d9e6c3", "#f5e7b9", "#e3d3e6", "#cfe4dc", "#f3cfcf", "#e6ddc6"]


def largest(kit):
    """Codes and names of the largest countries by area, each code once."""
    data = ogr.Open(str(kit.path("atlas150.gpkg")))
    seen = {}
    for feature in data.GetLayerByName("countries"):
        area = feature.GetGeometryRef().GetArea()
        code, name = feature.GetField("ISO_A3"), feature.GetField("NAME")
        if code and area > seen.get(code, (0.0, ""))[0]:
            seen[code] = (area, name)
    order = sorted(seen, key=lambda code: (-seen[code][0], code))
    return [(code, seen[code][1]) for code in order[:LAYERS]]


def write(kit):
    """atlas150.gpkg and atlas150.qgs."""
    copy_table(kit.world_map, "countries", kit.path("atlas150.gpkg"), columns=["NAME", "ISO_A3"])
    project = new_project("Atlas of 150 countries", "One layer for each of the 150 largest countries.")
    layers = []
    for number, (code, name) in enumerate(largest(kit)):
        layer = kit.vector("atlas150.gpkg", "countries", code, where=f"\"ISO_A3\" = '{code}'")
        single(layer, fill(COLORS[number % len(COLORS)], "#b09a8b", 0.12))
        label(layer, "\"NAME\"", text(7, "#4a4038", "#fffdf8", 0.5))
        layers.append(describe(layer, name, f"{name}, one of the {LAYERS} largest countries."))
    if len(layers) != LAYERS:
        raise RuntimeError(f"the world map has {len(layers)} countries with a code, {LAYERS} are needed")
    publish(project, layers)
    save(project, kit.path("atlas150.qgs"))
