"""
What models cost: the shipped prices, an operator's own in front of them, and what is said where there is none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from company_agents.cli.doctor import _prices
from company_agents.integrations import prices as module
from company_agents.integrations.prices import FILE, Group, Price, Prices, dollars, read_prices, shipped
from company_agents.integrations.provider import shipped as shipped_providers
from company_agents.integrations.provider_files import BadText
from company_agents.integrations.usage import Usage
from company_agents.settings import read_settings

TEXT = resources.files("company_agents.integrations").joinpath(FILE).read_text("utf-8")


def own(home: Path, *prices: str, provider: str = "anthropic") -> Prices:
    home.mkdir(mode=0o700, exist_ok=True)
    rows = "\n".join(f"[[group.price]]\n{price}" for price in prices)
    (home / FILE).write_text(f'[[group]]\nprovider = "{provider}"\n{rows}\n')
    (home / FILE).chmod(0o600)
    return Prices.at(home)


def used(model: str, **numbers: Any) -> Usage:
    return Usage(model=model, **numbers)


def on(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls.fromisoformat(f"{day}T12:00:00+00:00")

    monkeypatch.setattr(module, "datetime", Clock)


def test_every_shipped_group_says_where_it_is_from_and_when_it_was_read() -> None:
    groups = [Group.model_validate(group) for group in tomllib.loads(TEXT, parse_float=Decimal)["group"]]
    for group in groups:
        assert group.source is not None and group.source.startswith("https://")
        assert group.read_on is not None and date(2026, 1, 1) <= group.read_on <= datetime.now(UTC).date()
        provider = shipped_providers()[group.provider]
        assert provider.usage == "tokens"
    names = [
        (group.provider, price.model, price.prompt_over, price.valid_from) for group in groups for price in group.price
    ]
    assert len(names) == len(set(names)), "a price is there twice"


def test_a_call_costs_what_its_tokens_cost_rounded_up() -> None:
    price = Price(
        model="m", input=Decimal("2.5"), output=Decimal(10), cache_read=Decimal("0.25"), cache_write=Decimal("3.1")
    )
    assert price.micros(used("m", input_tokens=1)) == 3
    assert price.micros(used("m", input_tokens=2, output_tokens=1)) == 15
    assert price.micros(used("m", cache_read_tokens=1)) == 1
    assert price.micros(used("m", cache_read_tokens=4, cache_write_tokens=10)) == 32
    assert price.micros(used("m")) == 0
    hour = price.model_copy(update={"cache_write_hour": Decimal(5)})
    assert hour.micros(used("m", cache_write_tokens=10, cache_write_hour_tokens=4)) == 39
    silent = Price(model="m", input=Decimal(3), output=Decimal(1))
    assert silent.micros(used("m", cache_read_tokens=10, cache_write_tokens=10)) == 90
    assert silent.micros(used("m", searches=1)) is None
    assert silent.model_copy(update={"search": Decimal(10)}).micros(used("m", searches=3)) == 30_000


def test_a_long_prompt_a_date_and_another_tier_have_prices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "2026-11-30")
    prices = Prices()
    assert prices.micros("anthropic", used("claude-haiku-5-5", input_tokens=100_000)) == 10_000
    assert prices.micros("anthropic", used("claude-haiku-5-5", input_tokens=1, cache_read_tokens=100_000)) == 5001
    assert prices.micros("gemini", used("gemini-3.8-flash", input_tokens=100)) == 75
    assert prices.micros("anthropic", used("claude-sonnet-5-5", cache_read_tokens=1000)) == 100
    on(monkeypatch, "2027-01-01")
    assert prices.micros("gemini", used("gemini-3.8-flash", input_tokens=100)) == 150
    on(monkeypatch, "2026-10-06")
    assert prices.micros("anthropic", used("claude-sonnet-5-5", cache_read_tokens=1000)) == 200
    assert prices.micros("anthropic", used("claude-opus-5-5", input_tokens=1, tier="fast")) is None


def test_a_release_has_the_price_of_its_model_and_another_model_has_none() -> None:
    prices = Prices()
    for name in ("claude-opus-4-5-20251101", "claude-opus-4-5", "claude-opus-4-5-latest", "claude-opus-4-5@20251101"):
        assert prices.micros("anthropic", used(name, input_tokens=2)) == 10
    for name in ("claude-opus-4-5-pro", "claude-opus", "Claude-Opus-4-5", "x-claude-opus-4-5", ""):
        assert prices.micros("anthropic", used(name, input_tokens=2)) is None
        assert not prices.known("anthropic", name)
    assert prices.micros("openai", used("claude-opus-4-5", input_tokens=2)) is None
    # Where the reply calls it otherwise, it is what was asked for.
    assert prices.micros("anthropic", used("an-alias", input_tokens=2), asked="claude-opus-4-5") == 10


def test_an_operators_own_price_comes_first_and_the_nearest_name_counts(tmp_path: Path) -> None:
    prices = own(
        tmp_path / "home",
        'model = "claude-*"\ninput = 100\noutput = 100',
        'model = "claude-opus-*"\ninput = 50\noutput = 50',
        'model = "claude-opus-4-5-20251101"\ninput = 1\noutput = 1',
        'model = "claude-opus-4-5"\ninput = 7\noutput = 7\ntier = "priority"',
    )
    assert prices.micros("anthropic", used("claude-sonnet-4-6", input_tokens=1)) == 100
    assert prices.micros("anthropic", used("claude-opus-4-5", input_tokens=1)) == 50
    assert prices.micros("anthropic", used("claude-opus-4-5-20251101", input_tokens=1)) == 1
    assert prices.micros("anthropic", used("claude-opus-4-5", input_tokens=1, tier="priority")) == 7
    assert prices.micros("gemini", used("gemini-3.5-flash", input_tokens=2)) == 3
    assert prices.bad_files() == ()


def test_a_file_that_comes_changes_or_goes_counts_at_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prices = Prices.at(home)
    assert not prices.known("anthropic", "claude-of-mine")
    for cost in (3, 44):
        own(home, f'model = "claude-of-mine"\ninput = {cost}\noutput = 0')
        assert prices.micros("anthropic", used("claude-of-mine", input_tokens=1)) == cost
    (home / FILE).unlink()
    assert not prices.known("anthropic", "claude-of-mine")


def broken(find: str, put: str) -> Callable[[str], str]:
    return lambda text: text.replace(find, put, 1)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("input = 5", "input = -5", "line 6: group.0.price.0.input: is not below 0"),
        ("input = 5", 'input = "5"', "line 6: group.0.price.0.input: is a number"),
        ("input = 5", "input = nan", "line 6: group.0.price.0.input: is a number"),
        ("input = 5", "input = true", "line 6: group.0.price.0.input: is a number"),
        ("input = 5", "input = 1e9", "line 6: group.0.price.0.input: is far too much"),
        ("input = 5", "input = 0.12345678", "line 6: group.0.price.0.input: has at most 6 decimals"),
        ("input = 5", "", "line 4: group.0.price.0.input: is missing"),
        ("output = 25", "output = 25\nprice = 1", "line 8: group.0.price.0.price: there is no such field"),
        ("prompt_over = 10", "prompt_over = 1.5", "line 11: group.1.price.0.prompt_over:"),
        ("valid_from = 2026-01-01", 'valid_from = "soon"', "line 12: group.1.price.0.valid_from:"),
        (
            'provider = "openai"',
            'provider = "Open AI"',
            "line 9: group.1.provider: does not look as it should: docs/costs.md",
        ),
        ('model = "a"', "model = ", "line 5: this is no TOML"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_the_reason_and_the_shipped_prices_count(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    good = (
        '[[group]]\nprovider = "anthropic"\nread_on = 2026-01-01\n[[group.price]]\nmodel = "a"\ninput = 5\noutput = 25\n'
        '[[group]]\nprovider = "openai"\n[[group.price]]\nprompt_over = 10\nvalid_from = 2026-01-01\nmodel = "b"\ninput = 1\noutput = 1\n'
    )
    assert read_prices(good)["openai"][0].prompt_over == 10
    assert before in good
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / FILE).write_text(good.replace(before, after, 1))
    (home / FILE).chmod(0o600)
    prices = Prices.at(home)
    [bad] = prices.bad_files()
    assert bad.file == FILE
    assert f"line {bad.line}: {bad.reason}".startswith(said)
    assert prices.known("anthropic", "claude-opus-4-5") and not prices.known("anthropic", "a")


def test_a_file_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    prices = own(tmp_path / "home", 'model = "*"\ninput = 0\noutput = 0')
    (tmp_path / "home" / FILE).chmod(0o666)
    assert not prices.known("anthropic", "anything")
    assert "other users can write to it" in prices.bad_files()[0].reason


def test_the_doctor_names_what_is_wrong_with_prices_of_ones_own(tmp_path: Path) -> None:
    settings = read_settings(home=tmp_path / "home", database_url=None, master_key_path=None, master_key_source=None)
    own(tmp_path / "home", 'model = "m"\ninput = 1\noutput = 1')
    assert [(check.ok, check.detail) for check in _prices(settings)] == [(True, "prices.toml of your own, read")]
    own(tmp_path / "home", 'model = "m"\ninput = 1')
    [check] = _prices(settings)
    assert (check.ok, check.detail) == (False, "prices.toml, line 3: group.0.price.0.output: is missing")
    assert "docs/costs.md" in check.hint
    (tmp_path / "home" / FILE).unlink()
    assert _prices(settings) == []


def test_a_home_that_is_open_to_others_is_no_fault_of_prices_that_are_not_there(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert Prices.at(tmp_path).bad_files() == ()


def test_whatever_is_nested_or_no_toml_is_refused() -> None:
    for text in ("[[group]]\n" + "a = " + "[" * 5000, "\0", "group = 1", "[[group]]", "[group]"):
        with pytest.raises(BadText):
            read_prices(text)
    assert read_prices("") == {}
    assert set(shipped()) <= set(shipped_providers())


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (12_345, "$0.012345"),
        (500_000, "$0.50"),
        (50_000_000, "$50.00"),
        (10**12, "$1,000,000.00"),
    ],
)
def test_money_is_shown_with_cents_and_no_more_decimals_than_it_has(micros: int, shown: str) -> None:
    assert dollars(micros) == shown
