from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth.authorize import authorization_url, new_verifier, read_callback
from company_agents.integrations.oauth.model import Client, Endpoints, Rejected
from company_agents.integrations.provider import OAuth, Provider

HERE = "https://ours.example/oauth/callback"


def url(
    authorization: str | None = "https://auth.example/authorize", scopes: Any = ("read", "write"), **oauth: Any
) -> str:
    acme = Provider(
        name="acme",
        title="Acme",
        description="A service.",
        oauth=OAuth(flows=(), **oauth),
        sources=("https://acme.example/",),
    )
    client = Client("client 1", "post", Endpoints("https://auth.example/token", authorization=authorization))
    return authorization_url(acme, client, redirect_uri=HERE, state="st&te", challenge="chall", scopes=scopes)


def query(text: str) -> dict[str, str]:
    found = parse_qs(urlsplit(text).query, strict_parsing=True)
    assert all(len(values) == 1 for values in found.values()), "a parameter twice"
    return {name: values[0] for name, values in found.items()}


def test_the_verifier_fits_its_challenge_and_no_two_are_alike() -> None:
    verifier, challenge = new_verifier()
    assert 43 <= len(verifier) <= 128
    assert challenge == urlsafe_b64encode(sha256(verifier.reveal()).digest()).decode().rstrip("=")
    assert new_verifier()[0] != verifier


def test_all_that_the_standard_asks_for_is_in_the_request() -> None:
    assert query(url()) == {
        "response_type": "code",
        "client_id": "client 1",
        "redirect_uri": HERE,
        "state": "st&te",
        "scope": "read write",
        "code_challenge": "chall",
        "code_challenge_method": "S256",
    }
    assert "+" not in url()


def test_a_file_adds_parameters_and_changes_none_of_ours() -> None:
    asked = query(
        url(
            parameters={"access_type": "offline", "state": "theirs", "code_challenge_method": "plain"},
            scope_separator=",",
            scope_parameter="user_scope",
        )
    )
    assert asked["access_type"] == "offline"
    assert (asked["state"], asked["code_challenge_method"]) == ("st&te", "S256")
    assert asked["user_scope"] == "read,write" and "scope" not in asked


def test_an_endpoint_keeps_its_own_query_but_for_what_is_ours() -> None:
    asked = query(
        url("https://auth.example/authorize?tenant=a%20b&state=x&empty=", parameters={"tenant": "c"}).replace(
            "&empty=", ""
        )
    )
    assert (asked["tenant"], asked["state"]) == ("a b", "st&te")


def test_a_provider_that_refuses_pkce_is_not_sent_it_and_no_scopes_is_none() -> None:
    asked = query(url(pkce=False, scopes=()))
    assert not {"code_challenge", "code_challenge_method", "scope"} & asked.keys()


@pytest.mark.parametrize("authorization", [None, "http://auth.example/", "javascript:alert(1)", "https://127.0.0.1/"])
def test_a_browser_is_sent_to_no_other_kind_of_address(authorization: str | None) -> None:
    with pytest.raises(WrongUsage):
        url(authorization)


ISSUER = "https://auth.example"


@pytest.mark.parametrize(
    ("params", "issuer", "required"),
    [
        ({"code": "c0de"}, None, False),
        ({"code": "c0de"}, ISSUER, False),
        ({"code": "c0de", "iss": ISSUER}, ISSUER, False),
        ({"code": "c0de", "iss": ISSUER}, ISSUER, True),
        ({"code": "c0de", "iss": "https://unknown.example"}, None, False),
        ({"code": "c0de", "state": "s", "scope": "x", "error": ""}, ISSUER, False),
    ],
)
def test_a_good_reply_has_a_code(params: dict[str, str], issuer: str | None, required: bool) -> None:
    assert read_callback(params, issuer=issuer, iss_required=required) == "c0de"


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({}, "does not say which server"),
        ({"code": "c"}, "does not say which server"),
        ({"code": "c", "iss": ""}, "does not say which server"),
        ({"code": "c", "iss": "https://auth.example/"}, "another server"),
        ({"code": "c", "iss": "https://AUTH.example"}, "another server"),
        ({"error": "access_denied", "iss": "https://evil.example"}, "another server"),
        ({"iss": ISSUER}, "no code"),
        ({"iss": ISSUER, "code": ""}, "no code"),
        ({"iss": ISSUER, "code": "a\nb"}, "no code"),
        ({"iss": ISSUER, "code": "x" * 8193}, "no code"),
        ({"iss": ISSUER, "error": "access_denied", "code": "c"}, "the consent was denied"),
        ({"iss": ISSUER, "error": "server_error"}, "could not ask for the consent: server_error"),
        ({"iss": ISSUER, "error": "invalid_scope"}, "did not ask for the consent: invalid_scope"),
        ({"iss": ISSUER, "error": "<b>x</b>"}, "did not ask for the consent: …"),
        ({"iss": ISSUER, "error": "invalid_request", "error_description": "<b>"}, "invalid_request"),
    ],
)
def test_any_other_reply_is_rejected_with_the_reason(params: dict[str, str], sentence: str) -> None:
    with pytest.raises(Rejected, match=sentence) as caught:
        read_callback(params, issuer=ISSUER, iss_required=True)
    assert "<b>" not in str(caught.value)


@given(st.dictionaries(st.sampled_from(["code", "iss", "error", "state", "error_description"]), st.text(max_size=80)))
@settings(deadline=None)
def test_whatever_a_callback_carries_ends_in_a_code_or_a_plain_sentence(params: dict[str, str]) -> None:
    try:
        code = read_callback(params, issuer=ISSUER, iss_required=True)
    except Rejected as error:
        assert error.sentence.isprintable() and len(error.sentence) < 200
    else:
        assert params["iss"] == ISSUER and code == params["code"] and code.isascii()


def test_what_a_browser_is_sent_can_be_read_back() -> None:
    assert dict(parse_qsl(urlsplit(url()).query))["redirect_uri"] == HERE
