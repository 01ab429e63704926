"""
Whether a run may still write. Its token was good at the door; the lease may have ended since, and another have taken it on.
"""

from __future__ import annotations

from typing import Any

from company_agents.errors import Conflict
from company_agents.identity.principal import Caller


async def still_holds(tx: Any, caller: Caller) -> None:
    """
    Asked in the transaction of whatever a caller writes. Nobody takes the run on before that transaction has ended; of a
    caller that is no run nothing is asked.

    Raises:
        Conflict: its lease has ended, or somebody else has taken it on (`run_over`).
    """
    run_id = caller.principal.run_id
    if run_id is None:
        return
    if await tx.one("run_held", id=run_id, fence=caller.principal.fence) is None:
        raise Conflict(
            "this run is over, or somebody else has taken it on", hint="stop: nothing was written", code="run_over"
        )
