"""
What goes in and what comes out, as the documentation of this door shows it.

A field of a room's own object is shown only when it stands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from company_agents.api.fields import Id, Name, Secret, Status
from company_agents.identity.directory import MOST_NAME
from company_agents.work.memory import MOST_CONTENT, MOST_TAGS
from company_agents.work.tasks import MOST_TEXT, MOST_TITLE

T = TypeVar("T")


class _In(BaseModel):
    # A misspelt field is an error, not a default; an error never quotes what was sent.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class WrongField(_Out):
    """What is wrong with one field."""

    field: str
    detail: str


class Problem(_Out):
    """An error (RFC 9457)."""

    type: str = Field(description="always about:blank")
    title: str = Field(description="the phrase of the status")
    status: int
    detail: str = Field(description="one sentence")
    code: str = Field(description="what programs tell errors apart by")
    hint: str = Field(description="what one can do; may be empty")
    errors: list[WrongField] | None = Field(None, description="field by field, where fields are wrong")


class PageOf(_Out, Generic[T]):
    """Some entries; `next` goes into `after` to get those that follow, and is null at the end."""

    items: Sequence[T]
    next: str | None = None


# — me —


class AgentMe(_Out):
    """The agent whose token this is."""

    kind: Literal["agent"]
    id: UUID
    name: str
    company: UUID = Field(description="the id of its company")


class OperatorMe(_Out):
    """The operator whose token this is; the role is the highest that this token gives for the instance."""

    kind: Literal["operator"]
    id: UUID
    name: str
    role: Literal["viewer", "operator", "owner"]


class OperatorTokenOut(_Out):
    """A token of an operator's programs, without its value."""

    id: UUID
    name: str
    role: Literal["viewer", "operator", "owner"]
    created_at: datetime
    ends_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


# — companies, agents —


class NewCompany(_In):
    """A company to create."""

    name: Name


class CompanyOut(_Out):
    """A company."""

    id: UUID
    name: str
    created_at: datetime


class NewAgent(_In):
    """An agent to hire."""

    name: Name


class AgentOut(_Out):
    """An agent."""

    id: UUID
    company_id: UUID
    name: str
    state: Literal["active", "paused", "retired"]
    created_at: datetime
    updated_at: datetime
    token_created_at: datetime | None
    token_last_used_at: datetime | None


class AgentToken(_Out):
    """An agent's new token: the only time that it is shown."""

    id: UUID
    token: str


class AgentCreated(AgentOut):
    """A new agent with its token: the only time that it is shown."""

    token: str | None = Field(description="null where the answer is a replay: a token is not kept to be shown again")
    replayed: bool = Field(False, description="whether this Idempotency-Key had created it before")


# — integrations —


class NewIntegration(_In):
    """A connection by API token. The token is tried at the provider before it is stored."""

    provider: str = Field(max_length=MOST_NAME, description="one of /v1/providers")
    token: Secret
    name: Name | None = Field(None, description="default: the provider's")
    base_url: str | None = Field(None, max_length=2000, description="replaces scheme, host and port; nothing else")
    allow_private_network: StrictBool = Field(False, description="let the calls go to a private address")
    header: str | None = Field(None, max_length=MOST_NAME, description="for `generic`: where the token goes")
    allow: list[Id] = Field(default=[], max_length=1000, description="agents that may use it")
    allow_all: StrictBool = Field(False, description="every agent of the company may use it")


class NewToken(_In):
    """A new token for the same destination."""

    token: Secret


class Whom(_In):
    """An agent."""

    agent: Id


class Switch(_In):
    """On or off."""

    on: StrictBool


class IntegrationOut(_Out):
    """A connection to a provider: everything but the credential."""

    id: UUID
    company_id: UUID
    provider: str
    name: str
    destination: str
    status: Literal["connected", "needs attention"]
    status_reason: str
    status_since: datetime
    scopes: list[str]
    allow_all: bool
    agents: list[UUID]
    version: int
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None


class Call(_In):
    """One HTTP call to a provider; the credential is added on the way."""

    method: str = Field("GET", min_length=1, max_length=20)
    path: str = Field(max_length=16_000, description="the absolute path on the provider's host, percent-encoded")
    query: dict[str, Any] = Field(default={}, description="text, numbers, or lists of them")
    headers: dict[str, str] = Field(default={})
    body: Any = Field(None, description="an object or a list (sent as JSON), or a text")


class Answer(_Out):
    """What the provider answered."""

    status: int
    headers: dict[str, str]
    body: Any = Field(description='parsed JSON, else text, else {"base64": …}')


class ProviderScope(_Out):
    """Something that the credential should be allowed to do."""

    name: str
    why: str


class CredentialPlaceOut(_Out):
    """Where the credential goes."""

    kind: Literal["header", "query", "basic"]
    name: str


class ProviderOut(_Out):
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


class NewTask(_In):
    """A piece of work."""

    title: str = Field(min_length=1, max_length=MOST_TITLE)
    description: str = Field("", max_length=MOST_TEXT)
    assignee: Id | None = Field(None, description="an agent")


class TaskChange(_In):
    """What is to change; the rest stays."""

    # No nulls: that something is taken away cannot be said, so it must not look as if it could.
    title: str = Field(default_factory=str, min_length=1, max_length=MOST_TITLE)
    description: str = Field(default_factory=str, max_length=MOST_TEXT)
    status: Status = Field(default_factory=str)
    assignee: Id = Field(default_factory=lambda: UUID(int=0), description="an agent")


class NewComment(_In):
    """A remark."""

    text: str = Field(min_length=1, max_length=MOST_TEXT)


class CommentOut(_Out):
    """A remark on a task; `author` is `agent:<id>` or `operator:<id>`."""

    id: UUID
    author: str
    text: str
    created_at: datetime


class TaskOut(_Out):
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


class NewMemory(_In):
    """A note of an agent to itself."""

    content: str = Field(min_length=1, max_length=MOST_CONTENT)
    title: str = Field("", max_length=200)
    tags: list[Annotated[str, Field(min_length=1, max_length=50)]] = Field(default=[], max_length=MOST_TAGS)


class MemoryOut(_Out):
    """A note."""

    id: UUID
    title: str
    content: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime


# — audit —


class Event(_Out):
    """One thing that happened; what else is known of it stands beside these."""

    model_config = ConfigDict(extra="allow", from_attributes=True)

    seq: int
    at: str
    action: str


class Events(_Out):
    """Events, newest first; `next` goes into `before` to get those that came earlier, and is null at the end."""

    items: list[Event]
    next: int | None


class FaultOut(_Out):
    """One thing that is wrong with the chain, at one event."""

    seq: int
    what: str


class VerifiedOut(_Out):
    """Whether the chain is what was written."""

    chain: UUID
    events: int
    good: bool
    faults: list[FaultOut]


# — the master key —


class Rotation(_In):
    """What kind of rotation."""

    # Both are to be said: one of them destroys a key.
    finish: StrictBool = Field(description="finish what was begun, and begin nothing")
    compromised: StrictBool = Field(description="the key got out: destroy it, with the backups that need it")


class Pruning(_In):
    """Which keys."""

    id: str | None = Field(None, max_length=MOST_NAME, description="this one alone; also one that has no end")


class KeyOut(_Out):
    """One master key: its id and state. The key itself is shown nowhere."""

    key_id: str
    state: Literal["staged", "active", "retiring", "archived", "destroying", "destroyed"]
    source: str
    created_at: datetime
    activated_at: datetime | None
    archived_at: datetime | None
    ends_at: datetime | None = Field(description="until when it is kept; null: without an end")
    compromised_at: datetime | None
    rewrapped: int = Field(description="how many secrets were moved to it")
    seals: int = Field(description="how often it has sealed")
    rows: int = Field(description="how many secrets are under it now")
    in_ring: bool = Field(description="whether the orchestrator that answers holds it")
    backups: list[str] = Field(description="backups that need it")


class ReplicaOut(_Out):
    """One orchestrator that lives."""

    id: UUID
    host: str
    process: int
    version: str
    key_ids: list[str] = Field(description="the keys that it holds")
    problem: str = Field(description="what keeps it from one that it should hold; may be empty")
    started_at: datetime
    seen_at: datetime


class UnderwayOut(_Out):
    """A change of the master key that runs, or was left unfinished."""

    running: bool
    step: str
    done: int
    total: int
    started_at: datetime | None


class LastRotation(_Out):
    """How the last rotation ended that the orchestrator that answers ran since it started."""

    ended_at: datetime
    ok: bool
    action: Literal["rotated", "finished", "nothing"] | None = None
    rows: int = Field(0, description="how many secrets were moved")
    not_opened: int = Field(0, description="how many did not open, for which the old key stays")
    backups: list[str] = Field(default=[], description="backups that died with a key that got out")
    code: str | None = Field(None, description="of the error, if it failed; as in a problem")
    detail: str | None = None
    hint: str | None = None


class KeyStatusOut(_Out):
    """What `company-agents key status` says."""

    source: str
    active_key_id: str
    age_days: int
    period_days: int
    old: bool = Field(description="whether the active key has outlived its period")
    worn: bool = Field(description="whether it has sealed half of what is safe")
    seals_limit: int
    seals_urge_rotation: int
    keys: list[KeyOut]
    replicas: list[ReplicaOut]
    underway: UnderwayOut | None
    to_reissue: int = Field(description="how many entries /v1/key/reissue has")
    last_rotation: LastRotation | None = None


class KeptOut(_Out):
    """A key that was not destroyed, and why."""

    key_id: str
    why: str


class PrunedOut(_Out):
    """What was destroyed and what was kept; `after_destroy` is what the key source says remains."""

    destroyed: list[str]
    kept: list[KeptOut]
    after_destroy: str


class ToReissueOut(_Out):
    """A secret to be replaced at its provider; `command` does it."""

    id: UUID
    company_id: UUID | None
    company: str | None
    name: str
    command: str


class SealedOut(_Out):
    """Whether the instance is sealed."""

    sealed: bool
