"""
The panic button, and the way back: /unseal is the only page of an instance that is sealed.
"""

from __future__ import annotations

import contextlib
import logging

from starlette.responses import Response

from company_agents.dashboard.guard import set_cookie
from company_agents.dashboard.visit import Page, Visit, go, slowed
from company_agents.errors import (
    CompanyAgentsError,
    MayNotStart,
    TooMany,
    Unauthenticated,
    Unavailable,
    WrongUsage,
)
from company_agents.identity.permissions import Permission
from company_agents.sensitive import Sensitive
from company_agents.unsealing import unsealing

log = logging.getLogger(__name__)


async def show_seal(visit: Visit) -> Response:
    """What sealing does."""
    return visit.page("seal.html")


async def act_seal(visit: Visit) -> Response:
    """Seal the instance. No password is asked for: whoever does this is in a hurry."""
    await visit.app.panic.seal(visit.me.label)
    return go("/unseal", done="sealed")


async def show_unseal(visit: Visit) -> Response:
    """The form; on an instance that is open, that it is."""
    return _page(visit)


async def act_unseal(visit: Visit) -> Response:
    """Name, password and code of an owner of the instance; whoever else it is, is not said."""
    if not visit.app.held.sealed:
        return go("/unseal")
    form = await visit.form()
    try:
        session = await _unsealed(
            visit,
            form.text("name"),
            form.secret("password").reveal_text(),
            form.secret("code").reveal_text(),
        )
    except (Unauthenticated, TooMany, WrongUsage, Unavailable) as error:
        visit.signed_in = None
        return slowed(visit.again("unseal.html", form, error, sealed=True), error)
    response = go("/unseal", done="unsealed")
    set_cookie(response, visit.app.settings, session)
    return response


async def _unsealed(visit: Visit, name: str, password: str, code: str) -> Sensitive:
    app = visit.app
    try:
        async with unsealing(app) as (sessions, panic):
            session, owner = await sessions.sign_in_owner(
                name, password, code, address=visit.address, browser=visit.browser
            )
            await panic.unseal(owner.label)
    except MayNotStart as error:
        # Where the keys are and what is wrong with them is nothing for somebody who has not said who they are.
        log.error("the instance cannot be unsealed: %s", error.sentence)
        raise Unavailable(
            "the keys cannot be had just now", hint="the log says why; so does `company-agents unseal` on the server"
        ) from error
    # The others follow within a second, as this one would; whoever unsealed it need not wait for that.
    with contextlib.suppress(CompanyAgentsError):
        await app.panic.restore()
    return session


def _page(visit: Visit) -> Response:
    sealed = visit.app.held.sealed
    if sealed:
        # Whoever is signed in reaches nothing either: no page is to say otherwise.
        visit.signed_in = None
    return visit.page("unseal.html", sealed=sealed)


PAGES = [
    Page("/seal", show_seal, act_seal, permission=Permission.INSTANCE_SEAL),
    Page("/unseal", show_unseal, act_unseal, for_anybody=True),
]
