"""
The master key: what there is to know of it, its rotation, and the list that a key that got out leaves behind. No page
shows a key.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from starlette.responses import Response

from company_agents.backup.rows import BackupRow
from company_agents.dashboard import words
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError
from company_agents.identity.permissions import Permission
from company_agents.rotation.background import Ended
from company_agents.rotation.status import KeyState, KeyStatus, ToReissue

HOME = "/master-key"
# Seconds between two looks at a rotation that runs. There is no script: the page loads itself again, until told not to.
LOOK_AGAIN = 2
# How long it is said how the last rotation ended.
TOLD_FOR = timedelta(hours=1)
# Of a long list, this many; `company-agents key reissue` has them all.
MOST_SHOWN = 200

# What a rotation or pruning is at, by the name that the fence has for it.
STEPS = {
    "": "Opening every secret, to see that all can be moved",
    "adopt": "Giving the present key a place of its own in the source",
    "stage": "Writing the new key to the source",
    "register": "Waiting until every orchestrator holds the new key",
    "switch": "Switching to the new key",
    "rewrap": "Moving secrets to the new key",
    "verify": "Looking for secrets under the old key",
    "archive": "Archiving the old key",
    "prune": "Looking for keys that nothing needs",
    "destroy": "Destroying a key",
}


async def show_key(visit: Visit) -> Response:
    """Everything that `company-agents key status` says."""
    status = await visit.app.keys.status()
    left = await visit.app.keys.to_reissue()
    runs = visit.app.background.running or (status.underway is not None and status.underway.running)
    looks_again = runs and visit.query("live") != "no"
    response = visit.page(
        "master_key.html",
        status=200,
        key=status,
        runs=runs,
        looks_again=looks_again,
        step=_step(status),
        last=None if runs else _told(visit.app.background.last),
        over=_over(status),
        left=[(entry, *_place(entry)) for entry in left[:MOST_SHOWN]],
        more=len(left) - MOST_SHOWN,
        states=words.KEY_STATES,
        serves=await _serves(visit),
        warnings=words.key_warnings(status),
    )
    if looks_again:
        response.headers["Refresh"] = str(LOOK_AGAIN)
    return response


async def _serves(visit: Visit) -> dict[str, list[BackupRow]]:
    """The backups that need each key, newest first."""
    serves: dict[str, list[BackupRow]] = {}
    for row in await visit.app.backups.listed():
        for key_id in row.key_ids:
            serves.setdefault(key_id, []).append(row)
    return serves


def _step(status: KeyStatus) -> str:
    found = status.underway
    return STEPS.get(found.step, found.step) if found else STEPS[""]


def _told(last: Ended | None) -> Ended | None:
    return last if last is not None and datetime.now(UTC) - last.at < TOLD_FOR else None


def _over(status: KeyStatus) -> list[KeyState]:
    """Keys whose time is over; whether something still needs them is seen when they are pruned."""
    now = datetime.now(UTC)
    return [
        key
        for key in status.keys
        if key.state == "destroying" or (key.state == "archived" and key.ends_at is not None and key.ends_at <= now)
    ]


def _place(entry: ToReissue) -> tuple[str, str]:
    """What a secret is, and the page at which it is replaced, if there is one."""
    kind, _, rest = entry.name.partition("/")
    what = words.SECRETS.get(kind, kind.replace("_", " ").capitalize())
    try:
        owner = UUID(rest.partition("/")[0])
    except ValueError:
        return what, ""
    below = f"/companies/{entry.company_id}"
    pages = {
        "integration": f"{below}/integrations/{owner}/rotate",
        "agent_token": f"{below}/agents/{owner}/rotate-token",
        "webhook": f"{below}/webhooks/{owner}/rotate-secret",
        "operator_totp": f"/people/{owner}/link",
    }
    return what, pages.get(kind, "")


async def show_rotate(visit: Visit) -> Response:
    """What a rotation does."""
    return visit.page("master_key_rotate.html", **await _about(visit))


async def act_rotate(visit: Visit) -> Response:
    """Begin one, or finish the one that was begun."""
    return await _begin(visit, "master_key_rotate.html", finish=False, compromised=False)


async def show_finish(visit: Visit) -> Response:
    """What was begun, and what finishing it does."""
    return visit.page("master_key_finish.html", **await _about(visit))


async def act_finish(visit: Visit) -> Response:
    """Finish it, and begin nothing where another was faster."""
    return await _begin(visit, "master_key_finish.html", finish=True, compromised=False)


async def show_compromised(visit: Visit) -> Response:
    """What is done about a key that got out, and which backups die with it."""
    return visit.page("master_key_compromised.html", **await _about(visit))


async def act_compromised(visit: Visit) -> Response:
    """Rotate, and destroy the key that got out."""
    return await _begin(visit, "master_key_compromised.html", finish=False, compromised=True)


async def _begin(visit: Visit, template: str, *, finish: bool, compromised: bool) -> Response:
    form = await visit.form()
    try:
        await visit.app.background.start(finish=finish, compromised=compromised, who=visit.me.label)
    except CompanyAgentsError as error:
        return visit.again(template, form, error, **await _about(visit))
    return go(HOME)


async def _about(visit: Visit) -> dict[str, Any]:
    return {"key": await visit.app.keys.status()}


async def show_prune(visit: Visit) -> Response:
    """Which keys would go: the one that is named, or all whose time is over."""
    status = await visit.app.keys.status()
    named = next((key for key in status.keys if key.key_id == visit.query("key")), None)
    return visit.page("master_key_prune.html", over=[named] if named else _over(status), named=named)


async def act_prune(visit: Visit) -> Response:
    """Destroy them, and say which were kept."""
    form = await visit.form()
    key_id = form.text("key") or None
    try:
        pruned = await visit.app.pruner.prune(key_id, visit.me.label)
    except CompanyAgentsError as error:
        status = await visit.app.keys.status()
        named = next((key for key in status.keys if key.key_id == key_id), None)
        return visit.again("master_key_prune.html", form, error, over=[named] if named else _over(status), named=named)
    return visit.page("master_key_pruned.html", pruned=pruned)


PAGES = [
    Page(HOME, show_key, permission=Permission.KEY_READ),
    Page(f"{HOME}/rotate", show_rotate, act_rotate, permission=Permission.KEY_ROTATE),
    Page(f"{HOME}/finish", show_finish, act_finish, permission=Permission.KEY_ROTATE),
    Page(f"{HOME}/compromised", show_compromised, act_compromised, permission=Permission.KEY_ROTATE),
    Page(f"{HOME}/prune", show_prune, act_prune, permission=Permission.KEY_PRUNE),
]
