"""
A secret that does not open any more spoils itself and nothing else: a backup is made all the same and says which it is, and a
restore brings back the rest.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from company_agents.crypto.batch import BadRow
from tests.backup.instances import exported, manifest_of, restored
from tests.rotation.place import Place, rotate

SET = "WHERE id = (SELECT id FROM secrets WHERE name LIKE 'agent_token/%%' ORDER BY id LIMIT 1) RETURNING id, name"
DAMAGE = {
    "altered": f"UPDATE secrets SET value = set_bit(value, 13, 1 - get_bit(value, 13)) {SET}",
    "under a key that there never was": f"UPDATE secrets SET key_id = 'ffffffffffffffff' {SET}",
    "under a key that was destroyed": f"""UPDATE secrets SET key_id = (SELECT key_id FROM master_keys
                                         WHERE state = 'destroyed' ORDER BY key_id LIMIT 1) {SET}""",
}
PROBLEMS = {"altered": "altered"}


@pytest.mark.parametrize("how", DAMAGE)
async def test_a_damaged_secret_is_named_by_verify_and_the_rest_comes_back(
    copy: Place, new: Place, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "damaged"
    if how == "under a key that was destroyed":
        async with copy.open() as app:
            assert (await rotate(app, compromised=True)).action == "rotated"
    [row] = copy.sql(DAMAGE[how])
    before = copy.rows_by_key()
    async with copy.open() as app:
        made = await exported(app, file)
        verdict = await app.backups.verify_file(file)
    [bad] = verdict.bad
    assert isinstance(bad, BadRow)
    assert (bad.id, bad.name, bad.problem) == (row["id"], row["name"], PROBLEMS.get(how, "unknown key"))
    assert (verdict.opened, verdict.not_opened) == (sum(before.values()) - 1, 0)
    assert (
        not verdict.would_restore and row["name"] in verdict.because and "brings back everything else" in verdict.hint
    )
    # A key that is nowhere is not waited for.
    assert set(made.key_ids) == {key.key_id for key in manifest_of(file).keys if key.known and key.needed}

    shutil.copytree(copy.folder, new.folder)
    await restored(new, file)
    assert new.sql("SELECT id, value, key_id FROM secrets WHERE id = %(i)s", i=row["id"]) == copy.sql(
        "SELECT id, value, key_id FROM secrets WHERE id = %(i)s", i=row["id"]
    )
    async with new.open() as app:
        assert [found.id for found in (await app.keys.verify()).bad] == [row["id"]]
