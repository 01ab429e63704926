"""
Providers as data: one TOML file each in `providers/`, and in the folder of that name in the home; checked by the schema
here. docs/providers.md has all fields for people.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from company_agents.errors import NotFound, WrongUsage
from company_agents.integrations.oauth.model import Endpoints
from company_agents.integrations.provider_files import BadFile, BadText, Dropped, line_of
from company_agents.integrations.provider_replies import Addresses
from company_agents.integrations.toml_text import read_toml
from company_agents.outgoing.destination import Placement, parse_origin
from company_agents.outgoing.signing import region_of, service_of

# Stands in the endpoints of a service where each customer has a host: that of the integration's own address.
HOST = "{host}"
# Stand for what the name of a host says.
SERVICE, REGION = "{service}", "{region}"
# A hundred years, and ten: a moment beyond them is not to be reckoned with, and may not be one at all.
MOST_DAYS, MOST_SECONDS = 36_500, 315_360_000


def _origin(url: str) -> str:
    try:
        parse_origin(url)
    except WrongUsage as error:
        raise ValueError(error.sentence) from None
    return url


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"this is no regular expression: {error}") from None
    return text


# A page for people, or an endpoint; http is for private networks, which is asked when it is connected.
Url = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+([/?#]\S*)?$", max_length=1000)]
Origin = Annotated[str, AfterValidator(_origin)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=500)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CredentialPlace(_Table):
    """
    Where the credential goes: into a header (with a template), a query parameter, or HTTP Basic. The template of Basic is
    `user:password` with the token as one of them, or the token alone where a person pastes both with a colon between. With
    `sigv4` the requests are signed for AWS: `name` is the service and `template` the region, or `{service}` and `{region}` where
    the host's name says them.
    """

    kind: Literal["header", "query", "basic", "sigv4"] = "header"
    name: str = "Authorization"
    template: str = Field(default="{token}", pattern=r"^([^{}]*\{token\}[^{}]*|[a-z0-9-]+|\{region\})$")

    @model_validator(mode="after")
    def _can_be_filled(self) -> CredentialPlace:
        try:
            self.placement("s3.amazonaws.com")
        except WrongUsage as error:
            raise ValueError(error.sentence) from None
        return self

    def placement(self, host: str) -> Placement:
        """
        The place in calls to a host.

        Raises:
            WrongUsage: the host does not say which service it is.
        """
        if self.kind != "sigv4":
            return Placement(self.kind, self.name, self.template)
        service = service_of(host) if self.name == SERVICE else self.name
        return Placement("sigv4", service, region_of(host) if self.template == REGION else self.template)


class Scope(_Table):
    """Something that the credential should be allowed to do, in one plain sentence."""

    name: Line = Field(min_length=1)
    why: Line = Field(min_length=1)


class Probe(_Table):
    """
    One real call that proves that the credential works. `ok` names a field of a JSON reply that must be true;
    `error` and `account` name the fields that say what is wrong, and whose credential it is.
    """

    method: Literal["GET", "POST"] = "GET"
    path: str = Field(pattern=r"^/[!-~]*$", max_length=1000)
    body: str | None = None
    ok: str | None = None
    error: tuple[str, ...] = ()
    account: str | None = None
    scopes_header: str | None = None

    @model_validator(mode="after")
    def _is_a_path(self) -> Probe:
        if "?" in self.path or "#" in self.path:
            raise ValueError("path: it is without a query")
        return self


class Refresh(_Table):
    """
    How a provider's refresh tokens behave; an empty table says that there are some, without anything to heed; none, that
    there are none. `single_use`: each refresh brings a new one, and the old one dies;
    `reuse_window`: for so many seconds it is taken once more. `idle_days` and `absolute_days`: it dies when it was not used
    for so long, and after so long in any case. `kills_access`: the old access token dies with a refresh.
    """

    single_use: bool = False
    reuse_window: int = Field(default=0, ge=0, le=MOST_SECONDS)
    idle_days: int | None = Field(default=None, ge=1, le=MOST_DAYS)
    absolute_days: int | None = Field(default=None, ge=1, le=MOST_DAYS)
    kills_access: bool = False


class OAuth(_Table):
    """
    The provider as an authorization server. Either `issuer` (the rest is discovered: RFC 8414, OpenID Connect Discovery)
    or the endpoints themselves; an operator's own issuer takes their place.

    `auth` is how a client shows who it is (RFC 6749, 2.3; `private_key_jwt`: RFC 7523). `pkce`: S256 is sent (RFC 7636);
    false only where the provider refuses it. `scope_separator` stands between scopes where that is not a space.
    `parameters` are sent with the authorization request. `{host}` in an endpoint stands for the host of the integration's
    own address. `credential` is where access tokens go, where that is not where API tokens go. `quirk` names a function of `oauth/quirks.py`, for what data
    cannot say.
    """

    flows: tuple[Literal["code", "client", "device", "github_app"], ...] = ("code",)
    issuer: Url | None = None
    authorization_url: Url | None = None
    token_url: Url | None = None
    device_url: Url | None = None
    revocation_url: Url | None = None
    introspection_url: Url | None = None
    registration_url: Url | None = None
    auth: Literal["basic", "post", "none", "private_key_jwt"] = "post"
    pkce: bool = True
    # RFC 9207: the reply says who made it.
    iss_in_reply: bool = False
    scope_separator: str = " "
    scope_parameter: str = "scope"
    parameters: dict[str, str] = Field(default_factory=dict)
    token_parameters: dict[str, str] = Field(default_factory=dict)
    token_headers: dict[str, str] = Field(default_factory=dict)
    # `json`: the request to the token endpoint is JSON, and not a form.
    token_request: Literal["form", "json"] = "form"
    # Where the reply has it, by dotted paths, where it is not as RFC 6749, 5.1 says.
    access_field: str = "access_token"
    refresh_field: str = "refresh_token"
    expires_field: str = "expires_in"
    scope_field: str = "scope"
    account_field: str | None = None
    # Seconds that an access token lives where the reply does not say; None: it does not expire.
    lifetime: int | None = Field(default=None, ge=60, le=MOST_SECONDS)
    refresh: Refresh | None = None
    # What the token endpoint says when a consent is gone for good, beside `invalid_grant`.
    gone_codes: frozenset[str] = frozenset()
    # A consent of an application that is being tested lives for so many days only.
    test_mode_days: int | None = Field(default=None, ge=1, le=MOST_DAYS)
    # A new consent of the same person kills the old one.
    one_consent: bool = False
    # To revoke one consent of a person ends all that the same person gave this client.
    revocation_ends_all: bool = False
    quirk: Literal["slack", "github_app", "shop"] | None = None
    # Where a person registers the client, and what is to be done there.
    client_page: Url | None = None
    client_hint: Line = ""
    credential: CredentialPlace | None = None
    scopes: tuple[Scope, ...] = ()

    @model_validator(mode="after")
    def _has_endpoints(self) -> OAuth:
        named = {"code": self.authorization_url and self.token_url, "client": self.token_url, "device": self.device_url}
        for flow in self.flows:
            if self.issuer is None and flow in named and not named[flow]:
                raise ValueError(f"the flow {flow} needs an issuer, or its endpoints")
        return self

    @model_validator(mode="after")
    def _shows_no_token(self) -> OAuth:
        # What stands in these is shown to whoever may read.
        for field_name in ("account_field", "scope_field"):
            if getattr(self, field_name) in (self.access_field, self.refresh_field):
                raise ValueError(f"{field_name}: a token stands there, and this is shown")
        return self

    def urls(self) -> tuple[str, ...]:
        """All endpoints that the file names."""
        urls = (self.authorization_url, self.token_url, self.device_url, self.revocation_url)
        return tuple(url for url in (*urls, self.introspection_url, self.registration_url) if url)


class Provider(_Table):
    """
    A service. `base_url` is scheme and host; where each customer has a host, it is left out, and `address_hint` shows what
    such an address looks like.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{1,39}$")
    title: Line = Field(min_length=1, max_length=60)
    description: Line = Field(min_length=1)
    base_url: Origin | None = None
    address_hint: Line = ""
    token_page: Url | None = None
    token_hint: Line = ""
    token_pattern: Pattern | None = None
    credential: CredentialPlace = CredentialPlace()
    headers: dict[str, str] = Field(default_factory=dict)
    scopes: tuple[Scope, ...] = ()
    probe: Probe | None = None
    oauth: OAuth | None = None
    # Further hosts that take the same credential, as an upload host does.
    extra_hosts: tuple[str, ...] = ()
    # Ways that a person's environment files call this provider's token.
    variables: tuple[str, ...] = ()
    # What stands in the probe's `error` field when the credential itself is refused, in the reply to any call.
    refused_codes: frozenset[str] = frozenset()
    addresses: Addresses = Addresses()
    # A provider of models: its replies say how many tokens a call used, or also what it cost in US dollars.
    usage: Literal["tokens", "cost"] | None = None
    # Where the facts in the file come from.
    sources: tuple[Url, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_a_host(self) -> Provider:
        urls = () if self.oauth is None else self.oauth.urls()
        if self.base_url is not None and any(HOST in url for url in urls):
            raise ValueError("base_url: there is one, so {host} in an endpoint stands for nothing")
        return self

    def place(self, *, consent: bool) -> CredentialPlace:
        """Where an access token of OAuth goes, or an API token."""
        return (self.oauth.credential if consent and self.oauth else None) or self.credential

    def endpoints(self, base_url: str | None = None, *, allow_private: bool = False) -> Endpoints | None:
        """
        The authorization server as the file has it; None where it has no token endpoint: it is discovered from
        `oauth.issuer`, or there is no OAuth.

        Args:
            base_url: the integration's own address, for a service where each customer has a host.

        Raises:
            WrongUsage: that address is needed and not there, or is none.
        """
        oauth = self.oauth
        if oauth is None or oauth.token_url is None:
            return None
        if any(HOST in url for url in oauth.urls()):
            if base_url is None:
                raise WrongUsage(f"{self.title} has no address of its own", hint=f"give one like {self.address_hint}")
            parse_origin(base_url)
        # An origin was checked above: what follows the scheme is host and port.
        host = (base_url or "").partition("://")[2].rstrip("/")

        def at(url: str | None) -> str | None:
            return url.replace(HOST, host) if url else None

        return Endpoints(
            token=oauth.token_url.replace(HOST, host),
            issuer=oauth.issuer,
            authorization=at(oauth.authorization_url),
            device=at(oauth.device_url),
            revocation=at(oauth.revocation_url),
            introspection=at(oauth.introspection_url),
            registration=at(oauth.registration_url),
            iss_in_reply=oauth.iss_in_reply,
            allow_private=allow_private,
        )

    def looks_right(self, token: str) -> bool:
        """Whether a token looks like one of this provider's; anything does where the file does not say."""
        return self.token_pattern is None or re.fullmatch(self.token_pattern, token) is not None


_SAID = {"string_pattern_mismatch": "does not look as it should: docs/providers.md says how"}


def read_provider(text: str, file_name: str) -> Provider:
    """
    Raises:
        BadText: the text is no TOML or does not fit the schema; with the line, and the field.
    """
    provider = read_toml(Provider, text, _SAID)
    if f"{provider.name}.toml" != file_name:
        raise BadText("name: a provider is called like its file", line_of(text, ["name"]))
    return provider


@functools.cache
def shipped() -> dict[str, Provider]:
    """The providers that come with the package, by name."""
    folder = resources.files(__package__).joinpath("providers")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): read_provider(file.read_text("utf-8"), file.name) for file in files}


def _taken(name: str) -> str | None:
    # Whoever reads a provider's name on a page has to know which one it is.
    return f"{name} is shipped: call yours otherwise, such as {name}-own" if name in shipped() else None


@dataclass(frozen=True)
class Providers:
    """The providers that can be connected: the shipped ones, and those that an operator dropped into the home."""

    dropped: Dropped[Provider] | None = field(default=None, kw_only=True)

    @classmethod
    def at(cls, home: Path) -> Providers:
        """With those in `<home>/providers`, which need not exist."""
        return cls(dropped=Dropped(home / "providers", read_provider, _taken))

    def list(self) -> list[Provider]:
        """All of them, by name."""
        own = self.dropped.good() if self.dropped else {}
        return [provider for _, provider in sorted([*shipped().items(), *own.items()])]

    def bad_files(self) -> tuple[BadFile, ...]:
        """Those of an operator's files that were refused."""
        return tuple(self.dropped.bad()) if self.dropped else ()

    def get(self, name: str) -> Provider:
        """
        Raises:
            NotFound: there is no such provider, or its file was refused.
        """
        # A shipped one cannot be replaced, so that most calls need not look at the folder.
        provider = shipped().get(name) or (self.dropped.good().get(name) if self.dropped else None)
        if provider is not None:
            return provider
        for bad in self.bad_files():
            if bad.file == f"{name}.toml":
                raise NotFound("the file of this provider was refused", hint=f"mend it: {bad}")
        raise NotFound(
            "there is no such provider", hint="`company-agents provider list` shows them; `generic` takes any host"
        )
