"""
What models cost: `prices.toml` here, and an operator's own in the home, whose rows come first. docs/costs.md has all fields.

A price that is not known is not guessed: what it is asked for is None then, and never nothing.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from company_agents.integrations.provider import Url
from company_agents.integrations.provider_files import BadFile, Dropped
from company_agents.integrations.toml_text import read_toml
from company_agents.integrations.usage import Usage

FILE = "prices.toml"
# US dollars for a million tokens, or a thousand searches; more is a slip of the hand.
MOST = 100_000
# What a name ends with that means one release of the model, or the newest.
_DATE = re.compile(r"[-@](20\d\d-?\d\d-?\d\d|latest)$")
# Decimals of a price: a millionth of a dollar for a million tokens.
_DIGITS = 6


def _decimal(value: object) -> object:
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


Dollars = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(strict=True, ge=0, le=MOST, decimal_places=_DIGITS, allow_inf_nan=False),
]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Price(_Table):
    """
    The price of models whose name fits `model`, in which `*` stands for anything, with or without the date of a release behind
    it; in US dollars for a million tokens.

    `valid_from` is the day, in UTC, from which on it counts; `prompt_over`: for calls whose prompt has more tokens than that;
    `tier`: for calls at another speed, or served elsewhere, than the list price is for. Where nothing is said of a cache, what is read
    from it costs like input, and what is written twice that: rather too much than too little. `search`: for a thousand searches of the web.
    """

    model: str = Field(pattern=r"^[!-~]+$", max_length=200)
    input: Dollars
    output: Dollars
    cache_read: Dollars | None = None
    cache_write: Dollars | None = None
    cache_write_hour: Dollars | None = None
    search: Dollars | None = None
    prompt_over: int = Field(default=0, ge=0, strict=True)
    tier: str = Field(default="", max_length=100)
    valid_from: date = date.min

    def fits(self, usage: Usage, model: str, day: date) -> bool:
        """Whether it is the price of such a call."""
        if self.tier != usage.tier or self.valid_from > day or self.prompt_over > max(usage.prompt_tokens - 1, 0):
            return False
        return _glob(self.model).fullmatch(model) is not None

    def micros(self, usage: Usage) -> int | None:
        """Millionths of a US dollar, rounded up; None where something was used that it says nothing of."""
        if usage.searches and self.search is None:
            return None
        read = self.input if self.cache_read is None else self.cache_read
        write = 2 * self.input if self.cache_write is None else self.cache_write
        hour = max(write, 2 * self.input) if self.cache_write_hour is None else self.cache_write_hour
        kept = min(usage.cache_write_hour_tokens, usage.cache_write_tokens)
        # A dollar for a million tokens is a millionth of a dollar for one.
        cost = usage.input_tokens * self.input + usage.output_tokens * self.output + usage.cache_read_tokens * read
        cost += (usage.cache_write_tokens - kept) * write + kept * hour
        cost += usage.searches * (self.search or 0) * 1000
        return math.ceil(cost)


class Group(_Table):
    """The prices of one provider, as one page of it has them on a day."""

    provider: str = Field(pattern=r"^[a-z][a-z0-9-]{1,39}$")
    source: Url | None = None
    read_on: date | None = None
    price: tuple[Price, ...] = Field(min_length=1)


class _File(_Table):
    group: tuple[Group, ...] = ()


_SAID = {
    "is_instance_of": "is a number",
    "finite_number": "is a number",
    "greater_than_equal": "is not below 0",
    "less_than_equal": "is far too much",
    "decimal_max_places": f"has at most {_DIGITS} decimals",
    "too_short": "has no prices",
    "string_pattern_mismatch": "does not look as it should: docs/costs.md says how",
}

Table = dict[str, tuple[Price, ...]]


def read_prices(text: str, file_name: str = FILE) -> Table:
    """
    The prices in a text, by provider.

    Raises:
        BadText: the text is no TOML or does not fit; with the line, and the field.
    """
    groups = read_toml(_File, text, _SAID, parse_float=Decimal).group
    found: dict[str, list[Price]] = {}
    for group in groups:
        found.setdefault(group.provider, []).extend(group.price)
    return {provider: tuple(prices) for provider, prices in found.items()}


@functools.cache
def shipped() -> Table:
    """The prices that come with the package."""
    return read_prices(resources.files(__package__).joinpath(FILE).read_text("utf-8"))


@dataclass(frozen=True)
class Prices:
    """What models cost: an operator's own prices, and the shipped ones where those say nothing."""

    own: Dropped[Table] | None = field(default=None, kw_only=True)

    @classmethod
    def at(cls, home: Path) -> Prices:
        """With `<home>/prices.toml`, which need not exist; it is looked at again whenever a price is asked for."""
        return cls(own=Dropped(home, read_prices, only=FILE))

    def bad_files(self) -> tuple[BadFile, ...]:
        """The operator's own file, where it was refused; the shipped prices count then."""
        return tuple(self.own.bad()) if self.own else ()

    def known(self, provider: str, model: str, tier: str = "") -> bool:
        """Whether a model has a price today."""
        return self._find(provider, Usage(model=model, tier=tier), model) is not None

    def micros(self, provider: str, usage: Usage, *, asked: str = "") -> int | None:
        """
        What a call cost, in millionths of a US dollar; None where that is not known. What the provider itself says comes
        first. `asked` is the model by the name that it was asked for, where the one in the reply has no price.
        """
        if usage.dollars is not None:
            return math.ceil(usage.dollars * 1_000_000)
        for model in filter(None, dict.fromkeys((usage.model, asked))):
            price = self._find(provider, usage, model)
            if price is not None:
                return price.micros(usage)
        return None

    def _find(self, provider: str, usage: Usage, model: str) -> Price | None:
        day = datetime.now(UTC).date()
        for prices in self._tables(provider):
            # The nearest name; of those the highest step that the prompt is over, and of those the newest.
            for name in dict.fromkeys((model, _DATE.sub("", model))):
                fitting = [price for price in prices if price.fits(usage, name, day)]
                if fitting:
                    return max(fitting, key=_nearest)
        return None

    def _tables(self, provider: str) -> Iterator[Iterable[Price]]:
        for own in (self.own.good() if self.own else {}).values():
            yield own.get(provider, ())
        yield shipped().get(provider, ())


def dollars(micros: int) -> str:
    """Millionths of a US dollar for people: `$12.50`, and `$0.000125` where cents say nothing."""
    whole, rest = divmod(micros, 1_000_000)
    cents = f"{rest:06d}"
    return f"${whole:,}.{cents[:2]}{cents[2:].rstrip('0')}"


def _nearest(price: Price) -> tuple[bool, int, int, date]:
    return "*" not in price.model, len(price.model.replace("*", "")), price.prompt_over, price.valid_from


@functools.lru_cache(maxsize=2000)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
