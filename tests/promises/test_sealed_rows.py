"""
A sealed value opens at its place only. Whoever can write to the database moves, copies and alters rows here, as
three different users of it; what they get is a closed secret, and an event.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.companies.scope import InstanceScope
from company_agents.crypto.cipher import Sealed, unseal
from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.crypto.place import Place
from company_agents.errors import Tampered
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.promises.evidence import Past, connect_past, recorded, sql

MakeTenant = Callable[[], Awaitable[Tenant]]

VALUE = b"a short secret"
WRITERS = ["postgres", "company_agents_instance", "company_agents_migrate"]


@dataclass(frozen=True)
class Alteration:
    """What somebody does to a row, and where it is looked for afterwards."""

    what: str
    statement: str
    opened: str = "row"
    there: bool = False

    def __str__(self) -> str:
        return self.what


def _set(what: str, columns: str) -> Alteration:
    return Alteration(what, f"UPDATE secrets s SET {columns} FROM secrets o WHERE s.id = %(row)s AND o.id = %(other)s")


COPY = """INSERT INTO secrets (id, company_id, name, value, nonce, key_id)
          SELECT %(new)s, {company}, name || %(more)s, value, nonce, key_id FROM secrets WHERE id = %(row)s"""
EXCHANGE = """UPDATE secrets s SET value = o.value, nonce = o.nonce FROM secrets o
              WHERE (s.id, o.id) IN ((%(row)s, %(other)s), (%(other)s, %(row)s))"""

ALTERATIONS = [
    Alteration("moved to another company", "UPDATE secrets SET company_id = %(theirs)s WHERE id = %(row)s", there=True),
    Alteration("moved to another row", "UPDATE secrets SET id = %(new)s WHERE id = %(row)s", opened="new"),
    Alteration("copied beside itself", COPY.format(company="company_id"), opened="new"),
    Alteration("copied to another company", COPY.format(company="%(theirs)s"), opened="new", there=True),
    Alteration("exchanged with another row", EXCHANGE),
    Alteration("exchanged with another row, from its side", EXCHANGE, opened="other"),
    _set("another name", "name = s.name || '2'"),
    _set("its name in capitals", "name = upper(s.name)"),
    _set("another key of the ring", "key_id = %(held)s"),
    _set("a key that there never was", "key_id = 'ffffffffffffffff'"),
    _set("another row's value and nonce", "value = o.value, nonce = o.nonce"),
    _set("another row's value", "value = o.value"),
    _set("another row's nonce", "nonce = o.nonce"),
    _set("a nonce of zeroes", "nonce = decode(repeat('00', 12), 'hex')"),
    _set("its nonce backwards", "nonce = decode(reverse(encode(s.nonce, 'hex')), 'hex')"),
    _set("without its last byte", "value = substring(s.value FOR length(s.value) - 1)"),
    _set("without its first byte", "value = substring(s.value FROM 2)"),
    _set("without its tag", "value = substring(s.value FOR length(s.value) - 16)"),
    _set("nothing but its tag", "value = substring(s.value FROM length(s.value) - 15)"),
    _set("one byte longer", "value = s.value || decode('00', 'hex')"),
    _set("twice", "value = s.value || s.value"),
    _set("empty", "value = ''"),
]


@pytest.fixture
def second_key(app: App) -> Iterator[MasterKey]:
    """Another key in the ring of this process, as after a rotation."""
    before, key = app.store.keys.ring, MasterKey.generate()
    app.store.keys.ring = KeyRing((*before.keys, key))
    yield key
    app.store.keys.ring = before


async def put(app: App, tenant: Tenant, value: bytes = VALUE) -> UUID:
    async with tenant.local.scope.transaction() as tx:
        return await app.store.put(tx, f"a secret {uuid.uuid4().hex}", Sensitive(value))


async def opened(app: App, tenant: Tenant, secret: UUID) -> bytes:
    async with app.store.use(tenant.agent.scope, secret, actor="tester") as use:
        use.ended("opened")
        return use.secret.reveal()


async def must_not_open(app: App, tenant: Tenant, secret: UUID) -> None:
    """It does not, and the chain of its company says so: as tampering, and as a use that failed."""
    with pytest.raises(Tampered) as caught:
        await opened(app, tenant, secret)
    assert VALUE.decode() not in f"{caught.value.sentence} {caught.value.hint}"
    company = tenant.company.id
    [event] = await recorded(app, company, "secret.tampered", secret=secret)
    assert event["decision"] == "refused"
    begun = await recorded(app, company, "credential.begun")
    ended = await recorded(app, company, "credential.ended", use=begun[-1]["use"])
    assert [(event["result"], event["error"]) for event in ended] == [("failed", "tampered")]


async def alter(writer: Past, statement: str, **params: object) -> None:
    """As a user of the database; the owner of the tables is bound by row-level security until it says otherwise."""
    owner = writer.info.user == "company_agents_migrate"
    async with writer.transaction():
        if owner:
            await sql(writer, "ALTER TABLE secrets NO FORCE ROW LEVEL SECURITY")
        changed = await writer.execute(statement.encode(), params)
        assert changed.rowcount in (1, 2), "nothing was altered"
        if owner:
            await sql(writer, "ALTER TABLE secrets FORCE ROW LEVEL SECURITY")


# — rows —


@pytest.mark.parametrize("role", WRITERS)
@pytest.mark.parametrize("alteration", ALTERATIONS, ids=str)
async def test_a_row_that_was_moved_or_altered_does_not_open_and_that_is_recorded(
    app: App, tenant: MakeTenant, second_key: MasterKey, role: str, alteration: Alteration
) -> None:
    here, there = await tenant(), await tenant()
    ids = {"row": await put(app, here), "other": await put(app, here, b"another secret"), "new": uuid.uuid4()}
    assert await opened(app, here, ids["row"]) == VALUE
    given = {**ids, "theirs": there.company.id, "held": second_key.key_id, "more": "" if alteration.there else "2"}
    async with await connect_past(app, role) as writer:
        await alter(writer, alteration.statement, **given)
    await must_not_open(app, there if alteration.there else here, ids[alteration.opened])


async def test_a_row_that_was_moved_to_another_company_is_gone_from_its_own(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    here, there = await tenant(), await tenant()
    secret = await put(app, here)
    await sql(superuser, "UPDATE secrets SET company_id = %(c)s WHERE id = %(s)s", c=there.company.id, s=secret)
    with pytest.raises(Exception, match="not there any more"):
        await opened(app, here, secret)


async def test_a_row_that_was_made_the_instances_own_does_not_open(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    here = await tenant()
    secret = await put(app, here)
    [row] = await sql(superuser, "UPDATE secrets SET company_id = NULL WHERE id = %(s)s RETURNING name", s=secret)
    with pytest.raises(Tampered):
        await app.store.open_own(InstanceScope(app.store.db), row["name"])
    assert len(await recorded(app, None, "secret.tampered", secret=secret)) == 1


async def test_a_row_of_the_instance_does_not_open_in_a_company(app: App, tenant: MakeTenant, superuser: Past) -> None:
    here = await tenant()
    async with app.store.db.transaction(None) as tx:
        secret = await app.store.put(tx, f"a secret {uuid.uuid4().hex}", Sensitive(VALUE))
    await sql(superuser, "UPDATE secrets SET company_id = %(c)s WHERE id = %(s)s", c=here.company.id, s=secret)
    await must_not_open(app, here, secret)


async def test_a_row_under_a_key_that_is_registered_but_out_of_reach_says_which(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    # Nobody altered it: the key is missing, and putting it back opens it. That is no tampering.
    here, key = await tenant(), MasterKey.generate()
    secret = await put(app, here)
    try:
        await sql(
            superuser, "INSERT INTO master_keys (key_id, state, source) VALUES (%(k)s, 'destroyed', 'x')", k=key.key_id
        )
        await sql(superuser, "UPDATE secrets SET key_id = %(k)s WHERE id = %(s)s", k=key.key_id, s=secret)
        with pytest.raises(Exception, match=f"the key {key.key_id} is not in the ring"):
            await opened(app, here, secret)
        assert await recorded(app, here.company.id, "secret.tampered") == []
        [ended] = await recorded(app, here.company.id, "credential.ended")
        assert (ended["result"], ended["error"]) == ("failed", "unknown_key")
    finally:
        await sql(superuser, "DELETE FROM secrets WHERE id = %(s)s", s=secret)
        await sql(superuser, "DELETE FROM master_keys WHERE key_id = %(k)s", k=key.key_id)


# — bits —


async def test_no_single_bit_of_a_stored_row_can_be_flipped(app: App, tenant: MakeTenant, superuser: Past) -> None:
    secret = await put(app, await tenant())
    [row] = await sql(superuser, "SELECT * FROM secrets WHERE id = %(s)s", s=secret)
    key = app.store.keys.ring.get(row["key_id"])
    place = Place(row["company_id"], row["id"], row["name"], row["key_id"])
    whole = Sealed(row["nonce"], row["value"])
    assert unseal(key, place, whole).reveal() == VALUE
    tried = 0
    for part, content in (("value", whole.value), ("nonce", whole.nonce)):
        for bit in range(len(content) * 8):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Tampered):
                unseal(key, place, dataclasses.replace(whole, **{part: bytes(flipped)}))
            tried += 1
    assert tried == (len(VALUE) + 16 + 12) * 8


async def test_a_bit_that_is_flipped_in_the_database_is_found_and_recorded(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    here = await tenant()
    whole = {"value": (len(VALUE) + 16) * 8, "nonce": 12 * 8}
    for column, bits in whole.items():
        for bit in {*range(0, bits, 23), bits - 1}:
            secret = await put(app, here)
            flip = (
                f"UPDATE secrets SET {column} = set_bit({column}, %(b)s, 1 - get_bit({column}, %(b)s)) WHERE id = %(s)s"
            )
            await sql(superuser, flip, b=bit, s=secret)
            with pytest.raises(Tampered):
                await opened(app, here, secret)
            assert len(await recorded(app, here.company.id, "secret.tampered", secret=secret)) == 1
            # Put back, bit by bit the same, it is the same secret again.
            await sql(superuser, flip, b=bit, s=secret)
            assert await opened(app, here, secret) == VALUE
