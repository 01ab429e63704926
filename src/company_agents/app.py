"""
The composition root: builds every part once, in order. No behaviour here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from company_agents import __version__
from company_agents.audit.events import AuditEvents
from company_agents.audit.log import AuditLog
from company_agents.backup.background import BackupWork
from company_agents.backup.backups import Backups
from company_agents.backup.company_move import CompanyMover
from company_agents.backup.drill import Drill
from company_agents.backup.parts import open_backups
from company_agents.backup.restored import record_restores
from company_agents.backup.watch import BackupWatch
from company_agents.companies.instance import Instance, instance_id
from company_agents.crypto.keyring import KeyRing
from company_agents.db.embedded import hold_home
from company_agents.db.host import left_behind
from company_agents.db.opening import open_database
from company_agents.ending import every
from company_agents.errors import Busy, CompanyAgentsError, MayNotStart, Sealed
from company_agents.identity.agents import Agents
from company_agents.identity.directory import Companies
from company_agents.identity.identity import Identity
from company_agents.identity.limits import Limits
from company_agents.identity.members import Members
from company_agents.identity.operators import Operators
from company_agents.identity.sessions import Sessions
from company_agents.integrations.approvals import Approvals
from company_agents.integrations.asking import Asking
from company_agents.integrations.attempts import Attempts
from company_agents.integrations.checks import Checks
from company_agents.integrations.clients import Clients
from company_agents.integrations.details import Looks
from company_agents.integrations.devices import Devices
from company_agents.integrations.flows import Flows
from company_agents.integrations.importing import Importer
from company_agents.integrations.integrations import Integrations
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.open_flows import OpenFlows
from company_agents.integrations.prices import Prices
from company_agents.integrations.provider import Providers
from company_agents.integrations.refresh import Refresher
from company_agents.integrations.refresher import Upkeep
from company_agents.integrations.relay import Relay
from company_agents.integrations.request import Requests
from company_agents.integrations.revocation import Revocation
from company_agents.integrations.rulebook import Rulebook
from company_agents.integrations.sending import SWEEP_EVERY as APPROVALS_EVERY
from company_agents.integrations.sending import Sending
from company_agents.integrations.spending import Spending
from company_agents.integrations.status import Statuses
from company_agents.integrations.streams import Streams
from company_agents.integrations.turns import Turns
from company_agents.integrations.versions import Versions
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.document import read_document
from company_agents.logs import Redactor
from company_agents.outbox.outbox import Outbox, open_outbox
from company_agents.outgoing.client import Outgoing
from company_agents.outgoing.exchange import Exchange
from company_agents.rotation.background import Background
from company_agents.rotation.init import Initialized, initialize
from company_agents.rotation.panic import Panic, sealed_since
from company_agents.rotation.prune import Pruner
from company_agents.rotation.record import record_states
from company_agents.rotation.replica import Replica
from company_agents.rotation.rotate import Rotator
from company_agents.rotation.start import unlock
from company_agents.rotation.status import Keys
from company_agents.runs.adapters.base import Adapter
from company_agents.runs.adapters.http import HttpAdapter
from company_agents.runs.adapters.llm import LlmAdapter
from company_agents.runs.adapters.process import ProcessAdapter
from company_agents.runs.agents import Adapters
from company_agents.runs.dispatch import Dispatcher
from company_agents.runs.parts import RunParts
from company_agents.runs.runs import Runs
from company_agents.runs.sandbox.sandbox import Sandbox
from company_agents.runs.sandbox.workspace import workspaces_folder
from company_agents.runs.schedules import Schedules
from company_agents.runs.sweeping import SWEEP_EVERY, Sweeper
from company_agents.secret_store.audit_keys import AuditKeys
from company_agents.secret_store.keys import HeldKeys
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from company_agents.work.memory import Memories
from company_agents.work.tasks import Tasks

__all__ = ["App", "hold_home", "init_key", "left_behind", "open_app"]

# Seconds between two writings of `last_used_at`.
USED_EVERY = 5.0
# Seconds that an attempt to refresh a consent is left alone.
REFRESH_LEASE = 60.0
# Connections to providers at once, per kind of network: above all that companies may have open.
CONNECTIONS = 10_000
# Seconds between two deletions of consents that were asked for and never given.
FLOWS_SWEPT_EVERY = 300.0


@dataclass(frozen=True)
class App:
    """Every part, as the doors receive it."""

    version: str
    settings: Settings
    instance: Instance
    audit: AuditLog
    events: AuditEvents
    keys: Keys
    backups: Backups
    drill: Drill
    backup_work: BackupWork
    backup_watch: BackupWatch
    rotator: Rotator
    background: Background
    pruner: Pruner
    panic: Panic
    held: HeldKeys
    replica: Replica | None
    store: SecretStore
    identity: Identity
    companies: Companies
    mover: CompanyMover
    agents: Agents
    adapters: Adapters
    limits: Limits
    spending: Spending
    operators: Operators
    members: Members
    sessions: Sessions
    providers: Providers
    integrations: Integrations
    importer: Importer
    clients: Clients
    flows: Flows
    devices: Devices
    revocation: Revocation
    looks: Looks
    refresher: Refresher
    upkeep: Upkeep
    approvals: Approvals
    asking: Asking
    sending: Sending
    rulebook: Rulebook
    relay: Relay
    requests: Requests
    runs: Runs
    sweeper: Sweeper
    schedules: Schedules
    dispatcher: Dispatcher | None
    tasks: Tasks
    memory: Memories
    outbox: Outbox
    redactor: Redactor


@contextlib.asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    redactor: Redactor | None = None,
    long_lived: bool = False,
    unseal: bool = False,
    keyless: bool = False,
    gone: str | None = None,
) -> AsyncIterator[App]:
    """
    Open the instance: database, schema, key, parts. Everything that is written late is written at the end.
    `long_lived` makes it a replica, which keeps the embedded database up, also when its supervisor is killed, and waits
    where the instance is sealed; `unseal` opens it then. `keyless` goes on without keys where they cannot be had. `gone`
    is an archived key that may be missing.

    Raises:
        MayNotStart: database, schema, role or key is not as it must be.
        Sealed: the instance is sealed.
    """
    async with contextlib.AsyncExitStack() as stack:
        db = await open_database(settings, stack, long_lived=long_lived)
        instance = await instance_id(db)
        source = open_source(settings)
        redactor = redactor or Redactor()
        held = HeldKeys(KeyRing(), lambda: _ring(source))
        if not unseal and await sealed_since(db):
            if not long_lived:
                raise Sealed
            held.seal()
        else:
            try:
                held.unseal(await unlock(db, source, instance, gone=gone))
            except (MayNotStart, Busy):
                if not keyless:
                    raise
                held.seal()
        audit = AuditLog(db, _unready, instance)
        store = SecretStore(db, held, audit)
        audit_keys = AuditKeys(db, store)
        audit.key, audit.forget_key = audit_keys.newest, audit_keys.forget
        outgoing = Outgoing(
            ca_file=settings.ca_file,
            networks=settings.networks,
            call_time=settings.call_timeout,
            request_limit=settings.call_limit,
            stream_limit=settings.stream_limit,
            message_limit=settings.message_limit,
            connections=CONNECTIONS,
            reply_limit=settings.call_limit,
            watched=redactor.holding,
        )
        await outgoing.start()
        stack.push_async_callback(outgoing.close)
        audit.start()
        # Opened now. Later, callers that wait for their event may hold every connection that this would take. Where
        # it does not open, nothing can be recorded, and every use says so; what only looks can go on.
        with contextlib.suppress(CompanyAgentsError):
            await audit_keys.newest()
            await record_states(db, audit, audit_keys)
            await record_restores(db, audit)
        outbox = await stack.enter_async_context(open_outbox(settings, store, audit, instance, long_lived=long_lived))
        stack.push_async_callback(audit.close)
        stack.push_async_callback(store.flush_used)
        await stack.enter_async_context(every(USED_EVERY, store.flush_used))
        identity = Identity(db, store, audit)
        operators = Operators(db, store, audit)
        providers = Providers.at(settings.home)
        exchange = Exchange(networks=settings.networks, ca_file=settings.ca_file, watched=redactor.holding)
        await exchange.start()
        stack.push_async_callback(exchange.close)
        oauth = OAuthCalls(exchange)
        clients = Clients(store, audit, oauth, providers, settings.url)
        statuses = Statuses(audit)
        refresher = Refresher(Attempts(store, statuses, REFRESH_LEASE), audit, providers, clients, oauth)
        checks = Checks(store, outgoing, providers, statuses, refresher)
        open_streams = Streams(store)
        stack.callback(open_streams.close)
        versions = Versions(store, closed=open_streams.closed_everywhere)
        integrations = Integrations(store, audit, outgoing, providers, versions, statuses, checks)
        spending = Spending(audit, Prices.at(settings.home), settings.call_limit)
        stack.push_async_callback(spending.close)
        approvals = Approvals(store, audit)
        asking = Asking(approvals, providers, settings.approval_hours)
        relay = Relay(
            *(store, audit, outgoing, integrations, refresher, spending, asking),
            turns=Turns(settings.company_calls, settings.call_timeout / 2),
            streams=Turns(settings.company_streams, 0, "streams"),
            open_streams=open_streams,
            call_time=settings.call_timeout,
            idle_time=settings.stream_idle,
            reply_limit=settings.call_limit,
            stream_limit=settings.stream_limit,
        )
        sending = Sending(approvals, relay)
        approvals.approved = sending.start
        stack.push_async_callback(sending.close)
        if long_lived:
            await stack.enter_async_context(every(APPROVALS_EVERY, sending.sweep))
        kinds: tuple[Adapter, ...] = (
            ProcessAdapter(Sandbox(settings)),
            LlmAdapter(),
            HttpAdapter(store, exchange, settings.url),
        )
        adapters = Adapters(store, audit, providers, {kind.kind: kind for kind in kinds})
        work = RunParts.build(
            *(store, audit, integrations.versions, settings.run_lease, adapters.kinds, redactor.clean)
        )
        stack.push_async_callback(work.jobs.close)
        if long_lived:
            await stack.enter_async_context(every(SWEEP_EVERY, work.sweeper.sweep))
        upkeep = Upkeep(store, providers, refresher, checks, settings.refreshes, settings.probe_every)
        stack.push_async_callback(upkeep.close)
        if long_lived:
            upkeep.start()
        flows = Flows(OpenFlows(store, audit), audit, oauth, providers, clients, integrations)
        revocation = Revocation(audit, oauth, clients, providers, integrations)
        integrations.versions.revoke = revocation.retired
        if long_lived:
            await stack.enter_async_context(every(FLOWS_SWEPT_EVERY, flows.open.sweep))
        panic = Panic(db, audit, held, audit_keys.forget, lambda: unlock(db, source, instance))
        rotator = Rotator(db, source, held, audit, audit_keys, settings.key_grace)
        background = Background(rotator)
        parts = open_backups(
            *(settings, db, held, audit, outbox.head_keys, workspaces_folder(settings.home)), long_lived=long_lived
        )
        backup = await stack.enter_async_context(parts)
        panic.followers.extend((background.stop, backup.work.stop, outbox.seal, sending.stop))
        if long_lived:
            outbox.deliverer.start()
            stack.push_async_callback(outbox.deliverer.close)
        stack.push_async_callback(background.close)
        replica, dispatcher = Replica(db, held, panic.drop, panic.restore, instance) if long_lived else None, None
        if replica is not None:
            await replica.start()
            open_streams.replica = replica.id
            replica.checks.append(open_streams.check)
            stack.push_async_callback(replica.close)
            dispatcher = work.dispatcher(
                *(replica.id, adapters.kinds, settings.home),
                url=settings.loopback_url,
                at_once=settings.runs,
                sealed=lambda: held.sealed,
                clean=redactor.clean,
            )
            dispatcher.start()
            stack.push_async_callback(dispatcher.close)
            panic.followers.append(dispatcher.seal)
        yield App(
            version=__version__,
            settings=settings,
            instance=Instance(instance, db),
            audit=audit,
            events=AuditEvents(db, audit_keys.all, instance, outbox.head_keys.checks),
            keys=Keys(db, source, held, settings.key_period),
            backups=backup.backups,
            drill=backup.drill,
            backup_work=backup.work,
            backup_watch=backup.watch,
            rotator=rotator,
            background=background,
            pruner=Pruner(db, source, held, audit, audit_keys, backup.backups.look),
            panic=panic,
            held=held,
            replica=replica,
            store=store,
            identity=identity,
            companies=Companies(db, audit),
            mover=CompanyMover(db, held, audit, audit_keys),
            agents=Agents(store, audit, open_streams.closed_everywhere),
            adapters=adapters,
            limits=Limits(audit, spending.changed),
            spending=spending,
            operators=operators,
            members=Members(db, audit),
            sessions=Sessions(db, store, audit, operators),
            providers=providers,
            integrations=integrations,
            importer=Importer(integrations, providers, audit, lambda path: read_document(path, settings)),
            clients=clients,
            flows=flows,
            devices=Devices(flows),
            revocation=revocation,
            looks=Looks(audit, integrations, statuses),
            refresher=refresher,
            upkeep=upkeep,
            approvals=approvals,
            asking=asking,
            sending=sending,
            rulebook=Rulebook(audit, integrations),
            relay=relay,
            requests=Requests(relay),
            runs=work.runs,
            sweeper=work.sweeper,
            schedules=work.schedules,
            dispatcher=dispatcher,
            tasks=Tasks(work.starts.by_assignment),
            memory=Memories(audit),
            outbox=outbox,
            redactor=redactor,
        )


async def init_key(settings: Settings, *, adopt: bool, take_over: bool) -> Initialized:
    """
    Claim the key source for this instance and give it its first key; see `initialize`.

    Raises:
        Conflict: there is a key already.
        MayNotStart: database or source is not as it must be.
    """
    async with contextlib.AsyncExitStack() as stack:
        db = await open_database(settings, stack, long_lived=False)
        instance = await instance_id(db)
        return await initialize(db, open_source(settings), instance, adopt=adopt, take_over=take_over)


async def _ring(source: KeySource) -> KeyRing:
    return KeyRing((await source.read()).keys)


async def _unready() -> tuple[int, Sensitive]:
    raise AssertionError("the audit log is used before its key")
