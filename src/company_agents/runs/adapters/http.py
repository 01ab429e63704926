"""
A run that is handed over to a remote agent: signed, and never with a token in it.

What the agent's address is sent says which run there is. Whoever is there claims it with the agent's own token, which is how
the run gets its lease and its token, works, and finishes it over the API.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from company_agents.companies.scope import CompanyScope
from company_agents.errors import CompanyAgentsError, Failed, Sealed
from company_agents.outgoing.exchange import Exchange
from company_agents.outgoing.receiver import Sent, check_url, judged
from company_agents.outgoing.standard_webhooks import Held
from company_agents.runs.adapters.base import Kind, Outcome, Output, Work
from company_agents.runs.adapters.fields import Fields
from company_agents.secret_store.store import SecretStore

# Seconds from one delivery to the next, while nobody has claimed the run; the last is repeated.
SCHEDULE = (5, 15, 60, 300, 900)
JITTER = 0.2
# So long a run waits for somebody to claim it; then it has failed.
PATIENCE = timedelta(hours=6)
NOBODY = "nobody claimed it"
MOST_URL = 2000


@dataclass(frozen=True, slots=True)
class Handover:
    """A run as a remote agent is told of it. `queued_at` is when it last came to wait for somebody."""

    run_id: UUID
    company_id: UUID
    agent_id: UUID
    agent_name: str
    fence: int
    prompt: str
    task_id: UUID | None
    queued_at: datetime

    @property
    def expires_at(self) -> datetime:
        """Until when it may be claimed."""
        return self.queued_at + PATIENCE

    @property
    def message_id(self) -> str:
        """The same at each delivery of one start: who has seen it need not take it again."""
        return f"run_{self.run_id.hex}_{self.fence}"

    def body(self, url: str, now: datetime) -> bytes:
        """What is sent; `url` is this orchestrator's, as the agent reaches it."""
        run = f"{url}/v1/companies/{self.company_id}/runs/{self.run_id}"
        data = {
            "run": str(self.run_id),
            "company": str(self.company_id),
            "agent": str(self.agent_id),
            "agent_name": self.agent_name,
            "task": str(self.task_id) if self.task_id else None,
            "prompt": self.prompt,
            "claim_url": f"{run}/claim",
            "run_url": run,
            "api_url": f"{url}/v1",
            "mcp_url": f"{url}/mcp",
            "gateway_url": f"{url}/gateway",
            "expires_at": self.expires_at.astimezone(UTC).isoformat(),
        }
        message = {"type": "run.queued", "timestamp": now.astimezone(UTC).isoformat(), "data": data}
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


@dataclass(frozen=True)
class HttpAdapter:
    """Hands runs over. `url` is this orchestrator's, as a remote agent reaches it."""

    store: SecretStore
    exchange: Exchange
    url: str
    kind: Kind = "http"

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            WrongUsage: not an address that may be told of runs; see `check_url`.
        """
        fields = Fields(config)
        url, private = fields.text("url", most=MOST_URL), fields.flag("allow_private_network")
        fields.done()
        return {
            "url": check_url(url, allow_private=private, what="an agent"),
            "allow_private_network": private,
        }

    def opens(self, config: Mapping[str, Any]) -> Sequence[str]:
        """Nothing: it runs elsewhere."""
        return ()

    async def execute(self, work: Work, output: Output) -> Outcome:
        """
        Raises:
            Failed: always. Its runs are delivered, and executed by whoever claims them.
        """
        raise Failed("a run of a remote agent is not executed here")

    async def deliver(self, scope: CompanyScope, handover: Handover) -> Sent:
        """
        Tell the remote agent of a run, once. What is wrong is in what is returned; that it was taken says not yet that
        anybody claims the run.

        Raises:
            Sealed: the instance is sealed.
        """
        try:
            sealed = await self.store.open_own(scope, secret_name(handover.agent_id))
            if sealed is None:
                return Sent(None, "the agent has no address any more")
            held, now = Held.from_sealed(sealed), datetime.now(UTC)
            body = handover.body(self.url, now)
            signed = held.signed(handover.message_id, now, body)
            answer = await self.exchange.send(
                "POST", held.url, headers=signed, body=body, allow_private=held.allow_private
            )
        except Sealed:
            raise
        except CompanyAgentsError as error:
            return Sent(None, error.sentence)
        return judged(answer)


def secret_name(agent_id: UUID) -> str:
    """What the sealed address and signing secret of a remote agent is called."""
    return f"agent_adapter/{agent_id}"


def wait_after(deliveries: int, sent: Sent) -> float:
    """Seconds until the next delivery, after so many: as the schedule says, spread, or longer where the agent says so."""
    planned = SCHEDULE[min(max(deliveries, 1), len(SCHEDULE)) - 1]
    spread = planned * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 — nothing hangs on its being unguessable
    return max(spread, min(sent.retry_after, SCHEDULE[-1]))
