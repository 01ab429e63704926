"""
A run that is a loop over a model: it is asked, calls tools, is told what they gave, until it ends its turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from company_agents.errors import WrongUsage
from company_agents.runs.adapters.base import Kind, Outcome, Output, Work
from company_agents.runs.adapters.fields import Fields
from company_agents.runs.adapters.llm_client import Waits

# The interfaces that there are, and where each is at its own provider.
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
MOST_SYSTEM = 20_000


@dataclass(frozen=True)
class LlmAdapter:
    """Asks a model through the gateway, with the run's own token."""

    kind: Kind = "llm"
    waits: Waits = field(default_factory=Waits)

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            WrongUsage: a field that there is not, or a value that will not do.
        """
        fields = Fields(config)
        integration, model = fields.text("integration"), fields.text("model")
        api = fields.one_of("api", tuple(PATHS), "anthropic")
        path = fields.text("path", PATHS[api]) or PATHS[api]
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or set(path) & set("?# \\"):
            raise WrongUsage("path begins with / and has no query", hint=f"leave it away for {PATHS[api]}")
        checked = {
            "integration": integration,
            "api": api,
            "model": model,
            "path": path,
            "max_tokens": fields.number("max_tokens", 8192, least=1, most=1_000_000),
            "max_turns": fields.number("max_turns", 100, least=1, most=1000),
            "system": fields.text("system", "", most=MOST_SYSTEM),
        }
        fields.done()
        return checked

    def opens(self, config: Mapping[str, Any]) -> Sequence[str]:
        """Nothing: it starts no process."""
        return ()

    async def execute(self, work: Work, output: Output) -> Outcome:
        """
        Do the work of one start.

        Raises:
            Refused: our own gateway refuses the calls to the model: the budget is spent, for one.
            Failed: it could not be done; the sentence says why.
        """
        # Here, because the libraries behind it are heavy, and most of what builds an adapter never runs one.
        from company_agents.runs.adapters.llm_loop import execute

        return await execute(work, output, self.waits)
