"""
Whoever ends what the agents of a crowd rest upon: as an operator, by REST, at one replica after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.promises.crowd import Crowd, Firm, Member, new_bearer

Step = Callable[[], Awaitable[None]]


@dataclass
class Changes:
    """The changes to one firm."""

    crowd: Crowd
    firm: Firm
    owner: str
    made: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Every change, one after the other, spread over the calls of the whole crowd."""
        steps, calls = self.steps(), self.crowd.ledger.pace.calls
        for number, step in enumerate(steps, 1):
            await self.crowd.ledger.change(calls * number // (len(steps) + 1), step)

    def steps(self) -> list[Step]:
        """Everything that is going to be done."""
        ends: list[Step] = []
        backs: list[Step] = []
        for member in self.firm.members:
            if member.number % 10 == 0:
                ends.append(self._rotate_credential)
            match member.fate:
                case "rotated":
                    ends.append(partial(self._rotate_token, member))
                    backs.append(partial(self._rotate_token, member))
                case "paused":
                    ends.append(partial(self._end_agent, member, "pause"))
                    backs.append(partial(self._take_back, f"agents/{member.id}/resume", member.id))
                case "retired":
                    ends.append(partial(self._end_agent, member, "retire"))
                case "disallowed":
                    ends.append(partial(self._disallow, member))
                    whom, guarded = {"agent": str(member.id)}, self.firm.integrations["guarded"]
                    back = partial(self._take_back, f"integrations/{guarded}/allow", (guarded, member.id), body=whom)
                    backs.append(back)
        return [*ends, self._delete, *backs]

    async def _ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        action = path.rpartition("/")[2] if method == "POST" else "delete"
        at = self.crowd.replicas[self.made.total() % len(self.crowd.replicas)]
        self.made[action] += 1
        answer = await at.rest(self.owner, method, f"{self.firm.path}/{path}", body)
        assert answer.status in (200, 204), (action, answer.text)
        return answer.json if answer.text else None

    async def _end(self, path: str, *things: Hashable, body: Any = None, method: str = "POST") -> Any:
        return await self.crowd.ledger.end(partial(self._ask, path, body, method), *things)

    async def _take_back(self, path: str, thing: Hashable, body: Any = None) -> None:
        await self.crowd.ledger.take_back(partial(self._ask, path, body), thing)

    # What is ended is used right before, so that whoever remembers it does, and tried right after.

    async def _rotate_token(self, member: Member) -> None:
        token = member.tokens[-1]
        await self.crowd.everywhere(self.firm, member, token)
        given = await self._end(f"agents/{member.id}/rotate-token", token)
        await self.crowd.everywhere(self.firm, member, token)
        member.tokens.append(given["token"])

    async def _end_agent(self, member: Member, action: str) -> None:
        await self.crowd.everywhere(self.firm, member, member.tokens[-1])
        await self._end(f"agents/{member.id}/{action}", member.id)
        await self.crowd.everywhere(self.firm, member, member.tokens[-1])

    async def _disallow(self, member: Member) -> None:
        guarded, whom = self.firm.integrations["guarded"], {"agent": str(member.id)}
        await self.crowd.everywhere(self.firm, member, member.tokens[-1], "guarded")
        await self._end(f"integrations/{guarded}/disallow", (guarded, member.id), body=whom)
        await self.crowd.everywhere(self.firm, member, member.tokens[-1], "guarded")

    async def _rotate_credential(self) -> None:
        bearers, bearer = self.firm.bearers["rotating"], new_bearer(self.crowd.slack)
        path = f"integrations/{self.firm.integrations['rotating']}/rotate"
        calm = self.firm.members[0]
        await self.crowd.everywhere(self.firm, calm, calm.tokens[-1], "rotating")
        await self._end(path, bearers[-1], body={"token": bearer})
        bearers.append(bearer)
        await self.crowd.everywhere(self.firm, calm, calm.tokens[-1], "rotating")

    async def _delete(self) -> None:
        doomed, bearers = self.firm.integrations["doomed"], self.firm.bearers["doomed"]
        calm = self.firm.members[0]
        await self.crowd.everywhere(self.firm, calm, calm.tokens[-1], "doomed")
        await self._end(f"integrations/{doomed}", doomed, bearers[-1], method="DELETE")
        await self.crowd.everywhere(self.firm, calm, calm.tokens[-1], "doomed")
