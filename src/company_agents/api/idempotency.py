"""
`Idempotency-Key`: a creation that is asked for twice happens once.

A key is *reserved* in a transaction of its own before the creation, which has its own, and *answered* in a third
after it. What that means:

- while the first is under way, a second with the same key is answered 409 `under_way`, on every replica;
- once it is answered, the same request gets the same answer, for 24 hours; another request is answered 422 `key_reused`;
- when the creation was refused (its name is taken, the provider said no), nothing was created, and the key is free;
- when the outcome cannot be known (the process died in between, the database went away), the key is answered 409
  `outcome_unknown` until it expires: whether it was created is to be seen in the list. Nothing is ever created
  twice by guessing.

The answer is kept without its token or secret; a replay has `"token": null`, or `"secret": null`. The request is kept as a SHA-256 of its method,
path and body with every secret left out, since no digest of a secret's value is stored. So the same key with
another token but otherwise the same request counts as the same request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends, Header
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from company_agents.companies.scope import Scope
from company_agents.errors import CompanyAgentsError, Conflict, Unavailable, WrongUsage

log = structlog.stdlib.get_logger("company_agents.api")

HOURS = 24
# A creation may wait for a provider; one that took this long (seconds) beyond it is not under way any more.
GRACE = 60.0
SWEEP_EVERY = 600.0
_ATTEMPTS = 3
# What an answer shows once: a token, or the signing secret of a webhook.
_ONCE = frozenset({"token", "secret"})


@dataclass(frozen=True, slots=True)
class Claim:
    """One request under one key; `digest` is of what was asked."""

    scope: Scope
    principal: str
    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was given."""

    status: int
    content: dict[str, Any]


@dataclass
class IdempotencyKeys:
    """The keys and their answers, as the database has them. `patience` is how long a creation may take (seconds)."""

    patience: float
    _swept: dict[UUID | None, float] = field(default_factory=dict)

    async def reserve(self, claim: Claim) -> datetime | Kept:
        """
        The time of the reservation, to be answered or released with it; or the answer that was given before.

        Raises:
            Conflict: the first is under way, or its outcome is unknown.
            WrongUsage: the key was used for another request.
        """
        await self._sweep(claim.scope)
        for _ in range(_ATTEMPTS):
            async with claim.scope.transaction() as tx:
                row = await tx.one("idempotency_reserve", request_hash=claim.digest, hours=HOURS, **_which(claim))
                if row is not None:
                    reserved: datetime = row["created_at"]
                    return reserved
                found = await tx.one("idempotency_get", **_which(claim))
            if found is not None:
                return self._judged(claim, found)
            # Released between the two statements: it is free again.
        raise _under_way()

    def _judged(self, claim: Claim, row: dict[str, Any]) -> Kept:
        if bytes(row["request_hash"]) != claim.digest:
            raise WrongUsage(
                "this Idempotency-Key was used for another request",
                hint="a new request gets a new key",
                code="key_reused",
            )
        if row["response"] is not None:
            return Kept(row["status"], row["response"])
        if row["status"] is None and row["age"] <= self.patience:
            raise _under_way()
        raise Conflict(
            "whether the first request with this Idempotency-Key created something is not known",
            hint="look at the list; if it is not there, ask again with a new key",
            code="outcome_unknown",
        )

    async def answer(self, claim: Claim, reserved: datetime, kept: Kept) -> None:
        """Keep the answer."""
        params = {"status": kept.status, "response": json.dumps(kept.content), "reserved": reserved}
        async with claim.scope.transaction() as tx:
            await tx.run("idempotency_answer", **params, **_which(claim))

    async def release(self, claim: Claim, reserved: datetime) -> None:
        """Nothing was created: the key is free."""
        async with claim.scope.transaction() as tx:
            await tx.run("idempotency_release", reserved=reserved, **_which(claim))

    async def give_up(self, claim: Claim, reserved: datetime) -> None:
        """Whether something was created is not known."""
        async with claim.scope.transaction() as tx:
            await tx.run("idempotency_answer", status=500, response=None, reserved=reserved, **_which(claim))

    async def _sweep(self, scope: Scope) -> None:
        now = time.monotonic()
        last = self._swept.get(scope.company_id)
        if last is None or now - last >= SWEEP_EVERY:
            self._swept[scope.company_id] = now
            async with scope.transaction() as tx:
                await tx.run("idempotency_sweep", hours=HOURS)


@dataclass(frozen=True, slots=True)
class Creation:
    """A request that creates something, with its key or without."""

    keys: IdempotencyKeys
    key: str | None
    what: str

    async def answered(
        self, scope: Scope, principal: str, body: BaseModel, create: Callable[[], Awaitable[BaseModel]]
    ) -> Response:
        """The answer to the request; `create` is awaited once per key."""
        if self.key is None:
            return _created((await create()).model_dump(mode="json"))
        claim = Claim(scope, principal, self.key, _digest(self.what, body))
        reserved = await self.keys.reserve(claim)
        if isinstance(reserved, Kept):
            return _created(_replay(reserved.content), reserved.status, {"Idempotency-Replayed": "true"})
        content = (await self._once(claim, reserved, create)).model_dump(mode="json")
        # It is created: whoever asked gets the answer, whether or not it can be kept.
        with _best_effort():
            await self.keys.answer(claim, reserved, Kept(201, _without_token(content)))
        return _created(content)

    async def _once(self, claim: Claim, reserved: datetime, create: Callable[[], Awaitable[BaseModel]]) -> BaseModel:
        try:
            return await create()
        except CompanyAgentsError as error:
            with _best_effort():
                # The database may have gone away in the middle of the commit, or right after it.
                settle = self.keys.give_up if _is_uncertain(error) else self.keys.release
                await settle(claim, reserved)
            raise
        except Exception:
            with _best_effort():
                await self.keys.give_up(claim, reserved)
            raise


def _is_uncertain(error: CompanyAgentsError) -> bool:
    return isinstance(error, Unavailable) or type(error).http_status == 500


async def _creation(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="Any text of yours, new for each creation: asked again with it, the same request is answered "
            "the same and creates nothing, for 24 hours.",
        ),
    ] = None,
) -> Creation:
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise WrongUsage("there is more than one Idempotency-Key", hint="send one, or none")
    return Creation(request.app.state.keys, key, f"{request.method} {request.scope['path']}")


Creating = Annotated[Creation, Depends(_creation)]


def _digest(what: str, body: BaseModel) -> bytes:
    # A secret dumps as the same mark, whatever its value.
    asked = json.dumps([what, body.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(asked.encode()).digest()


def _which(claim: Claim) -> dict[str, Any]:
    return {"company_id": claim.scope.company_id, "principal": claim.principal, "key": claim.key}


def _without_token(content: dict[str, Any]) -> dict[str, Any]:
    return {name: None if name in _ONCE else value for name, value in content.items()}


def _replay(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "replayed": True} if not _ONCE.isdisjoint(content) else content


def _created(content: dict[str, Any], status: int = 201, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), status, headers=headers, media_type="application/json")


def _under_way() -> Conflict:
    return Conflict(
        "the first request with this Idempotency-Key is under way", hint="ask again in a moment", code="under_way"
    )


@contextlib.contextmanager
def _best_effort() -> Any:
    try:
        yield
    except CompanyAgentsError as error:
        log.warning("an Idempotency-Key could not be settled", code=error.reason)
