"""
Two companies that have one of everything, and a sample call for every route of the door.

A route without a sample fails the tests that are made from the routes.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.routing import APIRoute

from company_agents.api.routes import ROUTERS
from company_agents.app import App
from company_agents.errors import ApprovalNeeded
from company_agents.identity.permissions import Permission as P
from company_agents.identity.principal import Caller
from company_agents.integrations.rules import Rules
from company_agents.integrations.wanted import Wanted
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant

GOOD = "a-token-that-the-provider-knows"
ASKS = Rules.read(ask=["POST /asked"])

# Everything that a refused call could have changed; the audit log grows by refusals, as it should.
TABLES = {
    "companies": "*",
    "agents": "*",
    "integrations": "*",
    "credential_versions": "*",
    "integration_agents": "*",
    "runs": "*",
    "run_pins": "*",
    "run_output": "*",
    "schedules": "*",
    "secrets": "id, company_id, name, value, nonce, created_at, updated_at, key_id",
    "tasks": "*",
    "comments": "*",
    "memory": "*",
    "approvals": "*",
    "call_counts": "*",
    "memberships": "*",
    "operator_tokens": "*",
    "idempotency_keys": "*",
    "webhooks": "*",
    "webhook_deliveries": "*",
    "oauth_clients": "*",
    "oauth_flows": "*",
    "limits": "*",
    "cost_entries": "*",
    "spending": "*",
    "spending_months": "*",
    "backups": "*",
}


@dataclass(frozen=True)
class World:
    """A company with one of everything, by the names that paths have for them."""

    tenant: Tenant
    url: str
    ids: dict[str, str]
    run_token: str

    @property
    def local(self) -> Caller:
        return self.tenant.local


@dataclass(frozen=True)
class Sample:
    """A call that works for who may make it."""

    permission: P | None
    body: Callable[[World], Any] = lambda world: None
    # An operator's own business: the table of permissions has no row for it.
    persons_only: bool = False


def some_name(_: World) -> dict[str, str]:
    return {"name": f"name {uuid.uuid4().hex[:12]}"}


def connection(world: World) -> dict[str, Any]:
    return {
        **some_name(world),
        "provider": "generic",
        "token": GOOD,
        "base_url": world.url,
        "allow_private_network": True,
    }


def webhook(world: World) -> dict[str, Any]:
    return {"url": f"{world.url}/hook", "events": ["key.rotated"], "allow_private_network": True}


def remote_at(url: str) -> dict[str, Any]:
    return {"url": f"{url}/runs", "allow_private_network": True}


def remote(world: World) -> dict[str, Any]:
    return {"adapter": "http", "config": remote_at(world.url)}


def schedule(world: World) -> dict[str, Any]:
    return {**some_name(world), **whom(world), "cron": "0 9 * * MON-FRI", "prompt": "the morning's work"}


def consent(world: World) -> dict[str, Any]:
    return {
        **some_name(world),
        "provider": "generic",
        "issuer": world.url,
        "base_url": world.url,
        "allow_private_network": True,
    }


def whom(world: World) -> dict[str, str]:
    return {"agent": world.ids["agent_id"]}


SAMPLES: dict[str, Sample] = {
    "getMe": Sample(None),
    "listProviders": Sample(None),
    "getProvider": Sample(None),
    "listOperatorTokens": Sample(None, persons_only=True),
    "revokeOperatorToken": Sample(None, persons_only=True),
    "listCompanies": Sample(P.COMPANY_LIST),
    "createCompany": Sample(P.COMPANY_CREATE, some_name),
    "getCompany": Sample(P.COMPANY_READ),
    "listAgents": Sample(P.AGENT_READ),
    "getAgent": Sample(P.AGENT_READ),
    "createAgent": Sample(P.AGENT_MANAGE, some_name),
    "pauseAgent": Sample(P.AGENT_MANAGE),
    "resumeAgent": Sample(P.AGENT_MANAGE),
    "retireAgent": Sample(P.AGENT_MANAGE),
    "rotateAgentToken": Sample(P.AGENT_TOKEN),
    "setAdapter": Sample(P.AGENT_ADAPTER, remote),
    "removeAdapter": Sample(P.AGENT_ADAPTER),
    "rotateAdapterSecret": Sample(P.AGENT_ADAPTER),
    "listIntegrations": Sample(P.INTEGRATION_READ),
    "getIntegration": Sample(P.INTEGRATION_READ),
    "connectIntegration": Sample(P.INTEGRATION_CONNECT, connection),
    "allowAgent": Sample(P.INTEGRATION_ALLOW, whom),
    "disallowAgent": Sample(P.INTEGRATION_ALLOW, whom),
    "allowAllAgents": Sample(P.INTEGRATION_ALLOW, lambda world: {"on": True}),
    "rotateIntegration": Sample(P.INTEGRATION_ROTATE, lambda world: {"token": GOOD + "-2"}),
    "remindIntegration": Sample(P.INTEGRATION_ROTATE, lambda world: {"days": 90}),
    "checkIntegration": Sample(P.INTEGRATION_CHECK),
    "deleteIntegration": Sample(P.INTEGRATION_DELETE),
    "getIntegrationRules": Sample(P.INTEGRATION_READ),
    "setIntegrationRules": Sample(P.INTEGRATION_ALLOW, lambda world: {"only": ["* /things", "POST /asked"]}),
    "listApprovals": Sample(P.APPROVAL_READ),
    "getApproval": Sample(P.APPROVAL_READ),
    "approveRequest": Sample(P.APPROVAL_DECIDE, lambda world: {}),
    "refuseRequest": Sample(P.APPROVAL_DECIDE, lambda world: {}),
    "cutRuns": Sample(P.RUN_CUT, lambda world: {}),
    "openRun": Sample(P.RUN_OPEN, lambda world: {}),
    "startRun": Sample(P.RUN_START, lambda world: {"prompt": "the work"}),
    "claimRun": Sample(P.RUN_OPEN),
    "getRunOutput": Sample(P.RUN_READ),
    "listRuns": Sample(P.RUN_READ),
    "getRun": Sample(P.RUN_READ),
    "putRunOutput": Sample(P.RUN_HOLD, lambda world: {"fencing_token": 1, "text": "a line\n"}),
    "renewRun": Sample(P.RUN_HOLD, lambda world: {"fencing_token": 1}),
    "finishRun": Sample(P.RUN_HOLD, lambda world: {"fencing_token": 1}),
    "cancelRun": Sample(P.RUN_CANCEL, lambda world: {}),
    "listSchedules": Sample(P.SCHEDULE_READ),
    "getSchedule": Sample(P.SCHEDULE_READ),
    "createSchedule": Sample(P.SCHEDULE_MANAGE, schedule),
    "pauseSchedule": Sample(P.SCHEDULE_MANAGE),
    "resumeSchedule": Sample(P.SCHEDULE_MANAGE),
    "deleteSchedule": Sample(P.SCHEDULE_MANAGE),
    "listClients": Sample(P.INTEGRATION_CONNECT),
    "configureClient": Sample(
        P.PROVIDER_CONFIGURE, lambda world: {"client_id": "client-1", "client_secret": "a-secret-of-the-client"}
    ),
    "deleteClient": Sample(P.PROVIDER_CONFIGURE),
    "beginConsent": Sample(P.INTEGRATION_CONNECT, consent),
    "pollConsent": Sample(P.INTEGRATION_CONNECT),
    "cancelConsent": Sample(P.INTEGRATION_CONNECT),
    "sendRequest": Sample(P.INTEGRATION_USE, lambda world: {"method": "POST", "path": "/things", "body": {"a": 1}}),
    "listTasks": Sample(P.TASK_READ),
    "getTask": Sample(P.TASK_READ),
    "listComments": Sample(P.TASK_READ),
    "createTask": Sample(P.TASK_WRITE, lambda world: {"title": "a task"}),
    "changeTask": Sample(P.TASK_WRITE, lambda world: {"status": "done"}),
    "createComment": Sample(P.TASK_WRITE, lambda world: {"text": "a remark"}),
    "searchMemory": Sample(P.MEMORY),
    "getMemory": Sample(P.MEMORY),
    "createMemory": Sample(P.MEMORY, lambda world: {"content": "a note"}),
    "replaceMemory": Sample(P.MEMORY, lambda world: {"content": "another note"}),
    "deleteMemory": Sample(P.MEMORY),
    "getLimits": Sample(P.LIMITS_READ),
    "setLimits": Sample(P.LIMITS_MANAGE, lambda world: {"month_micros": 50_000_000, "runs_at_once": None}),
    "getAgentLimits": Sample(P.LIMITS_READ),
    "setAgentLimits": Sample(P.LIMITS_MANAGE, lambda world: {"run_tokens": 100_000}),
    "listCosts": Sample(P.COSTS_READ),
    "getCostSummary": Sample(P.COSTS_READ),
    "getCostMonth": Sample(P.COSTS_READ),
    "listWebhooks": Sample(P.WEBHOOK_READ),
    "getWebhook": Sample(P.WEBHOOK_READ),
    "listDeliveries": Sample(P.WEBHOOK_READ),
    "createWebhook": Sample(P.WEBHOOK_MANAGE, webhook),
    "rotateWebhookSecret": Sample(P.WEBHOOK_MANAGE),
    "testWebhook": Sample(P.WEBHOOK_MANAGE),
    "enableWebhook": Sample(P.WEBHOOK_MANAGE),
    "deleteWebhook": Sample(P.WEBHOOK_MANAGE),
    "listEvents": Sample(P.AUDIT_READ),
    "verifyEvents": Sample(P.AUDIT_READ),
    "getKey": Sample(P.KEY_READ),
    "rotateKey": Sample(P.KEY_ROTATE, lambda world: {"finish": False, "compromised": False}),
    "pruneKeys": Sample(P.KEY_PRUNE, lambda world: {}),
    "listToReissue": Sample(P.KEY_READ),
    "sealInstance": Sample(P.INSTANCE_SEAL),
    "listBackups": Sample(P.BACKUP_READ),
    "getBackup": Sample(P.BACKUP_READ),
    "makeBackup": Sample(P.BACKUP_MAKE),
    "verifyBackup": Sample(P.BACKUP_MAKE),
    "forgetBackup": Sample(P.BACKUP_FORGET),
}


@dataclass(frozen=True)
class Route:
    """One route of the door."""

    operation: str
    method: str
    path: str
    params: tuple[str, ...]

    @property
    def of_company(self) -> bool:
        return "cid" in self.params

    @property
    def sample(self) -> Sample:
        assert self.operation in SAMPLES, f"{self.method} {self.path} is new: give it a sample in tests/api/world.py"
        return SAMPLES[self.operation]

    def url(self, world: World, **other: str) -> str:
        return self.path.format_map({**world.ids, **other})

    def body(self, world: World) -> Any:
        return self.sample.body(world)


def routes() -> list[Route]:
    """Every route, as the door has them."""
    found = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return [
        Route(route.operation_id or route.name, method, route.path, tuple(route.param_convertors))
        for route in found
        for method in sorted(route.methods or ())
    ]


async def build_world(app: App, make: Callable[[], Awaitable[Tenant]], url: str, token_id: str) -> World:
    """A company with one of everything; `url` is a provider's, `token_id` is that of an operator's own token."""
    tenant = await make()
    agent_id = tenant.agent.agent_id()
    integration = await app.integrations.connect(
        *(tenant.local, "generic", Sensitive(GOOD)),
        base_url=url,
        allow_private_network=True,
        allow=[agent_id],
        rules=ASKS,
    )
    task = await app.tasks.create(tenant.local, "a task", assignee=agent_id)
    await app.tasks.comment(tenant.local, task.id, "a remark")
    note = await app.memory.write(tenant.agent, "a note of its own")
    run, run_token = await app.runs.open(tenant.agent, "a purpose")
    client: dict[str, Any] = {"client_id": "client-1", "secret": Sensitive("a-secret-of-the-client")}
    await app.clients.configure(tenant.local, "github", **client)
    await app.clients.configure(tenant.local, "generic", **client, issuer=url, allow_private=True)
    asked = Wanted("generic", issuer=url, name="by consent", base_url=url, allow_private=True)
    waiting = await app.devices.begin(tenant.local, asked)
    hook, _ = await app.outbox.webhooks.create(tenant.local, f"{url}/hook", ["key.rotated"], allow_private_network=True)
    await app.adapters.set(tenant.local, agent_id, "http", remote_at(url))
    queued = await app.runs.start(tenant.local, agent_id, prompt="the work")
    planned = await app.schedules.create(tenant.local, agent_id, "each morning", "0 9 * * *", "the morning's work")
    ids = {
        "cid": tenant.company.id,
        "agent_id": agent_id,
        "integration_id": integration.id,
        "task_id": task.id,
        "memory_id": note.id,
        "consent_id": waiting.id,
        "webhook_id": hook.id,
        "run_id": run.id,
        "approval_id": await some_approval(app, tenant, integration.id),
        "queued_id": queued.id,
        "schedule_id": planned.id,
        "token_id": token_id,
        "backup_id": await some_backup(app),
        "name": "github",
    }
    return World(tenant, url, {name: str(value) for name, value in ids.items()}, run_token.reveal_text())


async def some_approval(app: App, tenant: Tenant, integration: uuid.UUID) -> str:
    """A request that waits for a person, of an integration with these rules."""
    with pytest.raises(ApprovalNeeded) as needed:
        await app.requests.request(tenant.agent, str(integration), "POST", "/asked", body={"n": uuid.uuid4().hex})
    return needed.value.facts["approval"]


async def some_backup(app: App) -> str:
    """A backup that is known, and lies elsewhere."""
    row = {"id": uuid.uuid4(), "file": f"{uuid.uuid4().hex}.tar.zst"}
    async with await app.identity.db.logins.instance.connect() as connection:
        await connection.execute(
            "INSERT INTO backups (id, file, place, state) VALUES (%(id)s, %(file)s, '/srv/elsewhere', 'whole')", row
        )
    return str(row["id"])


async def settle(app: App) -> None:
    """After a call that goes on behind its answer, or that sealed the instance: as before the next."""
    await app.background.ended()
    await app.backup_work.ended()
    await app.sending.idle()
    if app.held.sealed:
        await app.panic.unseal("local:tester")


def with_ids(world: World, **ids: str) -> World:
    return dataclasses.replace(world, ids={**world.ids, **ids})
