"""
Credential versions: one token or one consent each. A rotation makes a new one; a refresh renews one in place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from company_agents.integrations.credential import Credential
from company_agents.secret_store.store import SecretStore

# A consent is refreshed before it expires: by this share of its life, and by this at least.
EARLY = 0.1
LEAST_EARLY = timedelta(seconds=60)
# And by up to this share of its life more, at random: those that were made together are not refreshed together.
SPREAD = 0.2


def refresh_due(now: datetime, expires_at: datetime) -> datetime:
    """When a consent of this moment is to be refreshed; one that lives for a minute or two, after half of its life."""
    life = max(expires_at - now, timedelta(0))
    early = max(LEAST_EARLY, EARLY * life) + random.uniform(0, SPREAD) * life  # noqa: S311
    return expires_at - min(early, life / 2)


@dataclass(frozen=True)
class Versions:
    """The credential versions of integrations, in a transaction of their company."""

    store: SecretStore

    async def add(self, tx: Any, integration_id: UUID, version: int, credential: Credential) -> None:
        """Seal a credential as the current version; there must be no other."""
        secret = await self.store.put(tx, secret_name(integration_id, version), credential.sealed_form())
        expires_at = credential.consent.expires_at if credential.consent else None
        await tx.run(
            "version_insert",
            company_id=tx.company_id,
            integration_id=integration_id,
            version=version,
            secret_id=secret,
            expires_at=expires_at,
            refresh_due_at=refresh_due(datetime.now(expires_at.tzinfo), expires_at) if expires_at else None,
        )

    async def supersede(self, tx: Any, integration_id: UUID, held: dict[str, Any], credential: Credential) -> int:
        """
        Make a credential the current version in the place of the one that `held` tells of, whose integration is locked.
        Its number is returned.
        """
        # No run holds the old version, so it goes at once.
        await tx.run("version_retire", integration_id=integration_id, version=held["version"])
        await self.store.delete(tx, held["secret_id"])
        version: int = held["version"] + 1
        await self.add(tx, integration_id, version, credential)
        return version


def secret_name(integration_id: UUID, version: int) -> str:
    """What a credential version's secret is called: indexed by the integration's id."""
    return f"integration/{integration_id}/{version}"
