"""
An instance that has one of everything, what is restored from its backups, and what has to be true of that.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from company_agents.app import App, open_app
from company_agents.backup.archive import ArchiveReader, ArchiveWriter, open_archive, opened_file
from company_agents.backup.backups import Made
from company_agents.backup.manifest import Manifest
from company_agents.backup.restore import Options, Restored, Restorer
from company_agents.errors import CompanyAgentsError
from company_agents.identity.permissions import Role
from company_agents.identity.principal import Caller
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.cli.postgres import OwnPostgres
from tests.conftest import LOCAL, Tenant
from tests.dashboard.people import join
from tests.gateway.conftest import serving
from tests.gateway.wire import Answered, asked
from tests.oauth.server import AuthorizationServer
from tests.outgoing.servers import Server
from tests.promises.evidence import PROVIDER_TOKEN
from tests.promises.test_company_boundary import furnish
from tests.refresh.world import OFTEN, World, write_services
from tests.rotation.place import Place, nothing_is_lost

PASSPHRASE = Sensitive("walnut teapot harbor quilt 71 ember")
SECRETS = 40


@dataclass(frozen=True)
class Person:
    """An operator: what a sign-in takes, and what they have open."""

    id: UUID
    name: str
    totp: Sensitive
    session: str
    token: str
    token_id: UUID


@dataclass(frozen=True)
class Office:
    """An instance with a furnished company. Nobody has it open: it is copied, or backed up once."""

    place: Place
    id: UUID
    agent_token: str
    # Used by the agent: with a provider of the tests behind it; and one by consent.
    integration: UUID
    consent: UUID
    consent_token: str
    webhook: UUID
    webhook_secret: str
    owner: Person
    member: Person
    run: UUID
    run_token: str
    queued: UUID
    link: str

    async def local(self, app: App) -> Caller:
        """The operator of the command line, in the company."""
        return await app.identity.in_company(LOCAL, self.place.company)

    def at(self, place: Place) -> Place:
        """Another database and home, in which the same has to be."""
        return dataclasses.replace(self.place, server=place.server, name=place.name, home=place.home)


async def make_office(place: Place, provider: Server, hooks: Server, server: AuthorizationServer) -> Office:
    """Furnish an instance."""
    write_services(place.home)
    async with place.open() as app:
        company = await app.companies.create(LOCAL, "the company")
        local = await app.identity.in_company(LOCAL, company.id)
        agent, token = await app.agents.create(local, "ann")
        tenant = Tenant(company, local, await app.identity.agent(token.reveal_text()), token.reveal_text())
        await furnish(app, tenant, provider)
        [integration] = [each for each in (await app.integrations.list(local)).items if each.name == "generic"]
        world = World(app, tenant, server, cast(Any, None))
        consent = await world.consent(OFTEN)
        values = {}
        async with local.scope.transaction() as tx:
            for number in range(SECRETS):
                value = f"the value number {number}".encode()
                values[await app.store.put(tx, f"secret {number:03}", Sensitive(value))] = value
        webhook, secret = await app.outbox.webhooks.create(
            local, f"{hooks.url}/hook", ["key.rotated", "agent.token.rotated"], allow_private_network=True
        )
        run, run_token = await app.runs.open(tenant.agent)
        office = Office(
            place=dataclasses.replace(place, company=company.id, agent=agent.id, values=values),
            id=app.instance.id,
            agent_token=token.reveal_text(),
            integration=integration.id,
            consent=consent.id,
            consent_token=(await world.credential(consent)).token.reveal_text(),
            webhook=webhook.id,
            webhook_secret=secret.reveal_text(),
            owner=await _person(app, await app.operators.link(LOCAL), "olga", Role.OWNER),
            member=await _person(app, await app.operators.invite(local, Role.OPERATOR), "max", Role.OPERATOR),
            run=run.id,
            run_token=run_token.reveal_text(),
            queued=(await app.runs.start(local, agent.id, prompt="a prompt")).id,
            link=(await app.operators.link(LOCAL)).reveal_text(),
        )
        await app.store.flush_used()
    return office


async def _person(app: App, link: Sensitive, name: str, role: Role) -> Person:
    person = await join(app, link, name)
    found, token = await app.operators.create_token(LOCAL, "a program", 30, role, person.operator.id)
    return Person(*(person.operator.id, name, person.totp, person.session.reveal_text()), token.reveal_text(), found.id)


def empty_database(server: OwnPostgres) -> str:
    """The name of a new database with nothing in it."""
    name = f"db_{uuid.uuid4().hex[:12]}"
    with server.connect() as administrator:
        administrator.execute(f"CREATE DATABASE {name} OWNER app".encode())
    return name


async def exported(app: App, file: Path, passphrase: Sensitive | None = None) -> Made:
    """`backup export`."""
    return await app.backups.export(file, passphrase=passphrase, who="tester")


async def restored(
    place: Place,
    file: Path,
    *,
    passphrase: Sensitive | None = None,
    settings: Settings | None = None,
    **options: bool,
) -> Restored:
    """`backup restore`, up to the start that comes after it."""
    return await Restorer(settings or place.settings(), Options(**options), lambda: passphrase).run(file)


# — what has to be true —


async def faults_of(app: App) -> list[str]:
    """What is wrong with the audit chains."""
    return [f"{fault.chain} {fault.seq}: {fault.what}" for one in await app.events.verify_all() for fault in one.faults]


async def call(app: App, name: str, token: str, path: str = "/x", method: str = "GET") -> Answered:
    """One call through the gateway, over a socket."""
    async with serving(app) as url:
        return await asked(url, f"/gateway/{name}{path}", {"Authorization": f"Bearer {token}"}, method)


async def does_its_work(app: App, office: Office, provider: Server, bearer: str = PROVIDER_TOKEN) -> None:
    """The agent is known by its token, and its company's credential is used at the provider."""
    before = len(provider.requests)
    answer = await call(app, "generic", office.agent_token)
    assert answer.status == 200, answer
    [request] = provider.requests[before:]
    assert request.headers["authorization"] == f"Bearer {bearer}"


async def is_back(app: App, office: Office, place: Place, provider: Server) -> None:
    """Every secret opens to what was put there, every chain is proved, and the agent works."""
    await nothing_is_lost(office.at(place), app)
    assert await faults_of(app) == []
    await does_its_work(app, office, provider)


async def comes_back(office: Office, place: Place, provider: Server, settings: Settings | None = None) -> None:
    """The same of an instance that nobody has opened yet, which has another name than before."""
    async with open_app(settings or place.settings()) as app:
        assert app.instance.id != office.id
        await is_back(app, office, place, provider)


async def refusal(work: Any) -> CompanyAgentsError:
    """How it failed, which it has to."""
    try:
        await work
    except CompanyAgentsError as error:
        return error
    raise AssertionError("it was not refused")


def rows(place: Place) -> dict[str, list[dict[str, Any]]]:
    """Every row that there is, table by table, but those that a look at it makes."""
    query = "SELECT relname AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    names = {row["name"] for row in place.sql(query)} - {"schema_migrations", "instance", "key_fence", "replicas"}
    found = {name: place.sql(f"SELECT to_jsonb(t)::text AS row FROM {name} t ORDER BY 1") for name in sorted(names)}
    return {name: there for name, there in found.items() if there}


# — files that somebody has had a hand in —


def manifest_of(file: Path) -> Manifest:
    """What an archive says of itself."""
    with opened_file(file) as source:
        return open_archive(source).manifest


Lines = Callable[[str, Sequence[bytes]], Sequence[bytes]]


def remade(
    file: Path, to: Path, change: Lines = lambda name, lines: lines, signature: bytes | None = None, **says: Any
) -> Path:
    """The same archive with other rows, or another manifest; every checksum is right, and it is signed as it is said."""
    with opened_file(file) as source:
        opened = open_archive(source)
        contents: dict[str, bytes] = {member.name: b"" for member in opened.manifest.members}
        for member, piece in ArchiveReader(source, opened).pieces():
            contents[member.name] += piece
        with to.open("w+b") as out:
            writer = ArchiveWriter(out)
            for member in opened.manifest.members:
                writer.begin(member.name, member.columns)
                if member.columns:
                    for line in change(member.name, contents[member.name].splitlines(keepends=True)):
                        writer.write(line, 1)
                else:
                    writer.write(contents[member.name])
            manifest = dataclasses.replace(opened.manifest, **{"members": writer.members(), **says})
            writer.finish(manifest.text(), signature)
    return to


def signature_of(file: Path) -> bytes:
    """As it stands in an archive."""
    with opened_file(file) as source:
        found = open_archive(source).signature
    assert found is not None
    return found


def moment(place: Place) -> datetime:
    """What the database's clock says."""
    [row] = place.sql("SELECT now() AS now")
    found: datetime = row["now"]
    return found
