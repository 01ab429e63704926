"""
Joining by a link, signing in, signing out, and the password again.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit
from uuid import UUID

from starlette.responses import Response

from company_agents.dashboard.forms import Form, safe_return
from company_agents.dashboard.guard import drop_cookie, set_cookie
from company_agents.dashboard.render import qr_code
from company_agents.dashboard.visit import Page, Visit, go, slowed
from company_agents.errors import CompanyAgentsError, Conflict, TooMany, Unauthenticated, WrongUsage
from company_agents.identity.directory import good_name
from company_agents.identity.operators import LINK_MINUTES, Invitation
from company_agents.identity.passwords import (
    LEAST_PASSWORD,
    MOST_PASSWORD,
    check_new_password,
    new_totp_secret,
    totp_uri,
)
from company_agents.sensitive import Sensitive


async def show_join(visit: Visit) -> Response:
    """What a sign-in link leads to. Looking does not use it up: mail programs look at links too."""
    link = Sensitive(visit.query("token") or "")
    invitation = await visit.app.operators.invitation(link.reveal_text())
    return await _join_page(visit, Form(), link, invitation, new_totp_secret())


async def act_join(visit: Visit) -> Response:
    """Use the link, and be signed in."""
    form = await visit.form()
    link, totp = form.secret("link"), _totp_secret(form)
    invitation = await visit.app.operators.invitation(link.reveal_text())
    try:
        operator_id = await _join(visit, form, link, invitation, totp)
    except CompanyAgentsError as error:
        form.error = error
        return await _join_page(visit, form, link, invitation, totp)
    session = await visit.app.sessions.open(operator_id, address=visit.address, browser=visit.browser)
    response = go("/companies", done="joined")
    set_cookie(response, visit.app.settings, session)
    return response


async def _join(visit: Visit, form: Form, link: Sensitive, invitation: Invitation, totp: Sensitive) -> UUID:
    if invitation.operator_id is None:
        with form.at("name"):
            good_name(form.text("name"), "a person")
    password = form.secret("password").reveal_text()
    with form.at("password"):
        check_new_password(password)
    form.failed_at = "code"
    try:
        operator = await visit.app.operators.join(
            link.reveal_text(), form.text("name"), password, totp, form.secret("code").reveal_text()
        )
    except Conflict:
        form.failed_at = "name"
        raise
    return operator.id


def _totp_secret(form: Form) -> Sensitive:
    """
    The second factor that the page of the link offered. It travels in the form and is kept nowhere until it is
    proved: that page shows it to this very person anyway, another replica would not know of one in our memory, and
    whoever alters it harms only themselves.

    Raises:
        WrongUsage: it is none of ours.
    """
    totp = form.secret("totp")
    if not re.fullmatch(rb"[A-Z2-7]{32}", totp.reveal()):
        raise WrongUsage("this form is not the one that the link led to", hint="open the link again")
    return totp


async def _join_page(visit: Visit, form: Form, link: Sensitive, invitation: Invitation, totp: Sensitive) -> Response:
    known = await visit.app.operators.get(invitation.operator_id) if invitation.operator_id else None
    place = urlsplit(visit.app.settings.url).netloc
    uri = totp_uri(totp, f"{known.name} at {place}" if known else place)
    response = visit.page(
        "join.html",
        status=form.error.http_status if form.error else 200,
        form=form,
        known=known,
        link=link.reveal_text(),
        totp=totp.reveal_text(),
        qr=qr_code(uri.reveal_text()),
        least=LEAST_PASSWORD,
        most=MOST_PASSWORD,
        minutes=LINK_MINUTES,
    )
    # The address has the link's token in it: nobody is told more of it than the host, not even ourselves.
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


async def show_sign_in(visit: Visit) -> Response:
    """The form; whoever is signed in goes on."""
    if visit.signed_in is not None:
        return go(safe_return(visit.query("return")))
    return visit.page("sign_in.html", back=safe_return(visit.query("return")))


async def act_sign_in(visit: Visit) -> Response:
    """Name, password and code; what is wrong with them is not said."""
    form = await visit.form()
    back = safe_return(form.text("return"))
    try:
        session = await visit.app.sessions.sign_in(
            form.text("name"),
            form.secret("password").reveal_text(),
            form.secret("code").reveal_text(),
            address=visit.address,
            browser=visit.browser,
        )
    except (Unauthenticated, TooMany, WrongUsage) as error:
        return slowed(visit.again("sign_in.html", form, error, back=back), error)
    response = go(back)
    set_cookie(response, visit.app.settings, session)
    return response


async def act_sign_out(visit: Visit) -> Response:
    """End this session."""
    await visit.app.sessions.end(visit.me, visit.session.id)
    response = go("/sign-in", done="signed-out")
    drop_cookie(response, visit.app.settings)
    return response


async def show_confirm(visit: Visit) -> Response:
    """The password again, before something that widens what somebody may do."""
    return visit.page("confirm.html", back=safe_return(visit.query("return")))


async def act_confirm(visit: Visit) -> Response:
    """Take the password, and go on to where it was needed."""
    form = await visit.form()
    back = safe_return(form.text("return"))
    try:
        with form.at("password"):
            password = form.secret("password").reveal_text()
            await visit.app.sessions.confirm(visit.session, visit.me.name, password)
    except Unauthenticated:
        return visit.again("confirm.html", form, WrongUsage("this password is not right"), back=back)
    except TooMany as error:
        return slowed(visit.again("confirm.html", form, error, back=back), error)
    return go(back)


PAGES = [
    Page("/join", show_join, act_join, for_anybody=True),
    Page("/sign-in", show_sign_in, act_sign_in, for_anybody=True),
    Page("/sign-out", act=act_sign_out),
    Page("/confirm", show_confirm, act_confirm),
]
