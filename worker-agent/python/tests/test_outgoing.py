"""QGIS as a client: the header on its own requests, seen by a server that they reach."""

import http.server
import os
import threading
import unittest

import serving
from serving import driver, get_map, project


class Recorder(http.server.BaseHTTPRequestHandler):
    """Serves a picture for every `.png` and a raster for every `.tif`, and remembers who asked how."""

    seen = []
    picture = raster = b""

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        kinds = {".png": self.picture, ".tif": self.raster}
        data = kinds.get(os.path.splitext(self.path)[1])
        if data is None:
            self.send_error(404)
        else:
            self.answer(data, body)

    def answer(self, data, body):
        self.seen.append((self.path, dict(self.headers.items())))
        part, asked = data, self.headers.get("Range")
        if asked and body:
            first, last = asked.removeprefix("bytes=").split("-")
            part = data[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part)

    def log_message(self, *_):
        pass


class Outgoing(serving.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        Recorder.picture = tile()
        with open(project("hills.tif"), "rb") as file:
            Recorder.raster = file.read()
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
        cls.server.daemon_threads = True
        thread = threading.Thread(target=cls.server.serve_forever)
        thread.start()
        cls.addClassCleanup(thread.join)
        cls.addClassCleanup(cls.server.server_close)
        cls.addClassCleanup(cls.server.shutdown)
        cls.base = f"http://127.0.0.1:{cls.server.server_port}/"

    def setUp(self):
        Recorder.seen.clear()
        self.extra = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}

    def write(self, name, source, old, new):
        """A copy of a test project with another data source."""
        with open(project(source), encoding="utf-8") as file:
            text = file.read()
        self.assertIn(old, text)
        path = os.path.join(self.tmpdir, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new))
        return path

    def tiles(self, name):
        return self.write(name, "tiles.qgs", "http://127.0.0.1:9/", f"{self.base}{name}/")

    def raster(self, name):
        return self.write(name, "raster.qgs", "./hills.tif", f"/vsicurl/{self.base}{name}.tif")

    def depths(self):
        """The header's values on what was asked since the last call."""
        values = {headers.get("X-Graticule-Depth") for _, headers in Recorder.seen}
        self.assertNotEqual(Recorder.seen, [])
        Recorder.seen.clear()
        return values

    def draw(self, worker, path, layer, **more):
        answer = worker.ask(get_map(layer), project=path, **more)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertGreater(serving.colours(answer.body)[2], 1)

    def test_requests_of_qgis_in_spawned_and_forked_workers(self):
        zygote = self.drop(driver.Zygote(self.tmpdir, {"warm_up": False}, self.extra))
        for how in ("spawn", "fork"):
            worker = driver.spawn_worker(self.tmpdir, extra=self.extra) if how == "spawn" else zygote.fork()
            self.drop(worker)
            self.draw(worker, self.tiles(f"{how}-none"), "tiles")
            self.assertEqual(self.depths(), {"1"}, how)
            self.draw(worker, self.tiles(f"{how}-three"), "tiles", depth=3)
            self.assertEqual(self.depths(), {"4"}, how)
            self.draw(worker, self.tiles(f"{how}-back"), "tiles", depth=0)
            self.assertEqual(self.depths(), {"1"}, how)

    def test_a_load_marks_its_requests(self):
        worker = self.drop(driver.spawn_worker(self.tmpdir, extra=self.extra))
        self.draw(worker, self.raster("one"), "hills", depth=5)
        self.assertEqual(self.depths(), {"6"})
        worker.operate("load", project={"uri": self.raster("two"), "version": "1"})
        self.assertEqual(self.depths(), {"1"})

    def test_requests_of_gdal_keep_the_operators_headers(self):
        for operators in ("X-Mine: a,X-Yours: b", "X-Mine: a\r\nX-Yours: b\r\n", "X-Mine: a,X-Yours: b,"):
            extra = {**self.extra, "GDAL_HTTP_HEADERS": operators}
            worker = self.drop(driver.spawn_worker(self.tmpdir, extra=extra))
            self.draw(worker, self.raster("mine"), "hills", depth=1)
            for path, headers in Recorder.seen:
                got = {name: headers.get(name) for name in ("X-Mine", "X-Yours", "X-Graticule-Depth")}
                self.assertEqual(got, {"X-Mine": "a", "X-Yours": "b", "X-Graticule-Depth": "2"}, (operators, path))
            self.assertEqual(self.depths(), {"2"})
            worker.end()


def tile():
    """A picture of two colours."""
    from qgis.PyQt.QtCore import QBuffer, QByteArray
    from qgis.PyQt.QtGui import QColor, QImage

    image = QImage(256, 256, QImage.Format_RGB32)
    image.fill(QColor("green"))
    for x in range(0, 256, 2):
        for y in range(256):
            image.setPixelColor(x, y, QColor("white"))
    data = QByteArray()
    buffer = QBuffer(data)
    buffer.open(QBuffer.WriteOnly)
    image.save(buffer, "PNG")
    return bytes(data)


if __name__ == "__main__":
    unittest.main()
