"""
Where a setting comes from: what is given, the environment, `config.toml`, the default, in this order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from company_agents.errors import MayNotStart
from company_agents.settings import Settings, default_home, read_settings

ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of our variables is set, and there is no instance in the user's home."""
    for field in Settings.model_fields.values():
        for variable in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(variable), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(autouse=True)
def private() -> Iterator[None]:
    """What a test writes is for its owner to write, whatever the umask was."""
    before = os.umask(0o022)
    yield
    os.umask(before)


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


# — who could have written it —


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file as it should be, that names a program."""
    file = tmp_path / "config.toml"
    file.write_text('postgres_bin = "/opt/of-somebody/bin"\n')
    return file


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it another user's: only root can; anybody else becomes another user than its owner."""
    if ROOT:
        os.chown(path, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def refused(home: Path) -> MayNotStart:
    with pytest.raises(MayNotStart) as error:
        read_settings(home=home)
    assert error.value.exit_status == 78
    return error.value


@pytest.mark.parametrize("which", ["the file", "the home"])
def test_a_file_of_another_user_is_not_obeyed(config: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config if which == "the file" else config.parent
    give_away(given, monkeypatch)
    error = refused(config.parent)
    assert error.sentence.endswith("belongs to another user")
    assert f"chown {os.geteuid()} " in error.hint
    if ROOT:
        assert error.sentence == f"{given} belongs to another user"


def test_a_home_of_another_user_that_has_no_file_is_the_same_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_away(tmp_path, monkeypatch)
    assert read_settings(home=tmp_path).postgres_bin is None


def test_a_file_of_root_is_obeyed_whoever_we_are(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ROOT:
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    assert read_settings(home=config.parent).postgres_bin == Path("/opt/of-somebody/bin")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664])
def test_a_file_that_others_may_write_is_not_obeyed(config: Path, mode: int) -> None:
    config.chmod(mode)
    error = refused(config.parent)
    assert error.sentence == f"{config} can be written by others than its owner"
    assert error.hint == f"chmod go-w {config}"


def test_a_file_that_others_may_only_read_is_obeyed(config: Path) -> None:
    for mode in (0o644, 0o440, 0o400):
        config.chmod(mode)
        assert read_settings(home=config.parent).postgres_bin is not None


def test_a_link_is_judged_by_where_it_leads(config: Path) -> None:
    elsewhere = config.parent / "elsewhere"
    config.rename(elsewhere)
    config.symlink_to(elsewhere)
    assert read_settings(home=config.parent).postgres_bin is not None
    elsewhere.chmod(0o666)
    assert refused(config.parent).hint == f"chmod go-w {config}"


def test_what_is_no_file_is_refused_and_keeps_nobody_waiting(config: Path) -> None:
    config.unlink()
    os.mkfifo(config, 0o600)
    assert refused(config.parent).sentence == f"{config} is not a file"
    config.unlink()
    config.mkdir()
    assert refused(config.parent).exit_status == 78


def test_a_home_that_is_no_folder_is_named(config: Path) -> None:
    assert refused(config).sentence == f"{config} cannot be entered"


def test_a_file_that_is_no_text_is_refused(config: Path) -> None:
    config.write_bytes(b"port = \xff\xfe\n")
    assert refused(config.parent).sentence == "config.toml cannot be read"
