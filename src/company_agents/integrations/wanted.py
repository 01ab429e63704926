"""
What a person wants when they ask a provider for consent, and what is sealed of it until the answer comes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from company_agents.errors import Failed, Tampered
from company_agents.integrations.credential import opened_object
from company_agents.integrations.oauth.model import Endpoints
from company_agents.integrations.rules import NOTHING_SAID, Rules
from company_agents.outgoing.destination import Destination
from company_agents.sensitive import Sensitive

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    A new integration; or, where `integration_id` is set, a new credential for that one, and then only `scopes` and
    `installation` are looked at beside it. No scopes: those of the provider's file. `issuer` is empty for the
    provider's own. `installation` is that of a GitHub App. `rules` are for all agents.
    """

    provider: str
    issuer: str = ""
    name: str | None = None
    base_url: str | None = None
    allow_private: bool = False
    header: str | None = None
    scopes: tuple[str, ...] = ()
    allow: tuple[UUID, ...] = ()
    allow_all: bool = False
    integration_id: UUID | None = None
    installation: str | None = None
    rules: Rules = NOTHING_SAID


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A consent that is being asked for. The destination and the endpoints are those of the moment when it was begun: what
    comes back goes nowhere else. `secret` is the PKCE verifier, or the device code; `session_id` is the session of the
    person who began it, if it was begun in a browser. `user_code` and `link` are what a person is shown of a device flow.
    """

    flow: str
    wanted: Wanted
    client_id: str
    endpoints: Endpoints
    destination: Destination
    secret: Sensitive
    session_id: UUID | None = None
    user_code: str = ""
    link: str = ""

    def sealed_form(self) -> Sensitive:
        """The value that goes to the secret store: JSON, UTF-8."""
        wanted = asdict(self.wanted)
        wanted["allow"] = [str(agent) for agent in self.wanted.allow]
        wanted["integration_id"] = str(self.wanted.integration_id) if self.wanted.integration_id else None
        form = {
            "format": FORMAT,
            "kind": "oauth_flow",
            "flow": self.flow,
            "wanted": wanted,
            "client_id": self.client_id,
            "endpoints": asdict(self.endpoints),
            "destination": json.loads(self.destination.to_json()),
            "secret": self.secret.reveal_text(),
            "session_id": str(self.session_id) if self.session_id else None,
            "user_code": self.user_code,
            "link": self.link,
        }
        return Sensitive(json.dumps(form, sort_keys=True, separators=(",", ":")))

    @classmethod
    def opened(cls, value: Sensitive) -> Asked:
        """
        Raises:
            Failed: a format that this version does not know.
            Tampered: another kind of secret.
        """
        found = opened_object(value)
        if found is None or found.get("kind") != "oauth_flow":
            raise Tampered("what was asked for is another secret", hint="begin again")
        if found.get("format") != FORMAT:
            raise Failed("this was begun by another version", hint="begin again")
        return cls(
            found["flow"],
            _wanted(found["wanted"]),
            found["client_id"],
            Endpoints(**found["endpoints"]),
            Destination.from_json(json.dumps(found["destination"])),
            Sensitive(found["secret"]),
            UUID(found["session_id"]) if found["session_id"] else None,
            found["user_code"],
            found["link"],
        )


def _wanted(form: dict[str, Any]) -> Wanted:
    agents = tuple(UUID(agent) for agent in form["allow"])
    integration = UUID(form["integration_id"]) if form["integration_id"] else None
    # One that was begun by an older version has none.
    rules = Rules.read(**form["rules"]) if "rules" in form else NOTHING_SAID
    lists = {"scopes": tuple(form["scopes"]), "allow": agents}
    return Wanted(**{**form, **lists, "integration_id": integration, "rules": rules})
