from __future__ import annotations

import json
from base64 import b64encode

import pytest

from company_agents.errors import Failed, WrongUsage
from company_agents.outgoing.addresses import Kind, Reach, canonical_host, kind_of, literal
from company_agents.outgoing.destination import Destination, Placement
from company_agents.sensitive import Sensitive

BEARER = Placement.header()
SLACK = Destination.at("https://slack.com", BEARER)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://slack.com", "https://slack.com"),
        ("https://slack.com/", "https://slack.com"),
        ("HTTPS://Slack.COM.:443", "https://slack.com"),
        ("https://jira.example.com:8443", "https://jira.example.com:8443"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://slack。com", "https://slack.com"),
        ("https://8.8.8.8", "https://8.8.8.8"),
        ("https://[2606:4700:0:0::1111]:8443", "https://[2606:4700::1111]:8443"),
    ],
)
def test_a_base_url_is_scheme_host_and_port_in_one_spelling(url: str, origin: str) -> None:
    assert Destination.at(url, BEARER).origin == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "slack.com",
        "//slack.com",
        "ftp://slack.com",
        "https://",
        "https://slack.com/api",
        "https://slack.com?x=1",
        "https://slack.com#x",
        "https://slack.com:0",
        "https://slack.com:65536",
        "https://slack.com:",
        "https://slack.com:x",
        "https://user:password@slack.com",
        "https://slack.com\\@evil.example",
        "https://sla ck.com",
        "https://slack.com\n",
        "https://slack..com",
        "https://.slack.com",
        "https://-slack.com",
        "https://sl%61ck.com",
        "https://0x7f.1",
        "https://0x7f000001",
        "https://2130706433",
        "https://127.1",
        "https://8.8.8.08",
        "https://010.8.8.8",
        "https://8.8.8.8.8",
        "https://[::ffff:8.8.8.8]",
        "https://[fe80::1%25eth0]",
        "https://[slack.com]",
        "https://" + "a" * 64 + ".example",
    ],
)
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(WrongUsage) as refused:
        Destination.at(url, BEARER)
    assert "password" not in refused.value.sentence.replace("a user name or a password", "")


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1",
        "https://10.0.0.1",
        "https://[::1]",
        "https://[fd00::1]",
        "https://100.64.0.1",
        "http://jira",
    ],
)
def test_a_private_address_and_plain_http_need_the_private_network_to_be_allowed(url: str) -> None:
    with pytest.raises(WrongUsage):
        Destination.at(url, BEARER)
    assert Destination.at(url, BEARER, allow_private=True).allow_private


@pytest.mark.parametrize("url", ["https://169.254.169.254", "https://0.0.0.0", "https://[ff02::1]", "http://8.8.8.8"])
def test_some_addresses_are_refused_even_then(url: str) -> None:
    with pytest.raises(WrongUsage):
        Destination.at(url, BEARER, allow_private=True)


def test_plain_http_reaches_private_addresses_only() -> None:
    assert Destination.at("http://jira", BEARER, allow_private=True).reach is Reach.PRIVATE
    assert Destination.at("https://jira", BEARER, allow_private=True).reach is Reach.WIDE
    assert SLACK.reach is Reach.PUBLIC


def test_the_sealed_form_is_stable() -> None:
    there = Destination.at(
        "https://api.github.com", Placement.basic("x", "{token}"), extra_hosts=["Uploads.GitHub.com"]
    )
    assert there.to_json() == (
        '{"allow_private":false,"extra_hosts":["uploads.github.com"],"format":1,"host":"api.github.com",'
        '"placement":{"kind":"basic","name":"Authorization","template":"x:{token}"},"port":443,"scheme":"https"}'
    )
    assert Destination.from_json(there.to_json()) == there
    assert Destination.from_json(there.to_json().encode()) == there


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": True},
        {"more": 1},
        {"port": "443"},
        {"port": True},
        {"port": 443.0},
        {"port": 0},
        {"allow_private": 0},
        {"host": "Slack.com"},
        {"host": "169.254.169.254"},
        {"host": None},
        {"scheme": "http"},
        {"extra_hosts": "slack.com"},
        {"extra_hosts": [1]},
        {"extra_hosts": ["slack.com"]},
        {"placement": {"kind": "header", "name": "A", "template": "{token}", "more": 1}},
        {"placement": {"kind": "cookie", "name": "A", "template": "{token}"}},
        {"placement": {"kind": "header", "name": "Host", "template": "{token}"}},
        {"placement": {"kind": "header", "name": "A", "template": "none"}},
        {"placement": None},
    ],
)
def test_a_sealed_form_with_anything_else_in_it_is_not_read(change: dict[str, object]) -> None:
    with pytest.raises(Failed):
        Destination.from_json(json.dumps({**json.loads(SLACK.to_json()), **change}))


def test_a_sealed_form_that_lacks_or_repeats_a_field_is_not_read() -> None:
    fields = json.loads(SLACK.to_json())
    for name in fields:
        with pytest.raises(Failed):
            Destination.from_json(json.dumps({key: value for key, value in fields.items() if key != name}))
    with pytest.raises(Failed):
        Destination.from_json(SLACK.to_json().replace('"port":443', '"port":443,"port":444'))
    for text in ("", "[]", "null", b"\xff"):
        with pytest.raises(Failed):
            Destination.from_json(text)


def test_a_credential_is_made_ready_for_its_place() -> None:
    token = Sensitive("a token+/=")
    header = Placement.header("X-Api-Key", "key {token};").place(token)
    assert (header.header, header.parameter, header.value.reveal()) == ("X-Api-Key", None, b"key a token+/=;")
    query = Placement.query("key").place(token)
    assert (query.header, query.parameter, query.value.reveal()) == (None, "key", b"a%20token%2B%2F%3D")
    basic = Placement.basic("user", "{token}").place(token)
    assert (basic.header, basic.value.reveal()) == ("Authorization", b"Basic " + b64encode(b"user:a token+/="))
    assert [found.reveal() for found in basic.searched] == [b"a token+/=", b64encode(b"user:a token+/=")]


@pytest.mark.parametrize(
    "value", [b"", b"a\r\nX: y", b"token\n", b" token", b"to\x00ken", "schlüssel".encode(), b"\xff"]
)
@pytest.mark.parametrize("placement", [Placement.header(), Placement.query("key"), Placement.basic()])
def test_a_credential_that_would_break_the_call_is_refused_and_not_shown(placement: Placement, value: bytes) -> None:
    with pytest.raises(WrongUsage) as refused:
        placement.place(Sensitive(value))
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a:b",
        "Host",
        "connection",
        "Content-Length",
        "transfer_encoding",
        "X-Forwarded-For",
        "Proxy-Authorization",
    ],
)
def test_some_headers_cannot_carry_a_credential(name: str) -> None:
    with pytest.raises(WrongUsage):
        Placement.header(name)


@pytest.mark.parametrize("template", ["", "Bearer", "{token}{token}", "Bearer {token}\r\nX: y", "Bearer {tokén}"])
def test_a_template_holds_the_token_once_and_is_printable(template: str) -> None:
    with pytest.raises(WrongUsage):
        Placement.header("Authorization", template)


def test_a_token_that_is_a_pair_goes_into_basic_authentication_and_its_password_is_searched_for() -> None:
    pair = Placement("basic", "Authorization", "{token}").place(Sensitive("me@x.example:a:password"))
    encoded = b64encode(b"me@x.example:a:password")
    assert pair.value.reveal() == b"Basic " + encoded
    assert [found.reveal() for found in pair.searched] == [b"me@x.example:a:password", b"a:password", encoded]
    for value in ("no-colon-in-it", ":password", "user:"):
        with pytest.raises(WrongUsage, match="pair"):
            Placement("basic", "Authorization", "{token}").place(Sensitive(value))


def test_the_parts_of_basic_authentication_are_told_apart() -> None:
    with pytest.raises(WrongUsage):
        Placement.basic("a:b", "{token}")
    with pytest.raises(WrongUsage):
        Placement("basic", "Authorization", "x{token}")
    with pytest.raises(WrongUsage):
        Placement("query", "key", "x{token}")


KINDS = {
    Kind.PUBLIC: "8.8.8.8 1.1.1.1 172.15.255.255 172.32.0.1 100.63.255.255 100.128.0.1 192.0.1.1 223.255.255.255"
    " 2606:4700::1111 2a00:1450::1 ::ffff:8.8.8.8 64:ff9b::808:808",
    Kind.PRIVATE: "10.0.0.1 127.0.0.1 127.255.255.254 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.255.255"
    " ::1 fd00::1 fc00::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 64:ff9b::a00:1",
    Kind.NEVER: "0.0.0.0 0.1.2.3 169.254.169.254 169.254.0.1 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1"
    " 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 100.100.100.200 168.63.129.16"
    " :: ::2 ::127.0.0.1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 100::1 2001:db8::1 3fff::1 5f00::1 4000::1"
    " 2002:7f00:1::1 2002:808:808::1 2001::1 2001:0:808:808::1 64:ff9b:1::1 fd00:ec2::254 fd20:ce::254"
    " ::ffff:169.254.169.254 ::ffff:0.0.0.0 64:ff9b::a9fe:a9fe ::ffff:0:127.0.0.1",
}


@pytest.mark.parametrize(("text", "kind"), [(text, kind) for kind, texts in KINDS.items() for text in texts.split()])
def test_every_address_is_of_one_kind(text: str, kind: Kind) -> None:
    address = literal(text)
    assert address is not None
    assert kind_of(address) is kind


def test_the_spelling_of_a_host_is_settled_once() -> None:
    for host in ("slack.com", "xn--bcher-kva.example", "a_b.internal", "10.0.0.1", "fd00::1"):
        assert canonical_host(host) == host
