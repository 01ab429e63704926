"""
What an adapter is given, and what it owes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote
from uuid import UUID

from company_agents.sensitive import Sensitive

Kind = Literal["process", "http", "llm"]
Stream = Literal["output", "error", "note"]


@dataclass(frozen=True, slots=True)
class Work:
    """
    One start of one run, as its adapter gets it. `token` is the run's own, and all that may act in its name; `workspace` is an
    empty folder of this start alone (0700), removed after it; the addresses are without a trailing slash.
    """

    run_id: UUID
    company_id: UUID
    agent_id: UUID
    agent_name: str
    fence: int
    prompt: str
    task_id: UUID | None
    config: Mapping[str, Any]
    unsandboxed: bool
    token: Sensitive = field(repr=False)
    workspace: Path
    # How to reach this orchestrator from this machine: its root, as `http://127.0.0.1:3101`.
    url: str
    # Seconds that are left of the run's time.
    seconds: float

    @property
    def mcp_url(self) -> str:
        """The MCP server."""
        return f"{self.url}/mcp"

    def gateway_url(self, integration: str) -> str:
        """The base URL of an integration, by its id or its name."""
        return f"{self.url}/gateway/{quote(integration, safe='')}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: `finished`, or `failed` with a reason in one sentence, without anything secret."""

    state: Literal["finished", "failed"]
    reason: str = ""


class Output(Protocol):
    """Where a run's output goes: through the redactor into its log, within its limits. Never raises for what is written."""

    async def write(self, stream: Stream, text: str) -> None:
        """Take a piece of text; it may end in the middle of a line."""


class Adapter(Protocol):
    """
    Executes runs of one kind.

    `execute` is cancelled when the run is cancelled, its lease is lost, or its time or its budget is over: before it lets the
    cancellation through, everything that it started has ended. What it raises fails the run, with the sentence of the error.
    """

    @property
    def kind(self) -> Kind:
        """Whose runs it executes."""

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """
        A configuration as it is stored, with its defaults.

        Raises:
            WrongUsage: a field that there is not, or a value that will not do.
        """

    def opens(self, config: Mapping[str, Any]) -> Sequence[str]:
        """
        What a checked configuration lets a run do beyond its sandbox, by the names of its fields: only an owner of the
        instance may set such a one. Of what runs in no sandbox: nothing.
        """

    async def execute(self, work: Work, output: Output) -> Outcome:
        """Do the work of one start."""
