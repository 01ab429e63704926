"""
What the routes of agents take and give.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, StrictBool

from company_agents.api.fields import Name
from company_agents.api.schemas import In, Out


class NewAgent(In):
    """An agent to hire."""

    name: Name


class AgentOut(Out):
    """An agent."""

    id: UUID
    company_id: UUID
    name: str
    state: Literal["active", "paused", "retired"]
    created_at: datetime
    updated_at: datetime
    token_created_at: datetime | None
    token_last_used_at: datetime | None
    adapter: Literal["process", "http", "llm"] | None = Field(description="how its runs are executed; null: by itself")
    unsandboxed: bool = Field(description="its process runs outside of any sandbox, and can read the master key")


class AgentDetail(AgentOut):
    """An agent, and how its runs are executed."""

    adapter_config: dict[str, Any]


class AdapterIn(In):
    """How an agent's runs are executed. Nothing in it may be secret."""

    adapter: Literal["process", "http", "llm"]
    config: dict[str, Any] = Field(description="its fields are on the page docs/adapters.md")
    unsandboxed: StrictBool = Field(
        False, description="outside of any sandbox, where it can read the master key; for an owner of the instance"
    )


class AdapterSet(AgentDetail):
    """An agent with its adapter; of a remote one, the secret that signs what it is handed: shown this once."""

    secret: str | None


class AdapterSecret(Out):
    """A new signing secret: the only time that it is shown. The one before it signs beside it until then."""

    id: UUID
    secret: str
    previous_until: datetime


class AgentToken(Out):
    """An agent's new token: the only time that it is shown."""

    id: UUID
    token: str


class AgentCreated(AgentOut):
    """A new agent with its token: the only time that it is shown."""

    token: str | None = Field(description="null where the answer is a replay: a token is not kept to be shown again")
    replayed: bool = Field(False, description="whether this Idempotency-Key had created it before")
