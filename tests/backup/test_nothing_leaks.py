"""
No master key and no secret stands in a backup, nor in anything that making, verifying and restoring it says: looked for in
every common encoding, in the file as it is and in what it unpacks to.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import shutil
import tarfile
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
import zstandard

from company_agents.app import App
from company_agents.crypto.cipher import Sealed, unseal
from company_agents.crypto.place import Place as SealedPlace
from company_agents.sensitive import Sensitive
from tests.backup.instances import PASSPHRASE, Office
from tests.cli.processes import SLOWEST, Done, Machine
from tests.promises.canary.search import Canaries, Place, made_up, token_like
from tests.rotation.place import Place as Instance
from tests.rotation.place import rotate

# Kinds of which one more can be planted; of the others there is one anyway.
PLANTED = (
    *("agent_adapter", "agent_token", "approval", "integration", "oauth_client", "oauth_flow", "operator_token"),
    *("operator_totp", "run_token", "webhook"),
)
# Every kind that is sealed and kept (tests/promises/test_canary.py has the list).
KINDS = {*PLANTED, "approval_key", "audit_head_key", "audit_key"}
MASTER_KEY, PASS = "a master key", "the passphrase"


@dataclass
class Told:
    """What was made and said, and what is looked for in it."""

    canaries: Canaries = field(default_factory=Canaries)
    places: list[Place] = field(default_factory=list)
    archives: dict[str, bytes] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)

    def heard(self, what: str, done: Done) -> None:
        assert done.status == 0, done
        self.places += [
            Place(f"the output of {what}", done.out.encode()),
            Place(f"the errors of {what}", done.err.encode()),
        ]

    def found(self, name: str, data: bytes) -> list[str]:
        return self.canaries.found(Place(name, data))


def unpacked(archive: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(archive), read_across_frames=True).read()


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(unpacked(archive))) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def as_bytes(data: bytes) -> bytes:
    """What COPY writes as hex (`\\\\x…`), as the bytes that it stands for."""
    return b"\n".join(bytes.fromhex(found.decode()) for found in re.findall(rb"\\x((?:[0-9a-f]{2})+)", data))


async def plant(app: App, office: Office) -> None:
    """A canary of each kind, in a company and outside of any."""
    for company in (office.place.company, None):
        async with app.store.db.transaction(company) as tx:
            for kind in PLANTED:
                await app.store.put(tx, f"{kind}/{UUID(int=7)}/planted", Sensitive(token_like(f"{kind} of {company}")))


async def all_secrets(app: App, told: Told) -> None:
    """Every one that is sealed is looked for: what is random in a canary, and else all of it."""
    async with app.keys.db.instance_transaction() as tx:
        async for row in tx.stream("secrets_all"):
            where = SealedPlace(row["company_id"], row["id"], row["name"], row["key_id"])
            value = unseal(app.keys.held.ring.get(row["key_id"]), where, Sealed(row["nonce"], row["value"])).reveal()
            told.kinds.add(row["name"].partition("/")[0])
            if row["name"].endswith("/planted"):
                value = made_up(f"{row['name'].partition('/')[0]} of {row['company_id']}").encode()
            if len(value) >= 16:
                told.canaries.plant(row["name"], value)


@pytest.fixture(scope="module")
async def told(office: Office, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    told, folder = Told(), tmp_path_factory.mktemp("leaks")
    shutil.copytree(office.place.home, folder / "home")
    place = office.place.copied(folder / "home")
    try:
        async with place.open() as app:
            await plant(app, office)
            await rotate(app)
            await rotate(app)
            await all_secrets(app, told)
        told.keys = [path.read_bytes() for path in (place.folder / "keys").glob("*.key")]
        for key in told.keys:
            told.canaries.plant(MASTER_KEY, key)
        told.canaries.plant(PASS, PASSPHRASE.reveal())
        await asyncio.to_thread(_tell, told, place, folder)
        async with place.open() as app:
            # Of every chain: that of the instance has another name since it was restored.
            events = json.dumps(place.sql("SELECT * FROM audit_events"), default=str)
            told.places.append(Place("the events", events.encode()))
            assert all(action in events for action in ("backup.begun", "backup.made", "instance.restored"))
            rows = await app.backups.rows()
            told.places.append(Place("the list of backups", repr(rows).encode()))
        yield told
    finally:
        place.drop()


def _tell(told: Told, place: Instance, folder: Path) -> None:
    """Every command about backups, with all that it logs; beside them somebody reads what the kernel shows of them."""
    more = {"DATABASE_URL": place.variables["DATABASE_URL"], "COMPANY_AGENTS_LOG_LEVEL": "debug"}
    machine = Machine(place.home, more=more)
    plain, ring = folder / "plain.tar.zst", folder / "ring.tar.zst"
    phrase = PASSPHRASE.reveal()
    with _watched(told, machine) as run:
        told.heard("export", run("backup", "export", str(plain)))
        told.heard(
            "export with the ring",
            run("backup", "export", str(ring), "--with-master-key", "--passphrase-stdin", given=phrase),
        )
        told.heard("list", run("backup", "list", "--json"))
        told.heard("key status", run("key", "status", "--json"))
        for file in (plain, ring):
            told.heard("verify", run("backup", "verify", str(file), "--json"))
            told.heard("verify", run("backup", "verify", str(file), "--passphrase-stdin", given=phrase))
        told.heard(
            "restore", run("backup", "restore", str(ring), "--replace", "--passphrase-stdin", "--json", given=phrase)
        )
        told.heard("list", run("backup", "list"))
        for words in (("verify", str(ring)), ("restore", str(ring), "--replace")):
            done = run("backup", *words, "--passphrase-stdin", given=b"another passphrase that is wrong")
            told.places.append(Place(f"a wrong passphrase at {words[0]}", (done.out + done.err).encode()))
    safety = sorted((place.home / "data" / "backups").glob("*.tar.zst"))
    assert safety
    told.archives = {"plain": plain.read_bytes(), "ring": ring.read_bytes(), "safety": safety[0].read_bytes()}
    for file in (place.home / "data").rglob("*"):
        if file.is_file():
            told.places.append(Place(f"the file {file.name}", file.read_bytes()))
    for file in place.home.rglob("*.log"):
        told.places.append(Place(f"the log {file.name}", file.read_bytes()))


@contextlib.contextmanager
def _watched(told: Told, machine: Machine):
    """Runs commands; what /proc shows of each while it lives is kept."""

    def run(*words: str, given: bytes = b"") -> Done:
        shown: set[bytes] = set()
        ended = threading.Event()
        with machine.start(*words) as child:

            def look() -> None:
                while not ended.wait(0.01):
                    for name in ("cmdline", "environ", "comm"):
                        with contextlib.suppress(OSError):
                            shown.add(Path(f"/proc/{child.pid}/{name}").read_bytes())

            watcher = threading.Thread(target=look)
            watcher.start()
            out, err = child.communicate(given, timeout=SLOWEST)
            ended.set()
            watcher.join()
        told.places += [Place(f"what the kernel shows of {words[1]}", data) for data in shown]
        return Done(child.returncode, out.decode(), err.decode())

    yield run


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as it lies there": lambda data: data,
    "unpacked": unpacked,
    "its bytes": lambda data: as_bytes(unpacked(data)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["plain", "ring", "safety"])
def test_no_key_and_no_secret_stands_in_an_archive(kind: str, form: str, told: Told) -> None:
    assert told.found(f"the archive {kind}, {form}", FORMS[form](told.archives[kind])) == []


def test_only_the_ring_itself_is_more_in_an_archive_with_the_ring(told: Told) -> None:
    plain, ring = members(told.archives["plain"]), members(told.archives["ring"])
    assert set(ring) - set(plain) == {"keyring.age"}
    assert ring["keyring.age"].startswith(b"age-encryption.org/v1\n-> scrypt ")
    manifest = json.loads(ring["manifest.json"])
    assert len(manifest["ring"]) >= 1
    # The ids of keys say nothing of the keys.
    assert set(manifest["ring"]) <= {key["key_id"] for key in manifest["keys"]}


def test_nothing_that_was_said_or_shown_or_kept_has_one_in_it(told: Told) -> None:
    names = {place.name for place in told.places}
    assert {"the events", "the list of backups", "the output of export", "the errors of restore"} <= names
    assert {f"what the kernel shows of {what}" for what in ("export", "verify", "restore")} <= names
    assert told.canaries.found_in(told.places) == []


def test_whoever_looks_would_find_them(told: Told) -> None:
    assert len(told.keys) == 3
    for name, value in list(told.canaries.spelled()):
        assert told.found("a place", b"before " + value.hex().encode() + b" behind"), name
        assert told.found("a place", b"x" + value), name
    assert told.kinds >= KINDS
