"""
What travels when a company moves to another instance, and what stays behind and why. A test compares this page with the
catalog: a table that is new has to be decided on.
"""

from __future__ import annotations

from dataclasses import dataclass

# Members of an archive that are tables.
FOLDER = "tables/"


@dataclass(frozen=True, slots=True)
class Travels:
    """A table that travels. `owner` is the column that says whose a row is; `sorted_by`: its rows have an order."""

    table: str
    owner: str = "company_id"
    sorted_by: str = ""

    @property
    def member(self) -> str:
        """What it is called in the archive."""
        return FOLDER + self.table


SECRETS = Travels("secrets")
EVENTS = Travels("audit_events", owner="chain", sorted_by="seq")

# In this order: what a row refers to is there before it.
TRAVELS: tuple[Travels, ...] = (
    Travels("companies", owner="id"),
    Travels("agents"),
    SECRETS,
    Travels("integrations"),
    Travels("credential_versions"),
    Travels("integration_agents"),
    # Numbered anew where it arrives, in the same order.
    Travels("integration_history", sorted_by="id"),
    Travels("oauth_clients"),
    Travels("tasks"),
    Travels("comments"),
    Travels("memory"),
    Travels("schedules"),
    Travels("runs"),
    Travels("run_output"),
    Travels("limits"),
    Travels("approvals"),
    Travels("cost_entries"),
    Travels("spending"),
    Travels("spending_months"),
    Travels("webhooks"),
    Travels("webhook_deliveries"),
    EVENTS,
)

STAYS: dict[str, str] = {
    "audit_heads": "written anew with the chain, which is linked anew; what it said stands in heads.jsonl",
    "audit_sink_cursors": "how far a chain went out to the sinks of an instance is that instance's affair",
    "call_counts": "the calls of the present minute",
    "idempotency_keys": "answers to creations on that instance, kept for a day",
    "memberships": "people belong to an instance; whoever imports invites them",
    "oauth_flows": "a consent that is being asked for ends in the browser that began it, at the address that it began at",
    "run_pins": "which credential a run holds until it ends; none is under way after a move",
    "sign_in_links": "people belong to an instance",
}

# The kinds of secrets, by how their names begin, that stay behind with what they are of.
SECRETS_THAT_STAY: dict[str, str] = {
    "run_token": "no run is under way after a move",
    "oauth_flow": "no consent is being asked for after a move",
}
AGENT_TOKEN = "agent_token"


def kind_of_secret(name: str) -> str:
    """How the name of a secret begins."""
    return name.partition("/")[0]
