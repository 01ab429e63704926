"""
What goes in and what comes out of the routes of approvals and rules.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field, StrictInt

from company_agents.api.schemas import Answer, In, Out, Whom
from company_agents.integrations.approvals import MOST_NOTE
from company_agents.integrations.rules import MOST_PER_MINUTE, MOST_RULES, Rules

_ONLY = "nothing else may be called: rules such as `GET /repos/**`; an empty list: anything; null: nothing is said"
_ASK = "a person approves it first: rules such as `POST /v1/refunds`; an empty list: nothing; null: nothing is said"
_PER_MINUTE = "so many calls of an agent in a minute; 0: no limit; null: nothing is said"


class Said(In):
    """Rules, as far as something is said."""

    only: list[str] | None = Field(None, max_length=MOST_RULES, description=_ONLY)
    ask: list[str] | None = Field(None, max_length=MOST_RULES, description=_ASK)
    per_minute: StrictInt | None = Field(None, ge=0, le=MOST_PER_MINUTE, description=_PER_MINUTE)

    def rules(self) -> Rules:
        """As the rooms have them."""
        return Rules.read(self.only, self.ask, self.per_minute)


class Allowing(Said, Whom):
    """An agent, and the rules that count for it alone; what is not said stays."""


class RulesOfAgentOut(Out):
    """What is said of one agent; null: nothing, so that what is said of all counts."""

    agent: UUID
    only: list[str] | None
    ask: list[str] | None
    per_minute: int | None


class RulesOut(Out):
    """What is said of all agents, and of those of which something else is said."""

    id: UUID = Field(description="of the integration")
    only: list[str] = Field(description="nothing else may be called; empty: anything")
    ask: list[str] = Field(description="a person approves it first")
    per_minute: int = Field(description="so many calls of an agent in a minute; 0: no limit")
    agents: list[RulesOfAgentOut]


class Decision(In):
    """What the agent is told with it."""

    note: str = Field("", max_length=MOST_NOTE)


class ApprovalOut(Out):
    """A request that a person has to approve, or had to."""

    id: UUID
    company_id: UUID
    integration_id: UUID
    integration: str
    agent_id: UUID
    agent: str
    run_id: UUID | None
    state: Literal["waiting", "approved", "sending", "done", "failed", "uncertain", "refused", "expired"]
    method: str
    host: str = Field(description="scheme, host and port")
    path: str = Field(description="a template of it; the request has it as it is")
    version: int = Field(description="of the credential that it is sent with")
    size: int = Field(description="bytes of the body")
    reply_status: int | None
    reason: str = Field(description="why it was not sent, or why nobody knows what became of it")
    note: str = Field(description="what the person who decided said")
    created_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    ended_at: datetime | None
    collected_at: datetime | None = Field(description="when the agent heard what became of it")
    is_kept: bool = Field(description="whether the request is still kept")


class HeaderOut(Out):
    """A header."""

    name: str
    value: str


class RequestOut(Out):
    """Exactly what is sent; the credential is added on the way."""

    method: str
    url: str
    headers: list[HeaderOut]
    body: str | None = Field(description="null where it is no text")
    base64: str | None = Field(description="the body where it is no text")
    size: int
    sha256: str = Field(description="of the body, in hex")


class KeptAnswer(Answer):
    """What the provider answered, as far as it is kept."""

    cut: bool = Field(description="whether it was longer")


class ApprovalWithRequest(ApprovalOut):
    """An approval; with the request for who may decide, and with the reply for the agent that asked."""

    request: RequestOut | None = None
    reply: KeptAnswer | None = None
