"""A server plugin that shows some layers only to those who say a word in the header X-Map-Word."""

from qgis.server import QgsAccessControlFilter

HIDDEN = {"countries", "areas"}


class Access(QgsAccessControlFilter):
    def knows(self):
        return self.serverInterface().requestHandler().requestHeaders().get("X-Map-Word") == "sesame"

    def layerPermissions(self, layer):
        rights = QgsAccessControlFilter.LayerPermissions()
        rights.canRead = layer.name() not in HIDDEN or self.knows()
        return rights

    def cacheKey(self):
        return "all" if self.knows() else "some"


class Plugin:
    def __init__(self, interface):
        self.access = Access(interface)
        interface.registerAccessControl(self.access, 100)


def serverClassFactory(interface):
    return Plugin(interface)
