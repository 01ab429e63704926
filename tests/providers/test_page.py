"""
The page for people: it has every field, and its example is a provider.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from company_agents.integrations.provider import (
    CredentialPlace,
    OAuth,
    Probe,
    Provider,
    Refresh,
    Scope,
    read_provider,
)
from company_agents.integrations.provider_files import MOST_BYTES, MOST_FILES
from company_agents.integrations.provider_replies import Addresses, Upload

PAGE = (Path(__file__).parents[2] / "docs" / "providers.md").read_text("utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    "The provider": Provider,
    "`[credential]`": CredentialPlace,
    "`[[scopes]]` and `[[oauth.scopes]]`": Scope,
    "`[probe]`": Probe,
    "`[addresses]`": Addresses,
    "`[[addresses.uploads]]`": Upload,
    "`[oauth]`": OAuth,
    "`[oauth.refresh]`": Refresh,
}


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_has_every_field_and_no_other(title: str) -> None:
    [section] = re.findall(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(SECTIONS[title].model_fields)


def test_the_example_of_the_page_is_a_provider() -> None:
    example, more = (
        re.sub(r"^   ", "", text, flags=re.MULTILINE)
        for text in re.findall(r"^   ```toml\n(.*?)^   ```$", PAGE, re.MULTILINE | re.DOTALL)
    )
    assert read_provider(example, "acme-desk.toml").oauth is None
    whole = read_provider(example + more, "acme-desk.toml")
    assert whole.oauth is not None
    assert whole.endpoints() is None, "discovered"
    assert whole.looks_right("desk_" + "a" * 20)


def test_the_page_has_the_limits_and_the_doctors_word_as_they_are() -> None:
    assert f"more than {MOST_BYTES // 1024} KiB, more than {MOST_FILES} files" in PAGE
    example = re.findall(r"^   ```toml\n(.*?)^   ```$", PAGE, re.MULTILINE | re.DOTALL)[0]
    text = re.sub(r"^   ", "", example, flags=re.MULTILINE).replace('why = "read tickets"\n', "")
    with pytest.raises(Exception, match="is missing") as error:
        read_provider(text, "acme-desk.toml")
    line = getattr(error.value, "line", None)
    assert re.search(r"^BAD  providers: acme-desk.toml, line (\d+): scopes.0.why: is missing$", PAGE, re.M), line
    assert f"acme-desk.toml, line {line}: " in PAGE
