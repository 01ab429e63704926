"""
The database of an instance, opened: embedded, or one of an operator's own; with the schema of this program.
"""

from __future__ import annotations

import asyncio
import contextlib

from company_agents.db.database import Database
from company_agents.db.embedded import Membership, join
from company_agents.db.logins import Login, Logins, check_serving_role, external_logins
from company_agents.db.migrate import migrate
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings


async def open_database(settings: Settings, stack: contextlib.AsyncExitStack, *, long_lived: bool) -> Database:
    """
    Open it for as long as the stack is not closed. `long_lived` keeps the embedded one up, also when its supervisor is killed.

    Raises:
        MayNotStart: it cannot be reached, or its schema or roles are not as they must be.
        Busy: another process is changing the schema.
    """
    if settings.database_url is not None:
        logins = external_logins(settings)
    else:
        membership = await asyncio.to_thread(join, settings.home, postgres_bin=settings.postgres_bin)
        stack.push_async_callback(asyncio.to_thread, membership.close)
        if long_lived:
            membership.watch()
        logins = _embedded_logins(membership)
    await migrate(logins)
    await check_serving_role(logins.serve)
    db = Database(logins, pool_size=settings.database_pool, long_lived=long_lived)
    stack.push_async_callback(db.close)
    await db.open()
    return db


def _embedded_logins(membership: Membership) -> Logins:
    def login(role: str) -> Login:
        return Login(Sensitive(membership.database.conninfo(role)), None)

    return Logins(login("company_agents_serve"), login("company_agents_instance"), login("company_agents_migrate"))
