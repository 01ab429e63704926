"""
How a process is configured, and how the command-line agents that are known here are called.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from company_agents.db.host import SYSTEM_FOLDER
from company_agents.errors import Failed, MayNotStart, WrongUsage
from company_agents.runs.adapters.process import ProcessAdapter
from company_agents.runs.sandbox.places import Places
from company_agents.runs.sandbox.sandbox import Sandbox
from company_agents.runs.sandbox.users import read_users
from company_agents.settings import Settings, read_settings
from tests.sandbox.conftest import PYTHON, TOKEN, MakeRunner


@pytest.fixture(scope="module")
def adapter(settings: Settings) -> ProcessAdapter:
    return ProcessAdapter(Sandbox(settings))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "needs a command, or a preset"),
        ({"command": ["true"], "preset": "codex", "integration": "x", "model": "y"}, "needs a command, or a preset"),
        ({"command": "true"}, "command is a list"),
        ({"command": ["true", 1]}, "command holds texts"),
        ({"command": ["true", "a\0b"]}, "command holds texts"),
        ({"command": ["--version"]}, "begins with a program"),
        ({"command": ["{prompt}"]}, "begins with a program"),
        ({"command": ["true"], "model": "x"}, "belong to a preset"),
        ({"command": ["true"], "network": "closed"}, "network is orchestrator or open"),
        ({"command": ["true"], "shell": True}, "there is no field shell"),
        ({"command": ["true"], "environment": {"1X": "y"}}, "whose name is none"),
        ({"command": ["true"], "environment": {"A=B": "y"}}, "whose name is none"),
        ({"command": ["true"], "environment": {"A": 1}}, "environment holds texts"),
        ({"command": ["true"], "environment": {"LD_PRELOAD": "y"}}, "may not set LD_PRELOAD"),
        ({"command": ["true"], "environment": {"PATH": "y"}}, "may not set PATH"),
        ({"command": ["true"], "environment": {"COMPANY_AGENTS_TOKEN": "y"}}, "may not set COMPANY_AGENTS_TOKEN"),
        ({"preset": "claude-code"}, "integration is missing"),
        ({"preset": "codex", "integration": "x"}, "model is missing"),
        ({"preset": "emacs", "integration": "x"}, "preset is"),
        ({"preset": "claude-code", "integration": "x", "program": "claude"}, "program is an absolute path"),
        ({"preset": "claude-code", "integration": "x", "program": "/usr/../etc/claude"}, "program is an absolute path"),
    ],
)
def test_what_will_not_do_is_refused(config: dict[str, Any], said: str, adapter: ProcessAdapter) -> None:
    with pytest.raises(WrongUsage, match=said):
        adapter.check(config)


def test_what_is_checked_is_checked_again_and_stays_the_same(adapter: ProcessAdapter) -> None:
    once = adapter.check({"command": ["sh", "-c", "{prompt}"], "environment": {"A": "b"}, "readable": ["/srv/models"]})
    assert adapter.check(once) == once == json.loads(json.dumps(once))


@pytest.mark.parametrize(
    ("config", "opens"),
    [
        ({"command": ["true"]}, []),
        ({"command": ["true"], "network": "open"}, ["network"]),
        ({"command": ["true"], "readable": ["/srv/models"]}, ["readable"]),
        ({"preset": "claude-code", "integration": "x", "program": "/usr/local/bin/claude"}, []),
        ({"preset": "claude-code", "integration": "x", "program": "/srv/claude/claude"}, ["program"]),
    ],
)
def test_what_opens_the_sandbox_is_named(config: dict[str, Any], opens: list[str], adapter: ProcessAdapter) -> None:
    assert list(adapter.opens(adapter.check(config))) == opens


def hidden(settings: Settings) -> list[str]:
    home = settings.home
    user = Path.home()
    return [
        *map(str, (home, home / "secrets", home / "secrets" / "master.key", home.parent, home / "db", SYSTEM_FOLDER)),
        *(
            "/",
            "/proc",
            "/proc/1/root",
            "/sys",
            "/dev",
            "/run",
            "/run/docker.sock",
            "/var/run",
            "/var",
            "/home",
            "/root",
        ),
        *("/etc", "/etc/ssh", "/etc/ssl/private", "/tmp", "/opt", "/usr", str(user), str(user / ".ssh"), "/srv/x/.aws"),
        *("/srv/../etc", "relative", "/srv/a\nb"),
    ]


def test_no_place_that_holds_what_is_secret_may_be_readable(
    settings: Settings, adapter: ProcessAdapter, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(settings.home)
    let_pass = []
    for place in [*hidden(settings), str(link), str(link / "secrets")]:
        try:
            adapter.check({"command": ["true"], "readable": [place]})
        except WrongUsage:
            continue
        let_pass.append(place)
    assert let_pass == []


def test_a_place_that_became_a_link_to_the_home_is_refused_when_it_is_to_be_shown(
    settings: Settings, adapter: ProcessAdapter, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    config = adapter.check({"command": ["true"], "readable": [str(place)]})
    place.rmdir()
    place.symlink_to(settings.home)
    with pytest.raises(WrongUsage, match="belongs to this instance"):
        adapter.check(config)


def test_what_is_found_at_a_readable_place_is_kept_nowhere_but_its_name(
    adapter: ProcessAdapter, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    assert adapter.check({"command": ["true"], "readable": [str(link)]})["readable"] == [str(link)]


@pytest.mark.parametrize("variable", ["MASTER_KEY_PATH", "MASTER_KEY_SOURCE"])
async def test_a_key_that_every_sandbox_could_read_means_that_there_is_none(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, ("file://" if variable.endswith("SOURCE") else "") + "/usr/local/etc/master.key")
    settings = read_settings(home=tmp_path / "home")
    assert Places.of(settings).exposed() == Path("/usr/local/etc")
    with pytest.raises(Exception, match="every sandbox can read /usr/local/etc"):
        await ProcessAdapter(Sandbox(settings)).ready(unsandboxed=False)


def test_the_folder_of_a_databases_socket_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://us@/agents?host=/srv/postgres")
    places = Places.of(read_settings(home=tmp_path / "home"))
    with pytest.raises(WrongUsage):
        places.check("/srv/postgres")
    with pytest.raises(WrongUsage):
        places.check("/srv")


@pytest.mark.parametrize("text", ["20000", "20099-20000", "0-100", "500-600", "60000-70000", "x-y", "1000-9999999999"])
def test_numbers_of_users_that_are_somebodys_are_refused(text: str) -> None:
    assert read_users("20000-20099") == range(20000, 20100)
    with pytest.raises(MayNotStart, match="COMPANY_AGENTS_RUN_USERS"):
        read_users(text)


# What a known program would be: it says how it was called, and what it finds.
STAND_IN = """#!/bin/sh
echo "arguments: $*"
echo "prompt: $(cat)"
env | grep -E '^(ANTHROPIC|OPENAI|CODEX|CLAUDE|ENABLE|COMPANY_AGENTS_TOKEN|HOME)' | sort
find . -type f -exec sh -c 'echo "file: $1 $(stat -c %a "$1")"; cat "$1"; echo' sh {} ';'
"""


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the orchestrator's search path, with both known programs in it, as npm would have installed them."""
    folder = Path(tempfile.mkdtemp(prefix="programs-"))
    folder.chmod(0o755)
    for name in ("claude", "codex"):
        package = folder / "node_modules" / name
        package.mkdir(parents=True, mode=0o755)
        (package / "program").write_text(STAND_IN)
        (package / "program").chmod(0o755)
        (folder / name).symlink_to(package / "program")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield folder
    shutil.rmtree(folder)


async def test_claude_code_is_told_where_everything_is_and_given_the_runs_token(
    programs: Path, runner: MakeRunner
) -> None:
    here = runner("bubblewrap")
    outcome, written = await here.run(
        preset="claude-code", integration="my models", model="opus", arguments=["--max-turns", "9"], prompt="do it"
    )
    assert outcome.state == "finished", written.of()
    said = written.of("output")
    assert (
        "arguments: -p --mcp-config /workspace/.company-agents/mcp.json --strict-mcp-config"
        " --allowedTools mcp__company_agents --model opus --max-turns 9\n"
    ) in said
    assert "prompt: do it\n" in said
    for line in (
        "ANTHROPIC_BASE_URL=http://127.0.0.1:3101/gateway/my%20models",
        f"ANTHROPIC_AUTH_TOKEN={TOKEN}",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
        "ENABLE_TOOL_SEARCH=false",
        "HOME=/workspace",
    ):
        assert f"\n{line}\n" in said
    assert "file: ./.company-agents/mcp.json 600\n" in said
    settings = json.loads(said.partition("mcp.json 600\n")[2])
    assert settings == {
        "mcpServers": {
            "company_agents": {
                "type": "http",
                "url": "http://127.0.0.1:3101/mcp",
                "headers": {"Authorization": "Bearer ${COMPANY_AGENTS_TOKEN}"},
            }
        }
    }
    assert TOKEN not in said.partition("file:")[2]


async def test_codex_is_told_where_everything_is_and_given_the_runs_token(programs: Path, runner: MakeRunner) -> None:
    here = runner("bubblewrap")
    outcome, written = await here.run(
        preset="codex", integration="my models", model="gpt-9", arguments=["--json"], prompt="do it"
    )
    assert outcome.state == "finished", written.of()
    said = written.of("output")
    assert "arguments: exec --skip-git-repo-check --json -\n" in said
    assert "prompt: do it\n" in said
    assert "\nCODEX_HOME=/workspace/.codex\n" in said
    settings = tomllib.loads(said.partition("config.toml 600\n")[2])
    assert settings["model"] == "gpt-9"
    assert settings["model_providers"][settings["model_provider"]] == {
        "name": "Company Agents",
        "base_url": "http://127.0.0.1:3101/gateway/my%20models/v1",
        "wire_api": "responses",
        "env_key": "COMPANY_AGENTS_TOKEN",
    }
    assert settings["mcp_servers"]["company_agents"] == {
        "url": "http://127.0.0.1:3101/mcp",
        "bearer_token_env_var": "COMPANY_AGENTS_TOKEN",
        "required": True,
        "default_tools_approval_mode": "approve",
    }
    assert f"COMPANY_AGENTS_TOKEN={TOKEN}\n" in said
    assert TOKEN not in said.partition("file:")[2]


async def test_a_program_that_is_not_installed_is_named(runner: MakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(shutil.which("bwrap") or ""))
    if shutil.which("claude"):
        monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Failed, match="claude is not there"):
        await runner("bubblewrap").run(preset="claude-code", integration="models")
    with pytest.raises(Failed, match="/nowhere/codex is not there"):
        await runner("bubblewrap").run(preset="codex", integration="models", model="m", program="/nowhere/codex")


def test_python_is_there() -> None:
    assert os.access(PYTHON, os.X_OK)
