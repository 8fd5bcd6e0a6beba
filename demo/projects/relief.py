"""relief: a made-up island as a raster alone, hill-shaded, in a zipped project (relief.qgz).

Layers `hillshade` over `height`, both from one GeoTIFF in EPSG:3857, published by WCS.
"""

import geodata
from kit import describe, new_project, publish, save
from qgis.core import (
    QgsColorRampShader,
    QgsHillshadeRenderer,
    QgsRasterShader,
    QgsSingleBandPseudoColorRenderer,
)
from qgis.PyQt.QtGui import QColor, QPainter

EXTENT = (-20480.0, -20480.0, 20480.0, 20480.0)
HEIGHTS = [
    (-1500, "#8fbcd4"), (-200, "#b1d2e6"), (-1, "#dcedf4"), (0, "#d5dfb4"), (150, "#e4e3b1"), (400, "#e6d3a3"),
    (800, "#d1b48c"), (1300, "#b99f86"), (2000, "#efe9e2"),
]


def height_style(layer):
    """Colours by height in metres, sea included."""
    colors = QgsColorRampShader(HEIGHTS[0][0], HEIGHTS[-1][0])
    colors.setColorRampType(QgsColorRampShader.Interpolated)
    colors.setColorRampItemList(
        [QgsColorRampShader.ColorRampItem(metres, QColor(color), f"{metres} m") for metres, color in HEIGHTS])
    shader = QgsRasterShader()
    shader.setRasterShaderFunction(colors)
    layer.setRenderer(QgsSingleBandPseudoColorRenderer(layer.dataProvider(), 1, shader))
    return layer


def write(kit):
    """relief.tif and relief.qgz."""
    geodata.relief(kit.path("relief.tif"))
    project = new_project("An island", "The relief of a made-up island.", "EPSG:3857", EXTENT)
    height = describe(height_style(kit.raster("relief.tif", "height")), "Height", "Height above the sea in metres.")
    shade = kit.raster("relief.tif", "hillshade")
    shade.setRenderer(QgsHillshadeRenderer(shade.dataProvider(), 1, 315, 45))
    shade.setBlendMode(QPainter.CompositionMode_Multiply)
    shade.renderer().setOpacity(0.55)
    describe(shade, "Hillshade", "Light from the north-west.")
    publish(project, [shade, height])
    save(project, kit.path("relief.qgz"))
