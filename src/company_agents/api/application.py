"""
The door: routes, errors, description.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from company_agents.api.description import describe
from company_agents.api.idempotency import GRACE, IdempotencyKeys
from company_agents.api.problems import add_handlers
from company_agents.api.routes import ROUTERS
from company_agents.app import App


class _Door:
    """
    The door as the server sees it. What was not expected is answered and logged by its handler; the framework
    raises it once more for a server that would write it out with its text.
    """

    def __init__(self, api: FastAPI) -> None:
        self.api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(Exception):
            await self.api(scope, receive, send)


def build(app: App) -> FastAPI:
    """The routes over the parts of an instance."""
    api = FastAPI(
        title="Company Agents",
        version=app.version,
        openapi_url="/v1/openapi.json",
        # Those pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.parts = app
    api.state.keys = IdempotencyKeys(app.settings.call_timeout + GRACE)
    # Ahead of the description, and as they are: what an included router is wrapped into costs every call.
    api.router.routes[:0] = [route for router in ROUTERS for route in router.routes]
    add_handlers(api)
    described: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not described:
            described.update(describe(api))
        return described

    api.openapi = openapi  # type: ignore[method-assign]
    return api


def api_app(app: App) -> ASGIApp:
    """The REST door of an instance: full paths, `/v1/…`."""
    return _Door(build(app))
