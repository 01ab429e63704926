"""
Where a setting comes from: what is given, the environment, `config.toml`, the default, in this order.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from company_agents.errors import MayNotStart
from company_agents.settings import Settings, default_home, read_settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of our variables is set, and there is no instance in the user's home."""
    for field in Settings.model_fields.values():
        for variable in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(variable), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_what_is_given_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text('port = 4001\nhost = "127.0.0.2"\nlog_level = "debug"\n')
    assert read_settings(home=tmp_path).port == 4001
    monkeypatch.setenv("COMPANY_AGENTS_PORT", "4002")
    monkeypatch.setenv("COMPANY_AGENTS_HOST", "127.0.0.3")
    found = read_settings(home=tmp_path)
    assert (found.port, found.host, found.log_level, found.database_pool) == (4002, "127.0.0.3", "debug", 16)
    found = read_settings(home=tmp_path, port=4003, host=None)
    assert (found.port, found.host) == (4003, "127.0.0.3")


def test_a_home_that_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPANY_AGENTS_HOME", str(tmp_path / "other"))
    assert read_settings().home == tmp_path / "other"
    assert read_settings(home=tmp_path / "given").home == tmp_path / "given"


def test_the_home_is_a_whole_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPANY_AGENTS_HOME", "~/instance")
    assert read_settings().home == tmp_path / "instance"
    monkeypatch.setenv("COMPANY_AGENTS_HOME", "instance")
    assert read_settings().home == tmp_path / "instance"


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = read_settings()
    assert bare.home == default_home() == tmp_path / ".company-agents" / "instances" / "default"
    for field in Settings.model_fields.values():
        monkeypatch.setenv(str(field.validation_alias.choices[0]), "")  # type: ignore[union-attr]
    assert read_settings().model_dump() == bare.model_dump()


@pytest.mark.parametrize("given", [{"port": 70000}, {"port": "ca_agent_0123456789"}])
def test_a_value_that_cannot_be_used_is_not_repeated(tmp_path: Path, given: dict[str, object]) -> None:
    with pytest.raises(MayNotStart) as error:
        read_settings(home=tmp_path, **given)
    assert str(given["port"]) not in error.value.sentence + error.value.hint
    assert "port" in error.value.sentence.lower()
    assert error.value.__cause__ is None


def test_a_value_of_the_environment_or_the_file_that_cannot_be_used_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMPANY_AGENTS_DATABASE_POOL", "a-secret-by-mistake")
    with pytest.raises(
        MayNotStart, match=r"^the setting COMPANY_AGENTS_DATABASE_POOL has a value that cannot be used$"
    ):
        read_settings(home=tmp_path)
    monkeypatch.delenv("COMPANY_AGENTS_DATABASE_POOL")
    (tmp_path / "config.toml").write_text('database_pool = "a-secret-by-mistake"\n')
    with pytest.raises(MayNotStart) as error:
        read_settings(home=tmp_path)
    assert "a-secret-by-mistake" not in f"{error.value.sentence} {error.value.hint}"


def test_a_secret_in_the_file_and_a_setting_that_is_none_stop_the_start(tmp_path: Path) -> None:
    for line in ('database_url = "postgresql://app:word@host/agents"', "colour = 3"):
        (tmp_path / "config.toml").write_text(f"{line}\n")
        with pytest.raises(MayNotStart, match="has a setting that is not known there"):
            read_settings(home=tmp_path)
