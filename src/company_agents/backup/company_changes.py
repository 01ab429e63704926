"""
What becomes another where a company arrives: the instance that it came from may be at work still, and what was under way
there is not under way here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from company_agents.backup.company_checks import changed_columns
from company_agents.backup.company_sealed import ADAPTER, INTEGRATION, Places
from company_agents.backup.company_tables import AGENT_TOKEN, SECRETS_THAT_STAY, kind_of_secret
from company_agents.db.moving import Values

Record = dict[str, str | None]

MOVED_RUN = "its company was moved to another instance"
UNDECIDED_APPROVAL = "its company was moved to another instance before anybody decided"
MOVED_APPROVAL = "its company was moved to another instance before it was sent"
UNCERTAIN_APPROVAL = "its company was moved to another instance while it was being sent"
MOVED_WEBHOOK = "its company was moved here: enable it once the instance that it came from does not send any more"
HELD_INTEGRATION = "its company was moved here, and its credential, which goes into a private network, was left behind"
HELD_HINT = "delete it and connect it anew, if its address is meant here too"

_PASSED_THROUGH = ("finished", "expired")

# Of the configuration of a process: what says nothing of the machine that it runs on, and names nothing out there.
_CLOSED = frozenset(("preset", "command", "integration", "model", "arguments", "environment"))


@dataclass
class EndedRuns:
    """Runs that were inserted as under way, and what they have to become."""

    begin: list[str | None] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    states: list[str | None] = field(default_factory=list)
    started: list[str | None] = field(default_factory=list)
    leases: list[str | None] = field(default_factory=list)
    ended: list[str | None] = field(default_factory=list)


@dataclass
class Changes:
    """
    What is changed, and what is to be said about it. `moment`: the time of the import, and `instance_seq`: the number of the
    newest event of this instance; both as text.
    """

    moment: str = ""
    instance_seq: str = "0"
    name: str | None = None
    enable_schedules: bool = False
    revoke_tokens: bool = False
    allow_private: bool = False
    places: Places = field(default_factory=Places)
    agents: dict[str, str] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    unsandboxed: list[str] = field(default_factory=list)
    without_adapter: list[str] = field(default_factory=list)
    private_adapters: list[str] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)
    providers: set[str] = field(default_factory=set)
    schedules_paused: int = 0
    webhooks_disabled: int = 0
    runs_ended: int = 0
    approvals_ended: int = 0
    runs: EndedRuns = field(default_factory=EndedRuns)
    # Secrets of adapters that were left behind.
    _without: set[str] = field(default_factory=set)

    def apply(self, table: str, columns: Sequence[str], rows: Sequence[Values]) -> list[Values]:
        """
        The rows as they are inserted.

        Raises:
            KeyError: what is changed is none of their columns.
        """
        change = _CHANGES.get(table)
        if change is None:
            return list(rows)
        changed = []
        for row in rows:
            record: Record = dict(zip(columns, row, strict=True))
            if change(self, record):
                changed.append(changed_columns(columns, record))
        return changed

    def company(self, row: Record) -> bool:
        if self.name is not None:
            row["name"] = self.name
        return True

    def _is_held(self, integration: str | None) -> bool:
        return not self.allow_private and integration in self.places.integrations

    def agent(self, row: Record) -> bool:
        self.agents[str(row["id"])] = str(row["name"])
        # Who may let a process out of the sandbox, or open that, is an owner of the instance: nobody has said so here.
        if row.get("adapter") == "process" and _opens(row.get("adapter_config")):
            self.without_adapter.append(str(row["name"]))
            row |= {"adapter": None, "adapter_config": "{}"}
        # What it is handed is signed, and goes to where somebody else's instance could reach.
        elif row.get("adapter") == "http" and not self.allow_private and row["id"] in self.places.agents:
            self.private_adapters.append(str(row["name"]))
            self._without.add(f"{ADAPTER}/{row['id']}")
            row |= {"adapter": None, "adapter_config": "{}"}
        # A file may say so in another way than the database does.
        elif row.get("unsandboxed") not in (None, "f"):
            self.unsandboxed.append(str(row["name"]))
        if "unsandboxed" in row:
            row["unsandboxed"] = "f"
        return True

    def secret(self, row: Record) -> bool:
        kind = kind_of_secret(str(row["name"]))
        if kind in SECRETS_THAT_STAY or (kind == AGENT_TOKEN and self.revoke_tokens):
            return False
        if row["id"] in self.places.left or row["name"] in self._without:
            return False
        if kind == INTEGRATION and self._is_held(str(row["name"]).removeprefix(f"{INTEGRATION}/").partition("/")[0]):
            return False
        if kind == AGENT_TOKEN:
            self.tokens.append(str(row["name"]).partition("/")[2])
        return True

    def integration(self, row: Record) -> bool:
        self.providers.add(str(row["provider"]))
        # Due at once: whoever refreshes a consent elsewhere may have ended this one. And nobody does so here now.
        row["probe_due_at"] = None
        if row.get("status") == "refreshing":
            row["status"] = "connected"
        if self._is_held(row["id"]):
            self.held_back.append(str(row["name"]))
            row |= {"status": "needs attention", "status_reason": HELD_INTEGRATION, "status_hint": HELD_HINT}
            row["status_since"] = self.moment
        return True

    def version(self, row: Record) -> bool:
        if row["state"] != "current":
            # It is revoked by the instance that it came from, where runs may hold it still.
            row |= {"secret_id": None, "revoke_after": None, "refresh_due_at": None}
            if row["state"] == "draining":
                row |= {"state": "retired", "retired_at": self.moment}
        elif self._is_held(row["integration_id"]):
            row |= {"secret_id": None, "secret_lost": "t", "refresh_due_at": None}
        return True

    def schedule(self, row: Record) -> bool:
        if not self.enable_schedules:
            # Whatever its text is: there are more words for yes than the one that Postgres writes.
            self.schedules_paused += row.get("enabled") != "f"
            row["enabled"], row["next_at"] = "f", None
        elif row["next_at"] is not None and datetime.fromisoformat(row["next_at"]) <= datetime.fromisoformat(
            self.moment
        ):
            # The other instance has served it.
            row["missed"] = "t"
        return True

    def run(self, row: Record) -> bool:
        state = row["state"]
        if state in ("queued", "running"):
            self.runs_ended += 1
            state = "cancelled" if state == "queued" else "expired"
            row |= {"ended_at": self.moment, "reason": MOVED_RUN}
        ended, own = self.runs, row.get("adapter") is None
        for kept, value in (
            *((ended.ids, row["id"]), (ended.states, state), (ended.ended, row["ended_at"])),
            *((ended.started, row.get("started_at")), (ended.leases, row.get("lease_until"))),
        ):
            kept.append(value)
        row |= {"ended_at": None, "state": "running" if own else "queued"}
        if own or state in _PASSED_THROUGH:
            row["started_at"] = row.get("started_at") or self.moment
            row["lease_until"] = row.get("lease_until") or self.moment
        if not own and state in _PASSED_THROUGH:
            ended.begin.append(row["id"])
            row["fence"] = str(int(row["fence"] or 0) - 1)
        if "replica" in row:
            row["replica"] = None
        return True

    def approval(self, row: Record) -> bool:
        became = {
            "waiting": ("expired", UNDECIDED_APPROVAL),
            "approved": ("failed", MOVED_APPROVAL),
            "sending": ("uncertain", UNCERTAIN_APPROVAL),
        }.get(str(row["state"]))
        if became is not None:
            self.approvals_ended += 1
            row |= {"state": became[0], "reason": became[1], "ended_at": self.moment}
        return True

    def webhook(self, row: Record) -> bool:
        if row["status"] == "enabled":
            self.webhooks_disabled += 1
            row |= {"status": "disabled", "status_reason": MOVED_WEBHOOK, "status_since": self.moment}
        # Where it was read to in the chain of that instance says nothing here.
        row |= {"instance_seq": self.instance_seq, "failing_since": None}
        return True

    def delivery(self, row: Record) -> bool:
        row |= {"claim": None, "claimed_until": None}
        return True


def _opens(config: str | None) -> bool:
    """Whether a process with this configuration may do more than its sandbox lets it by itself; in doubt it may."""
    try:
        given = json.loads(config or "{}")
    except (ValueError, RecursionError):
        return True
    if not isinstance(given, dict):
        return True
    closed = {"network": "orchestrator", "program": "", "readable": []}
    return any(value != closed[name] if name in closed else name not in _CLOSED for name, value in given.items())


_CHANGES: dict[str, Callable[[Changes, Record], bool]] = {
    "companies": Changes.company,
    "agents": Changes.agent,
    "secrets": Changes.secret,
    "integrations": Changes.integration,
    "credential_versions": Changes.version,
    "schedules": Changes.schedule,
    "runs": Changes.run,
    "approvals": Changes.approval,
    "webhooks": Changes.webhook,
    "webhook_deliveries": Changes.delivery,
}
