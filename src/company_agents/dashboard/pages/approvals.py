"""
Company → Approvals: requests that wait for a person, exactly what each would send, and the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from company_agents.dashboard.forms import Form
from company_agents.dashboard.live import Feed, Lines, Part, seen_at, streamed
from company_agents.dashboard.named import Names
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, NotFound
from company_agents.identity.permissions import Permission
from company_agents.integrations.approval_forms import AsSent
from company_agents.integrations.approvals import UNDER_WAY, Approval
from company_agents.integrations.indenting import indented, visible

# Of what waits, so many are shown: the oldest.
_MOST = 100


@dataclass(frozen=True, slots=True)
class Shown:
    """What is sent, as it is shown: every character of it shows, and none but a line's end does anything."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    size: int
    sha256: str
    text: str | None
    indented: str | None

    @classmethod
    def of(cls, asked: AsSent) -> Shown:
        """From what is kept."""
        tidy = None if asked.text is None else indented(asked.text)
        return cls(
            asked.method,
            visible(asked.url),
            [(name, visible(value)) for name, value in asked.headers],
            len(asked.body),
            asked.sha256,
            None if asked.text is None else visible(asked.text),
            None if tidy is None else visible(tidy),
        )


async def show_list(visit: Visit) -> Response:
    """What waits, and what became of the last ones."""
    context, mark = await _lists(visit)
    return visit.page("approvals.html", live=f"{visit.home}/approvals/stream?{urlencode({'after': mark})}", **context)


async def _lists(visit: Visit) -> tuple[dict[str, Any], str]:
    _, mark = await visit.app.approvals.mark(visit.caller)
    waiting = await visit.app.approvals.list(visit.caller, state="waiting", limit=_MOST)
    latest = await visit.app.approvals.latest(visit.caller)
    names = Names(visit)
    await names.add(each.decided_by for each in latest if each.decided_by)
    return {"waiting": waiting, "latest": latest, "names": names}, mark


class _ListFeed(Feed):
    def __init__(self, visit: Visit) -> None:
        self.at = seen_at(visit)
        self.over = False
        self._visit = visit

    async def look(self) -> list[Part | Lines]:
        _, mark = await self._visit.app.approvals.mark(self._visit.caller)
        if mark == self.at:
            return []
        context, self.at = await _lists(self._visit)
        return [Part("approvals-rows", self._visit.part("approvals_rows.html", **context))]


async def stream_list(visit: Visit) -> Response:
    """What changes in it."""
    return streamed(visit, _ListFeed(visit))


async def show_one(visit: Visit) -> Response:
    """Exactly what is sent; who asks, with which credential, until when; and what became of it."""
    return await _page(visit, Form())


async def _page(visit: Visit, form: Form, status: int = 200) -> Response:
    approval = await _approval(visit)
    asked = None
    if visit.may("APPROVAL_DECIDE"):
        asked = await visit.app.approvals.shown(visit.caller, approval.id)
    live = f"{_path(visit)}/stream" if approval.state in UNDER_WAY else ""
    shown = None if asked is None else Shown.of(asked)
    return visit.page(
        "approval.html", status=status, form=form, live=live, shown=shown, **await _about(visit, approval)
    )


async def _about(visit: Visit, approval: Approval) -> dict[str, Any]:
    names = Names(visit)
    await names.add([approval.decided_by] if approval.decided_by else [])
    return {"approval": approval, "names": names}


class _OneFeed(Feed):
    def __init__(self, visit: Visit) -> None:
        self.at = seen_at(visit)
        self.over = False
        self._visit = visit

    async def look(self) -> list[Part | Lines]:
        approval = await _approval(self._visit)
        self.over = approval.state not in UNDER_WAY
        if approval.state == self.at:
            return []
        self.at = approval.state
        about = await _about(self._visit, approval)
        parts = ("approval-state", "approval-decision")
        return [Part(part, self._visit.part(f"{part.replace('-', '_')}.html", **about)) for part in parts]


async def stream_one(visit: Visit) -> Response:
    """What becomes of it."""
    return streamed(visit, _OneFeed(visit))


async def show_again(visit: Visit) -> Response:
    """The decision stands on the approval's own page; whoever was asked for the password comes by here."""
    return go(_path(visit))


async def act_approve(visit: Visit) -> Response:
    """Have it sent."""
    return await _decided(visit, visit.app.approvals.approve, "approval-approved")


async def act_refuse(visit: Visit) -> Response:
    """Have it not sent."""
    return await _decided(visit, visit.app.approvals.refuse, "approval-refused")


async def _decided(visit: Visit, decide: Any, done: str) -> Response:
    form = await visit.form()
    try:
        await decide(visit.caller, visit.id("approval"), form.text("note"))
    except NotFound:
        raise
    except CompanyAgentsError as error:
        form.error = error
        return await _page(visit, form, error.http_status)
    return go(_path(visit), done=done)


async def _approval(visit: Visit) -> Approval:
    return await visit.app.approvals.get(visit.caller, visit.id("approval"))


def _path(visit: Visit) -> str:
    return f"{visit.home}/approvals/{visit.id('approval')}"


_ALL = "/companies/{company:uuid}/approvals"
_ONE = _ALL + "/{approval:uuid}"

PAGES = [
    Page(_ALL, show_list, permission=Permission.APPROVAL_READ),
    Page(f"{_ALL}/stream", stream_list, permission=Permission.APPROVAL_READ, stream=True),
    Page(_ONE, show_one, permission=Permission.APPROVAL_READ),
    Page(f"{_ONE}/stream", stream_one, permission=Permission.APPROVAL_READ, stream=True),
    Page(f"{_ONE}/approve", show_again, act_approve, permission=Permission.APPROVAL_DECIDE),
    Page(f"{_ONE}/refuse", show_again, act_refuse, permission=Permission.APPROVAL_DECIDE),
]
