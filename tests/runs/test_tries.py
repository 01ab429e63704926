"""
What counts as a try to revoke a consent at its provider.
"""

from __future__ import annotations

import pytest

from company_agents.app import App
from company_agents.errors import Unavailable
from tests.promises.evidence import Past, sql
from tests.runs.conftest import Desk, MakeDesk, Revoker
from tests.runs.test_rotation import it_is_time, rotated


async def test_what_was_not_asked_for_want_of_our_own_keys_or_records_is_no_try(
    app: App, consented: MakeDesk, revoker: Revoker, superuser: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, revoker.answer = await consented(), Unavailable("the provider does not answer")
    await rotated(here)
    assert await tries(superuser, here) == 1

    def use(*_: object, **__: object) -> object:
        raise Unavailable("the log cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(type(app.store), "use", use)
        for _ in range(5):
            await it_is_time(superuser, here)
            await app.sweeper.sweep()
            assert await tries(superuser, here) == 1
    await it_is_time(superuser, here)
    before = await tries_and_time(superuser, here)
    with monkeypatch.context() as patch:
        patch.setattr(app.store.keys, "sealed", True)
        await app.integrations.versions.revoke_retired(here.local.scope, None)
    assert await tries_and_time(superuser, here) == before
    revoker.answer = True
    await app.sweeper.sweep()
    assert [version for version, _ in revoker.asked] == [1, 1]


async def tries(superuser: Past, desk: Desk) -> int:
    return (await tries_and_time(superuser, desk))[0]


async def tries_and_time(superuser: Past, desk: Desk) -> tuple[int, object]:
    [row] = await sql(
        superuser,
        "SELECT revoke_tries, revoke_after FROM credential_versions WHERE integration_id = %(i)s AND version = 1",
        i=desk.integration.id,
    )
    return row["revoke_tries"], row["revoke_after"]
