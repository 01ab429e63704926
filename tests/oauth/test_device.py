from __future__ import annotations

from typing import Any

import pytest

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.device import DeviceCode, NoDeviceCode, Pending, device_code
from company_agents.integrations.oauth.model import Client, Granted, NotNow, Rejected, Uncertain
from company_agents.sensitive import Sensitive
from tests.oauth.asked import client, endpoints, provider
from tests.oauth.server import AuthorizationServer

ACME = provider(flows=("device",))


@pytest.fixture
def ours(server: AuthorizationServer) -> Client:
    return client(server, "none")


@pytest.fixture
async def begun(calls: OAuthCalls, ours: Client) -> DeviceCode:
    return await calls.begin_device(ACME, ours, ["read"])


async def test_a_person_is_shown_a_code_and_an_address(begun: DeviceCode, server: AuthorizationServer) -> None:
    assert begun.verification_uri == f"{server.url}/device"
    assert begun.complete_uri == f"{server.url}/device?user_code={begun.user_code}"
    assert (begun.expires_in, begun.interval) == (1800, 5)
    assert begun.device_code.reveal_text() not in repr(begun)


async def test_until_a_person_consents_it_is_pending_and_then_there_are_tokens(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, begun: DeviceCode
) -> None:
    assert await calls.poll_device(ACME, ours, begun.device_code, interval=7) == Pending(7)
    server.decide(begun.user_code)
    granted = await calls.poll_device(ACME, ours, begun.device_code)
    assert isinstance(granted, Granted)
    assert server.is_good(granted.access.reveal_text()) and granted.refresh


async def test_who_asks_too_often_is_slowed_down_by_five_seconds_each_time(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, begun: DeviceCode
) -> None:
    server.state.device_interval = 60
    pending = await calls.poll_device(ACME, ours, begun.device_code)
    for expected in (10, 15):
        assert isinstance(pending, Pending)
        pending = await calls.poll_device(ACME, ours, begun.device_code, interval=pending.interval)
        assert pending == Pending(expected)


async def test_a_person_who_says_no_ends_it(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, begun: DeviceCode
) -> None:
    server.decide(begun.user_code, approve=False)
    with pytest.raises(Rejected, match="denied"):
        await calls.poll_device(ACME, ours, begun.device_code)


async def test_a_code_that_is_too_old_ends_it(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, begun: DeviceCode
) -> None:
    server.state.devices[begun.device_code.reveal_text()].expires_at = 0
    with pytest.raises(Rejected, match="too old"):
        await calls.poll_device(ACME, ours, begun.device_code)


async def test_github_says_pending_with_a_good_status_and_in_a_form(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, begun: DeviceCode
) -> None:
    server.style = "github"
    assert await calls.poll_device(ACME, ours, begun.device_code) == Pending(5)


async def test_a_poll_whose_reply_is_lost_is_uncertain(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, begun: DeviceCode
) -> None:
    server.misbehave("lose")
    with pytest.raises(Uncertain):
        await calls.poll_device(ACME, ours, begun.device_code)


async def test_to_begin_again_is_always_possible(calls: OAuthCalls, server: AuthorizationServer, ours: Client) -> None:
    server.misbehave("lose", on="/device_authorization")
    with pytest.raises(NotNow):
        await calls.begin_device(ACME, ours, [])
    assert (await calls.begin_device(ACME, ours, [])).user_code


async def test_a_provider_without_a_device_flow_is_not_asked(calls: OAuthCalls, server: AuthorizationServer) -> None:
    with pytest.raises(WrongUsage):
        await calls.begin_device(ACME, Client("client-1", "none", endpoints(server, device=None)), [])


GOOD = {
    "device_code": "device-code-1",
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://acme.example/device",
    "expires_in": "900",
    "interval": 0,
}


def test_a_reply_is_read_with_the_defaults_of_the_standard() -> None:
    assert device_code(GOOD, allow_private=False, now=0) == DeviceCode(
        Sensitive("device-code-1"), "ABCD-EFGH", "https://acme.example/device", None, 900, 5
    )


def test_an_address_under_its_older_name_is_taken() -> None:
    older = {**GOOD, "verification_uri": None, "verification_url": "https://acme.example/d"}
    assert device_code(older, allow_private=False, now=0).verification_uri == "https://acme.example/d"


@pytest.mark.parametrize(
    "change",
    [
        {"device_code": None},
        {"device_code": "short"},
        {"user_code": "two\nlines"},
        {"user_code": "\x1b[31mred"},
        {"user_code": "x" * 65},
        {"user_code": 123456},
        {"verification_uri": None},
        {"verification_uri": "http://acme.example/device"},
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri": "https://user:password@acme.example/"},
        {"verification_uri": "https://acme.example/\x1b[31m"},
    ],
)
def test_nothing_is_shown_to_a_person_that_could_mislead_a_terminal_or_a_browser(change: dict[str, Any]) -> None:
    with pytest.raises(NoDeviceCode):
        device_code({**GOOD, **change}, allow_private=False, now=0)


def test_a_shortcut_that_will_not_do_is_left_away() -> None:
    assert device_code({**GOOD, "verification_uri_complete": "x"}, allow_private=False, now=0).complete_uri is None
