"""
One small store for every case, and key sources.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.forked import Forks, forks
from tests.faults.store import Store, store
from tests.keysources.kinds import Files
from tests.keysources.servers.openbao import Vault, openbao


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    # In a thread: this one has a loop of its own.
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(stack.enter_context, store(tmp_path_factory.mktemp("store"))).result()


@pytest.fixture(scope="session")
def forked() -> Iterator[Forks]:
    with forks("company_agents.keysources.vault") as found:
        yield found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with pytest.MonkeyPatch.context() as patch, openbao(tmp_path_factory.mktemp("bao")) as bao:
        # It is on this machine.
        patch.setenv("NO_PROXY", "*")
        yield Vault(bao)
