"""
What holds for every request and every answer of the dashboard, whatever page it is: where an act may come
from, what a browser may do with a page, and the cookie.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# No script, and no style but the one file: what somebody smuggles into a name has nothing to run on.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

# A page that stays up to date has one script, which is a file of ours, and listens to us alone. Nothing within a page is run.
LIVE_CONTENT_SECURITY_POLICY = f"{CONTENT_SECURITY_POLICY}; script-src 'self'; connect-src 'self'"

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: with that, browsers send `Origin: null` along with our own forms, and where they send no
    # Sec-Fetch-Site (plain http on a company's network) an honest form could not be told from a foreign one.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}


def is_cross_site(method: str, headers: Mapping[str, str], own_url: str) -> bool:
    """
    Whether a browser says that a request which may change something comes from another site.

    No token in the forms: the browser itself says where a request comes from, in headers that no page can set
    (as Go's `http.CrossOriginProtection` and datasette's `csrf.py` reason). `Sec-Fetch-Site` decides where it
    is sent; `same-site` is refused too, because a neighbour below the same domain is not us. Browsers leave it
    away on plain http, and old ones altogether; all of them send `Origin` with a POST, whose host must be the
    one that they asked for. A request with neither comes from no browser, so nobody's cookie was lent to it.
    """
    if method in SAFE_METHODS:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        theirs = urlsplit(origin).netloc
    except ValueError:
        return True
    # A proxy in front may have changed Host; the address that the operator gave us is ours as well.
    return not theirs or theirs not in (headers.get("host"), urlsplit(own_url).netloc)


class Guard:
    """Around the whole dashboard, its error pages included."""

    def __init__(self, app: ASGIApp, refused: ASGIApp, own_url: str) -> None:
        self._app = app
        self._refused = refused
        self._own_url = own_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        foreign = is_cross_site(scope["method"], Headers(scope=scope), self._own_url)
        await (self._refused if foreign else self._app)(scope, receive, send_on)


def cookie_name(settings: Settings) -> str:
    """
    With `__Host-` a browser takes the cookie only from this very host, over https and for every path, so that no
    neighbour below the same domain can plant one. On plain http it would take none.
    """
    return "__Host-company_agents" if _is_https(settings) else "company_agents"


def set_cookie(response: Response, settings: Settings, token: Sensitive) -> None:
    """
    Hand a session to the browser; it ends with the browser, and with the session behind it.

    Lax and not Strict: whoever follows a link to the dashboard from a chat is to arrive signed in, and a GET
    changes nothing here.
    """
    response.set_cookie(
        cookie_name(settings), token.reveal_text(), path="/", httponly=True, samesite="lax", secure=_is_https(settings)
    )


def drop_cookie(response: Response, settings: Settings) -> None:
    """Take the session from the browser."""
    response.delete_cookie(cookie_name(settings), path="/", httponly=True, samesite="lax", secure=_is_https(settings))


def _is_https(settings: Settings) -> bool:
    return settings.url.startswith("https://")
