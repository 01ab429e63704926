"""
Providers' own ways that data cannot say, one small function each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth.endpoint import Asked
from company_agents.integrations.oauth.model import Client
from company_agents.integrations.oauth.replies import Fields, at
from company_agents.integrations.provider import OAuth
from company_agents.sensitive import Sensitive

_INSTALLATION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CLIENT_ID = "{client_id}"

NO_TYPES: frozenset[str] = frozenset()
# Slack says whose token it is where others say what kind it is.
_SLACK_TYPES = frozenset({"bot", "user"})


@dataclass(frozen=True, slots=True)
class Standardised:
    """A reply as RFC 6749 has it, and the names of token types that mean bearer here."""

    fields: Fields = field(repr=False)
    token_types: frozenset[str] = NO_TYPES


def standardised(oauth: OAuth, fields: Fields) -> Standardised:
    """
    The reply of a token endpoint, made standard where the provider's is not. `shop` has a host for each customer, and replies
    as the standard says.
    """
    return slack_reply(fields) if oauth.quirk == "slack" else Standardised(fields)


def slack_reply(fields: Fields) -> Standardised:
    """
    A bot's token stands at the top; where only a person consented for themselves, theirs is in `authed_user`, with its own
    scopes, expiry and refresh token.
    """
    person = at(fields, "authed_user")
    if fields.get("access_token") or not isinstance(person, dict) or not person.get("access_token"):
        return Standardised(fields, _SLACK_TYPES)
    own = ("access_token", "refresh_token", "expires_in", "scope", "token_type")
    return Standardised({**fields, **{name: person.get(name) for name in own}}, _SLACK_TYPES)


def github_installation_url(client: Client, installation: str) -> str:
    """
    Where a GitHub App gets a token for one of its installations. The API of github.com and of its tenants has a host of its
    own, that of a GitHub Enterprise Server a path.

    Raises:
        WrongUsage: this is no installation.
    """
    if not _INSTALLATION.fullmatch(installation):
        raise WrongUsage(
            "this is not the id of an installation", hint="it is the number at the end of its page's address"
        )
    token = client.endpoints.token
    if "{installation}" in token:
        return token.replace("{installation}", installation)
    scheme, _, rest = token.partition("://")
    host = rest.partition("/")[0]
    if host == "github.com" or host.endswith(".ghe.com"):
        base = f"{scheme}://api.{host.removeprefix('api.')}"
    else:
        base = f"{scheme}://{host}" if host == "api.github.com" else f"{scheme}://{host}/api/v3"
    return f"{base}/app/installations/{installation}/access_tokens"


def github_installation_reply(fields: Fields) -> Fields:
    """Other names, and permissions in place of scopes."""
    permissions = fields.get("permissions")
    named = permissions.items() if isinstance(permissions, dict) else ()
    return {
        "access_token": fields.get("token"),
        "expires_in": fields.get("expires_at"),
        "scope": [f"{name}:{level}" for name, level in named if isinstance(level, str)],
    }


def github_installation_rules(oauth: OAuth) -> OAuth:
    """What the file says of where a reply has things is about its other flows."""
    standard = {"access_field": "access_token", "expires_field": "expires_in", "scope_field": "scope"}
    return oauth.model_copy(update={**standard, "account_field": None})


def revocation(client: Client, url: str, token: Sensitive, kind: str) -> Asked:
    """
    RFC 7009; or, where the address has the client's id in it, GitHub's own: the token is deleted, in the name of the app.
    """
    if _CLIENT_ID in url:
        return Asked(
            url=url.replace(_CLIENT_ID, quote(client.id, safe="")),
            fields={"access_token": token},
            changes=True,
            as_json=True,
            method="DELETE",
            by_basic=True,
        )
    return Asked(url=url, fields={"token": token, "token_type_hint": kind}, changes=True)
