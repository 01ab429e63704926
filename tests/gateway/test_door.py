"""
Who comes in through the gateway, by which address, and what goes on to the provider.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from company_agents.app import App
from company_agents.outgoing.client import Outgoing
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.gateway.conftest import BEARER, SECRET, Connect, Here, serving
from tests.gateway.standins import service
from tests.gateway.wire import Answered, asked, wire
from tests.outgoing.servers import authority, reply, serve

Make = Callable[[], Awaitable[Tenant]]


def at(here: Here, path: str) -> str:
    return urlsplit(here.url).path + path


async def get(here: Here, path: str = "/x", headers: dict[str, str] | None = None, method: str = "GET") -> Answered:
    return await asked(here.url, at(here, path), here.bearer if headers is None else headers, method)


def error(answer: Answered) -> dict[str, Any]:
    """What an answer of ours says: in the shape that SDKs know, and recognisable as ours."""
    said = json.loads(answer.body)
    assert said["type"] == "error"
    assert said["message"] == said["error"]["message"]
    assert answer.headers["company-agents-error"] == said["error"]["code"]
    found: dict[str, Any] = said["error"]
    return found


# — the token —


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


WAYS: dict[str, Callable[[str], dict[str, str]]] = {
    "as a bearer": lambda token: {"Authorization": f"Bearer {token}"},
    "as a bearer in small letters": lambda token: {"authorization": f"bearer {token}"},
    "as GitHub's clients do": lambda token: {"Authorization": f"token {token}"},
    "as a password": lambda token: {"Authorization": basic("x-access-token", token)},
    "as a user": lambda token: {"Authorization": basic(token, "x-oauth-basic")},
    "as a user without a password": lambda token: {"Authorization": basic(token, "")},
    "as the id of a key that signs": lambda token: {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={token}/20260101/eu-central-1/s3/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=0123456789abcdef"
    },
    "without a scheme": lambda token: {"Authorization": token},
    "as x-api-key": lambda token: {"x-api-key": token},
    "as api-key": lambda token: {"api-key": token},
    "as x-goog-api-key": lambda token: {"X-Goog-Api-Key": token},
    "in a service's own header": lambda token: {"PRIVATE-TOKEN": token},
    "twice the same": lambda token: {"Authorization": f"Bearer {token}", "x-api-key": token},
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_is_taken_however_a_client_sends_it_and_never_sent_on(here: Here, app: App, way: str) -> None:
    here.service.on("GET", "/x", {"fine": True})
    _, run = await app.runs.open(here.tenant.agent)
    for token in (here.token, run.reveal_text()):
        answer = await get(here, headers=WAYS[way](token))
        assert (answer.status, json.loads(answer.body)) == (200, {"fine": True})
    for seen in here.service.seen:
        assert not [value for value in seen.headers.values() if "ca_" in value]
        assert {"x-api-key", "api-key", "x-goog-api-key", "private-token"} & seen.headers.keys() == set()


async def test_without_a_token_a_client_is_told_to_send_one(here: Here) -> None:
    answer = await get(here, headers={})
    assert (answer.status, error(answer)["type"]) == (401, "authentication_error")
    assert answer.headers["www-authenticate"].startswith('Basic realm="')
    assert here.service.seen == []


async def test_two_different_tokens_are_refused_also_where_both_are_good(here: Here, app: App, tenant: Make) -> None:
    _, run = await app.runs.open(here.tenant.agent)
    other = await tenant()
    for second in (run.reveal_text(), other.token, "sk-a-key-of-the-provider-itself"):
        answer = await get(here, headers={**here.bearer, "x-api-key": second})
        assert (answer.status, error(answer)["code"]) == (401, "unauthenticated")
        assert "two different tokens" in error(answer)["message"]
        assert second.encode() not in answer.body
        both = [("Authorization", f"Bearer {here.token}"), ("Authorization", f"Bearer {second}")]
        assert (await asked(here.url, at(here, "/x"), both)).status == 401
        assert (await asked(here.url, at(here, "/x"), both[::-1])).status == 401
    assert here.service.seen == []


async def test_the_token_of_a_run_that_has_ended_is_refused(here: Here, app: App) -> None:
    here.service.on("GET", "/x", {})
    run, token = await app.runs.open(here.tenant.agent)
    bearer = {"Authorization": f"Bearer {token.reveal_text()}"}
    assert (await get(here, headers=bearer)).status == 200
    await app.runs.finish(here.tenant.agent, run.id, run.fencing_token)
    assert (await get(here, headers=bearer)).status == 401
    assert len(here.service.seen) == 1


@pytest.mark.parametrize("place", ["/x/{}", "/x?key={}", "/x?a=1&b=prefix-{}"])
async def test_a_token_in_an_address_is_refused_and_the_address_not_sent_on(here: Here, place: str) -> None:
    answer = await get(here, place.format(here.token))
    assert answer.status == 401
    assert "rotated" in error(answer)["hint"]
    assert here.token.encode() not in answer.body
    assert here.service.seen == []


async def test_what_only_looks_like_a_token_may_be_asked_for(here: Here) -> None:
    here.service.on("GET", "/search?q=ca_agent_" + "a" * 90, {})
    assert (await get(here, "/search?q=ca_agent_" + "a" * 90)).status == 200


async def test_an_integration_that_is_not_the_agents_reads_like_one_that_is_not_there(
    here: Here, app: App, tenant: Make
) -> None:
    other = await tenant()
    _, colleague = await app.agents.create(here.tenant.local, "bob")
    for token in (other.token, colleague.reveal_text()):
        headers = {"Authorization": f"Bearer {token}"}
        theirs = await asked(here.url, at(here, "/x"), headers)
        by_id = await asked(here.url, f"/gateway/{here.integration.id}/x", headers)
        nobodys = await asked(here.url, "/gateway/nothing/x", headers)
        assert theirs.status == by_id.status == nobodys.status == 404
        assert theirs.body == by_id.body == nobodys.body
    assert here.service.seen == []


# — the address —

AS_SENT = [
    "/a",
    "/",
    "/a//b",
    "/a/b/",
    "/a%2Fb",
    "/a%2fb",
    "/a;v=1/b;",
    "/a%20b%C3%BC",
    "/a+b:c@d,e!f$g&h'i(j)*k=l~m",
    "/.well-known/x",
    "/a...b/..c",
    "/~at",
    "/a?",
    "/a?b=c&b=%20d+e&f[]=1&g=%2F&=x",
    "/a?b=/../c//d",
    "/a?x=1?y=2",
]


@pytest.mark.parametrize("target", AS_SENT)
async def test_a_path_and_a_query_arrive_byte_for_byte_as_they_were_sent(here: Here, target: str) -> None:
    # An empty query is none to HTTP's own libraries.
    arrives = target.removesuffix("?")
    here.service.on("GET", arrives, {"fine": True})
    answer = await get(here, target)
    assert (answer.status, json.loads(answer.body)) == (200, {"fine": True})
    assert [each.target for each in here.service.seen] == [arrives]


NOT_SENT = [
    "//evil.example/a",
    "//",
    "/..",
    "/../x",
    "/a/../b",
    "/a/./b",
    "/%2e%2e/x",
    "/%2E./x",
    "/a/%252e%252e/b",
    "/..;/x",
    "/..%2fx",
    "/..%5cx",
    "/a%00b",
    "/a%0d%0ab",
    "/a%",
    "/a%2",
    "/a%zz",
]


@pytest.mark.parametrize("target", NOT_SENT)
async def test_a_path_that_could_mean_another_is_refused_and_nothing_is_sent(here: Here, target: str) -> None:
    answer = await get(here, target)
    assert (answer.status, error(answer)["code"]) == (422, "wrong_usage")
    assert here.service.seen == []


@pytest.mark.parametrize(
    "target",
    [
        "/gateway",
        "/gateway/",
        "/gateway//x",
        "/%67ateway/{}/x",
        "/gateway/%FF/x",
        "/gateway%2F{}/x",
        "/gateway/{}/~at:/x",
    ],
)
async def test_an_address_that_is_no_integrations_is_not_found(here: Here, target: str) -> None:
    answer = await asked(here.url, target.format(here.integration.name), here.bearer)
    assert (answer.status, error(answer)["code"]) == (404, "not_found")
    assert here.service.seen == []


async def test_an_integration_is_named_by_its_id_or_by_its_name_percent_encoded(here: Here, app: App) -> None:
    here.service.on("GET", "/x", {})
    one = await app.integrations.connect(
        here.tenant.local,
        "generic",
        Sensitive(SECRET),
        name="ops / büro 100%",
        base_url=here.service.url,
        allow_private_network=True,
        allow=[here.tenant.agent.agent_id()],
    )
    for segment in (str(one.id), "ops%20%2F%20b%C3%BCro%20100%25"):
        assert (await asked(here.url, f"/gateway/{segment}/x", here.bearer)).status == 200
    assert (await asked(here.url, "/gateway/ops%20/x", here.bearer)).status == 404
    assert len(here.service.seen) == 2


async def test_nothing_follows_the_integrations_name_and_the_root_is_asked_for(here: Here) -> None:
    here.service.on("GET", "/", {})
    here.service.on("GET", "/?a=1", {})
    for path in ("", "/", "?a=1"):
        assert (await get(here, path)).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example"]
)
async def test_under_another_name_the_gateway_does_not_answer(here: Here, host: str) -> None:
    answer = await get(here, headers={**here.bearer, "Host": host})
    assert answer.status == 421
    assert here.service.seen == []


async def test_a_target_with_a_host_of_its_own_goes_to_the_integrations_host_all_the_same(here: Here) -> None:
    here.service.on("GET", "/x", {})
    answer = await asked(here.url, f"http://evil.example{at(here, '/x')}", here.bearer)
    assert answer.status == 200
    assert [each.headers["Host"] for each in here.service.seen] == [urlsplit(here.service.url).netloc]


async def test_another_host_of_the_provider_has_an_address_and_others_have_none(here: Here) -> None:
    for host in ("evil.example", "127.0.0.2", "127.0.0.1:1", "x@127.0.0.1"):
        answer = await get(here, f"/~at:{host}/x")
        assert answer.status in (403, 422), host
    here.service.on("GET", "/x", {})
    assert (await get(here, "/~at:127.0.0.1/x")).status == 200
    assert len(here.service.seen) == 1


# — browsers —


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
async def test_a_page_of_another_site_is_refused(here: Here, headers: dict[str, str], method: str) -> None:
    answer = await get(here, headers={**here.bearer, **headers}, method=method)
    assert (answer.status, error(answer)["code"]) == (403, "refused")
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert here.service.seen == []


async def test_what_a_provider_says_to_browsers_about_its_own_site_is_not_said_of_ours(here: Here) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(
            text="<script>alert(1)</script>",
            content_type="text/html",
            headers={
                **{"Access-Control-Allow-Origin": "*", "Set-Cookie": "session=1", "Clear-Site-Data": '"*"'},
                **{"Service-Worker-Allowed": "/", "Strict-Transport-Security": "max-age=1", "Refresh": "0; /"},
                **{"Content-Security-Policy": "script-src *", "X-Frame-Options": "ALLOWALL", "X-Fine": "yes"},
                "Company-Agents-Error": "forged",
            },
        )

    here.service.on("GET", "/x", page)
    answer = await get(here)
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-fine"] == "yes"
    gone = {"access-control-allow-origin", "set-cookie", "clear-site-data", "service-worker-allowed", "refresh"}
    assert not (gone | {"strict-transport-security", "company-agents-error"}) & answer.headers.keys()


async def test_a_client_that_cannot_tell_a_broken_answer_from_a_whole_one_is_refused(here: Here) -> None:
    async with wire(here.url) as connection:
        head = f"GET {at(here, '/x')} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {here.token}\r\n\r\n"
        await connection.send(head.encode())
        answer = await connection.answer()
    assert answer.status == 422
    assert "HTTP/1.1" in error(answer)["message"]


# — the request —


async def test_head_says_how_long_what_it_asks_for_is(here: Here) -> None:
    async def sized(request: web.Request) -> web.Response:
        return web.Response(headers={"Content-Length": "1234567", "ETag": '"x"'})

    here.service.on("HEAD", "/x", sized)
    answer = await get(here, method="HEAD")
    assert (answer.status, answer.headers["content-length"], answer.headers["etag"]) == (200, "1234567", '"x"')


@pytest.mark.parametrize("method", ["OPTIONS", "PATCH", "DELETE", "PUT", "PROPFIND", "REPORT"])
async def test_a_method_goes_on_with_its_body(here: Here, method: str) -> None:
    here.service.on(method, "/x", {"fine": True})
    answer = await asked(here.url, at(here, "/x"), here.bearer, method, b"the body")
    assert answer.status == 200
    assert [(each.method, each.body) for each in here.service.seen] == [(method, b"the body")]


async def test_trace_is_never_sent(here: Here) -> None:
    answer = await get(here, method="TRACE")
    assert (answer.status, error(answer)["code"]) == (403, "refused")


async def test_what_is_ours_to_say_does_not_come_from_the_client(here: Here) -> None:
    here.service.on("GET", "/x", {})
    headers = {
        **{"Range": "bytes=0-1", "If-Range": "x", "Accept-Encoding": "zstd", "X-Forwarded-For": "10.0.0.1"},
        **{"Cookie": "session=1", "Forwarded": "for=10.0.0.1", "Company-Agents-Wait": "1", "Company-Agents-X": "1"},
        **{"X-Kept": "yes", "User-Agent": "somebody/1", "Proxy-Authorization": "Basic eDp5", "TE": "trailers"},
    }
    assert (await get(here, headers={**here.bearer, **headers})).status == 200
    [seen] = here.service.seen
    assert seen.headers["X-Kept"] == "yes"
    assert seen.headers["Authorization"] == BEARER[1]
    gone = {"range", "if-range", "cookie", "forwarded", "x-forwarded-for", "proxy-authorization", "te"}
    assert not gone & {name.lower() for name in seen.headers}
    assert not [name for name in seen.headers if name.lower().startswith("company-agents-")]
    assert "zstd" not in seen.headers["Accept-Encoding"]


@pytest.mark.parametrize("seconds", ["x", "-1", "301", "1.5", ""])
async def test_a_time_to_wait_is_a_number_of_seconds(here: Here, seconds: str) -> None:
    answer = await get(here, headers={**here.bearer, "Company-Agents-Wait": seconds})
    assert answer.status == 422
    assert here.service.seen == []


# — where it goes —


async def test_a_redirect_to_another_host_is_shown_and_the_credential_goes_nowhere(here: Here) -> None:
    async with service(None) as elsewhere:
        elsewhere.on("GET", "/y", {})

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": f"{elsewhere.url}/y"})

        here.service.on("GET", "/x", away)
        answer = await get(here)
        assert (answer.status, answer.headers["location"]) == (302, f"{elsewhere.url}/y")
        assert elsewhere.seen == []


async def test_a_redirect_on_the_same_host_is_followed_here(here: Here) -> None:
    async def on(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/y?z=1"})

    here.service.on("POST", "/x", on)
    here.service.on("POST", "/y?z=1", {"fine": True})
    answer = await asked(here.url, at(here, "/x"), here.bearer, "POST", b"once more")
    assert answer.status == 200
    assert [each.body for each in here.service.seen] == [b"once more"] * 2


async def test_where_a_made_thing_is_is_told_as_an_address_of_the_gateway(here: Here) -> None:
    for place, told in (("/things/1", "/things/1"), (f"{here.service.url}/things/1?x=y", "/things/1?x=y")):

        async def made(request: web.Request, place: str = place) -> web.Response:
            return web.Response(status=201, headers={"Location": place})

        here.service.on("POST", "/things", made)
        answer = await get(here, "/things", method="POST")
        assert answer.headers["location"] == here.url + told


async def test_a_name_that_leads_elsewhere_by_the_time_of_the_connection_is_not_connected_to(
    app: App, connect: Connect
) -> None:
    answers = [["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1", "169.254.169.254"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0) if answers else ["127.0.0.1"]

    outgoing = Outgoing(resolve=resolve)
    await outgoing.start()
    try:
        changed = dataclasses.replace(app, relay=dataclasses.replace(app.relay, outgoing=outgoing))
        async with service(BEARER, "rebound.example") as started, serving(changed) as door:

            async def once(request: web.Request) -> web.Response:
                return web.json_response({}, headers={"Connection": "close"})

            started.on("GET", "/x", once)
            here = await connect(started, door=door)
            assert (await get(here)).status == 200
            for _ in range(2):
                answer = await get(here)
                assert (answer.status, error(answer)["code"]) == (403, "refused")
                assert "may not connect to" in error(answer)["message"]
            assert (await get(here)).status == 200
            assert len(started.seen) == 2
    finally:
        await outgoing.close()


async def test_tls_and_host_name_the_integrations_host_whatever_the_client_says(
    app: App, connect: Connect, tmp_path: Path
) -> None:
    ours = authority(tmp_path, "provider.example")
    named: list[str | None] = []
    ours.server.sni_callback = lambda connection, name, context: named.append(name)

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    outgoing = Outgoing(ca_file=ours.ca_file, resolve=resolve)
    await outgoing.start()
    try:
        changed = dataclasses.replace(app, relay=dataclasses.replace(app.relay, outgoing=outgoing))
        async with serve(reply(b"{}"), ours.server) as provider, serving(changed) as door:
            at_provider: Any = SimpleNamespace(url=f"https://provider.example:{provider.port}")
            here = await connect(at_provider, door=door)
            tricks = {"Host": "localhost", "X-Forwarded-Host": "other.example", "Forwarded": "host=other.example"}
            assert (await get(here, headers={**here.bearer, **tricks})).status == 200
            assert named == ["provider.example"]
            [request] = provider.requests
            assert request.headers["host"] == f"provider.example:{provider.port}"
            assert "other.example" not in request.head.decode()
            # The same server, under a name that its certificate does not have.
            at_other: Any = SimpleNamespace(url=f"https://other.example:{provider.port}")
            answer = await get(await connect(at_other, door=door))
            assert (answer.status, error(answer)["code"]) == (503, "unavailable")
            assert "certificate" in error(answer)["message"]
            assert len(provider.requests) == 1
    finally:
        await outgoing.close()


async def test_a_provider_that_cannot_be_reached_is_told_from_one_that_says_no(app: App, connect: Connect) -> None:
    async with service(BEARER) as started:
        here = await connect(started)
    answer = await get(here)
    assert (answer.status, error(answer)["type"]) == (503, "api_error")

    async with service(BEARER) as started:

        async def busy(request: web.Request) -> web.Response:
            return web.json_response({"error": "busy"}, status=503, headers={"Retry-After": "7"})

        started.on("GET", "/x", busy)
        here = await connect(started)
        answer = await get(here)
        assert (answer.status, json.loads(answer.body)) == (503, {"error": "busy"})
        assert answer.headers["retry-after"] == "7"
        assert "company-agents-error" not in answer.headers


async def test_a_credential_that_comes_back_is_taken_out(here: Here) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response(
            {"you sent": dict(request.headers)}, headers={"X-Echo": request.headers["Authorization"]}
        )

    here.service.on("GET", "/x", echo)
    answer = await get(here)
    assert SECRET not in answer.body.decode() + str(answer.headers)
    assert b"[credential removed]" in answer.body
