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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
