"""
Providers as data: one TOML file each in `providers/`, checked by the schema here.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from company_agents.errors import Failed, NotFound


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CredentialPlace(_Table):
    """Where the credential goes: into a header (with a template), a query parameter, or HTTP Basic."""

    kind: Literal["header", "query", "basic"] = "header"
    name: str = "Authorization"
    template: str = Field(default="{token}", pattern=r"^[^{}]*\{token\}[^{}]*$")


class Scope(_Table):
    """Something that the credential should be allowed to do, in one plain sentence."""

    name: str
    why: str


class Probe(_Table):
    """
    One real call that proves that the credential works. `ok` names a field of a JSON reply that must be true;
    `error` and `account` name the fields that say what is wrong, and whose credential it is.
    """

    method: Literal["GET", "POST"] = "GET"
    path: str
    body: str | None = None
    ok: str | None = None
    error: tuple[str, ...] = ()
    account: str | None = None
    scopes_header: str | None = None


class Refresh(_Table):
    """
    How a provider's refresh tokens behave. `single_use`: each refresh brings a new one, and the old one dies;
    `reuse_window`: for so many seconds it is taken once more. `idle_days` and `absolute_days`: it dies when it was not used
    for so long, and after so long in any case. `kills_access`: the old access token dies with a refresh.
    """

    single_use: bool = False
    reuse_window: int = Field(default=0, ge=0)
    idle_days: int | None = Field(default=None, ge=1)
    absolute_days: int | None = Field(default=None, ge=1)
    kills_access: bool = False


class OAuth(_Table):
    """
    The provider as an authorization server. Either `issuer` (the rest is discovered: RFC 8414, OpenID Connect Discovery)
    or the endpoints themselves; an operator's own issuer takes their place.

    `auth` is how a client shows who it is (RFC 6749, 2.3; `private_key_jwt`: RFC 7523). `pkce`: S256 is sent (RFC 7636);
    false only where the provider refuses it. `scope_separator` stands between scopes where that is not a space.
    `parameters` are sent with the authorization request. `quirk` names a function of `oauth/quirks.py`, for what data
    cannot say.
    """

    flows: tuple[Literal["code", "client", "device", "github_app"], ...] = ("code",)
    issuer: str | None = None
    authorization_url: str | None = None
    token_url: str | None = None
    device_url: str | None = None
    revocation_url: str | None = None
    introspection_url: str | None = None
    registration_url: str | None = None
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
    lifetime: int | None = Field(default=None, ge=60)
    refresh: Refresh | None = None
    # What the token endpoint says when a consent is gone for good, beside `invalid_grant`.
    gone_codes: frozenset[str] = frozenset()
    # A consent of an application that is being tested lives for so many days only.
    test_mode_days: int | None = Field(default=None, ge=1)
    # A new consent of the same person kills the old one.
    one_consent: bool = False
    quirk: Literal["slack", "github_app", "shop"] | None = None
    # Where a person registers the client, and what is to be done there.
    client_page: str | None = None
    client_hint: str = ""
    scopes: tuple[Scope, ...] = ()

    @model_validator(mode="after")
    def _has_endpoints(self) -> OAuth:
        named = {"code": self.authorization_url and self.token_url, "client": self.token_url, "device": self.device_url}
        for flow in self.flows:
            if self.issuer is None and flow in named and not named[flow]:
                raise ValueError(f"the flow {flow} needs an issuer, or its endpoints")
        return self


class Provider(_Table):
    """A service."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{1,39}$")
    title: str
    description: str
    base_url: str | None = None
    token_page: str | None = None
    token_hint: str = ""
    token_pattern: str | None = None
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
    sources: tuple[str, ...] = Field(min_length=1)

    def looks_right(self, token: str) -> bool:
        """Whether a token looks like one of this provider's; anything does where the file does not say."""
        return self.token_pattern is None or re.fullmatch(self.token_pattern, token) is not None


def read_provider(text: str, file_name: str) -> Provider:
    """
    Raises:
        Failed: the file is no TOML or does not fit the schema; the sentence says where.
    """
    try:
        provider = Provider.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise Failed(f"{file_name} is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Failed(f"{file_name}: {where}: {first['msg'].lower()}") from None
    if f"{provider.name}.toml" != file_name:
        raise Failed(f"{file_name}: name: a provider is called like its file")
    return provider


@functools.cache
def _shipped() -> dict[str, Provider]:
    folder = resources.files(__package__).joinpath("providers")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): read_provider(file.read_text("utf-8"), file.name) for file in files}


@dataclass(frozen=True)
class Providers:
    """The providers that can be connected."""

    def list(self) -> list[Provider]:
        """All of them, by name."""
        return list(_shipped().values())

    def get(self, name: str) -> Provider:
        """
        Raises:
            NotFound: there is no such provider.
        """
        try:
            return _shipped()[name]
        except KeyError:
            raise NotFound(
                "there is no such provider", hint="`company-agents provider list` shows them; `generic` takes any host"
            ) from None
