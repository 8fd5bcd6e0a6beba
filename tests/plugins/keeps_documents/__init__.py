"""A server plugin that keeps documents for QGIS, and marks those that it gives back."""

from qgis.PyQt.QtCore import QByteArray
from qgis.server import QgsServerCacheFilter


class Cache(QgsServerCacheFilter):
    def __init__(self, interface):
        super().__init__(interface)
        self.kept = {}

    @staticmethod
    def question(request, key):
        return (key, *sorted(request.parameters().items()))

    def setCachedDocument(self, document, project, request, key):
        self.kept[self.question(request, key)] = document.toByteArray().data()
        return True

    def getCachedDocument(self, project, request, key):
        kept = self.kept.get(self.question(request, key))
        return QByteArray() if kept is None else QByteArray(kept + b"<!-- kept by a plugin -->")


class Plugin:
    def __init__(self, interface):
        self.cache = Cache(interface)
        interface.registerServerCache(self.cache, 100)


def serverClassFactory(interface):
    return Plugin(interface)
