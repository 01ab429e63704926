"""
What the dashboard says: after an act, of an error, of an event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from company_agents.errors import CompanyAgentsError

# After an act a page is told by name what to say, so that an address cannot put words into our mouth.
NOTICES = {
    "connected": "Connected. The token was tried at the provider and is sealed now.",
    "rotated": "Rotated. The new credential was tried at the provider; the old one is gone.",
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
    "confirmed": "Thank you. You can go on for ten minutes.",
}

# Hints of the rooms behind speak to the command line too; what they say to somebody at a page.
HINTS = {
    "give another --name": "choose another name",
    "give --base-url https://host": "give its address, as https://host",
    "leave --header away": "leave the header empty",
    "use https://, or give --allow-private-network": "use https://, or say under Advanced that it may be in a private "
    "network",
    "if that is meant, give --allow-private-network": "if that is meant, say so under Advanced: it may be in a private "
    "network",
    "`company-agents operator link` makes a new one": "ask an owner for a new one; on the server, "
    "`company-agents operator link` makes one",
    "private addresses are allowed per integration, with --allow-private-network, and by the setting "
    "COMPANY_AGENTS_PRIVATE_NETWORKS": "if that is meant, say so under Advanced: it may be in a private network; the "
    "setting `COMPANY_AGENTS_PRIVATE_NETWORKS` has to allow it too",
}

EVENTS = {
    "key.created": "Master key created",
    "company.created": "Company created",
    "agent.created": "Agent hired",
    "agent.paused": "Agent paused",
    "agent.active": "Agent resumed",
    "agent.retired": "Agent retired",
    "agent.token_rotated": "Agent token rotated",
    "integration.probe": "Credential tried at the provider",
    "integration.probe_failed": "Credential not accepted by the provider",
    "integration.connected": "Integration connected",
    "integration.rotated": "Credential rotated",
    "integration.allowed": "Agent allowed to use it",
    "integration.disallowed": "Agent no longer allowed to use it",
    "integration.deleted": "Integration deleted",
    "integration.refused": "Use of an integration refused",
    "credential.begun": "Use of a credential begun",
    "credential.ended": "Use of a credential ended",
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
    "agent.": "Agents",
    "member.": "People",
    "secret.": "Altered secrets",
}
INSTANCE_FILTERS = {
    "": "Everything",
    "operator.": "People",
    "token.": "Refused tokens",
    "key.": "Master key",
    "secret.": "Altered secrets",
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
    kind, _, name = str(found.get("actor", "")).partition(":")
    if not kind:
        # Who is refused may be anybody; what is done in nobody's name, is done by the orchestrator.
        return "Nobody we know" if _is_refused(found) else "The orchestrator"
    if kind == "local":
        return f"{name}, on the command line" if name != "start" else "The orchestrator"
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
