"""
Tokens that a company has in an environment file or in Vault already: which of them belong to which provider, and
connecting them. No value leaves this module but on its way to the provider whose it is.

A token of one service must not be tried at another. It is this provider's where the variable's name says so, and its own
characters do not say otherwise. Where only the characters tell, by a beginning that no other provider here has, a person
has to agree: services that are not known here may begin theirs alike, as several do with `sk_live_`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Literal
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import CompanyAgentsError, Conflict, WrongUsage
from company_agents.identity.principal import Caller
from company_agents.integrations.credential import MOST_TOKEN
from company_agents.integrations.env_file import Variable, read_env_file
from company_agents.integrations.integrations import Integrations
from company_agents.integrations.provider import Provider, Providers
from company_agents.sensitive import Sensitive

# A beginning of so many characters, of which the pattern fixes each, tells whose a token may be.
TELLING = 4
_SUSPICIOUS = re.compile(r".+_(?:KEY|TOKEN|SECRET)", re.IGNORECASE)
# A name that is shown: Vault lets a field be called anything.
_NAME = re.compile(r"[\w.@/+-]{1,100}", re.ASCII)


class Outcome(StrEnum):
    """What became of a variable."""

    CONNECTED = "connected"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_RECOGNISED = "not recognised"


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one variable, without its value. `hint` is what to do about the problem."""

    variable: str
    provider: str | None
    result: Outcome
    id: UUID | None = None
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    A variable that looks like a provider's token, and what the integration would be called. `sure`: the variable's name
    says so; else it takes a person.
    """

    variable: str
    provider: Provider
    value: Sensitive
    sure: bool
    name: str = ""

    def item(self, result: Outcome, problem: str = "", hint: str = "", id: UUID | None = None) -> Item:
        """What became of it."""
        return Item(self.variable, self.provider.name, result, id, problem, hint)


@dataclass(frozen=True)
class Addresses:
    """
    Providers that are somewhere else than their files say, by their names; whether those may be in a private network.
    """

    base_urls: Mapping[str, str]
    allow_private_network: bool = False


NOWHERE_ELSE = Addresses({})


@dataclass(frozen=True)
class Importer:
    """Recognises and connects. `read_vault` gives the fields of a document; None for one that is no text."""

    integrations: Integrations
    providers: Providers
    audit: AuditLog
    read_vault: Callable[[str], Awaitable[Mapping[str, Sensitive | None]]]

    def from_env(self, content: bytes) -> list[Variable]:
        """
        Raises:
            WrongUsage: this is no environment file.
        """
        return read_env_file(content)

    async def from_vault(self, path: str) -> list[Variable]:
        """
        Raises:
            WrongUsage: the path is malformed, or a field has a name that cannot be shown.
            NotFound, Refused, Unavailable: Vault did not give it.
        """
        fields = await self.read_vault(path)
        if not all(map(_NAME.fullmatch, fields)):
            raise WrongUsage(
                "a field of the document has a name that is no variable's", hint="names have letters, digits and _"
            )
        return [Variable(name, value) for name, value in fields.items()]

    def recognised(
        self, variables: Sequence[Variable], addresses: Addresses = NOWHERE_ELSE, only: Sequence[str] = ()
    ) -> tuple[list[Candidate], list[Item]]:
        """
        What can be tried at a provider; and what cannot, with the reason. A variable that is no provider's is told of
        where its name is that of a secret. `only` names those that are looked at.

        Raises:
            WrongUsage: there is no variable that `only` names.
        """
        if not {*only} <= {variable.name for variable in variables}:
            raise WrongUsage("there is no variable of a name that --only has", hint="upper and lower case differ")
        by_name: dict[str, list[Variable]] = {}
        for variable in variables:
            if not only or variable.name in only:
                by_name.setdefault(variable.name, []).append(variable)
        providers = self.providers.list()
        sorted_out = [_sorted_out(same, providers, addresses, asked_for=bool(only)) for same in by_name.values()]
        items = [found for found in sorted_out if isinstance(found, Item)]
        candidates: list[Candidate] = []
        # Of two names for one token, that which needs no question.
        for found in sorted(
            (each for each in sorted_out if isinstance(each, Candidate)), key=lambda each: not each.sure
        ):
            of_it = [each for each in candidates if each.provider == found.provider]
            twin = next((each for each in of_it if each.value == found.value), None)
            if twin is not None:
                items.append(found.item(Outcome.SKIPPED, f"it is the same token as {twin.variable}"))
                continue
            # A second token of a provider is called like its variable; a second import calls them the same again.
            candidates.append(replace(found, name=found.variable.lower() if of_it else found.provider.name))
        return candidates, items

    async def connect(
        self,
        caller: Caller,
        candidate: Candidate,
        items: list[Item],
        *,
        source: Literal["file", "vault"],
        name: str | None = None,
        addresses: Addresses = NOWHERE_ELSE,
        allow: Sequence[UUID] = (),
        allow_all: bool = False,
    ) -> None:
        """
        Try a token at its provider and connect it, see `Integrations.connect`. What came of it is appended to `items`,
        also where this is cancelled while it is being written.

        Raises:
            Conflict: there is an integration of this name; nothing was tried.
        """
        name = candidate.name if name is None else name.strip()
        base_url = addresses.base_urls.get(candidate.provider.name)
        if await _named(caller.scope, name) is not None:
            raise taken(name)
        try:
            integration = await self.integrations.connect(
                caller,
                candidate.provider.name,
                candidate.value,
                name=name,
                base_url=base_url,
                allow_private_network=base_url is not None and addresses.allow_private_network,
                allow=allow,
                allow_all=allow_all,
            )
        except asyncio.CancelledError:
            there = await _named(caller.scope, name)
            if there is not None:
                items.append(await self._imported(caller, candidate, there, source))
            raise
        except CompanyAgentsError as error:
            if isinstance(error, Conflict) and error.reason == "duplicate":
                raise
            items.append(candidate.item(Outcome.FAILED, error.sentence, error.hint))
            return
        items.append(await self._imported(caller, candidate, integration.id, source))

    async def _imported(self, caller: Caller, candidate: Candidate, integration_id: UUID, source: str) -> Item:
        try:
            await self.audit.append(
                caller.scope.company_id,
                "integration.imported",
                actor=caller.label,
                integration=integration_id,
                provider=candidate.provider.name,
                variable=candidate.variable,
                source=source,
            )
        except CompanyAgentsError as error:
            # That it was connected is on record all the same.
            return candidate.item(Outcome.CONNECTED, error.sentence, error.hint, integration_id)
        return candidate.item(Outcome.CONNECTED, id=integration_id)


def taken(name: str) -> Conflict:
    """There is an integration of this name."""
    return Conflict(f"there is an integration {name} already", hint="give it another name", code="duplicate")


async def _named(scope: CompanyScope, name: str) -> UUID | None:
    async with scope.transaction() as tx:
        row = await tx.one("integration_named", name=name)
    return row["id"] if row else None


def _sorted_out(
    same: Sequence[Variable], providers: Sequence[Provider], addresses: Addresses, *, asked_for: bool
) -> Candidate | Item | None:
    """Whose token a variable holds, or why it is not tried; None where it is none of our affair. `same`: all of its name."""
    variable = same[0]
    name, value = variable.name, variable.value
    text = value.reveal_text().strip() if value else ""
    named = [provider for provider in providers if _plain(name) in map(_plain, provider.variables)]
    fitting = [provider for provider in named if len(text) <= MOST_TOKEN and provider.looks_right(text)]
    if len(telling := [provider for provider in fitting if tells(provider, text)]) == 1:
        fitting = telling
    others = [] if telling else [provider for provider in providers if tells(provider, text)]
    whose = fitting or named or others
    if not whose:
        if asked_for or (text and _SUSPICIOUS.fullmatch(name)):
            problem = "no provider here has a variable of this name, or tokens that begin like this"
            return Item(name, None, Outcome.FAILED if asked_for else Outcome.NOT_RECOGNISED, None, problem)
        return None
    by_hand = "`integration connect` takes it by hand"
    problem, hint = "", by_hand
    if any(one.value != other.value for one, other in pairwise(same)):
        problem = f"it is set more than once, in {_lines(same)}, to different values"
        hint = "take out all but the right one"
    elif value is None:
        problem = "it is no text"
    elif not text:
        return Item(name, whose[0].name, Outcome.SKIPPED, None, "it is empty")
    elif variable.expands:
        problem, hint = "it refers to another variable or a command, and nothing is expanded", "write the token there"
    elif len(whose) > 1:
        problem = f"it may be a token of {' or '.join(provider.title for provider in whose)}"
    elif named and not fitting:
        problem = f"it does not look like a token of {whose[0].title}"
    elif named and others:
        # The variable's name says one, the token itself another: it is sent to neither.
        problem = f"it looks like a token of {' or '.join(provider.title for provider in others)}"
    elif whose[0].base_url is None and whose[0].name not in addresses.base_urls:
        problem = f"{whose[0].title} has no address of its own"
        hint = f"give --base-url {whose[0].name}={whose[0].address_hint or 'https://host'}"
    if problem or value is None:
        return Item(name, whose[0].name if len(whose) == 1 else None, Outcome.FAILED, None, problem, hint)
    return Candidate(name, whose[0], Sensitive(text), sure=bool(named))


def _plain(name: str) -> str:
    """Fields in Vault are often called like the variable, in small letters, or with another sign in between."""
    return re.sub(r"[-.]", "_", name).upper()


def _lines(same: Sequence[Variable]) -> str:
    first, *rest = (str(variable.line) for variable in same)
    return f"lines {', '.join([first, *rest[:-1]])} and {rest[-1]}"


def tells(provider: Provider, text: str) -> bool:
    """
    Whether a token says by itself that it may be this provider's: it fits, and would not with any of its first characters
    changed. A pattern such as 32 hexadecimal digits tells nothing, and what fits it may belong to anybody.
    """
    if provider.token_pattern is None or not TELLING <= len(text) <= MOST_TOKEN or not provider.looks_right(text):
        return False
    return not any(provider.looks_right(text[:at] + _another(text[at]) + text[at + 1 :]) for at in range(TELLING))


def _another(char: str) -> str:
    """A character of the same kind, which a class of characters in a pattern would take as well."""
    if char.isdigit():
        return "1" if char == "0" else "0"
    if char.isalpha():
        lower = "b" if char.lower() == "a" else "a"
        return lower.upper() if char.isupper() else lower
    return "-" if char == "_" else "_"
