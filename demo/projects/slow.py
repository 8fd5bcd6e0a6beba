"""slow: a map that costs seconds when it is large: provinces of the world with blurred shadows and a label each.

Layers `labels` over `glow` over `land`. A tile of 256 pixels takes a moment, 2000 by 1000 pixels take seconds. Tests use
it for deadlines and cancelled requests.
"""

from kit import copy_table, describe, fill, label, new_project, publish, save, single, text
from qgis.core import QgsBlurEffect, QgsDrawSourceEffect, QgsDropShadowEffect, QgsEffectStack
from qgis.PyQt.QtGui import QColor


def shadowed(layer):
    """A soft shadow and a blur under every polygon: each is drawn by itself and filtered."""
    shadow = QgsDropShadowEffect()
    shadow.setBlurLevel(4)
    shadow.setOffsetDistance(0.6)
    shadow.setColor(QColor("#59636b"))
    blur = QgsBlurEffect()
    blur.setBlurLevel(3)
    stack = QgsEffectStack()
    for effect in (shadow, blur, QgsDrawSourceEffect()):
        stack.appendEffect(effect)
    layer.renderer().setPaintEffect(stack)
    return layer


def write(kit):
    """slow.gpkg and slow.qgs."""
    copy_table(kit.world_map, "states_provinces", kit.path("slow.gpkg"), "provinces", columns=["name"])
    project = new_project("A slow map", "Provinces of the world with shadows and a label each; large maps take seconds.")
    names = single(kit.vector("slow.gpkg", "provinces", "labels"), fill("255,255,255,0", "#b9a99c", 0.1))
    label(names, "\"name\"", text(6, "#5b4a3f", "#fffdf8", 0.6), fitInPolygonOnly=True)
    glow = shadowed(single(kit.vector("slow.gpkg", "provinces", "glow"), fill("#e8dcc6", "#b9a99c", 0.1)))
    land = shadowed(single(kit.vector("slow.gpkg", "provinces", "land"), fill("#f2ead8", "#b9a99c", 0.1)))
    describe(names, "Labels", "A label for every province, where it fits into its province.")
    describe(glow, "Glow", "Provinces with a blurred shadow.")
    describe(land, "Land", "The same once more, underneath.")
    publish(project, [names, glow, land])
    save(project, kit.path("slow.qgs"))
