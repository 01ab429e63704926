"""
company-agents agent …
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import After, CompanyId, Limit, Name, SomeId
from company_agents.cli.terminal import Result

if TYPE_CHECKING:
    from company_agents.identity.agents import Agent
    from company_agents.sensitive import Sensitive

group = noun("agent", "The agents of a company, and their tokens.")


@command(group, "create")
async def create(session: Session, name: Name, company: CompanyId) -> Result:
    """Hire an agent. Its token is shown this once."""
    return _with_token(*await session.app.agents.create(await session.company(company), name))


@command(group, "list")
async def listing(session: Session, company: CompanyId, after: After = None, limit: Limit = 50) -> Result:
    """List the agents of a company."""
    page = await session.app.agents.list(await session.company(company), after, limit)
    return Result(page, columns=("id", "name", "state", "token_created_at", "token_last_used_at"))


@command(group, "pause")
async def pause(session: Session, id: SomeId) -> Result:
    """Refuse an agent's token until it is resumed."""
    return Result(await session.app.agents.pause(await session.company_of_agent(id), id))


@command(group, "resume")
async def resume(session: Session, id: SomeId) -> Result:
    """Take a paused agent's token again."""
    return Result(await session.app.agents.resume(await session.company_of_agent(id), id))


@command(group, "retire")
async def retire(session: Session, id: SomeId) -> Result:
    """Refuse an agent's token for good; its history stays."""
    return Result(await session.app.agents.retire(await session.company_of_agent(id), id))


@command(group, "rotate-token")
async def rotate_token(session: Session, id: SomeId) -> Result:
    """Give an agent a new token, shown this once; the old one is refused from now on."""
    return _with_token(*await session.app.agents.rotate_token(await session.company_of_agent(id), id))


def _with_token(agent: Agent, token: Sensitive) -> Result:
    data: dict[str, Any] = {"id": agent.id, "name": agent.name, "company_id": agent.company_id, "token": token}
    return Result(data, note="the token is shown this once: keep it where the agent finds it, and nowhere else")
