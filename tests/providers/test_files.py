"""
An operator's own providers: files in the home, taken without a restart; a bad one is refused with line and reason, and the
rest still load.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from company_agents.errors import NotFound
from company_agents.integrations.provider import Providers, read_provider, shipped
from company_agents.integrations.provider_files import MOST_BYTES, BadText, line_of

GOOD = """\
name = "acme"
title = "Acme"
description = "A service of our own."
base_url = "https://api.acme.example"
sources = ["https://docs.acme.example/"]

[credential]
kind = "header"
name = "X-Acme-Key"

[probe]
path = "/me"

[[scopes]]
name = "read"
why = "read things"

[[scopes]]
name = "write"
why = "write things"

[oauth]
authorization_url = "https://acme.example/authorize"
token_url = "https://acme.example/token"

[oauth.refresh]
single_use = true
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "providers").mkdir(mode=0o700)
    return tmp_path


def put(home: Path, name: str, text: str | bytes = GOOD, mode: int = 0o600) -> Path:
    file = home / "providers" / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    file.chmod(mode)
    return file


def refused(home: Path) -> list[str]:
    return [str(bad) for bad in Providers.at(home).bad_files()]


def test_a_file_in_the_home_is_a_provider_among_the_others(home: Path) -> None:
    put(home, "acme.toml")
    providers = Providers.at(home)
    assert providers.get("acme").credential.name == "X-Acme-Key"
    assert [provider.name for provider in providers.list()] == sorted([*shipped(), "acme"])
    assert providers.bad_files() == ()


def test_it_is_taken_and_changed_and_gone_without_a_restart(home: Path) -> None:
    providers = Providers.at(home)
    with pytest.raises(NotFound, match="no such provider"):
        providers.get("acme")
    file = put(home, "acme.toml")
    assert providers.get("acme").title == "Acme"
    file.write_text(GOOD.replace('"Acme"', '"Acme two"'))
    assert providers.get("acme").title == "Acme two"
    replacement = put(home, "new", GOOD.replace('"Acme"', '"Acme iii"'))
    replacement.rename(file)
    assert providers.get("acme").title == "Acme iii"
    file.chmod(0o666)
    with pytest.raises(NotFound, match="was refused"):
        providers.get("acme")
    file.unlink()
    with pytest.raises(NotFound, match="no such provider"):
        providers.get("acme")


def test_it_is_read_again_only_where_something_changed(home: Path) -> None:
    put(home, "acme.toml")
    providers = Providers.at(home)
    first = providers.get("acme")
    assert providers.get("acme") is first
    put(home, "other.toml", GOOD.replace('"acme"', '"other"'))
    assert providers.get("acme") is not first


def test_a_home_without_the_folder_has_the_shipped_ones(tmp_path: Path) -> None:
    providers = Providers.at(tmp_path / "nothing")
    assert [provider.name for provider in providers.list()] == sorted(shipped())
    assert providers.bad_files() == ()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('title = "Acme"', "title = Acme", "line 2: this is no TOML: invalid value"),
        ('why = "write things"', "", "line 18: scopes.1.why: is missing"),
        ('why = "write things"', "why = 3", "line 20: scopes.1.why: is a text"),
        ("single_use = true", "single_use = 7", "line 27: oauth.refresh.single_use: is true or false"),
        ("single_use = true", "single_us = true", "line 27: oauth.refresh.single_us: there is no such field"),
        (
            'kind = "header"',
            'kind = "cookie"',
            "line 8: credential.kind: input should be 'header', 'query', 'basic' or 'sigv4'",
        ),
        ('name = "X-Acme-Key"', 'name = "Host"', "line 7: credential: the header host cannot carry a credential"),
        ('path = "/me"', 'path = "me"', "line 12: probe.path: does not look as it should"),
        ('path = "/me"', 'path = "/me?a=b"', "line 11: probe: path: it is without a query"),
        ('base_url = "https://api.acme.example"', 'base_url = "https://api.acme.example/v1"', "line 4: base_url: "),
        ('token_url = "https://acme.example/token"', "", "line 22: oauth: the flow code needs an issuer"),
        (
            'token_url = "https://acme.example/token"',
            'token_url = "javascript:x"',
            "line 24: oauth.token_url: does not look",
        ),
        ('token_url = "https://acme.example/token"', 'token_url = "https://{host}/token"', "base_url: there is one"),
        ('sources = ["https://docs.acme.example/"]', "sources = []", "line 5: sources: "),
        ('name = "acme"', 'name = "other"', "line 1: name: a provider is called like its file"),
        ('name = "acme"', 'name = "acme"\ntoken_pattern = "("', "line 2: token_pattern: this is no regular expression"),
        ('title = "Acme"', 'title = "Ac\\u001bme"', "line 2: title: does not look as it should"),
        ('name = "acme"', 'name = "Acme!"', "line 1: name: does not look as it should"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_the_reason_and_the_rest_still_load(
    home: Path, before: str, after: str, said: str
) -> None:
    assert before in GOOD
    put(home, "acme.toml", GOOD.replace(before, after, 1))
    put(home, "good.toml", GOOD.replace('"acme"', '"good"'))
    providers = Providers.at(home)
    assert providers.get("good").title
    assert providers.get("slack").title == "Slack"
    [bad] = providers.bad_files()
    assert said in f"line {bad.line}: {bad.reason}"
    with pytest.raises(NotFound) as error:
        providers.get("acme")
    assert error.value.sentence == "the file of this provider was refused"
    assert str(bad) in error.value.hint


def test_a_file_may_not_take_the_name_of_a_shipped_provider(home: Path) -> None:
    put(home, "slack.toml", GOOD.replace('"acme"', '"slack"'))
    assert refused(home) == ["slack.toml: slack is shipped: call yours otherwise, such as slack-own"]
    assert Providers.at(home).get("slack").base_url == "https://slack.com"


def test_what_others_can_write_to_is_refused(home: Path) -> None:
    put(home, "acme.toml", mode=0o620)
    put(home, "other.toml", GOOD.replace('"acme"', '"other"'), mode=0o602)
    assert refused(home) == [f"{name}.toml: other users can write to it: chmod go-w" for name in ("acme", "other")]
    put(home, "acme.toml", mode=0o644)
    (home / "providers" / "other.toml").unlink()
    assert refused(home) == []
    (home / "providers").chmod(0o777)
    assert refused(home) == ["providers/: other users can write to it: chmod go-w"]
    assert "acme" not in [provider.name for provider in Providers.at(home).list()]


@pytest.mark.parametrize("owner", ["file", "folder"])
def test_what_belongs_to_another_user_is_refused(home: Path, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(home, "acme.toml")
    ours = os.stat(file).st_uid
    if ours == 0:
        os.chown(file if owner == "file" else home / "providers", 12345, -1)
    else:
        # Nobody but root can give a file away; asked by another user, it is another's.
        monkeypatch.setattr(os, "geteuid", lambda: ours + 1)
    assert "belongs to another user" in refused(home)[0]


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.toml"
    outside.write_text(GOOD)
    link = home / "providers" / "acme.toml"
    link.symlink_to(outside)
    assert refused(home) == ["acme.toml: this is a link out of the folder: put the file itself there"]
    link.unlink()
    (home / "providers" / "..data").mkdir()
    put(home, "..data/acme.toml")
    link.symlink_to("..data/acme.toml")
    assert refused(home) == []
    assert Providers.at(home).get("acme").title == "Acme"
    link.unlink()
    link.symlink_to("acme.toml")
    assert "acme.toml: " in refused(home)[0]
    link.unlink()
    link.symlink_to("nowhere.toml")
    assert "cannot be read" in refused(home)[0]


def test_what_is_no_file_or_too_large_or_no_text_is_refused(home: Path) -> None:
    os.mkfifo(home / "providers" / "a-pipe.toml", 0o600)
    (home / "providers" / "folder.toml").mkdir(mode=0o700)
    put(home, "large.toml", GOOD + "#" * MOST_BYTES)
    put(home, "latin.toml", GOOD.encode() + b"# \xfc\n")
    put(home, "nested.toml", "a = " + "[" * 5000)
    put(home, "acme.toml")
    assert refused(home) == [
        "a-pipe.toml: this is not a file",
        "folder.toml: this is not a file",
        f"large.toml: the file is larger than {MOST_BYTES // 1024} KiB",
        "latin.toml, line 28: this is not UTF-8",
        "nested.toml: this is nested too deeply",
    ]
    assert Providers.at(home).get("acme").title == "Acme"


def test_a_file_of_another_kind_is_none_of_ours(home: Path) -> None:
    put(home, "acme.toml~", "x")
    put(home, "README", "x")
    assert refused(home) == []


def test_a_text_over_many_lines_does_not_look_like_keys(home: Path) -> None:
    text = '"""\n[probe]\npath = 3\n"""'
    assert line_of(f"description = {text}\n[probe]\npath = 4\n", ["probe", "path"]) == 6


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (["a"], 1),
        (["b", "c"], 2),
        (["d", "e f"], 4),
        (["d", "nothing"], 3),
        (["list", 0, "x"], 6),
        (["list", 1, "x"], 8),
        (["list", 1, "y"], 7),
        (["list", 0, "inner", "z"], 6),
        (["nothing"], None),
        ([], None),
    ],
)
def test_the_line_of_a_value_is_found(place: list[str | int], line: int | None) -> None:
    text = 'a = 1\nb.c = 2\n[d]\n"e f" = 3\n[[list]]\nx = 4\n[[list]]\nx = 5\n'
    if place[2:3] == ["inner"]:
        text = text.replace("x = 4", "inner = { z = 4 }")
    assert line_of(text, place) == line


def test_a_shipped_file_that_does_not_fit_would_not_go_unnoticed() -> None:
    with pytest.raises(BadText) as error:
        read_provider(GOOD.replace("[probe]", "[prob]"), "acme.toml")
    assert (error.value.line, error.value.sentence) == (11, "prob: there is no such field")
