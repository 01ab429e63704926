"""
What a move reads of sealed values is what those say who seal and obey them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from company_agents.backup.company_sealed import sealed_place
from company_agents.backup.manifest import Broken
from company_agents.integrations.credential import Credential
from company_agents.integrations.oauth.model import Consent, Endpoints
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.standard_webhooks import Held, new_secret
from company_agents.sensitive import Sensitive

TOKEN = Sensitive("a-token-of-somebody")
PUBLIC = Endpoints("https://login.example.com/token", revocation="https://revoke.example.com:8443/x")


def consent(endpoints: Endpoints) -> Consent:
    return Consent(
        flow="code",
        client_id="17",
        endpoints=endpoints,
        refresh=TOKEN,
        expires_at=None,
        refresh_expires_at=None,
        scopes=("a",),
        installation=None,
    )


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://api.example.com", False),
        ("https://api.example.com:8443", False),
        ("https://api.example.com", True),
        ("http://10.0.0.7", True),
        ("http://127.0.0.1:8080", True),
        ("https://[fd00::1]:8443", True),
    ],
)
def test_where_a_credential_goes_is_read_as_it_is_obeyed(url: str, private: bool) -> None:
    destination = Destination.at(url, Placement.header(), allow_private=private)
    found = sealed_place("integration/x/1", Credential(destination, TOKEN).sealed_form().reveal())
    assert (found.shown, found.origins, found.private) == (destination.origin, (destination.origin,), private)


def test_every_place_of_a_credential_is_read() -> None:
    destination = Destination.at("https://a.example.com", Placement.header(), extra_hosts=("b.example.com",))
    found = sealed_place("integration/x/1", Credential(destination, TOKEN, consent(PUBLIC)).sealed_form().reveal())
    assert found.origins == (
        *("https://a.example.com", "https://b.example.com"),
        *("https://login.example.com", "https://revoke.example.com:8443"),
    )
    assert not found.private
    near = Endpoints("https://login.example.com/token", allow_private=True)
    assert sealed_place("integration/x/1", Credential(destination, TOKEN, consent(near)).sealed_form().reveal()).private


@pytest.mark.parametrize("name", ["webhook/x", "agent_adapter/x"])
def test_where_messages_go_is_read_without_what_may_be_a_token(name: str) -> None:
    for url, private in (("https://hooks.example.com/a?token=x", False), ("http://10.0.0.7:81/a", True)):
        found = sealed_place(name, Held(url, private, new_secret()).to_sealed().reveal())
        assert (found.shown, found.private) == (url.partition("?")[0], private)
        assert found.origins == (url.partition("/a")[0],)


def test_every_endpoint_of_a_server_is_read() -> None:
    urls: dict[str, Any] = {
        name: f"https://{name}.example.com/x" for name, value in asdict(PUBLIC).items() if not isinstance(value, bool)
    }
    form: dict[str, Any] = {"format": 1, "kind": "oauth_client", "endpoints": asdict(Endpoints(**urls))}
    found = sealed_place("oauth_client/x", json.dumps(form).encode())
    # An issuer is compared, and asked nothing.
    assert set(found.origins) == {url.removesuffix("/x") for name, url in urls.items() if name != "issuer"}


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"null", b"{}", b"[" * 60_000, b'{"format": 1}', b'{"format": 9}', b"\xff"]
)
@pytest.mark.parametrize("kind", ["integration", "webhook", "agent_adapter", "oauth_client"])
def test_what_says_nothing_of_the_kind_is_refused_without_a_word_of_it(kind: str, value: bytes) -> None:
    with pytest.raises(Broken, match="says nothing") as refused:
        sealed_place(f"{kind}/x", value)
    assert refused.value.__cause__ is None
