"""
A restore in the place of an instance: what was spent stays spent, and a key that is being destroyed takes nothing along.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from company_agents.errors import Conflict
from tests.backup.instances import Office, exported, restored
from tests.rotation.place import Place, rotate

MONTHS = "SELECT company_id, agent_id, month, calls, tokens, micros FROM spending_months ORDER BY agent_id"


async def test_a_budget_that_was_spent_or_lowered_since_is_not_open_again(
    copy: Place, office: Office, tmp_path: Path
) -> None:
    async with copy.open() as app:
        local = await office.local(app)
        await app.limits.set(local, office.place.agent, {"month_micros": 90_000_000})
        await exported(app, tmp_path / "then")
        await app.limits.set(local, office.place.agent, {"month_micros": 1_000_000})
        copy.sql("UPDATE spending_months SET calls = calls + 7, tokens = tokens + 700, micros = micros + 70000")
        spent = copy.sql(MONTHS)
    assert len(spent) > 1
    await restored(copy, tmp_path / "then", replace=True)
    assert copy.sql(MONTHS) == spent
    [limit] = copy.sql("SELECT month_micros FROM limits WHERE agent_id = %(a)s", a=office.place.agent)
    assert limit["month_micros"] == 1_000_000


async def test_rows_do_not_come_back_under_a_key_that_is_being_destroyed(copy: Place, tmp_path: Path) -> None:
    async with copy.open() as app:
        old = copy.only("active")
        await exported(app, tmp_path / "then")
        await rotate(app)
    # A prune that was killed between the two commits of a destruction.
    copy.sql("UPDATE master_keys SET state = 'destroying' WHERE key_id = %(k)s", k=old)
    with pytest.raises(Conflict, match=f"the key {old}, which the backup needs, is just being destroyed"):
        await restored(copy, tmp_path / "then", replace=True)
    assert copy.sql("SELECT count(*) AS n FROM secrets WHERE key_id = %(k)s", k=old) == [{"n": 0}]
    async with copy.open() as app:
        assert not (await app.keys.verify()).bad
