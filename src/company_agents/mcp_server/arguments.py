"""
What the tools take. The schemas that models see are made of these; the lengths are checked where the things are
kept, so that there is one place that knows them.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from company_agents.errors import WrongUsage
from company_agents.sensitive import harmless

Status = Literal["open", "in_progress", "blocked", "done", "cancelled"]
Assignee = Literal["me"] | UUID

_TASK = "The task's id, from task_list."
_NOTE = "The note's id, from memory_search."
_AFTER = "The `next` of the page before; leave it out for the first page."
# Longer, and a client may give up on the call.
MOST_WAIT = 60
_WAIT = "How long to wait for a person to decide and for the reply, where one has to approve it first; 0 to 60."
_PAGE = "How many entries a page has at most, 1 to 200."


class Arguments(BaseModel):
    """What a tool takes. An argument that is not known is an error: a misspelt one would otherwise do nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Arguments):
    """No arguments."""


class MemoryWrite(Arguments):
    """For memory_write."""

    content: str = Field(description="The text of the note; at most 100000 characters.")
    title: str = Field(default="", description="A short title; at most 200 characters.")
    tags: list[str] = Field(default=[], description="Up to 20 tags of 1 to 50 characters.")
    id: UUID | None = Field(default=None, description="Give the id of a note of yours to replace it as a whole.")


class MemorySearch(Arguments):
    """For memory_search."""

    query: str = Field(
        description='Words to look for. "quotes" keep words together, `or` means either, -word means without; '
        "an empty text gives the newest notes."
    )
    limit: int = Field(default=20, description="How many notes at most, 1 to 100.")


class Note(Arguments):
    """For memory_get and memory_delete."""

    id: UUID = Field(description=_NOTE)


class TaskList(Arguments):
    """For task_list."""

    status: Status | None = Field(default=None, description="Only tasks of this status.")
    assignee: Assignee | None = Field(default=None, description="Only tasks of this agent: an agent's id, or me.")
    after: str | None = Field(default=None, description=_AFTER)
    limit: int = Field(default=50, description=_PAGE)


class TaskGet(Arguments):
    """For task_get."""

    id: UUID = Field(description=_TASK)


class TaskCreate(Arguments):
    """For task_create."""

    title: str = Field(description="What is to be done, in one line; at most 200 characters.")
    description: str = Field(default="", description="Everything that is needed to do it; at most 50000 characters.")
    assignee: Assignee | None = Field(default=None, description="Who is to do it: an agent's id, or me.")


class TaskUpdate(Arguments):
    """For task_update."""

    id: UUID = Field(description=_TASK)
    title: str | None = Field(default=None, description="A new title; at most 200 characters.")
    description: str | None = Field(default=None, description="A new description; at most 50000 characters.")
    status: Status | None = Field(default=None, description="A new status.")
    assignee: Assignee | Literal["nobody"] | None = Field(
        default=None, description="Who is to do it now: an agent's id, me, or nobody."
    )


class TaskComment(Arguments):
    """For task_comment."""

    id: UUID = Field(description=_TASK)
    text: str = Field(description="The comment; at most 50000 characters.")


class IntegrationList(Arguments):
    """For integration_list."""

    after: str | None = Field(default=None, description=_AFTER)
    limit: int = Field(default=50, description=_PAGE)


class IntegrationRequest(Arguments):
    """For integration_request."""

    integration: str = Field(description="The integration's id or its name, from integration_list.")
    method: str = Field(description="GET, POST, PUT, PATCH, DELETE or HEAD.")
    path: str = Field(
        description="The absolute path on the provider's host, percent-encoded and without a query, "
        "such as /api/chat.postMessage."
    )
    query: dict[str, Any] | None = Field(
        default=None, description="Query parameters by name: text, a number, true or false, or a list of these."
    )
    headers: dict[str, str] | None = Field(
        default=None, description="Further request headers. Never a credential: it is added on the way."
    )
    body: dict[str, Any] | list[Any] | str | None = Field(
        default=None, description="An object or a list, sent as JSON, or a text, sent as it is."
    )
    wait_seconds: int = Field(default=0, ge=0, le=MOST_WAIT, description=_WAIT)


class ApprovalGet(Arguments):
    """For approval_get."""

    id: UUID = Field(description="The approval's id, from the error approval_needed.")
    wait_seconds: int = Field(default=0, ge=0, le=MOST_WAIT, description=_WAIT)


class Schema(GenerateJsonSchema):
    """JSON Schema without a title on every field, which would tell a model its name once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def read(model: type[Arguments], given: dict[str, Any]) -> Arguments:
    """
    The arguments of a call.

    Raises:
        WrongUsage: they do not fit; the sentence names the first that does not, and repeats no value.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _misfit(model, error) from None


def _misfit(model: type[Arguments], error: ValidationError) -> WrongUsage:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    name = str(found[0]["loc"][0]) if found[0]["loc"] else "arguments"
    of_it = [entry for entry in found if entry["loc"][:1] == (name,)]
    kinds = {entry["type"] for entry in of_it}
    hint = f"it takes {', '.join(model.model_fields)}" if model.model_fields else "it takes no arguments"
    if "missing" in kinds:
        return WrongUsage(f"the argument {name} is missing", hint=hint)
    if "extra_forbidden" in kinds:
        return WrongUsage(f"there is no argument {harmless(name)}", hint=hint)
    if kinds & {"uuid_parsing", "uuid_type"}:
        # Words that may stand in place of one, as «Input should be 'me'» names them.
        words = [entry["msg"].split("'")[1] for entry in of_it if entry["type"] == "literal_error"]
        return WrongUsage(
            f"{name} is no well-formed id{''.join(f' nor `{word}`' for word in words)}",
            hint="take it from a list or a search",
        )
    said = found[0]["msg"].removeprefix("Input ")
    return WrongUsage(f"the argument {name} {said}", hint=hint)
