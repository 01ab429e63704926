"""
Many sealed secrets, quickly: what `SecretStore.put` would have written, many rows in one statement.
"""

from __future__ import annotations

import secrets
from uuid import UUID, uuid4

from company_agents.app import App
from company_agents.crypto.cipher import seal
from company_agents.crypto.place import Place
from company_agents.sensitive import Sensitive

AT_ONCE = 5000
INSERT = """
    INSERT INTO secrets (id, company_id, name, value, nonce, key_id)
    SELECT u.id, %s, u.name, u.value, u.nonce, %s
    FROM unnest(%s::uuid[], %s::text[], %s::bytea[], %s::bytea[]) AS u (id, name, value, nonce)
"""


async def fill(app: App, company_id: UUID, count: int, *, size: int = 64) -> list[UUID]:
    """Put so many secrets of so many bytes into a company. Returns their ids; each is named `filled/<id>`."""
    active = (await app.keys.status()).active.key_id
    key = app.held.ring.get(active)
    ids: list[UUID] = []
    async with await app.store.db.logins.instance.connect() as connection:
        while len(ids) < count:
            batch = [uuid4() for _ in range(min(AT_ONCE, count - len(ids)))]
            names = [f"filled/{secret_id}" for secret_id in batch]
            sealed = [
                seal(key, Place(company_id, secret_id, name, active), Sensitive(secrets.token_bytes(size)))
                for secret_id, name in zip(batch, names, strict=True)
            ]
            values, nonces = [one.value for one in sealed], [one.nonce for one in sealed]
            await connection.execute(INSERT, (company_id, active, batch, names, values, nonces))
            ids += batch
    return ids
