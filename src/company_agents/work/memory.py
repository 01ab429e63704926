"""
An agent's memory: notes of its own that it can find again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.errors import NotFound, WrongUsage
from company_agents.identity.holding import still_holds
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller

MOST_CONTENT = 100_000
MOST_TAGS = 20


@dataclass(frozen=True, slots=True)
class Memory:
    """One note."""

    id: UUID
    title: str
    content: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Memories:
    """The notes of the agent that calls; nobody else's exist for it. Of people, those who manage agents may look."""

    audit: AuditLog

    async def write(
        self, caller: Caller, content: str, title: str = "", tags: Sequence[str] = (), memory_id: UUID | None = None
    ) -> Memory:
        """
        Write a note, or (with an id) replace one.

        Raises:
            NotFound: there is no note of this id.
            WrongUsage: too long, or empty.
        """
        caller.require(Permission.MEMORY)
        _check(content, title, tags)
        params = {"agent_id": caller.agent_id(), "title": title, "content": content, "tags": list(tags)}
        async with caller.scope.transaction() as tx:
            await still_holds(tx, caller)
            if memory_id is None:
                row = await tx.one("memory_insert", id=uuid4(), company_id=caller.scope.company_id, **params)
            else:
                row = await tx.one("memory_replace", id=memory_id, **params)
        return _found(row)

    async def search(self, caller: Caller, query: str, limit: int = 20) -> list[Memory]:
        """
        The notes that match words, the best first; with no words, the newest.

        `query` may use "quotes", or, and -without.
        """
        caller.require(Permission.MEMORY)
        if not 1 <= limit <= 100:
            raise WrongUsage(f"limit is {limit}; it may be 1 to 100")
        async with caller.scope.transaction() as tx:
            rows = await tx.all("memory_search", agent_id=caller.agent_id(), query=query[:1000], limit=limit)
        return [Memory(**row) for row in rows]

    async def get(self, caller: Caller, memory_id: UUID) -> Memory:
        """
        Raises:
            NotFound: there is no note of this id.
        """
        caller.require(Permission.MEMORY)
        async with caller.scope.transaction() as tx:
            return _found(await tx.one("memory_get", id=memory_id, agent_id=caller.agent_id()))

    async def look(self, caller: Caller, agent_id: UUID, after: str | None = None, limit: int = 20) -> Page[Memory]:
        """
        What an agent remembers, for a person: the newest first. The look is on record before anything is shown.

        Raises:
            NotFound: no such agent in this company.
        """
        caller.require(Permission.MEMORY_READ)
        params = cursor_params(after, limit)
        async with caller.scope.transaction() as tx:
            if await tx.one("agent_get", id=agent_id) is None:
                raise NotFound("this agent does not exist", hint="`company-agents agent list --company ID` shows them")
        await self.audit.append(caller.scope.company_id, "memory.looked_at", actor=caller.label, agent=agent_id)
        async with caller.scope.transaction() as tx:
            return page([Memory(**row) for row in await tx.all("memory_page", agent_id=agent_id, **params)], limit)

    async def delete(self, caller: Caller, memory_id: UUID) -> None:
        """
        Raises:
            NotFound: there is no note of this id.
        """
        caller.require(Permission.MEMORY)
        async with caller.scope.transaction() as tx:
            await still_holds(tx, caller)
            if not await tx.run("memory_delete", id=memory_id, agent_id=caller.agent_id()):
                _found(None)


def _check(content: str, title: str, tags: Sequence[str]) -> None:
    if not content.strip() or len(content) > MOST_CONTENT:
        raise WrongUsage(f"a note has 1 to {MOST_CONTENT} characters")
    if len(title) > 200:
        raise WrongUsage("a title has at most 200 characters")
    if len(tags) > MOST_TAGS or any(not 1 <= len(tag) <= 50 for tag in tags):
        raise WrongUsage(f"a note has at most {MOST_TAGS} tags of 1 to 50 characters")


def _found(row: dict[str, object] | None) -> Memory:
    if row is None:
        raise NotFound("this note does not exist", hint="memory_search finds the ones that do")
    return Memory(**row)  # type: ignore[arg-type]
