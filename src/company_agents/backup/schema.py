"""
Of which schema an archive is, and whether this program knows it.
"""

from __future__ import annotations

import hashlib

from company_agents.backup.manifest import Manifest, Newer, Schema
from company_agents.db.migrate import Migration, known_migrations
from company_agents.errors import Refused


def our_schema() -> Schema:
    """The schema that this program knows."""
    return schema_at(known_migrations()[-1].version)


def schema_at(last: int) -> Schema:
    """What this program knows of the schema up to a step."""
    steps = (step for step in known_migrations() if step.version <= last)
    text = "".join(f"{step.version} {step.checksum}\n" for step in steps)
    return Schema(last, hashlib.sha256(text.encode()).hexdigest())


def steps_of(manifest: Manifest) -> list[Migration]:
    """
    The steps that make the schema of an archive.

    Raises:
        Newer: this program does not know them all.
        Refused: they are not those that this program knows.
    """
    known = known_migrations()
    if manifest.schema.step > known[-1].version:
        raise Newer(
            f"the backup has the schema {manifest.schema.step}, and this program knows it up to {known[-1].version}",
            hint="restore it with the version that made it, or a newer one",
        )
    if schema_at(manifest.schema.step) != manifest.schema:
        raise Refused(
            "the schema of the backup is none that this program knows",
            hint="restore it with the version that made it",
            code="backup_schema",
        )
    return [step for step in known if step.version <= manifest.schema.step]
