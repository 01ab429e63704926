"""
Whether a backup would restore here: read whole, every secret opened in memory, nothing touched.
"""

from __future__ import annotations

import io
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from company_agents.backup.archive import RING, ArchiveReader, Opened, open_archive, opened_file
from company_agents.backup.export import Progress, Stopped
from company_agents.backup.manifest import COMPANY, KeyNeed, Manifest, Member, broken
from company_agents.backup.ring import unwrap
from company_agents.backup.schema import steps_of
from company_agents.backup.signature import check as check_signature
from company_agents.backup.signature import signed_by
from company_agents.backup.threads import in_thread
from company_agents.crypto.batch import BadRow, SealedRow
from company_agents.crypto.batch import check as check_rows
from company_agents.crypto.keyring import KeyRing
from company_agents.db.copying import fields
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.base import open_source
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

SECRETS = "tables/secrets"
_COLUMNS = ("id", "company_id", "name", "value", "nonce", "key_id")
MOST_NAMED = 20
# Rows that are looked at together.
_BATCH = 2000
# Bytes that a key ring may have: more than thousands of keys need.
_MOST_RING = 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeyFound:
    """A key that the backup needs, and whether it is at hand."""

    key_id: str
    state: str
    secrets: int
    when: str
    here: bool


@dataclass(slots=True)
class Verdict:
    """
    What is to be said of a backup. `signed` is `right`, `altered`, `not signed`, or `key not here`. `because` is one sentence.
    `at_fault`: what it says is true of the backup, and not only of what is missing here.
    """

    id: UUID
    kind: str
    product: str
    taken_at: datetime
    instance: UUID
    schema: int
    size: int
    rows: int
    secrets: int
    with_ring: bool
    company: str = ""
    keys: list[KeyFound] = field(default_factory=list)
    signed: str = ""
    opened: int = 0
    bad: list[BadRow] = field(default_factory=list)
    not_opened: int = 0
    would_restore: bool = False
    at_fault: bool = False
    because: str = ""
    hint: str = ""


@dataclass(slots=True)
class Verifying:
    """One look at one file, in a thread."""

    ring: KeyRing
    passphrase: Sensitive | None = None
    say: Progress = lambda step, done, total: None
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, file: BinaryIO, opened: Opened) -> Verdict:
        """
        Read all of it.

        Raises:
            Broken: it is not whole.
            WrongPassphrase: the passphrase does not open its key ring.
        """
        verdict = facts(opened)
        ring = self._whole_ring(file, opened)
        self._judge_signature(verdict, ring, opened)
        verdict.keys = [
            KeyFound(key.key_id, key.state, key.rows, key.when, key.key_id in ring)
            for key in opened.manifest.needed_keys
        ]
        lost = {key.key_id for key in opened.manifest.keys if not key.known}
        found: Counter[str] = Counter()
        for rows in self._rows(file, opened):
            found.update(row[5] for row in rows)
            known = [row for row in rows if row[5] in ring or row[5] in lost]
            verdict.not_opened += len(rows) - len(known)
            bad = check_rows(known, ring)
            verdict.opened += len(known) - len(bad)
            verdict.bad += bad[: MOST_NAMED - len(verdict.bad)]
        if found != Counter({key.key_id: key.rows for key in opened.manifest.keys}):
            raise broken("its secrets are not under the keys that its manifest names")
        _conclude(verdict, opened.manifest, ring)
        return verdict

    def _whole_ring(self, file: BinaryIO, opened: Opened) -> KeyRing:
        if self.passphrase is None or not opened.manifest.ring:
            return self.ring
        return joined(self.ring, unwrap(wrapped_ring(file, opened), self.passphrase))

    def _judge_signature(self, verdict: Verdict, ring: KeyRing, opened: Opened) -> None:
        try:
            right = check_signature(ring, opened)
            verdict.signed = "right" if right else "key not here" if signed_by(opened) else "not signed"
        except CompanyAgentsError as error:
            verdict.signed, verdict.because, verdict.hint = "altered", error.sentence, error.hint

    def _rows(self, file: BinaryIO, opened: Opened) -> Iterator[list[SealedRow]]:
        reader = ArchiveReader(file, opened)
        for member, piece in reader.pieces():
            self.say("reading", reader.done, reader.size)
            if self.stop.is_set():
                raise Stopped("it was stopped", hint="nothing was changed")
            if member.name == SECRETS:
                rows = sealed_rows(member, piece)
                while batch := list(itertools.islice(rows, _BATCH)):
                    yield batch


async def verify_here(settings: Settings, path: Path, passphrase: Sensitive | None, say: Progress) -> Verdict:
    """
    Look at a file with the keys of the key source that the settings name; no database is opened.

    Raises:
        Broken, Newer: it is not whole, or of a later version.
        WrongPassphrase: the passphrase does not open its key ring.
    """
    try:
        ring, trouble = (await open_source(settings).read()).ring, ""
    except CompanyAgentsError as error:
        ring, trouble = KeyRing(), error.sentence
    with opened_file(path) as file:
        opened = open_archive(file)
        steps_of(opened.manifest)
        verifying = Verifying(ring, passphrase, say)
        verdict = await in_thread(lambda: verifying.run(file, opened), verifying.stop)
    if trouble and not verdict.would_restore:
        verdict.hint = f"the key source cannot be read: {trouble}"
    return verdict


def sealed_rows(member: Member, piece: bytes) -> Iterator[SealedRow]:
    """
    The sealed rows of a piece of the secrets.

    Raises:
        Broken: there is something else.
    """
    try:
        places = [member.columns.index(name) for name in _COLUMNS]
        for line in io.BytesIO(piece):
            row = fields(line[:-1])
            if len(row) != len(member.columns):
                raise ValueError
            secret, company, name, value, nonce, key_id = (row[place] for place in places)
            yield (
                *(UUID(_text(secret)).bytes, UUID(_text(company)).bytes if company is not None else None),
                *(_text(name), _bytes(value), _bytes(nonce), _text(key_id)),
            )
    except ValueError:
        raise broken("something in its secrets is none") from None


def _text(value: bytes | None) -> str:
    if value is None:
        raise ValueError
    return value.decode()


def _bytes(value: bytes | None) -> bytes:
    if value is None or not value.startswith(b"\\x"):
        raise ValueError
    return bytes.fromhex(value[2:].decode())


def wrapped_ring(file: BinaryIO, opened: Opened) -> bytes:
    """The key ring as it lies in an archive."""
    said = opened.manifest.member(RING)
    if said is None or said.bytes > _MOST_RING:
        raise broken("it has no key ring")
    content = b""
    for member, piece in ArchiveReader(file, opened).pieces():
        if member.name == RING:
            content += piece
        elif content:
            break
    return content


def joined(*rings: KeyRing) -> KeyRing:
    """The keys of several rings, each once."""
    keys = {key.key_id: key for ring in rings for key in ring.keys}
    return KeyRing(tuple(keys.values()))


def required(manifest: Manifest, ring: KeyRing) -> list[KeyNeed]:
    """The keys that a restore needs and a ring has not. A staged one may be lost: nothing is sealed under it."""
    return [key for key in manifest.needed_keys if (key.rows or key.state != "staged") and key.key_id not in ring]


def facts(opened: Opened) -> Verdict:
    """What the manifest says, before anything is looked at."""
    manifest = opened.manifest
    return Verdict(
        id=manifest.id,
        kind=manifest.kind,
        product=manifest.product,
        taken_at=manifest.taken_at,
        instance=manifest.instance,
        schema=manifest.schema.step,
        size=opened.size,
        rows=manifest.rows,
        secrets=manifest.secrets,
        with_ring=bool(manifest.ring),
        company=manifest.company_name,
    )


def _conclude(verdict: Verdict, manifest: Manifest, ring: KeyRing) -> None:
    missing = required(manifest, ring)
    verdict.at_fault = verdict.signed == "altered" or (not missing and (bool(verdict.bad) or verdict.signed != "right"))
    if verdict.signed == "altered":
        return
    if missing:
        verdict.because = f"the key {missing[0].key_id} is not here: {missing[0].when}"
        verdict.hint = "put it into the key source"
        if manifest.ring:
            verdict.hint = "its key ring has it: give its passphrase, with --passphrase-stdin"
    elif verdict.bad:
        verdict.because = (
            f"some of its secrets do not open, and did not when it was taken: {verdict.bad[0].name} is one"
        )
        verdict.hint = "replace them where they are in use, and make a new one; a restore brings back everything else"
    elif verdict.signed != "right":
        verdict.because = "nothing shows who made it: it is not signed"
        verdict.hint = "use another backup; `backup restore --unsigned` takes it all the same"
    else:
        verdict.would_restore = True
        verdict.because = "it is whole, of a known schema, and every secret in it opens"
        if manifest.kind == COMPANY:
            verdict.hint = "it is of one company: `company-agents company import` takes it"
