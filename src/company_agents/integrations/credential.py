"""
What is sealed for an integration: the token together with where it may go. docs/spec/sealing.md has the format.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from company_agents.errors import Conflict, Failed, Tampered, WrongUsage
from company_agents.integrations.oauth.model import Consent, Endpoints
from company_agents.integrations.provider import Provider
from company_agents.outgoing.destination import Destination, Placement, origin, parse_origin
from company_agents.sensitive import Sensitive

# 1: an API token. 2: a consent beside it.
FORMATS = (1, 2)
# Shorter ones could not be told from ordinary text when replies and logs are searched for them.
LEAST_TOKEN = 8
MOST_TOKEN = 16 * 1024


class CredentialLost(Conflict):
    """the credential did not come back with a restore"""

    code = "credential_lost"


@dataclass(frozen=True, slots=True)
class Credential:
    """
    A token and its destination, and the consent that renews it. Whoever can write to the database cannot part them.
    """

    destination: Destination
    token: Sensitive
    consent: Consent | None = None

    def sealed_form(self) -> Sensitive:
        """The value that goes to the secret store: JSON, UTF-8."""
        value: dict[str, Any] = {
            "format": 1 if self.consent is None else 2,
            "destination": json.loads(self.destination.to_json()),
            "token": self.token.reveal_text(),
        }
        if self.consent is not None:
            value["consent"] = _consent_form(self.consent)
        return Sensitive(json.dumps(value, sort_keys=True, separators=(",", ":")))

    @classmethod
    def opened(cls, value: Sensitive) -> Credential:
        """
        Raises:
            Failed: a format that this version does not know.
            Tampered: another kind of secret; the row that names it was altered.
        """
        found = opened_object(value)
        if found is None or "destination" not in found:
            raise Tampered(
                "what the integration names is a secret, but no credential", hint="connect the integration again"
            )
        if found.get("format") not in FORMATS:
            raise Failed("this credential was sealed in a format that is not known", hint="start a newer version")
        consent = _consent(found["consent"]) if found["format"] == 2 else None
        return cls(_destination(json.dumps(found["destination"])), Sensitive(found["token"]), consent)


@functools.lru_cache(1024)
def _destination(text: str) -> Destination:
    # Read once: the same text is the same place, and nothing secret is in it.
    return Destination.from_json(text)


def opened_object(value: Sensitive) -> dict[str, Any] | None:
    """A sealed JSON object, or None where it is something else."""
    try:
        found = json.loads(value.reveal())
    except ValueError:
        # Not as a cause: that error holds the whole text, which is a secret of another kind.
        return None
    return found if isinstance(found, dict) else None


def _consent_form(consent: Consent) -> dict[str, Any]:
    return {
        "flow": consent.flow,
        "client_id": consent.client_id,
        "endpoints": asdict(consent.endpoints),
        "refresh": consent.refresh.reveal_text() if consent.refresh else None,
        "expires_at": consent.expires_at.isoformat() if consent.expires_at else None,
        "refresh_expires_at": consent.refresh_expires_at.isoformat() if consent.refresh_expires_at else None,
        "scopes": list(consent.scopes),
        "installation": consent.installation,
    }


def _consent(form: dict[str, Any]) -> Consent:
    refresh, expires, ends = form["refresh"], form["expires_at"], form["refresh_expires_at"]
    return Consent(
        flow=form["flow"],
        client_id=form["client_id"],
        endpoints=Endpoints(**form["endpoints"]),
        refresh=Sensitive(refresh) if refresh else None,
        expires_at=datetime.fromisoformat(expires) if expires else None,
        refresh_expires_at=datetime.fromisoformat(ends) if ends else None,
        scopes=tuple(form["scopes"]),
        installation=form["installation"],
    )


def check_token(token: Sensitive) -> Sensitive:
    """
    A pasted token, without the line end that came with it.

    Raises:
        WrongUsage: too short, too long, or with characters that no header carries.
    """
    try:
        text = token.reveal_text().strip()
    except UnicodeDecodeError:
        text = "\n"
    if not text.isascii() or not text.isprintable():
        raise WrongUsage("this token has characters that no token has", hint="copy it again, in one line")
    if not LEAST_TOKEN <= len(text) <= MOST_TOKEN:
        raise WrongUsage(
            f"a token has {LEAST_TOKEN} to {MOST_TOKEN} characters, this has {len(text)}",
            hint="a shorter one could not be recognised in replies and logs",
        )
    return Sensitive(text)


def known_destination(provider: Provider, said: str, *, consent: bool = False) -> Destination:
    """
    Where a credential may go that is to take the place of one that was lost: by the provider's file. `said` is the plain row's
    word for where that one went, which counts only where the file says the same.

    Raises:
        CredentialLost: it went somewhere else.
    """
    if provider.base_url is None or origin(*parse_origin(provider.base_url)) != said:
        raise CredentialLost(
            f"where this credential may go was sealed with it, and is lost with it: {said} is only what the database says",
            hint="delete the integration, and connect it again with the address that you know",
        )
    return destination_for(provider, None, allow_private=False, header=None, consent=consent)


def destination_for(
    provider: Provider, base_url: str | None, *, allow_private: bool, header: str | None, consent: bool = False
) -> Destination:
    """
    Where the credential may go: the provider's host, or the operator's own in its place. `consent`: it is an access token
    of OAuth, which some services take in another place.

    Raises:
        WrongUsage: an address or a header that will not do, or none where the provider has none.
    """
    # An empty address is none: it must not come to mean the provider's own.
    url = provider.base_url if base_url is None else base_url
    if url is None:
        example = provider.address_hint or "https://host"
        raise WrongUsage(f"{provider.title} has no address of its own", hint=f"give --base-url {example}")
    if header is not None and (provider.base_url is not None or provider.address_hint):
        raise WrongUsage(f"where the credential goes is known for {provider.title}", hint="leave --header away")
    place = provider.place(consent=consent)
    if header is not None:
        placement = Placement.header(header, "Bearer {token}" if header.lower() == "authorization" else "{token}")
    else:
        placement = place.placement(parse_origin(url)[1])
    extra = provider.extra_hosts if base_url is None else ()
    return Destination.at(url, placement, allow_private=allow_private, extra_hosts=extra)
