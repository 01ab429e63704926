"""
What every shipped provider file has to be, so that it can be believed.
"""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources
from urllib.parse import urlsplit

import pytest

from company_agents.errors import WrongUsage
from company_agents.integrations.credential import destination_for
from company_agents.integrations.provider import HOST, Provider, Providers, Scope, read_provider, shipped
from company_agents.integrations.provider_words import quirks, takes_a_token, ways
from tests.providers.test_every_provider import each

ALL = list(shipped().values())
FOLDER = resources.files("company_agents.integrations").joinpath("providers")

# Whose authorization server is at another domain than its API. Whoever adds one says so here, where a reader sees it.
OTHER_DOMAINS = {
    "dropbox": {"dropboxapi.com", "dropbox.com"},
    "google-workspace": {"googleapis.com", "google.com"},
    "hubspot": {"hubapi.com", "hubspot.com"},
    "intercom": {"intercom.io", "intercom.com"},
    "microsoft": {"microsoft.com", "microsoftonline.com"},
}


def domain(host: str) -> str:
    """The last two labels: all of these names are registered right below a top-level domain."""
    return ".".join(host.split(".")[-2:])


def hosts(provider: Provider) -> set[str]:
    urls = [*(provider.oauth.urls() if provider.oauth else ()), provider.base_url or provider.address_hint]
    if provider.oauth and provider.oauth.issuer:
        urls.append(provider.oauth.issuer)
    return {urlsplit(url).netloc for url in urls if url and HOST not in url} | set(provider.extra_hosts)


def test_there_are_the_services_that_people_use() -> None:
    assert len(ALL) >= 40
    assert len([provider for provider in ALL if provider.oauth]) >= 30
    names = {provider.name for provider in ALL}
    assert {"slack", "github", "google-workspace", "microsoft", "stripe", "notion", "linear", "generic"} <= names
    assert [provider.name for provider in Providers().list()] == sorted(names)


@each(ALL)
def test_every_address_is_https(provider: Provider) -> None:
    text = FOLDER.joinpath(f"{provider.name}.toml").read_text("utf-8")
    assert "http://" not in text
    for url in (*provider.sources, *(provider.oauth.urls() if provider.oauth else ())):
        assert url.startswith("https://")
        assert "@" not in url


@each(ALL)
def test_its_hosts_are_of_one_domain_or_those_that_are_known_to_belong_together(provider: Provider) -> None:
    found = {domain(host) for host in hosts(provider)}
    assert len(found) <= 1 or found == OTHER_DOMAINS[provider.name]
    for host in hosts(provider):
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", host)
        assert not host[-1].isdigit(), "a name, and no address"


@each([provider for provider in ALL if provider.addresses.uploads])
def test_files_are_sent_to_its_own_domain_only(provider: Provider) -> None:
    for upload in provider.addresses.uploads:
        assert {domain(urlsplit(origin).netloc) for origin in upload.origins} == {
            domain(host) for host in hosts(provider)
        }
        assert all(urlsplit(origin).scheme == "https" for origin in upload.origins)


@each(ALL)
def test_a_credential_can_be_connected_to_it(provider: Provider) -> None:
    address = None if provider.base_url else provider.address_hint or "https://api.acme.example"
    for consent in (False, True):
        destination = destination_for(provider, address, allow_private=False, header=None, consent=consent)
        assert destination.scheme == "https"
        assert set(destination.extra_hosts) == (set(provider.extra_hosts) if provider.base_url else set())
    if provider.base_url is None:
        with pytest.raises(WrongUsage, match="no address of its own"):
            destination_for(provider, None, allow_private=False, header=None)


@each(ALL)
def test_every_scope_says_in_one_plain_sentence_what_it_is_for(provider: Provider) -> None:
    groups: list[tuple[Scope, ...]] = [provider.scopes, provider.oauth.scopes if provider.oauth else ()]
    for group in groups:
        assert len({scope.name for scope in group}) == len(group)
        for scope in group:
            assert len(scope.why.split()) >= 2
            assert scope.why[0].islower()
            assert not scope.why.endswith(".")
            assert scope.why != scope.name


@each([provider for provider in ALL if provider.name != "generic"])
def test_it_says_what_a_person_has_to_do_and_where_the_facts_are_from(provider: Provider) -> None:
    assert provider.sources
    assert not provider.description[0].isspace()
    assert provider.description.endswith(".")
    if takes_a_token(provider):
        assert provider.token_page
        assert provider.token_hint
        assert provider.scopes
    else:
        assert not provider.variables
    if provider.oauth:
        assert provider.oauth.client_hint
        assert provider.oauth.client_page or {"in", "under"} & set(provider.oauth.client_hint.split())
        # What runs out can be renewed.
        assert provider.oauth.lifetime is None or provider.oauth.refresh or provider.oauth.quirk == "github_app"
    assert ways(provider)
    assert all(sentence == sentence.strip() and "None" not in sentence for sentence in quirks(provider))


@each([provider for provider in ALL if provider.oauth and provider.oauth.refresh])
def test_what_is_said_of_refresh_tokens_holds_together(provider: Provider) -> None:
    assert provider.oauth is not None
    rules = provider.oauth.refresh
    assert rules is not None
    assert rules.single_use or not rules.reuse_window, "what is not used up needs no time to be used again"
    if rules.idle_days and rules.absolute_days:
        assert rules.idle_days < rules.absolute_days
    assert "invalid_grant" not in provider.oauth.gone_codes, "that one counts everywhere"
    asked = {scope.name for scope in provider.oauth.scopes}
    if provider.oauth.issuer and "offline_access" not in asked:
        assert provider.oauth.parameters.get("access_type") == "offline" or provider.name == "gitlab"


def test_no_two_providers_share_a_variable() -> None:
    variables = Counter(name for provider in ALL for name in provider.variables)
    assert [name for name, number in variables.items() if number > 1] == []
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", name) for name in variables)


def test_a_token_with_a_prefix_is_known_for_one_provider_only() -> None:
    tokens = {
        "anthropic": "sk-ant-api03-" + "a" * 40,
        "openai": "sk-proj-" + "a" * 40,
        "openrouter": "sk-or-v1-" + "a" * 40,
        "slack": "xoxb-1234567890-abcdefghij",
        "github": "github_pat_" + "a" * 30,
        "gitlab": "glpat-" + "a" * 20,
        "stripe": "rk_live_" + "a" * 24,
        "notion": "ntn_" + "a" * 40,
        "huggingface": "hf_" + "a" * 34,
        "digitalocean": "dop_v1_" + "a" * 64,
    }
    for name, token in tokens.items():
        known = [each.name for each in ALL if each.token_pattern and each.looks_right(token)]
        assert known == [name]


def test_a_service_where_each_customer_has_a_host_has_its_endpoints_there() -> None:
    shop = shipped()["shopify"]
    found = shop.endpoints("https://acme.myshopify.com/")
    assert found is not None
    assert found.token == "https://acme.myshopify.com/admin/oauth/access_token"
    assert found.authorization == "https://acme.myshopify.com/admin/oauth/authorize"
    with pytest.raises(WrongUsage, match="no address"):
        shop.endpoints()
    # An address that says more than a host cannot bend an endpoint.
    for address in ("https://acme.myshopify.com/x?", "https://a@b.example", "acme", "https://"):
        with pytest.raises(WrongUsage):
            shop.endpoints(address)
    assert shipped()["stripe"].endpoints() is None


@each(ALL)
def test_its_file_is_called_like_it_and_is_read_as_an_operators_would_be(provider: Provider) -> None:
    text = FOLDER.joinpath(f"{provider.name}.toml").read_text("utf-8")
    assert read_provider(text, f"{provider.name}.toml") == provider
    assert len(text.encode()) < 8 * 1024
