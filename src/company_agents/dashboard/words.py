"""
What the dashboard says: after an act, of an error, of an event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from company_agents.errors import CompanyAgentsError
from company_agents.rotation.status import KeyStatus

# After an act a page is told by name what to say, so that an address cannot put words into our mouth.
NOTICES = {
    "connected": "Connected. The token was tried at the provider and is sealed now.",
    "rotated": "Rotated. The new credential was tried at the provider; the old one goes as soon as no run holds it.",
    "configured": "Kept. The client's secret is sealed now.",
    "client-deleted": "Deleted, with its secret. What was consented to through it is not refreshed any more.",
    "revoked": "Revoked at the provider. The status below is what it said afterwards.",
    "cut": "Cut off. The next call of those runs is refused.",
    "reminded": "Saved.",
    "rules-set": "Saved. The rules count from the next call on.",
    "approval-approved": "Approved. It is sent now, once, as it is shown here.",
    "approval-refused": "Refused. The agent is told, and nothing is sent.",
    "checked": "Checked. The status below is what the provider said just now.",
    "allowed": "Saved. Who may use this integration counts from the next call on.",
    "deleted": "Deleted, with its credential. Calls with it are refused from now on.",
    "created": "The company is there. You own it.",
    "paused": "Paused. The agent's token is refused until you resume it.",
    "active": "Resumed. The agent's token is taken again.",
    "retired": "Retired. The agent's token is refused for good; its history stays.",
    "removed": "Removed. Their role in the company is gone from now on.",
    "joined": "Welcome. You are signed in.",
    "signed-out": "You are signed out.",
    "session-ended": "That session is signed out.",
    "token-revoked": "The token is revoked and refused from now on.",
    "backup-forgotten": "Forgotten. It keeps no master key any more.",
    "sealed": "Sealed. No orchestrator holds a key any more.",
    "unsealed": "Unsealed, and you are signed in. Every other orchestrator follows within a few seconds.",
    "webhook-tested": "Sent, and the receiver took it.",
    "webhook-failed": "The test did not arrive; the list says why.",
    "webhook-enabled": "Enabled. What waits is sent now.",
    "webhook-deleted": "Deleted, with its signing secret.",
    "schedule-created": "Scheduled.",
    "schedule-paused": "Paused. It starts nothing until you resume it.",
    "schedule-resumed": "Resumed. It starts runs again, from the next time on.",
    "schedule-deleted": "Deleted. Its runs stay.",
    "limits-set": "Saved. They count from the next run, and the next paid call, on.",
    "adapter-set": "Saved. It counts from the next run on.",
    "adapter-removed": "Taken away. The agent opens its runs itself.",
    "run-started": "Queued. It begins as soon as there is room for it.",
    "run-cancelled": "Cancelled. Its token is refused from now on.",
    "task-created": "The task is on the board.",
    "task-saved": "Saved.",
    "task-moved": "Moved.",
    "task-assigned": "Assigned.",
    "task-unassigned": "Nobody has it now. Runs that were started for it go on.",
    "commented": "Said.",
    "confirmed": "Thank you. You can go on for ten minutes.",
}

# Hints of the rooms behind speak to the command line too; what they say to somebody at a page.
HINTS = {
    "give another --name": "choose another name",
    "give --base-url https://host": "give its address, as https://host",
    "leave --header away": "leave the header empty",
    "give a client id, or --register": "give a client id, or let the server register one",
    "give --issuer https://login.example.com": "give its issuer, as https://login.example.com",
    "give its --issuer, as https://login.example.com": "give its issuer, as https://login.example.com",
    "leave it away, or give another --auth": "leave it empty, or choose another way under Advanced",
    "a public client is configured with --auth none": "for a public client, choose none under Advanced",
    "give the key as a PEM file, with --auth private_key_jwt": "paste the key as a PEM text, and choose private_key_jwt under "
    "Advanced",
    "give --installation ID, a number": "give the number of the installation",
    "use https://, or give --allow-private-network": "use https://, or say under Advanced that it may be in a private "
    "network",
    "if that is meant, give --allow-private-network": "if that is meant, say so under Advanced: it may be in a private "
    "network",
    "`company-agents key status` shows how far it is; try again when it is done": "the page Master key shows how far it is; "
    "try again when it is done",
    "nothing is lost; run `company-agents key rotate --finish` to finish what was begun": "nothing is lost; the page Master "
    "key has a button that finishes what was begun",
    "`company-agents key rotate --finish` finishes it; then rotate with --compromised": "finish it first; then come back here",
    "`company-agents operator link` makes a new one": "ask an owner for a new one; on the server, "
    "`company-agents operator link` makes one",
    "private addresses are allowed per integration, with --allow-private-network, and by the setting "
    "COMPANY_AGENTS_PRIVATE_NETWORKS": "if that is meant, say so under Advanced: it may be in a private network; the "
    "setting `COMPANY_AGENTS_PRIVATE_NETWORKS` has to allow it too",
}

EVENTS = {
    "key.created": "Master key created",
    "audit.key_renewed": "Audit key renewed",
    "key.activated": "Master key brought into use",
    "key.adopted": "Master key found and kept",
    "key.rotated": "Master key rotated",
    "key.destroyed": "Master key destroyed",
    "instance.sealed": "Instance sealed",
    "instance.unsealed": "Instance unsealed",
    "instance.unseal_refused": "Unsealing refused",
    "instance.restored": "Instance restored from a backup",
    "company.created": "Company created",
    "company.exported": "Company written into a file, with its secrets",
    "company.imported": "Company brought in from a file",
    "agent.created": "Agent hired",
    "agent.paused": "Agent paused",
    "agent.active": "Agent resumed",
    "agent.retired": "Agent retired",
    "agent.token_rotated": "Agent token rotated",
    "agent.adapter_set": "How an agent's runs are executed was set",
    "agent.adapter_removed": "Runs are not executed for an agent any more",
    "agent.unsandboxed": "Agent let out of the sandbox: its process can read the master key",
    "agent.secret_rotated": "Signing secret of a remote agent rotated",
    "integration.probe": "Credential tried at the provider",
    "integration.probe_failed": "Credential not accepted by the provider",
    "integration.connected": "Integration connected",
    "integration.imported": "Credential taken over from a file or Vault",
    "integration.rotated": "Credential rotated",
    "integration.allowed": "Agent allowed to use it",
    "integration.disallowed": "Agent no longer allowed to use it",
    "integration.deleted": "Integration deleted",
    "consent.begun": "Consent asked for",
    "consent.given": "Consent given",
    "consent.not_kept": "Consent given, and not kept",
    "consent.revoking": "Consent about to be revoked at the provider",
    "consent.revoked": "Consent revoked at the provider",
    "consent.refused": "Answer to a consent refused",
    "provider.configured": "Client at a provider configured",
    "provider.client_deleted": "Client at a provider deleted",
    "integration.refused": "Use of an integration refused",
    "integration.rules_set": "Rules of an integration set",
    "approval.asked": "Approval of a request asked for",
    "approval.shown": "Request that waits for approval looked at",
    "approval.approved": "Request approved",
    "approval.refused": "Request not approved",
    "approval.expired": "Request expired: nobody decided",
    "approval.done": "Approved request sent",
    "approval.failed": "Approved request not sent",
    "approval.uncertain": "Approved request sent, perhaps: there is no reply",
    "approval.collected": "Reply to an approved request handed to its agent",
    "credential.refresh_begun": "Refresh of a consent begun",
    "integration.refreshed": "Consent refreshed",
    "integration.refresh_failed": "Refresh of a consent brought nothing",
    "integration.needs_attention": "Integration needs attention",
    "integration.reminder_set": "Reminder of a rotation set",
    "integration.rotation_due": "Credential is old and is to be rotated",
    "memory.looked_at": "Memory of an agent looked at",
    "run.started": "Run started: it waits to be executed",
    "run.not_started": "Run for a task not started",
    "run.opened": "Run begun",
    "run.claimed": "Run claimed: its execution begins",
    "run.taken_over": "Run taken over: its execution begins once more",
    "run.handed_over": "Run handed over: its orchestrator stops",
    "run.finished": "Run finished",
    "run.failed": "Run failed",
    "run.cancelled": "Run cancelled",
    "run.expired": "Run expired: its lease ran out",
    "schedule.created": "Schedule added",
    "schedule.paused": "Schedule paused",
    "schedule.resumed": "Schedule resumed",
    "schedule.skipped": "Schedule came true, and started no run",
    "schedule.deleted": "Schedule deleted",
    "limits.changed": "Limits changed",
    "budget.near": "Budget of a month nearly spent",
    "budget.spent": "Budget of a month spent",
    "budget.refused": "Paid call refused: budget",
    "credential.cut": "Run cut off from a credential version",
    "credential.retired": "Credential version retired",
    "credential.revoked": "Credential version revoked at the provider",
    "credential.not_revoked": "Credential version deleted without being revoked at the provider",
    "webhook.created": "Webhook added",
    "webhook.secret_rotated": "Signing secret of a webhook rotated",
    "webhook.tested": "Test sent to a webhook",
    "webhook.enabled": "Webhook enabled",
    "webhook.disabled": "Webhook disabled",
    "webhook.deleted": "Webhook deleted",
    "backup.begun": "Backup begun",
    "backup.made": "Backup made",
    "backup.verified": "Backup verified",
    "backup.drilled": "Backup restored for a trial",
    "backup.downloaded": "Backup downloaded",
    "backup.forgotten": "Backup given up",
    "backup.failed": "Backup failed",
    "backup.late": "Backup late: the newest one is too old",
    "audit.head_key_renewed": "Key of the signed heads renewed",
    "credential.begun": "Use of a credential begun",
    "credential.ended": "Use of a credential ended",
    "upload.begun": "File sent on to an address of a provider",
    "upload.ended": "File sent on: how it ended",
    "secret.tampered": "A stored secret was altered",
    "token.refused": "A token was refused",
    "operator.link_made": "Sign-in link made",
    "operator.joined": "Person joined",
    "operator.reset": "Sign-in set up anew",
    "operator.disabled": "Person disabled",
    "operator.enabled": "Person enabled",
    "member.removed": "Member removed",
    "operator.signed_in": "Person signed in",
    "operator.sign_in_refused": "Sign-in refused",
    "operator.session_ended": "Session signed out",
    "operator.token_created": "Operator token made",
    "operator.token_revoked": "Operator token revoked",
}

# Prefixes that the audit page offers as filters, and what they are called there: for a company, and for the instance.
FILTERS = {
    "": "Everything",
    "credential.": "Uses of credentials",
    "integration.": "Integrations",
    "approval.": "Approvals",
    "consent.": "Consents",
    "provider.": "Clients at providers",
    "agent.": "Agents",
    "run.": "Runs",
    "schedule.": "Schedules",
    "member.": "People",
    "webhook.": "Webhooks",
    "secret.": "Altered secrets",
}
INSTANCE_FILTERS = {
    "": "Everything",
    "operator.": "People",
    "token.": "Refused tokens",
    "key.": "Master key",
    "backup.": "Backups",
    "instance.": "Sealing and restoring",
    "secret.": "Altered secrets",
}

# States of a master key: what is said of it, its tone and its sign.
KEY_STATES = {
    "active": ("Active", "good", "check"),
    "staged": ("Waiting to take over", "warn", "info"),
    "retiring": ("Being replaced", "warn", "rotate"),
    "archived": ("Archived", "still", "ended"),
    "destroying": ("Being destroyed", "warn", "trash"),
    "destroyed": ("Destroyed", "still", "ended"),
}

# What the name of a secret begins with.
SECRETS = {
    "integration": "Credential of an integration",
    "approval": "Request that waits for approval, or its reply",
    "approval_key": "Key of the digests of approvals",
    "oauth_client": "Client at a provider",
    "oauth_flow": "Consent that is being asked for",
    "agent_token": "Token of an agent",
    "agent_adapter": "Address and signing secret of a remote agent",
    "run_token": "Token of a run",
    "operator_token": "Token of somebody's programs",
    "webhook": "Signing secret of a webhook",
    "audit_head_key": "Key of the signed heads",
    "operator_totp": "Second factor of a person",
}

# Facts of an event that its other columns show, or that say nothing to a person.
_SHOWN_ELSEWHERE = {"seq", "at", "action", "actor", "decision", "integration", "agent", "method", "path"}
# In this order, whatever comes first in the record; the rest follows.
_FIRST = ("host", "status", "result", "reason", "error", "version")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that an event says, beside who did what."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Event:
    """An audit event in plain words."""

    seq: int
    at: datetime
    action: str
    what: str
    who: str
    refused: bool
    failed: bool
    facts: list[Fact]


def notice(name: str | None) -> str:
    """What to say after an act, or nothing."""
    return NOTICES.get(name or "", "")


def hint(error: CompanyAgentsError) -> str:
    """An error's hint, for somebody at a page."""
    said = HINTS.get(error.hint, error.hint)
    return "" if re.search(r"`company-agents \w+ (token )?list", said) else said


def key_warnings(status: KeyStatus) -> list[str]:
    """What an owner should do about the master key, and why."""
    found = []
    if status.worn:
        found.append("the active key has sealed half of what is safe: rotate it")
    if status.old:
        found.append(f"the active key is {status.age_days} days old, and its period is {status.period_days}: rotate it")
    if status.to_reissue:
        one = status.to_reissue == 1
        secrets = f"{status.to_reissue:,} secret{'' if one else 's'}"
        found.append(f"{secrets} of a key that got out {'is' if one else 'are'} still to be replaced")
    return found


def event(found: dict[str, Any], names: dict[str, str]) -> Event:
    """An event in plain words; `names` are those of agents, integrations and people by id."""
    action = str(found["action"])
    return Event(
        seq=found["seq"],
        at=datetime.fromisoformat(found["at"]),
        action=action,
        what=EVENTS.get(action) or _spelled(action),
        who=_who(found, names),
        refused=_is_refused(found),
        failed="error" in found or action == "secret.tampered",
        facts=_facts(found, names),
    )


def _spelled(action: str) -> str:
    return action.replace(".", ": ").replace("_", " ").capitalize()


def _is_refused(found: dict[str, Any]) -> bool:
    return found.get("decision") == "refused"


def _who(found: dict[str, Any], names: dict[str, str]) -> str:
    label = str(found.get("actor", ""))
    # Who is refused may be anybody; what is done in nobody's name, is done by the orchestrator.
    return "Nobody we know" if not label and _is_refused(found) else who(label, names)


def who(label: str, names: dict[str, str]) -> str:
    """Who did something, of a label as `operator:<id>`; `names` are those of agents and people by id."""
    kind, _, name = label.partition(":")
    if not kind:
        return "The orchestrator"
    if kind == "local":
        return f"{name}, on the command line" if name != "start" else "The orchestrator"
    if not name:
        return {"start": "The orchestrator", "schedule": "The schedule", "restore": "A restore"}.get(kind, kind)
    return names.get(name, f"{kind} {name[:8]}")


def _facts(found: dict[str, Any], names: dict[str, str]) -> list[Fact]:
    facts = [
        Fact(label, "all agents" if found[label] == "all" else names.get(str(found[label]), str(found[label])))
        for label in ("integration", "agent")
        if label in found and found.get("actor") != f"{label}:{found[label]}"
    ]
    if "method" in found:
        facts.append(Fact("call", f"{found['method']} {found.get('path', '')}"))
    rest = [label for label in found if label not in _SHOWN_ELSEWHERE and label not in _FIRST]
    for label in (*(label for label in _FIRST if label in found), *rest):
        # The use's id binds its two events together; the beginning of it is enough for that.
        value = _value(found[label], names)
        if label == "use":
            value = value[:8]
        elif label == "repeated":
            value = "once more" if value == "1" else f"{value} more times"
        if not any(fact.value == value and label == "name" for fact in facts):
            facts.append(Fact(label.replace("_", " "), value))
    return facts


def _value(value: Any, names: dict[str, str]) -> str:
    if isinstance(value, list):
        return ", ".join(_value(entry, names) for entry in value) or "nobody"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return names.get(str(value), str(value))


def browser_name(agent: str) -> str:
    """A browser's name and system, from the long text that it calls itself; good enough to recognise one's own."""
    browsers = {"Edg/": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari"}
    systems = {"iPhone": "iPhone", "iPad": "iPad", "Android": "Android", "Windows": "Windows", "Mac OS": "macOS"}
    name = next((name for mark, name in browsers.items() if mark in agent), "A browser")
    system = next((name for mark, name in {**systems, "Linux": "Linux"}.items() if mark in agent), "")
    return f"{name} on {system}" if system else name
