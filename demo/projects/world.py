"""The world project: a political map of the world with its graticule, published in every way QGIS Server knows.

Data: QGIS's own world map (Natural Earth, public domain), computed graticule lines and a raster of the distance to the
nearest coast, which also paints the sea. One print layout, A4, with the map `map0`.
"""

import geodata
from kit import copy_table, describe, fill, label, line, new_project, publish, save, single, text
from qgis.core import (
    QgsCategorizedSymbolRenderer,
    QgsColorRampShader,
    QgsLayoutItemLabel,
    QgsLayoutItemMap,
    QgsLayoutItemScaleBar,
    QgsLayoutPoint,
    QgsLayoutSize,
    QgsPalLayerSettings,
    QgsPrintLayout,
    QgsProperty,
    QgsRasterShader,
    QgsRectangle,
    QgsRendererCategory,
    QgsScaleBarSettings,
    QgsSingleBandPseudoColorRenderer,
    QgsUnitTypes,
)
from qgis.PyQt.QtCore import QRectF, Qt
from qgis.PyQt.QtGui import QColor, QFont

# Pastels of one lightness, so that no country shouts.
PASTELS = ["#f6d9c4", "#d9e6c3", "#f5e7b9", "#e3d3e6", "#cfe4dc", "#f3cfcf", "#e6ddc6"]
SEA = [(0.0, "#dcedf4"), (1.0, "#d2e7f1"), (2.5, "#c7e0ee"), (5.0, "#bcd9ea"), (10.0, "#b1d2e6"), (20.0, "#a6cae1")]
BORDER = "#b09a8b"


def write_data(kit):
    """world.gpkg and coast_distance.tif."""
    gpkg = kit.path("world.gpkg")
    copy_table(kit.world_map, "countries", gpkg)
    copy_table(kit.world_map, "states_provinces", gpkg, "provinces", columns=["name", "iso_a2", "admin", "adm0_a3"])
    copy_table(kit.world_map, "disputed_borders", gpkg)
    geodata.graticule(gpkg)
    geodata.map_colors(gpkg, "countries", "NAME", len(PASTELS))
    geodata.coast_distance(kit.world_map, kit.path("coast_distance.tif"))


def sea_style(layer):
    """Water in bands that darken away from the coast."""
    colors = QgsColorRampShader(SEA[0][0], SEA[-1][0])
    colors.setColorRampType(QgsColorRampShader.Discrete)
    steps = [*SEA[1:], (float("inf"), None)]
    colors.setColorRampItemList([
        QgsColorRampShader.ColorRampItem(upper, QColor(color), f"up to {upper:g}°" if upper < 1e9 else f"over {SEA[-1][0]:g}°")
        for (upper, _), (_, color) in zip(steps, SEA)
    ])
    shader = QgsRasterShader()
    shader.setRasterShaderFunction(colors)
    layer.setRenderer(QgsSingleBandPseudoColorRenderer(layer.dataProvider(), 1, shader))
    layer.resampleFilter().setZoomedInResampler(_bilinear())
    return layer


def _bilinear():
    from qgis.core import QgsBilinearRasterResampler

    return QgsBilinearRasterResampler()


def countries_style(layer):
    """Neighbours in different pastels, names where they fit."""
    layer.setRenderer(QgsCategorizedSymbolRenderer("mapcolor", [
        QgsRendererCategory(number, fill(color, BORDER, 0.12), f"colour {number}") for number, color in enumerate(PASTELS, 1)
    ]))
    settings = label(layer, "\"NAME\"", text(7, "#4a4038", "#fffdf8", 0.5), fitInPolygonOnly=True, labelPerPart=False)
    settings.dataDefinedProperties().setProperty(
        QgsPalLayerSettings.Size, QgsProperty.fromExpression("clamp(6, 5 + area($geometry) ^ 0.33 / 4, 11)"))
    layer.setLabeling(type(layer.labeling())(settings))
    return layer


def graticule_style(layer):
    """Thin white lines; the equator and the prime meridian a little stronger, the named circles dashed."""
    layer.setRenderer(QgsCategorizedSymbolRenderer("kind", [
        QgsRendererCategory("equator", line("#7fa9c4", 0.3), "Equator"),
        QgsRendererCategory("prime", line("#7fa9c4", 0.3), "Prime meridian"),
        QgsRendererCategory("circle", line("#7fa9c4", 0.2, "dash"), "Tropics and polar circles"),
        QgsRendererCategory("meridian", line("#f2f8fb", 0.2), "Meridian"),
        QgsRendererCategory("parallel", line("#f2f8fb", 0.2), "Parallel"),
    ]))
    label(layer, "if(\"kind\" in ('equator', 'circle'), \"name\", null)",
          text(6, "#5d8aa8", "#dcedf4", 0.4, italic=True), QgsPalLayerSettings.Line)
    return layer


def add_layout(project, title):
    """An A4 page, landscape: title, map `map0`, scale bar and where the data is from."""
    layout = QgsPrintLayout(project)
    layout.initializeDefaults()
    layout.setName("A4")
    layout.renderContext().setDpi(150)  # sharp enough on paper, and a quarter of the work of QGIS's 300

    def place(item, name, x, y, width, height):
        item.setId(name)
        item.attemptMove(QgsLayoutPoint(x, y, QgsUnitTypes.LayoutMillimeters))
        item.attemptResize(QgsLayoutSize(width, height, QgsUnitTypes.LayoutMillimeters))
        layout.addLayoutItem(item)

    view = QgsLayoutItemMap(layout)
    view.setRect(QRectF(0, 0, 277, 150))
    place(view, "map0", 10, 28, 277, 150)
    view.setExtent(QgsRectangle(-180, -90, 180, 90))
    view.setFrameEnabled(True)
    view.setFrameStrokeColor(QColor("#8fa3b0"))
    for name, words, style, box, side in (
        ("title", title, text(22, "#2f3b44", None, weight=QFont.Bold), (10, 10, 200, 14), Qt.AlignLeft),
        ("source", "Made with Natural Earth, public domain", text(8, "#6b7780", None), (187, 184, 100, 6), Qt.AlignRight),
    ):
        item = QgsLayoutItemLabel(layout)
        item.setText(words)
        item.setTextFormat(style)
        item.setHAlign(side)
        place(item, name, *box)
    bar = QgsLayoutItemScaleBar(layout)
    bar.setStyle("Single Box")
    bar.setLinkedMap(view)
    bar.setUnits(QgsUnitTypes.DistanceKilometers)
    bar.setUnitLabel("km")
    bar.setSegmentSizeMode(QgsScaleBarSettings.SegmentSizeFitWidth)
    bar.setTextFormat(text(8, "#2f3b44", None))
    place(bar, "scale", 10, 182, 90, 12)
    project.layoutManager().addLayout(layout)


def write_project(kit):
    """world.qgs, from the data that `write_data` left."""
    project = new_project("World", "A political map of the world with its graticule. Data: Natural Earth, public domain.")
    countries = describe(countries_style(kit.vector("world.gpkg", "countries")), "Countries", "Countries of the world.")
    provinces = single(kit.vector("world.gpkg", "provinces"), fill("255,255,255,0", "#c9b8aa", 0.08))
    describe(provinces, "Provinces", "States and provinces; drawn from 1:20,000,000 in.")
    provinces.setScaleBasedVisibility(True)
    provinces.setMinimumScale(20_000_000)
    label(provinces, "\"name\"", text(6, "#8a7b70", "#fffdf8", 0.4), fitInPolygonOnly=True)
    disputed = single(kit.vector("world.gpkg", "disputed_borders"), line("#a5756b", 0.2, "dot"))
    describe(disputed, "Disputed borders", "Borders that are not agreed upon.")
    lines = graticule_style(kit.vector("world.gpkg", "graticule"))
    describe(lines, "Graticule", "Meridians and parallels every 15 degrees, the tropics and the polar circles.")
    sea = sea_style(kit.raster("coast_distance.tif", "coast_distance"))
    describe(sea, "Distance to the coast", "Degrees to the nearest coast: negative on land, positive on water.")
    publish(project, [disputed, provinces, countries, lines, sea])
    add_layout(project, "The world and its graticule")
    save(project, kit.path("world.qgs"))


def write(kit):
    """Data first, project after."""
    write_data(kit)
    write_project(kit)
