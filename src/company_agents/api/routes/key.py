"""
The master key, for programs of an owner: its state, rotation, pruning. No key is ever in an answer.
"""

from __future__ import annotations

from fastapi import APIRouter

from company_agents.api.callers import GuardedRoute, Parts, Who
from company_agents.api.key_schemas import KeyStatusOut, LastRotation, PrunedOut, Pruning, Rotation, ToReissueOut
from company_agents.api.schemas import PageOf
from company_agents.app import App
from company_agents.errors import WrongUsage
from company_agents.identity.paging import Page
from company_agents.identity.permissions import Permission
from company_agents.rotation.prune import Pruned
from company_agents.rotation.status import ToReissue

router = APIRouter(prefix="/v1/key", tags=["master key"], route_class=GuardedRoute)


@router.get("", response_model=KeyStatusOut, operation_id="getKey", summary="The master key: source, states, replicas")
async def get_key(parts: Parts, who: Who) -> KeyStatusOut:
    who.require(Permission.KEY_READ)
    return await _status(parts)


@router.post(
    "/rotate",
    status_code=202,
    response_model=KeyStatusOut,
    operation_id="rotateKey",
    summary="Begin a rotation, or finish one that was begun; it goes on by itself",
    description="`GET /v1/key` says how far it is, and under `last_rotation` how it ended. What keeps it from beginning is "
    "answered here.",
)
async def rotate_key(parts: Parts, who: Who, body: Rotation) -> KeyStatusOut:
    who.require(Permission.KEY_ROTATE)
    if body.finish and body.compromised:
        raise WrongUsage("finish goes alone", hint="what was begun is finished as it was begun")
    await parts.background.start(finish=body.finish, compromised=body.compromised, who=who.label)
    return await _status(parts)


@router.post(
    "/prune",
    response_model=PrunedOut,
    operation_id="pruneKeys",
    summary="Destroy archived keys whose time is over and that nothing needs, or the one that is named",
)
async def prune_keys(parts: Parts, who: Who, body: Pruning) -> Pruned:
    who.require(Permission.KEY_PRUNE)
    return await parts.pruner.prune(body.id, who.label)


@router.get(
    "/reissue",
    response_model=PageOf[ToReissueOut],
    operation_id="listToReissue",
    summary="What a key that got out had sealed and nobody has replaced since, in one page",
)
async def list_to_reissue(parts: Parts, who: Who) -> Page[ToReissue]:
    who.require(Permission.KEY_READ)
    return Page(await parts.keys.to_reissue())


async def _status(parts: App) -> KeyStatusOut:
    found = KeyStatusOut.model_validate(await parts.keys.status())
    last = parts.background.last
    if last is not None and last.result is not None:
        result = last.result
        found.last_rotation = LastRotation(
            ended_at=last.at,
            ok=not result.bad,
            action=result.action,
            rows=result.rows,
            not_opened=len(result.bad),
            backups=result.backups,
        )
    elif last is not None and last.error is not None:
        error = last.error
        found.last_rotation = LastRotation(
            ended_at=last.at, ok=False, code=error.reason, detail=error.sentence, hint=error.hint
        )
    return found
