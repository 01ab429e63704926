"""
The authorization request (RFC 6749, 4.1.1, with PKCE: RFC 7636, S256 only), and what comes back in the callback.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth.model import Client, Rejected
from company_agents.integrations.oauth.said import said
from company_agents.integrations.oauth.standard import rules
from company_agents.integrations.provider import Provider
from company_agents.outgoing.exchange import admitted
from company_agents.sensitive import Sensitive

_VERIFIER_BYTES = 48
# RFC 6749, A.11, allows printable ASCII.
_CODE = re.compile(r"[\x20-\x7e]{1,8192}")


def new_verifier() -> tuple[Sensitive, str]:
    """A code verifier of 64 characters, 384 bits, and its challenge by S256 (RFC 7636, 4.1 and 4.2)."""
    verifier = Sensitive(secrets.token_urlsafe(_VERIFIER_BYTES))
    return verifier, urlsafe_b64encode(sha256(verifier.reveal()).digest()).rstrip(b"=").decode()


def authorization_url(
    provider: Provider,
    client: Client,
    *,
    redirect_uri: str,
    state: str,
    challenge: str,
    scopes: Sequence[str],
) -> str:
    """
    Where the person's browser is sent.

    Raises:
        WrongUsage: the client has no authorization endpoint, or its address will not do.
    """
    endpoints, oauth = client.endpoints, rules(provider)
    if endpoints.authorization is None:
        raise WrongUsage(f"{provider.title} has no page where a person consents", hint="connect it with another flow")
    admitted("GET", endpoints.authorization, allow_private=endpoints.allow_private)
    ours = {
        "response_type": "code",
        "client_id": client.id,
        "redirect_uri": redirect_uri,
        "state": state,
        **({oauth.scope_parameter: oauth.scope_separator.join(scopes)} if scopes else {}),
        **({"code_challenge": challenge, "code_challenge_method": "S256"} if oauth.pkce else {}),
    }
    parts = urlsplit(endpoints.authorization)
    # An endpoint may have a query of its own, and it is kept (RFC 6749, 3.1); what is ours cannot be said otherwise.
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in ours]
    named = {name for name, _ in kept} | ours.keys()
    added = [(name, value) for name, value in oauth.parameters.items() if name not in named]
    # Percent-encoded spaces: some servers take "+" for itself.
    query = urlencode([*kept, *ours.items(), *added], quote_via=quote)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def read_callback(params: Mapping[str, str], *, issuer: str | None, iss_required: bool) -> str:
    """
    The code in an authorization reply. Whether `state` is this person's own is for the caller to judge, first.

    Raises:
        Rejected: the reply is another server's (RFC 9207, 2.4), the person said no, or there is no code.
    """
    iss = params.get("iss")
    if iss_required and not iss:
        raise Rejected(
            "the reply does not say which server made it, and this server's replies do",
            hint="begin again; if it stays so, somebody may be mixing up two servers",
        )
    # Compared as they are written (RFC 9207, 2.4); before anything else, as an error may be another server's too.
    if iss and issuer is not None and iss != issuer:
        raise Rejected("the reply was made by another server than the one that was asked", hint="begin again")
    if error := params.get("error"):
        raise _refusal(error)
    code = params.get("code", "")
    if not _CODE.fullmatch(code):
        raise Rejected("there is no code in the reply", hint="begin again")
    return code


def _refusal(error: str) -> Rejected:
    if error in ("access_denied", "user_denied", "consent_required"):
        return Rejected("the consent was denied", hint="nothing was connected; begin again when it is to be given")
    if error in ("temporarily_unavailable", "server_error"):
        return Rejected(f"the provider could not ask for the consent: {said(error)}", hint="try again later")
    return Rejected(
        f"the provider did not ask for the consent: {said(error)}",
        hint="check the client id, the redirect address and the scopes at the provider",
    )
