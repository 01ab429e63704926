"""
The dashboard as one ASGI application: which address is which page, who may come in, and what an error looks like.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from company_agents.app import App
from company_agents.dashboard.guard import HEADERS, SAFE_METHODS, Guard
from company_agents.dashboard.live import Streams
from company_agents.dashboard.pages import PAGES
from company_agents.dashboard.render import STATIC
from company_agents.dashboard.visit import Page, Visit, go, here, slowed, visit_of
from company_agents.errors import CompanyAgentsError, Failed, NotFound, Refused, Sealed, Unauthenticated, WrongUsage

Endpoint = Callable[[Request], Awaitable[Response]]


def dashboard_app(app: App) -> ASGIApp:
    """The dashboard: every path that is no other door's."""
    errors = _Errors(app)
    routes: list[BaseRoute] = [_route(app, page) for page in PAGES]
    routes.append(Mount("/static", _Static(directory=STATIC)))
    starlette = Starlette(
        routes=routes,
        exception_handlers={CompanyAgentsError: errors.ours, HTTPException: errors.of_http, Exception: errors.other},
    )
    starlette.state.streams = Streams()
    return Guard(starlette, errors.cross_site, app.settings.url)


def sealed_page(app: App) -> ASGIApp:
    """What a browser is shown in place of any page while the instance is sealed."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = Visit(app, Request(scope, receive)).page("sealed.html", status=Sealed.http_status)
        response.headers.update(HEADERS)
        await response(scope, receive, send)

    return answer


class _Static(StaticFiles):
    """Files whose address has a digest of them, so that a browser may keep them."""

    def file_response(self, *given: object, **named: object) -> Response:
        response = super().file_response(*given, **named)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def _route(app: App, page: Page) -> Route:
    methods = [method for method, handler in (("GET", page.show), ("POST", page.act)) if handler]
    return Route(page.path, _endpoint(app, page), methods=methods)


def _endpoint(app: App, page: Page) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        visit = await visit_of(app, request, used=not page.stream)
        request.state.visit = visit
        if not page.for_anybody:
            turned_away = await _admit(visit, page)
            if turned_away is not None:
                return turned_away
        handler = page.show if request.method in SAFE_METHODS else page.act
        assert handler is not None
        return await handler(visit)

    return endpoint


async def _admit(visit: Visit, page: Page) -> Response | None:
    """
    Somewhere else to go first, or None.

    Raises:
        NotFound, Refused: this page is not theirs.
        Unauthenticated: nobody is signed in, and a stream leads nowhere.
    """
    if visit.signed_in is None:
        if page.stream:
            raise Unauthenticated("you are not signed in any more", hint="load the page again")
        return go("/sign-in", **{"return": here(visit.request)})
    if "company" in visit.request.path_params:
        await visit.enter(visit.id("company"))
        if not page.stream:
            visit.waiting = await visit.app.approvals.waiting(visit.caller)
    if page.permission is not None:
        visit.require(page.permission)
    if page.is_confirmed and not visit.session.confirmed:
        # To the form, not to the act: what was sent with it (a token, who may use it) is not kept anywhere, and
        # not taken from an address either, where somebody else could have put it.
        return go("/confirm", **{"return": here(visit.request)})
    return None


class _Errors:
    """Every error as a page."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def ours(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, CompanyAgentsError)
        visit: Visit = getattr(request.state, "visit", None) or await self._visit(request)
        response = visit.page("error.html", status=error.http_status, error=error)
        return slowed(response, error)

    async def _visit(self, request: Request) -> Visit:
        """Where there is no page: who asked for it, so that nobody is told to sign in who is."""
        try:
            return await visit_of(self._app, request)
        except CompanyAgentsError:
            return Visit(self._app, request)

    async def of_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return await self.ours(
                request,
                NotFound("this page does not exist", hint="it may have been deleted, or the address is not right"),
            )
        response = await self.ours(request, WrongUsage("this page does not take that", hint="go back and try again"))
        response.status_code = error.status_code
        return response

    async def other(self, request: Request, error: Exception) -> Response:
        """What we did not foresee. Its text may hold anything, so the page has none of it; the log has."""
        return await self.ours(request, Failed("something went wrong on our side", hint="the log says what"))

    async def cross_site(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = Refused("this came from another site, so it was not done", hint="open the page here, and do it again")
        response = await self.ours(Request(scope, receive), error)
        await response(scope, receive, send)
