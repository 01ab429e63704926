"""
One's own: sessions, and tokens for programs. And every component on one page, for who designs them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from starlette.responses import Response

from company_agents.dashboard.forms import Form
from company_agents.dashboard.spent import chart
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, Conflict, WrongUsage
from company_agents.identity.limits import Limit
from company_agents.identity.operators import LONGEST_TOKEN_DAYS, OperatorToken
from company_agents.identity.permissions import RANK, Role
from company_agents.integrations.costs import DaySum


async def show_account(visit: Visit) -> Response:
    """Where one is signed in, and one's tokens."""
    now = datetime.now(UTC)
    tokens = await visit.app.operators.tokens(visit.me)
    return visit.page(
        "account.html",
        sessions=await visit.app.sessions.list(visit.me),
        good=[token for token in tokens if _is_good(token, now)],
        over=[token for token in tokens if not _is_good(token, now)],
    )


def _is_good(token: OperatorToken, now: datetime) -> bool:
    return token.revoked_at is None and token.ends_at > now


async def act_end_session(visit: Visit) -> Response:
    """Sign a browser out."""
    await visit.app.sessions.end(visit.me, visit.id("session"))
    return go("/account", done="session-ended")


async def show_new_token(visit: Visit) -> Response:
    """The form."""
    return await _token_form(visit, Form({"role": [Role.VIEWER], "days": ["30"]}))


async def act_new_token(visit: Visit) -> Response:
    """Make a token, and show it, this once."""
    form = await visit.form()
    try:
        with form.at("name"):
            await _check_new(visit, form.text("name"))
        with form.at("days"):
            days = _days(form.text("days"))
        with form.at("role"):
            if form.text("role") not in set(Role):
                raise WrongUsage("choose a role")
        with form.at("name"):
            made, token = await visit.app.operators.create_token(
                visit.me, form.text("name"), days, Role(form.text("role"))
            )
    except CompanyAgentsError as error:
        form.error = error
        return await _token_form(visit, form)
    # The one place where an operator's token is revealed.
    return visit.page("token_once.html", made=made, token=token.reveal_text())


async def _token_form(visit: Visit, form: Form) -> Response:
    highest = await visit.app.operators.principal_role(visit.session.operator_id)
    roles = [role for role in Role if RANK[role] <= RANK[highest]]
    status = form.error.http_status if form.error else 200
    return visit.page("token_new.html", status=status, form=form, roles=roles, longest=LONGEST_TOKEN_DAYS)


async def _check_new(visit: Visit, name: str) -> None:
    """A page with a token that is loaded again sends its form again; that is not to make another token."""
    now = datetime.now(UTC)
    if any(token.name == name and _is_good(token, now) for token in await visit.app.operators.tokens(visit.me)):
        raise Conflict("you have a token of this name already", hint="choose another name, or revoke that one")


def _days(text: str) -> int:
    if not (re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= LONGEST_TOKEN_DAYS):
        raise WrongUsage(f"a token lives 1 to {LONGEST_TOKEN_DAYS} days")
    return int(text)


async def act_revoke_token(visit: Visit) -> Response:
    """Refuse a token from now on."""
    await visit.app.operators.revoke_token(visit.me, visit.id("token"))
    return go("/account", done="token-revoked")


async def show_patterns(visit: Visit) -> Response:
    """Every component once. What is not here does not exist yet."""
    now = datetime.now(UTC)
    form = Form({"example": ["What was typed is kept"]}, WrongUsage("this is what is wrong", hint="and this helps"))
    form.failed_at = "example"
    spent = [
        DaySum(
            calls,
            calls * 1000,
            calls * 500_000,
            day=(now - timedelta(days=ago)).date(),
            agent_id=UUID(int=0),
            agent="ann",
        )
        for ago, calls in ((1, 2), (3, 5), (4, 1), (9, 3))
    ]
    times = [now - timedelta(minutes=minutes) for minutes in (0, 3, 3000)]
    return visit.page(
        "patterns.html", form=form, times=times, chart=chart(spent, 40_000_000, now.date()), limit=Limit(2)
    )


PAGES = [
    Page("/account", show_account),
    Page("/account/sessions/{session:uuid}/end", act=act_end_session),
    Page("/account/tokens/new", show_new_token, act_new_token, confirms=True),
    Page("/account/tokens/{token:uuid}/revoke", act=act_revoke_token),
    Page("/patterns", show_patterns),
]
