"""A server plugin that tells in a header in which process it was loaded and which one serves."""

import os

from qgis.server import QgsServerFilter


class Filter(QgsServerFilter):
    def __init__(self, interface):
        super().__init__(interface)
        self.loaded_in = os.getpid()

    # Not when the answer is complete: of one that is streamed the head has long been sent by then.
    def onRequestReady(self):
        handler = self.serverInterface().requestHandler()
        handler.setResponseHeader("X-Adds-Header", f"loaded in {self.loaded_in}, served by {os.getpid()}")
        given = [f"{name}: {value}" for name, value in sorted(handler.requestHeaders().items())]
        handler.setResponseHeader("X-Headers-Given", "; ".join(given))
        return True


class Plugin:
    def __init__(self, interface):
        self.filter = Filter(interface)
        interface.registerFilter(self.filter, 10)


def serverClassFactory(interface):
    return Plugin(interface)
