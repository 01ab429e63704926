"""
A sealed instance, opened for one person: how it is unsealed without any other part getting hold of a key.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.crypto.keyring import KeyRing
from company_agents.db.database import Database
from company_agents.identity.operators import Operators
from company_agents.identity.sessions import Sessions
from company_agents.rotation.panic import Panic
from company_agents.secret_store.audit_keys import AuditKeys
from company_agents.secret_store.keys import HeldKeys
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

if TYPE_CHECKING:
    from company_agents.app import App


@contextlib.asynccontextmanager
async def unsealing(app: App) -> AsyncIterator[tuple[Sessions, Panic]]:
    """
    A sealed instance, opened for one person who says that they own it: the keys are held here, and by no other part.
    What is called with it raises `MayNotStart` where they cannot be had.

    Raises:
        TooMany: others are trying the same.
    """
    # One after the other. The source is read when the first secret is opened, which is the one that the code is checked
    # with: anybody may try, and who has not the password of an owner brings no key here.
    async with app.panic.turn():
        held = HeldKeys(KeyRing(), app.panic.unlock)
        async with _opened_for(app.store.db, app.instance.id, app, held) as opened:
            yield opened


@contextlib.asynccontextmanager
async def _opened_for(db: Database, instance: UUID, app: App, held: HeldKeys) -> AsyncIterator[tuple[Sessions, Panic]]:
    audit = AuditLog(db, _no_key, instance)
    store = SecretStore(db, held, audit)
    audit.key = AuditKeys(db, store).newest
    audit.start()
    try:
        sessions = Sessions(db, store, audit, Operators(db, store, audit), refusals=app.audit)
        yield sessions, Panic(db, audit, held, lambda: None, app.panic.unlock)
    finally:
        try:
            await audit.close()
        finally:
            held.seal()


async def _no_key() -> tuple[int, Sensitive]:
    raise AssertionError("the audit log is used before its key")
