"""
What the tests of key sources stand on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.keysources.servers.openbao import Bao, openbao


@pytest.fixture(scope="module", autouse=True)
def no_proxy() -> Iterator[None]:
    """Every server of these tests is on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        yield


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao(tmp_path_factory.mktemp("bao")) as bao:
        yield bao
