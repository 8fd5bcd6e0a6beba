"""QGIS's answer, sent on while QGIS still writes it.

QGIS writes into a QBuffer and calls `flush` once per feature of a WFS answer, once at the end of a map. What has come
together by then goes out as body frames when it is enough to be worth it, so that no whole answer is held here unless
QGIS itself makes it in one piece. Knows the channel, not projects.
"""

from qgis.PyQt.QtCore import QBuffer, QByteArray, QIODevice
from qgis.server import QgsServerResponse

from . import frames, links

_LARGEST_MENDED = 8 << 20
"""Answers above this many bytes are sent with their links as QGIS made them: to mend one it must be held as a whole."""


class Response(QgsServerResponse):
    """One answer. Errors raised here would be printed and lost by the C++ that calls us: they are kept in `failure`."""

    def __init__(self, channel, request):
        super().__init__()
        self._channel = channel
        self._request = request
        self._headers = {}
        self._status = 200
        self._buffer = QBuffer()
        self._buffer.open(QIODevice.ReadWrite)
        self._finished = False
        self.head_sent = False
        self.whole = False  # everything has been sent
        self.failure = None
        self.bytes = 0

    # Headers and status, as QgsServerResponse asks for them.

    def setHeader(self, key, value):
        if not self.head_sent:
            self._headers[key] = value

    def removeHeader(self, key):
        self._headers.pop(key, None)

    def header(self, key):
        return self._headers.get(key, "")

    def headers(self):
        return self._headers

    def headersSent(self):
        return self.head_sent

    def setStatusCode(self, code):
        self._status = code

    def statusCode(self):
        return self._status

    def sendError(self, code, message):
        if not self.head_sent:
            self.clear()
            self.refuse(code, message)

    def refuse(self, code, message):
        """Answer with a line of text, beside headers already set."""
        self.setStatusCode(code)
        self.setHeader("Content-Type", "text/plain; charset=utf-8")
        self._buffer.write(message.encode())
        self.finish()

    # The body.

    def io(self):
        return self._buffer

    def data(self):
        return self._buffer.data()

    def clear(self):
        """Forget what has not been sent."""
        self._headers = {}
        self.truncate()

    def truncate(self):
        self._buffer.seek(0)
        self._buffer.buffer().clear()

    def flush(self):
        if self._buffer.size() >= frames.CHUNK:
            self._guarded(self._drain)

    def finish(self):
        if not self._finished:
            self._finished = True
            self._guarded(self._send_rest)

    def feedback(self):
        """Asked by QGIS 3.36 and later; what `cancel` of the protocol works on."""
        return self._request.feedback

    def _guarded(self, action):
        if self.failure is not None:
            self.truncate()
            return
        try:
            action()
        except Exception as error:
            self.failure = error
            self.truncate()

    def _send_rest(self):
        if self._request.cancelled:
            self.truncate()
            return
        if not self.head_sent:
            self._mend_links()
            self._headers["Content-Length"] = str(self._buffer.size())
        self._drain()
        self.whole = not self._request.cancelled

    def _drain(self):
        if self._request.cancelled:
            self.truncate()  # nobody waits for it any more
            return
        if not self.head_sent:
            if not self._finished:
                self._headers.pop("Content-Length", None)  # of a part, if anybody has set it
            self.head_sent = True
            self._channel.head(
                {
                    "event": "response",
                    "id": self._request.id,
                    "status": self._status,
                    "headers": [[str(key), str(value)] for key, value in self._headers.items()],
                }
            )
        if self._request.method != "HEAD":
            self._buffer.seek(0)
            # A flush finds a little over one chunk: that goes as one frame, not as a large and a tiny one.
            while chunk := self._buffer.read(2 * frames.CHUNK):
                self._channel.body(bytes(chunk))
                self.bytes += len(chunk)
        self.truncate()

    def _mend_links(self):
        content_type = self._headers.get("Content-Type", "")
        if self._buffer.size() <= _LARGEST_MENDED and links.needs_mending(self._request.url, content_type):
            body = links.mend(bytes(self._buffer.data()), self._request.url, content_type)
            self.truncate()
            self._buffer.write(QByteArray(body))
