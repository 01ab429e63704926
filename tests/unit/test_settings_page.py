"""
The page of settings: every setting, in the words of the code, with its default.
"""

from __future__ import annotations

import re
from pathlib import Path

from company_agents.settings import Settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text("utf-8")
# What the page says in place of a default that is worked out.
WORKED_OUT = {
    "COMPANY_AGENTS_HOME": "~/.company-agents/instances/default",
    "MASTER_KEY_SOURCE": "file://secrets/master.key",
}


def rows() -> dict[str, tuple[str, str, str]]:
    """By variable: the name in the file, the default, the meaning."""
    found = re.findall(r"^\| `(\w+)` \| (.*?) \| ?(.*?) ?\| (.*?) \|$", PAGE, re.MULTILINE)
    return {variable: (name.strip("`"), default.strip("`"), meaning) for variable, name, default, meaning in found}


def written() -> dict[str, tuple[str, str, str]]:
    """The same, from the code."""
    table = {}
    for name, setting in Settings.model_fields.items():
        variable = str(setting.validation_alias.choices[0])  # type: ignore[union-attr]
        secret = "SecretStr" in str(setting.annotation) and name != "master_key_source"
        default = WORKED_OUT.get(variable, "—" if setting.default is None else str(setting.default))
        in_file = "—" if secret or name == "home" else name
        table[variable] = (in_file, default, str(setting.description))
    return table


def test_the_page_has_every_setting_as_the_code_has_it_and_no_other() -> None:
    assert rows() == written()
