"""
The key source `env`: what may stand in the variable, and that nothing of it is ever shown or written.
"""

from __future__ import annotations

import base64
import traceback
import uuid
from pathlib import Path

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, Exit, MayNotStart
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.env import EnvSource
from company_agents.keysources.failures import SourceReadOnly
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings
from tests.keysources.place import settings_for

# Its base64 has both characters that base64url writes otherwise.
RAW = bytes.fromhex("fbff") + b"k" * 30
KEY = MasterKey(Sensitive(RAW))
BASE64, BASE64URL = base64.b64encode(RAW).decode(), base64.urlsafe_b64encode(RAW).decode()


def source(home: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> KeySource:
    name = f"KEY_{uuid.uuid4().hex}"
    if value is not None:
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_KEY_PATH", raising=False)
    return open_source(read_settings(home=home, master_key_source=f"env://{name}"))


def shown(error: CompanyAgentsError) -> str:
    return f"{error.sentence} {error.hint} {''.join(traceback.format_exception(error))}"


@pytest.mark.parametrize(
    "value",
    [
        BASE64,
        BASE64.rstrip("="),
        BASE64URL,
        BASE64URL.rstrip("="),
        RAW.hex(),
        RAW.hex().upper(),
        f"  {BASE64}\n",
        f"\t{RAW.hex()}\r\n",
    ],
)
async def test_the_key_may_be_written_in_any_usual_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    assert "+" in BASE64 and "/" in BASE64
    found = await source(tmp_path, monkeypatch, value).read()
    assert (found.keys, found.current, found.kept, found.owner) == ((KEY,), KEY, frozenset(), None)


async def test_32_characters_are_32_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await source(tmp_path, monkeypatch, "x" * 32).read()
    assert found.current == MasterKey(Sensitive(b"x" * 32))


@pytest.mark.parametrize(
    "value",
    [
        "a-password-by-mistake",
        RAW.hex()[:-1],
        RAW.hex() + "0",
        BASE64[:-3],
        "A" + BASE64,
        BASE64 + "=",
        BASE64[:20] + "\n" + BASE64[20:],
        BASE64[:-2] + "é=",
        base64.b64encode(b"k" * 31).decode(),
        base64.b64encode(b"k" * 33).decode(),
        "-" + "x" * 32,
        "0x" + RAW.hex(),
    ],
)
async def test_what_is_no_key_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    with pytest.raises(MayNotStart) as caught:
        await source(tmp_path, monkeypatch, value).read()
    assert (caught.value.reason, caught.value.exit_status) == ("key_length", Exit.MAY_NOT_START)
    assert "32 bytes" in caught.value.hint
    assert value not in shown(caught.value)


@pytest.mark.parametrize("value", [None, ""])
async def test_a_variable_that_is_not_set_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    with pytest.raises(MayNotStart) as caught:
        await source(tmp_path, monkeypatch, value).read()
    assert (caught.value.reason, caught.value.exit_status) == ("key_missing", Exit.MAY_NOT_START)
    assert "env://KEY_" in caught.value.sentence


@pytest.mark.parametrize("name", ["1KEY", "MY KEY", "MY-KEY", "KEY=a-password", "KEY\n", "/KEY", "$KEY"])
def test_a_name_that_no_variable_has_is_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    with pytest.raises(MayNotStart) as caught:
        open_source(settings_for(tmp_path, f"env://{name}"))
    assert caught.value.reason == "key_address"
    assert "password" not in shown(caught.value)
    assert caught.value.hint == "it is env://NAME"


async def test_a_rotation_is_refused_with_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = source(tmp_path, monkeypatch, BASE64)
    seen = await opened.read()
    with pytest.raises(SourceReadOnly) as caught:
        await opened.check_writable(seen)
    assert caught.value.exit_status is Exit.REFUSED
    assert opened.address in caught.value.sentence
    for word in ("file", "MASTER_KEY_PATH", "MASTER_KEY_SOURCE", "rotate"):
        assert word in caught.value.hint


async def test_nothing_of_the_source_shows_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = source(tmp_path, monkeypatch, BASE64)
    assert isinstance(opened, EnvSource)
    text = f"{opened!r} {vars(opened)!r} {opened.address} {await opened.read()!r}"
    assert [form for form in (BASE64, BASE64URL, RAW.hex(), repr(RAW)) if form in text] == []
