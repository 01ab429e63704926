"""
One small store for every case, and key sources.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator

import pytest

from tests.faults.forked import Forks, forks
from tests.faults.store import Store, store
from tests.keysources.kinds import Files


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
def files(tmp_path) -> Files:
    return Files(tmp_path)
