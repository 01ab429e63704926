"""
Requests signed for AWS: by its published vectors, by its own library, by a server that checks, and what of the key is seen.
"""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.auth
import botocore.session
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.server import ThreadedMotoServer
from multidict import CIMultiDict
from yarl import URL

from company_agents.app import App
from company_agents.errors import ProbeFailed, Refused, WrongUsage
from company_agents.integrations.credential import destination_for
from company_agents.integrations.provider import shipped
from company_agents.logs import Redactor
from company_agents.outgoing.client import OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.signing import Signer, region_of, service_of
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.outgoing.conftest import Make
from tests.outgoing.servers import Authority, Recorded, reply, serve

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sigv4" / "vectors.json").read_text("utf-8"))
KEY_ID, SECRET = "AKIAMADEUPFORTESTS00", "made/up+secret/key+of+the+tests/00000000"
PAIR = Sensitive(f"{KEY_ID}:{SECRET}")
LENT = Sensitive(f"{KEY_ID}:{SECRET}:made-up-session-token==")

REQUESTS = [(name, request) for name in ("service", "s3") for request in VECTORS[name]["requests"]]


def signed(
    signer: Signer, method: str, url: str, headers: Any = (), body: bytes | None = b"", **more: Any
) -> CIMultiDict[str]:
    found = CIMultiDict(headers)
    signer.sign(method, URL(url, encoded=True), found, body, **more)
    return found


def parts(headers: CIMultiDict[str]) -> dict[str, str]:
    """What stands in the Authorization header."""
    algorithm, _, rest = headers["Authorization"].partition(" ")
    assert algorithm == "AWS4-HMAC-SHA256"
    return dict(part.split("=", 1) for part in rest.split(", "))


@pytest.mark.parametrize(("group", "request_"), REQUESTS, ids=[request["name"] for _, request in REQUESTS])
def test_a_published_request_gets_the_published_signature(group: str, request_: dict[str, Any]) -> None:
    given = VECTORS[group]
    signer = Signer.of(given["service"], given["region"], Sensitive(given["credential"]))
    url, body = f"https://{given['host']}{request_['path']}", request_.get("body", "").encode()
    at = datetime.fromisoformat(given["at"])
    found = parts(signed(signer, request_["method"], url, request_.get("headers", {}), body, at=at))
    assert (found["SignedHeaders"], found["Signature"]) == (request_["signed"], request_["signature"])


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """The clock of AWS's own library stands still."""
    with mock.patch("botocore.auth.get_current_datetime", lambda *_, **__: moment.replace(tzinfo=None)):
        yield


def by_their_own(
    service: str, method: str, url: str, headers: dict[str, str], body: bytes, credential: Sensitive
) -> str:
    """What AWS's own library makes of a request, with those headers that are signed."""
    made = AWSRequest(method, url, headers=headers, data=body)
    pair = Credentials(*credential.reveal_text().split(":", 2))
    kind = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    if service == "s3":
        made.context["payload_signing_enabled"] = True
    kind(pair, service, "eu-central-1").add_auth(made)
    return str(made.headers["Authorization"])


@pytest.mark.parametrize("service", ["s3", "bedrock", "sts"])
@pytest.mark.parametrize("credential", [PAIR, LENT], ids=["key", "lent"])
def test_whatever_is_asked_the_signature_is_that_of_awss_own_library(service: str, credential: Sensitive) -> None:
    chance = random.Random(11)
    signer = Signer.of(service, "eu-central-1", credential)
    moment = datetime(2026, 11, 30, 12, 0, 5, tzinfo=UTC)
    alphabet = ["a", "Z", "9", "-", "_", ".", "~", "%20", "%2B", "%C3%A9", "%3A", "/b"]
    for _ in range(60):
        path = "/" + "".join(chance.choices(alphabet, k=chance.randrange(12)))
        names = chance.sample(["a", "B", "list-type", "x%2Fy", "prefix", "versionId"], k=chance.randrange(5))
        query = "&".join(f"{name}={''.join(chance.choices(alphabet[:10], k=3))}" for name in names)
        url = f"https://host.eu-central-1.amazonaws.com{path}" + (f"?{query}" if query else "")
        headers = {"Content-Type": "application/json", "X-Amz-Meta-Thing": "  two   words "}
        body = chance.randbytes(chance.randrange(40))
        ours = signed(signer, "PUT", url, headers, body, at=moment)
        with at(moment):
            theirs = by_their_own(service, "PUT", url, headers, body, credential)
        assert ours["Authorization"] == theirs, url


@pytest.mark.parametrize(
    ("host", "service", "region"),
    [
        ("s3.eu-central-1.amazonaws.com", "s3", "eu-central-1"),
        ("a.bucket.s3.eu-central-1.amazonaws.com", "s3", "eu-central-1"),
        ("bucket.s3.amazonaws.com", "s3", "us-east-1"),
        ("bedrock-runtime.us-gov-west-1.amazonaws.com", "bedrock", "us-gov-west-1"),
        ("iam.amazonaws.com", "iam", "us-east-1"),
        ("abc123.execute-api.ap-southeast-2.amazonaws.com", "execute-api", "ap-southeast-2"),
        ("search-x.us-west-2.es.amazonaws.com", "es", "us-west-2"),
        ("vpce-1.sqs.eu-west-1.vpce.amazonaws.com", "sqs", "eu-west-1"),
        ("dynamodb.cn-north-1.amazonaws.com.cn", "dynamodb", "cn-north-1"),
        ("email.eu-west-1.amazonaws.com", "ses", "eu-west-1"),
    ],
)
def test_a_host_of_aws_says_its_service_and_region(host: str, service: str, region: str) -> None:
    assert (service_of(host), region_of(host)) == (service, region)


def test_elsewhere_a_region_is_found_and_a_service_is_not_guessed() -> None:
    assert region_of("s3.us-west-004.backblazeb2.com") == "us-west-004"
    assert region_of("127.0.0.1") == region_of("minio.example.com") == "us-east-1"
    for host in ("minio.example.com", "amazonaws.com", "evil-amazonaws.com", "127.0.0.1"):
        with pytest.raises(WrongUsage):
            service_of(host)
    with pytest.raises(WrongUsage, match="does not say which service"):
        destination_for(shipped()["aws"], "https://minio.example.com", allow_private=False, header=None)
    found = destination_for(shipped()["aws-s3"], "https://minio.example.com", allow_private=False, header=None)
    assert found.placement == Placement("sigv4", "s3", "us-east-1")
    assert Destination.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "text", ["", "AKIAMADEUPFORTESTS00", ":secret-of-a-key", "AKIA:short", "AKIA X:secret-of-a-key", "A:b:c\n"]
)
def test_a_credential_of_another_form_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        Placement("sigv4", "s3", "eu-central-1").place(Sensitive(text))
    assert "secret" not in caught.value.sentence and caught.value.__cause__ is None


# — a call —


def to(port: int, service: str = "sqs") -> Destination:
    return Destination.at(f"http://127.0.0.1:{port}", Placement("sigv4", service, "eu-central-1"), allow_private=True)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


def is_good(recorded: Recorded, service: str, credential: Sensitive) -> bool:
    """Whether what arrived is signed, as AWS's own library reckons it from what arrived."""
    sent = recorded.headers
    names = sent["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    moment = datetime.strptime(sent["x-amz-date"], "%Y%m%dT%H%M%SZ")
    ours = {
        name: sent[name] for name in names if name not in ("x-amz-date", "x-amz-security-token", "x-amz-content-sha256")
    }
    with at(moment):
        url = f"http://{sent['host']}{recorded.path}"
        theirs = by_their_own(service, recorded.line.split(" ")[0], url, ours, recorded.body, credential)
    return theirs == sent["authorization"]


async def test_what_arrives_is_signed_and_the_secret_does_not_arrive(make: Make) -> None:
    outgoing = await make()
    async with serve(lambda _: reply(b"fine")) as server:
        request = OutgoingRequest(
            "POST",
            "/a//b%20c",
            "q=one+two&Z=%2F",
            # A caller's own signature, date and token are none.
            [
                ("Content-Type", "application/json"),
                ("X-Amz-Target", "Thing.Do"),
                ("Authorization", "AWS4-HMAC-SHA256 Credential=x"),
                ("X-Amz-Date", "20200101T000000Z"),
                ("x-amz-security-token", "of-the-caller"),
                ("Host", "elsewhere.amazonaws.com"),
            ],
            b'{"a": 1}',
        )
        assert (await outgoing.call(request, to(server.port), PAIR)).body == b"fine"
        await outgoing.call(request, to(server.port), LENT)
        first, second = server.requests
    assert is_good(first, "sqs", PAIR) and is_good(second, "sqs", LENT)
    assert not is_good(first, "sqs", LENT) and not is_good(first, "s3", PAIR)
    assert first.path == "/a//b%20c?q=one%20two&Z=%2F"
    assert first.headers["host"] == f"127.0.0.1:{server.port}"
    assert "x-amz-security-token" not in first.headers
    assert second.headers["x-amz-security-token"] == "made-up-session-token=="
    for recorded in (first, second):
        assert SECRET.encode() not in recorded.head + recorded.body


async def test_a_streamed_body_is_read_before_it_is_signed_up_to_the_limit(make: Make) -> None:
    outgoing = await make(request_limit=1000)
    async with serve(lambda _: reply(b"fine")) as server:
        for service in ("sqs", "s3"):
            body = pieces(b"x" * 600, b"y" * 300)
            await outgoing.call(OutgoingRequest("PUT", "/key", body=body, length=900), to(server.port, service), PAIR)
        assert [len(recorded.body) for recorded in server.requests] == [900, 900]
        assert is_good(server.requests[0], "sqs", PAIR) and is_good(server.requests[1], "s3", PAIR)
        with pytest.raises(Refused, match="larger than 1000 bytes"):
            await outgoing.call(OutgoingRequest("PUT", "/", body=pieces(b"x" * 999, b"xx")), to(server.port), PAIR)
        assert len(server.requests) == 2


async def test_within_tls_s3_takes_a_streamed_body_unsigned(make: Make, our_ca: Authority) -> None:
    outgoing = await make(ca_file=our_ca.ca_file, request_limit=10)
    async with serve(reply(b"fine"), our_ca.server) as server:
        destination = Destination.at(
            f"https://127.0.0.1:{server.port}", Placement("sigv4", "s3", "eu-central-1"), allow_private=True
        )
        await outgoing.call(OutgoingRequest("PUT", "/key", body=pieces(b"x" * 5000), length=5000), destination, PAIR)
        [recorded] = server.requests
    assert recorded.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert (recorded.headers["content-length"], len(recorded.body)) == ("5000", 5000)


async def test_a_body_that_the_caller_framed_for_a_signature_of_its_own_is_refused(make: Make) -> None:
    outgoing = await make()
    async with serve(lambda _: reply(b"fine")) as server:
        request = OutgoingRequest(
            "PUT", "/key", headers=[("Content-Encoding", "aws-chunked")], body=b"5;chunk-signature="
        )
        with pytest.raises(WrongUsage):
            await outgoing.call(request, to(server.port, "s3"), PAIR)
        assert server.requests == []


async def test_replies_are_searched_for_the_secret_and_the_session_and_not_for_the_id_of_the_key(make: Make) -> None:
    outgoing = await make()
    echo = f"{KEY_ID} {SECRET} made-up-session-token=="
    async with serve(lambda _: reply(echo.encode(), x_echo=SECRET)) as server:
        answer = await outgoing.call(OutgoingRequest("GET", "/"), to(server.port), LENT)
    assert answer.body.decode() == f"{KEY_ID} [credential removed] [credential removed]"
    assert SECRET not in answer.headers["X-Echo"]


async def test_logs_are_kept_free_of_each_secret_part_while_a_call_goes_on(make: Make) -> None:
    redactor = Redactor()
    outgoing = await make(watched=redactor.holding)
    logged: list[str] = []

    def answer(_: Recorded) -> bytes:
        logged.append(redactor.clean(f"{SECRET} and made-up-session-token=="))
        return reply(b"fine")

    async with serve(answer) as server:
        await outgoing.call(OutgoingRequest("GET", "/"), to(server.port), LENT)
    assert len(logged) == 1
    assert SECRET not in logged[0] and "made-up-session-token" not in logged[0]


async def test_a_redirect_to_the_same_server_is_signed_anew(make: Make) -> None:
    outgoing = await make()

    def answer(recorded: Recorded) -> bytes:
        return reply(b"fine") if recorded.path == "/there" else reply(b"", "307 Moved", location="/there")

    async with serve(answer) as server:
        assert (await outgoing.call(OutgoingRequest("GET", "/here"), to(server.port), PAIR)).body == b"fine"
        here, there = server.requests
    assert is_good(here, "sqs", PAIR) and is_good(there, "sqs", PAIR)
    assert here.headers["authorization"] != there.headers["authorization"]


# — a server that checks —


@dataclass
class Account:
    url: str
    pair: Sensitive


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """Moto with a user, whose signatures and rights it checks from then on."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    core = botocore.session.get_session()
    hand: Any = core.create_client(
        "iam", "us-east-1", endpoint_url=url, aws_access_key_id="operator", aws_secret_access_key="operator"
    )
    hand.create_user(UserName="agents")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    hand.put_user_policy(UserName="agents", PolicyName="s3", PolicyDocument=json.dumps(policy))
    key = hand.create_access_key(UserName="agents")["AccessKey"]
    with (
        mock.patch("moto.core.responses.ActionAuthenticatorMixin.request_count", 0),
        mock.patch("moto.core.responses.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0),
    ):
        yield Account(url, Sensitive(f"{key['AccessKeyId']}:{key['SecretAccessKey']}"))
    # What it keeps is this process's, whichever server: the next would find the user, and the buckets.
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    server.stop()


async def test_a_server_that_checks_takes_what_is_signed(app: App, tenant: Any, account: Account) -> None:
    one: Tenant = await tenant()
    connect: Any = {"base_url": account.url, "allow_private_network": True, "allow_all": True}
    integration = await app.integrations.connect(one.local, "aws-s3", account.pair, **connect)

    async def ask(method: str, path: str, **more: Any) -> Any:
        return await app.requests.request(one.agent, str(integration.id), method, path, **more)

    assert (await ask("PUT", "/bucket")).status == 200
    # No signs beyond these: moto reckons with the path as it was decoded.
    assert (await ask("PUT", "/bucket/a-key/with~signs_1", body="some text")).status == 200
    assert (await ask("GET", "/bucket/a-key/with~signs_1")).body == "some text"
    listed = await ask("GET", "/bucket", query={"list-type": "2", "prefix": "a-key/"})
    assert listed.status == 200 and "with~signs_1" in str(listed.body)
    # A user who may only use S3 is told from one who is not known.
    sealed = await app.integrations.connect(one.local, "aws-bedrock", account.pair, name="models", **connect)
    assert sealed.account == "arn:aws:iam::123456789012:user/agents"


@pytest.mark.parametrize("provider", ["aws-s3", "aws-bedrock"])
@pytest.mark.parametrize("wrong", ["secret", "key"])
async def test_a_key_that_is_not_known_is_not_connected(
    app: App, tenant: Any, account: Account, provider: str, wrong: str
) -> None:
    one: Tenant = await tenant()
    key_id, secret = account.pair.reveal_text().split(":")
    pair = f"{key_id}:{'x' * 40}" if wrong == "secret" else f"AKIAUNKNOWN000000000:{secret}"
    with pytest.raises(ProbeFailed) as caught:
        await app.integrations.connect(
            one.local, provider, Sensitive(pair), base_url=account.url, allow_private_network=True
        )
    assert any(
        code in caught.value.sentence
        for code in ("SignatureDoesNotMatch", "InvalidClientTokenId", "InvalidAccessKeyId")
    )
