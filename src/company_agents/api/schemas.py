"""
What goes in and what comes out, as the documentation of this door shows it.

A field of a room's own object is shown only when it stands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from company_agents.api.fields import Id, Name, Secret, Status
from company_agents.identity.directory import MOST_NAME
from company_agents.integrations.details import MOST_PERIOD
from company_agents.work.memory import MOST_CONTENT, MOST_TAGS
from company_agents.work.tasks import MOST_TEXT, MOST_TITLE

T = TypeVar("T")


class In(BaseModel):
    """What goes in."""

    # A misspelt field is an error, not a default; an error never quotes what was sent.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)


class Out(BaseModel):
    """What comes out."""

    model_config = ConfigDict(from_attributes=True)


class WrongField(Out):
    """What is wrong with one field."""

    field: str
    detail: str


class Problem(Out):
    """An error (RFC 9457)."""

    type: str = Field(description="always about:blank")
    title: str = Field(description="the phrase of the status")
    status: int
    detail: str = Field(description="one sentence")
    code: str = Field(description="what programs tell errors apart by")
    hint: str = Field(description="what one can do; may be empty")
    facts: dict[str, str] | None = Field(None, description="what belongs to it, as the id of an approval")
    errors: list[WrongField] | None = Field(None, description="field by field, where fields are wrong")


class PageOf(Out, Generic[T]):
    """Some entries; `next` goes into `after` to get those that follow, and is null at the end."""

    items: Sequence[T]
    next: str | None = None


# — me —


class AgentMe(Out):
    """The agent whose token this is."""

    kind: Literal["agent"]
    id: UUID
    name: str
    company: UUID = Field(description="the id of its company")


class RunMe(Out):
    """The run whose token this is; it does what its agent may."""

    kind: Literal["run"]
    id: UUID
    agent: UUID
    name: str = Field(description="of its agent")
    company: UUID = Field(description="the id of its company")


class OperatorMe(Out):
    """The operator whose token this is; the role is the highest that this token gives for the instance."""

    kind: Literal["operator"]
    id: UUID
    name: str
    role: Literal["viewer", "operator", "owner"]


class OperatorTokenOut(Out):
    """A token of an operator's programs, without its value."""

    id: UUID
    name: str
    role: Literal["viewer", "operator", "owner"]
    created_at: datetime
    ends_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


# — companies —


class NewCompany(In):
    """A company to create."""

    name: Name


class CompanyOut(Out):
    """A company."""

    id: UUID
    name: str
    created_at: datetime


# — integrations —


class NewIntegration(In):
    """A connection by API token. The token is tried at the provider before it is stored."""

    provider: str = Field(max_length=MOST_NAME, description="one of /v1/providers")
    token: Secret
    name: Name | None = Field(None, description="default: the provider's")
    base_url: str | None = Field(None, max_length=2000, description="replaces scheme, host and port; nothing else")
    allow_private_network: StrictBool = Field(False, description="let the calls go to a private address")
    header: str | None = Field(None, max_length=MOST_NAME, description="for `generic`: where the token goes")
    allow: list[Id] = Field(default=[], max_length=1000, description="agents that may use it")
    allow_all: StrictBool = Field(False, description="every agent of the company may use it")
    only: list[str] | None = Field(None, max_length=100, description="rules for all agents: nothing else may be called")
    ask: list[str] | None = Field(None, max_length=100, description="rules for all agents: a person approves it first")
    per_minute: StrictInt | None = Field(
        None, ge=0, le=1_000_000, description="calls of an agent in a minute; 0: no limit"
    )


class NewToken(In):
    """A new token for the same destination."""

    token: Secret


class Reminder(In):
    """After how many days a rotation is asked for; null: never."""

    days: StrictInt | None = Field(ge=1, le=MOST_PERIOD)


class Whom(In):
    """An agent."""

    agent: Id


class Switch(In):
    """On or off."""

    on: StrictBool


class IntegrationOut(Out):
    """A connection to a provider: everything but the credential."""

    id: UUID
    company_id: UUID
    provider: str
    name: str
    destination: str
    status: Literal["connected", "expiring", "refreshing", "needs attention"]
    status_reason: str
    status_hint: str = Field(description="what to do about it, in a sentence")
    status_since: datetime
    kind: Literal["token", "consent"]
    account: str = Field(description="whose credential it is, where the provider says so")
    expires_at: datetime | None = Field(description="when the present access token ends, where that is known")
    rotate_every: int | None = Field(description="days after which a rotation is asked for")
    scopes: list[str]
    allow_all: bool
    agents: list[UUID]
    version: int
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None


class VersionOut(Out):
    """One token or one consent of an integration. A draining one is held by runs that began before a rotation."""

    version: int
    state: Literal["current", "draining", "retired"]
    created_at: datetime
    expires_at: datetime | None
    retired_at: datetime | None
    runs: int = Field(description="how many runs hold it")


class IntegrationWithVersions(IntegrationOut):
    """A connection to a provider, with its credential versions, newest first; the last hundred."""

    versions: list[VersionOut]


class Call(In):
    """One HTTP call to a provider; the credential is added on the way."""

    method: str = Field("GET", min_length=1, max_length=20)
    path: str = Field(max_length=16_000, description="the absolute path on the provider's host, percent-encoded")
    query: dict[str, Any] = Field(default={}, description="text, numbers, or lists of them")
    headers: dict[str, str] = Field(default={})
    body: Any = Field(None, description="an object or a list (sent as JSON), or a text")
    wait: StrictInt = Field(0, ge=0, le=300, description="seconds to wait for a person's approval, where one is needed")


class Answer(Out):
    """What the provider answered."""

    status: int
    headers: dict[str, str]
    body: Any = Field(description='parsed JSON, else text, else {"base64": …}')


class ProviderScope(Out):
    """Something that the credential should be allowed to do."""

    name: str
    why: str


class CredentialPlaceOut(Out):
    """Where the credential goes."""

    kind: Literal["header", "query", "basic", "sigv4"]
    name: str


class ProviderOut(Out):
    """A service that can be connected."""

    name: str
    title: str
    description: str
    base_url: str | None
    token_page: str | None
    token_hint: str
    credential: CredentialPlaceOut
    scopes: list[ProviderScope]


# — work —


class NewTask(In):
    """A piece of work."""

    title: str = Field(min_length=1, max_length=MOST_TITLE)
    description: str = Field("", max_length=MOST_TEXT)
    assignee: Id | None = Field(None, description="an agent")


class TaskChange(In):
    """What is to change; the rest stays."""

    # No other nulls: that something is taken away cannot be said of it, so it must not look as if it could.
    title: str = Field(default_factory=str, min_length=1, max_length=MOST_TITLE)
    description: str = Field(default_factory=str, max_length=MOST_TEXT)
    status: Status = Field(default_factory=str)
    assignee: Id | None = Field(None, description="an agent; null: nobody")


class NewComment(In):
    """A remark."""

    text: str = Field(min_length=1, max_length=MOST_TEXT)


class CommentOut(Out):
    """A remark on a task; `author` is `agent:<id>`, `run:<id>` or `operator:<id>`."""

    id: UUID
    author: str
    text: str
    created_at: datetime


class TaskOut(Out):
    """A piece of work."""

    id: UUID
    title: str
    description: str
    status: Status
    assignee: UUID | None
    created_by: str
    created_at: datetime
    updated_at: datetime


class TaskWithComments(TaskOut):
    """A piece of work, and what was said about it."""

    comments: list[CommentOut]


class NewMemory(In):
    """A note of an agent to itself."""

    content: str = Field(min_length=1, max_length=MOST_CONTENT)
    title: str = Field("", max_length=200)
    tags: list[Annotated[str, Field(min_length=1, max_length=50)]] = Field(default=[], max_length=MOST_TAGS)


class MemoryOut(Out):
    """A note."""

    id: UUID
    title: str
    content: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime


# — audit —


class Event(Out):
    """One thing that happened; what else is known of it stands beside these."""

    model_config = ConfigDict(extra="allow", from_attributes=True)

    seq: int
    at: str
    action: str


class Events(Out):
    """Events, newest first; `next` goes into `before` to get those that came earlier, and is null at the end."""

    items: list[Event]
    next: int | None


class FaultOut(Out):
    """One thing that is wrong with the chain, at one event."""

    seq: int
    what: str


class VerifiedOut(Out):
    """Whether the chain is what was written."""

    chain: UUID
    events: int
    good: bool
    faults: list[FaultOut]
