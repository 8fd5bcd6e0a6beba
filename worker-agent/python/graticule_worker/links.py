"""Mends two links that QGIS gets wrong in OGC API answers when the project is named by MAP.

QGIS makes every other link right from the URL of the request. These two it makes as if a URL never had a query:
`…/?MAP=/world?request=DescribeFeatureType` (the collection's schema), and `/wfs3/static/style.css` without its MAP,
which nobody can then serve. Seen in QGIS 3.40.
"""

import re
from urllib.parse import urlsplit

_SCHEMA = re.compile(rb"""(\?[^"'?<>\s]*)\?(request=DescribeFeatureType)""", re.IGNORECASE)
_STATIC = re.compile(rb"""((?:href|src)=["']/[^"'?:]*/static/[^"'?]+)(?=["'])""")
_TYPES = ("application/json", "text/html")


def needs_mending(url, content_type):
    """Whether an answer of this type to this URL may hold such a link."""
    parts = urlsplit(url)
    return "/wfs3" in parts.path and content_type.startswith(_TYPES) and _map_of(parts.query) is not None


def mend(body, url, content_type):
    """The body with those links put right."""
    body = _SCHEMA.sub(rb"\1&\2", body)
    if content_type.startswith("text/html"):
        query = b"?" + _map_of(urlsplit(url).query).encode()
        body = _STATIC.sub(lambda link: link.group(1) + query, body)
    return body


def _map_of(query):
    """The MAP of a query as it was written, name and value; None without one."""
    for pair in query.split("&"):
        if pair[:4].lower() == "map=" and len(pair) > 4:
            return pair
    return None
