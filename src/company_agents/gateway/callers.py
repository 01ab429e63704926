"""
Before anything of a request is looked at: who could send it at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from company_agents.errors import Refused, WrongUsage


def check(scope: Mapping[str, Any], url: str) -> None:
    """
    No page of another site, and no client that could not tell a broken answer. `url` is ours.

    Raises:
        Refused: a browser's page sent it.
        WrongUsage: it is HTTP/1.0.
    """
    ours = urlsplit(url)
    for name, value in scope["headers"]:
        # Clients that are no browsers send neither.
        if (name == b"origin" and value.decode("latin-1").lower() != f"{ours.scheme}://{ours.netloc}".lower()) or (
            name == b"sec-fetch-site" and value not in (b"same-origin", b"none")
        ):
            raise Refused("a page of another site may not call this", hint="agents send no Origin")
    if scope["http_version"] == "1.0":
        raise WrongUsage(
            "this needs HTTP/1.1: with 1.0, an answer that broke off looks whole",
            hint="for nginx: proxy_http_version 1.1",
        )
