"""
One at a time: who changes the states of the master key holds a lock of its session, and a number with a nonce that each
of its transactions names. The lock goes with a process that dies; the fence stops one that was overtaken and lives on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from company_agents.db.database import Database, InstanceSession, Tx
from company_agents.errors import Busy, CompanyAgentsError, Sealed


class Overtaken(Busy):
    """somebody else has begun to change the master key meanwhile"""

    code = "key_overtaken"


def overtaken() -> Overtaken:
    """For a transaction that did not find what it assumed; nothing of it was committed."""
    return Overtaken(
        "the states of the master key were changed by somebody else meanwhile",
        hint="nothing is lost; run `company-agents key rotate --finish` to finish what was begun",
    )


@dataclass(frozen=True)
class Fence:
    """The right to change the states of the master key, as long as nobody takes the next."""

    session: InstanceSession
    number: int
    nonce: UUID

    @classmethod
    @contextlib.asynccontextmanager
    async def taken(cls, db: Database) -> AsyncIterator[Fence]:
        """
        Take it.

        Raises:
            Busy: somebody else has it.
        """
        async with db.instance_session() as session:
            if not (await session.ask("rotator_lock"))[0][0]:
                raise Busy(
                    "the master key is being rotated or pruned just now",
                    hint="`company-agents key status` shows how far it is; try again when it is done",
                    code="key_busy",
                )
            async with session.transaction() as tx:
                row = await tx.one("fence_take")
            assert row is not None
            fence = cls(session, row["number"], row["nonce"])
            try:
                yield fence
            finally:
                with contextlib.suppress(CompanyAgentsError):
                    async with session.transaction() as tx:
                        await tx.run("fence_release", number=fence.number, nonce=fence.nonce)

    @contextlib.asynccontextmanager
    async def step(self, name: str, total: int = 0) -> AsyncIterator[Tx]:
        """
        A transaction that holds the fence to its end, and says where the rotation is.

        Raises:
            Overtaken: somebody else has taken the next.
            Sealed: the instance was sealed; what was begun is finished when it is open again.
        """
        async with self.session.transaction() as tx:
            row = await tx.one("fence_hold", number=self.number, nonce=self.nonce, step=name, total=total)
            if row is None:
                sealed = await tx.one("instance_sealed")
                raise Sealed if sealed and sealed["sealed_at"] else overtaken()
            yield tx

    async def check(self, name: str) -> None:
        """See that it still holds, before something is written elsewhere."""
        async with self.step(name):
            pass
