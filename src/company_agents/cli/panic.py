"""
company-agents seal, company-agents unseal
"""

from __future__ import annotations

import typer

from company_agents.cli.command import Session, command
from company_agents.cli.terminal import Result


def register(cli: typer.Typer) -> None:
    """Add the commands."""

    @command(cli, "seal", unseal=True, keyless=True)
    async def seal(session: Session) -> Result:
        """Panic: every orchestrator drops its keys and answers nothing until an owner unseals."""
        await session.app.panic.seal(session.principal.label)
        return Result({"sealed": True}, text="the instance is sealed", note="`company-agents unseal` opens it again")

    @command(cli, "unseal", unseal=True)
    async def unseal(session: Session) -> Result:
        """Let every orchestrator have its keys again."""
        done = await session.app.panic.unseal(session.principal.label)
        return Result({"sealed": False}, text="the instance is open" if done else "the instance was open already")
