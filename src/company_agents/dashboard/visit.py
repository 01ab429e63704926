"""
One request: who is here, in whose company, and how an answer is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from company_agents.app import App
from company_agents.dashboard.forms import Form, read_form
from company_agents.dashboard.guard import LIVE_CONTENT_SECURITY_POLICY, cookie_name
from company_agents.dashboard.render import templates
from company_agents.errors import CompanyAgentsError, TooMany
from company_agents.identity.directory import Company
from company_agents.identity.permissions import DANGEROUS, Permission, allowed
from company_agents.identity.principal import Caller, Principal
from company_agents.identity.sessions import Session
from company_agents.sensitive import harmless


@dataclass
class Visit:
    """
    A request. `me`, `session`, `caller` and `company` may be used by pages that are for those who are signed in,
    and (the last two) lie below a company; the door has seen to it.
    """

    app: App
    request: Request
    signed_in: tuple[Principal, Session] | None = None
    _caller: Caller | None = field(default=None, repr=False)
    _company: Company | None = None
    # Requests that wait for a person to approve them, in this company.
    waiting: int = 0

    @property
    def me(self) -> Principal:
        """Who is signed in."""
        assert self.signed_in is not None
        return self.signed_in[0]

    @property
    def session(self) -> Session:
        """The session that they are signed in with."""
        assert self.signed_in is not None
        return self.signed_in[1]

    @property
    def caller(self) -> Caller:
        """They, in the name of the company of this page."""
        assert self._caller is not None
        return self._caller

    @property
    def company(self) -> Company | None:
        """The company of this page, if it has one."""
        return self._company

    @property
    def home(self) -> str:
        """The path of the company of this page."""
        return f"/companies/{self.caller.scope.company_id}"

    @property
    def address(self) -> str:
        """Where the request comes from, for the record and for slowing down."""
        return self.request.client.host if self.request.client else "unknown"

    @property
    def browser(self) -> str:
        """What the browser calls itself."""
        return self.request.headers.get("user-agent", "")

    async def enter(self, company_id: UUID) -> None:
        """
        Go into a company.

        Raises:
            NotFound: there is none, or not for this person.
        """
        self._caller = await self.app.identity.in_company(self.me, company_id)
        self._company = await self.app.companies.get(self._caller)

    def require(self, permission: Permission) -> None:
        """
        Raises:
            Refused: the table of permissions does not say yes.
        """
        (self._caller or self.me).require(permission)

    def may(self, name: str) -> bool:
        """Whether the table of permissions says yes: for pages, which show no button that would be refused."""
        permission = Permission[name]
        if not self.signed_in:
            return False
        if permission.startswith("instance:"):
            return allowed(permission, self.me.kind, self.me.role)
        return self._caller is not None and allowed(permission, self.me.kind, self._caller.role)

    def id(self, name: str) -> UUID:
        """An id in the path."""
        value: UUID = self.request.path_params[name]
        return value

    def query(self, name: str) -> str | None:
        """A parameter of the address, or None where it is empty."""
        return self.request.query_params.get(name) or None

    async def form(self) -> Form:
        """The form that was sent."""
        return await read_form(self.request)

    def page(self, template: str, *, status: int = 200, live: str = "", **context: Any) -> HTMLResponse:
        """A page; with the address of a stream in `live`, one that stays up to date."""
        response = HTMLResponse(self.part(template, live=live, **context), status)
        if live:
            response.headers["Content-Security-Policy"] = LIVE_CONTENT_SECURITY_POLICY
        return response

    def part(self, template: str, **context: Any) -> str:
        """What a template makes of it, as of a part of a page."""
        context = {"visit": self, "form": Form(), "live": "", **context}
        return templates().get_template(template).render(context)

    def again(self, template: str, form: Form, error: CompanyAgentsError, **context: Any) -> HTMLResponse:
        """The page of a form that failed: with what is wrong, and what was typed, but for secrets."""
        form.error = error
        return self.page(template, status=error.http_status, form=form, **context)


Handler = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True)
class Page:
    """
    One address of the dashboard: GET shows, POST acts.

    `permission` is needed for both. One that is dangerous, or `confirms`, needs the password of the last ten
    minutes for both: who is asked before the form is shown does not lose a token that was pasted into it. A `stream` is what
    a page asks for by itself: it is no use of the session, and nobody is sent anywhere by it.
    """

    path: str
    show: Handler | None = None
    act: Handler | None = None
    permission: Permission | None = None
    confirms: bool = False
    for_anybody: bool = False
    stream: bool = False

    @property
    def is_confirmed(self) -> bool:
        """Whether it needs the password again."""
        return self.confirms or self.permission in DANGEROUS


async def visit_of(app: App, request: Request, *, used: bool = True) -> Visit:
    """A request, with who its cookie stands for; without `used`, one that a page makes by itself."""
    token = request.cookies.get(cookie_name(app.settings))
    return Visit(app, request, await app.sessions.current(token, used=used) if token else None)


def go(path: str, **query: str) -> RedirectResponse:
    """After an act: go on with a GET."""
    return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303)


def slowed(response: Response, error: CompanyAgentsError) -> Response:
    """The answer to an attempt that failed; with how long to wait, where there were too many."""
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def here(request: Request) -> str:
    """
    The address of a page that was asked for, to come back to; for an act, without what it brought. One that may hold
    a secret, where there is a name at most, is not repeated.
    """
    if any(harmless(segment) != segment for segment in request.url.path.split("/")):
        return "/"
    query = request.url.query if request.method in ("GET", "HEAD") else ""
    return quote(f"{request.url.path}?{query}" if query else request.url.path, safe="/?=&%~-._")
