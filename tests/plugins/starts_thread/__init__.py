"""A server plugin with a thread that counts, as one that reports somewhere in the background would have."""

import threading
import time

from qgis.server import QgsServerFilter


class Filter(QgsServerFilter):
    def __init__(self, interface):
        super().__init__(interface)
        self.ticks = 0
        threading.Thread(target=self.count, name="ticks", daemon=True).start()

    def count(self):
        while True:
            self.ticks += 1
            time.sleep(0.01)

    def onRequestReady(self):
        before = self.ticks
        time.sleep(0.1)
        handler = self.serverInterface().requestHandler()
        handler.setResponseHeader("X-Ticks", "yes" if self.ticks > before else "no")
        return True


def serverClassFactory(interface):
    thread = Filter(interface)
    interface.registerFilter(thread, 20)
    return thread
