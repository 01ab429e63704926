"""
The page of the backups: what it says, to whom, and what its buttons do, on an instance of its own.
"""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import App
from company_agents.backup.rows import BackupRow
from company_agents.dashboard.pages import backups
from company_agents.identity.permissions import Role
from company_agents.identity.principal import Caller
from company_agents.sensitive import Sensitive
from tests.conftest import remove
from tests.dashboard.people import Person, member, text_of
from tests.promises.evidence import connect_past, no_right_to_insert, sql

PAGES = backups.PAGES
WHERE = "/srv/elsewhere"


@pytest.fixture(autouse=True)
async def nothing_left(own: App) -> AsyncIterator[None]:
    """Each test begins and ends without a backup."""
    yield
    await own.backup_work.ended()
    own.backup_work.last = None
    async with await own.identity.db.logins.instance.connect() as connection:
        await connection.execute("DELETE FROM backups")
    shutil.rmtree(_folder(own), ignore_errors=True)


def _folder(own: App) -> Path:
    return Path(own.backups.place.address.removeprefix("file://"))


async def _row(own: App, file: str = "monday.tar.zst", **given: Any) -> uuid.UUID:
    """A backup that is known, and of which no file is needed."""
    backup = uuid.uuid4()
    row = {"id": backup, "file": file, "state": "whole", "place": WHERE, "key_ids": [], **given}
    names = ", ".join(row)
    async with await own.identity.db.logins.instance.connect() as connection:
        marks = ", ".join(f"%({name})s" for name in row)
        await connection.execute(f"INSERT INTO backups ({names}) VALUES ({marks})".encode(), row)
    return backup


async def _made(own: App) -> BackupRow:
    made = await own.backups.make("local:tester")
    return await own.backups.get(made.id)


async def _events(own: App, action: str, *backups: uuid.UUID) -> list[dict[str, Any]]:
    """What is on record of these."""
    known = {str(backup) for backup in backups}
    found = await own.events.newest(None, limit=50)
    return [event for event in found if event["action"] == action and event["backup"] in known]


def _paths(backup: uuid.UUID) -> list[tuple[str, str]]:
    """Every address of the backups, with each method that it takes."""
    filled = [(page, page.path.replace("{backup:uuid}", str(backup))) for page in PAGES]
    return [
        *(("GET", path) for page, path in filled if page.show),
        *(("POST", path) for page, path in filled if page.act),
    ]


# — what is shown, and to whom —


async def test_an_owner_sees_what_is_known_of_each_backup(own: App, olga: Person) -> None:
    active = (await own.keys.status()).active_key_id
    day = "2026-11-03 04:00+00"
    await _row(own, "good.tar.zst", size=3 * 1024**2, rows=1234, key_ids=[active], verified_at=day, drilled_at=day)
    await _row(own, "bad.tar.zst", verified_at=day, verify_problem="tables/tasks is not what was written")
    await _row(own, "tried.tar.zst", drilled_at=day, drill_problem="2 secrets do not open", verified_at=day)
    await _row(own, "failed.tar.zst", state="failed", problem="there is no room", scheduled=True, made_by="schedule")
    await _row(own, "ring.tar.zst", with_ring=True, made_by=f"operator:{olga.operator.id}", key_ids=["0" * 16])
    await _row(own, "lost.tar.zst", key_ids=["1" * 16], verified_at=day)
    async with olga.client() as browser:
        found = await browser.get("/backups")
    said = text_of(found.text)
    for fact in (
        *("3.0 MiB", "1,234 rows", "Every secret opens", "Restored for a trial", f"in {WHERE}", "by the schedule"),
        *("Not good Tables/tasks is not what was written.", "Drill failed 2 secrets do not open.", "by olga"),
        *("Failed There is no room.", "Has the key ring", "Not to be downloaded here: it has the key ring"),
        # Nobody knows this key here, and a page that is green about it would be a lie.
        *(
            "1111111111111111 Not known here Not good Its key is gone.",
            "0000000000000000 Not known here",
            "Not verified",
            f"company-agents backup restore {WHERE}/good.tar.zst",
        ),
    ):
        assert fact in said, fact
    assert f'href="/master-key#key-{active}"' in found.text and "Active" in said
    # None of these lies in the place of backups.
    assert "/download" not in found.text


async def test_what_is_wrong_stands_on_top_and_wherever_an_owner_starts(
    own: App, olga: Person, company: Caller
) -> None:
    for problem in ("it ends too early", ""):
        async with await own.identity.db.logins.instance.connect() as connection:
            await connection.execute("DELETE FROM backups")
        await _row(own, "bad.tar.zst", verified_at="2026-11-03 04:00+00", verify_problem=problem)
        somebody = await member(own, company, Role.OWNER)
        for path in ("/backups", "/companies", f"/companies/{company.scope.company_id}"):
            said = "bad.tar.zst did not pass its last verification: it ends too early"
            async with olga.client() as browser:
                assert (said in (await browser.get(path)).text) is bool(problem), path
            async with somebody.client() as browser:
                found = (await browser.get(path)).text
            assert said not in found and "Backups need attention" not in found and 'href="/backups"' not in found


async def test_one_of_the_schedule_that_was_never_verified_needs_attention(own: App, olga: Person) -> None:
    backup = await _row(own, "monday.tar.zst", scheduled=True, created_at="2026-11-03 04:00+00")
    said = "The newest backup of the schedule, monday.tar.zst, was never verified."
    async with olga.client() as browser:
        assert said in (await browser.get("/backups")).text
        await own.backups.drilled(backup, "")
        assert said in (await browser.get("/backups")).text
        async with await own.identity.db.logins.instance.connect() as connection:
            await connection.execute("UPDATE backups SET verified_at = now()")
        assert said not in (await browser.get("/backups")).text


async def test_nobody_else_sees_a_backup_or_may_touch_one(own: App, company: Caller) -> None:
    row = await _made(own)
    for role in Role:
        somebody = await member(own, company, role)
        async with somebody.client() as browser:
            for method, path in _paths(row.id):
                assert (await browser.request(method, path)).status_code == 403, path
    assert (await own.backups.get(row.id)).state == "whole" and len(await own.backups.rows()) == 1
    assert await _events(own, "backup.downloaded", row.id) == []


async def test_another_site_has_nothing_done(own: App, olga: Person) -> None:
    row = await _made(own)
    async with olga.client(**{"Sec-Fetch-Site": "cross-site"}) as browser:
        for method, path in _paths(row.id):
            if method == "POST":
                refused = await browser.post(path)
                assert refused.status_code == 403 and "came from another site" in refused.text, path
    assert [found.id for found in await own.backups.rows()] == [row.id]
    assert await _events(own, "backup.downloaded", row.id) == []


async def test_whatever_a_file_is_called_it_is_text_and_one_word_of_a_shell(own: App, olga: Person) -> None:
    name = "<b>it's & $(id)<b>.tar.zst"
    backup = await _row(
        own, name, place="/srv/<i>here</i>", problem="<u>", verify_problem="<s>x</s>", verified_at="now"
    )
    active = (await own.keys.status()).active_key_id
    async with await own.identity.db.logins.instance.connect() as connection:
        await connection.execute("UPDATE backups SET key_ids = %s", [[active]])
    async with olga.client() as browser:
        pages = [(await browser.get(path)).text for method, path in _paths(backup) if method == "GET"]
        pages += [(await browser.get(path)).text for path in ("/companies", "/master-key")]
    for page in pages:
        assert not re.search(r"<[bisu]>", page)
    assert "&lt;b&gt;it&#39;s &amp; $(id)&lt;b&gt;.tar.zst" in pages[0]
    assert (
        "company-agents backup restore &#39;/srv/&lt;i&gt;here&lt;/i&gt;/&lt;b&gt;it&#39;&#34;&#39;&#34;&#39;s"
        in pages[0]
    )


async def test_a_place_that_cannot_be_used_is_said_and_what_is_known_stays(own: App, olga: Person) -> None:
    row = await _made(own)
    folder = _folder(own)
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("no folder")
    try:
        async with olga.client() as browser:
            found = await browser.get("/backups")
            assert found.status_code == 200
            assert "What is known of it is listed all the same." in found.text and row.name in found.text
            refused = await browser.post("/backups/make")
            assert refused.status_code in (403, 500, 503) and 'role="alert"' in refused.text
        assert (await own.backups.get(row.id)).state == "whole"
    finally:
        folder.unlink()
        aside.rename(folder)


# — making and verifying —


async def test_a_backup_is_made_and_verified_by_a_button(own: App, olga: Person) -> None:
    async with olga.client() as browser:
        assert "No backup yet" in (await browser.get("/backups")).text
        assert (await browser.post("/backups/make")).headers["location"] == "/backups"
        await own.backup_work.ended()
        [row] = await own.backups.rows()
        assert (row.state, row.verify_problem, row.scheduled, row.with_ring) == ("whole", "", False, False)
        assert row.verified_at is not None and row.made_by == f"operator:{olga.operator.id}"
        found = await browser.get("/backups")
        said = text_of(found.text)
        assert f"{row.name} is whole and verified:" in said and "by olga" in said and "refresh" not in found.headers
        assert (await browser.post(f"/backups/{row.id}/verify")).headers["location"] == "/backups"
        await own.backup_work.ended()
        said = text_of((await browser.get("/backups")).text)
        assert f"{row.name} would restore here: It is whole, of a known schema, and every secret in it opens." in said
        again = await own.backups.get(row.id)
        assert again.verified_at is not None and again.verified_at > row.verified_at
    [event] = await _events(own, "backup.verified", row.id)
    assert (event["actor"], event["backup"], event["would_restore"]) == (row.made_by, str(row.id), True)


async def test_one_that_was_altered_is_found_out_and_needs_attention(own: App, olga: Person) -> None:
    row = await _made(own)
    file = _folder(own) / row.name
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)
    async with olga.client() as browser:
        await browser.post(f"/backups/{row.id}/verify")
        await own.backup_work.ended()
        said = text_of((await browser.get("/backups")).text)
        assert (
            f"{row.name} is not good:" in said and "did not pass its last verification" in said and "Not good" in said
        )
        assert "Backups need attention" in (await browser.get("/companies")).text
    assert (await own.backups.get(row.id)).verify_problem
    assert (await _events(own, "backup.verified", row.id))[0]["would_restore"] is False
    [event] = await _events(own, "backup.failed", row.id)
    assert event["problem"] == (await own.backups.get(row.id)).verify_problem


async def test_one_at_a_time_and_every_page_sees_that_one_is_made(own: App, olga: Person) -> None:
    row = await _made(own)
    running = await _row(own, "running.tar.zst", state="running")
    # Its maker holds it, as the session that makes one does.
    async with await own.identity.db.logins.instance.connect() as maker, olga.client() as browser:
        await maker.execute("SELECT pg_advisory_lock(7301005, hashtext(%s))", [str(running)])
        found = await browser.get("/backups")
        assert "A backup is being made" in found.text and found.headers["refresh"] == "2"
        assert 'action="/backups/make"' not in found.text
        # Whoever reads with a screen reader can have it stand still.
        assert "refresh" not in (await browser.get("/backups?live=no")).headers
        for path, status in ((f"/backups/{running}/forget", 409), (f"/backups/{running}/verify", 409)):
            assert (await browser.post(path)).status_code == status
    # The server lets go of its lock a moment after the maker is gone.
    while "its maker was killed" not in {found.problem for found in await own.backups.rows()}:
        await asyncio.sleep(0.02)
    begun = asyncio.create_task(own.backup_work.make("local:tester"))
    while own.backup_work.underway is None:
        await asyncio.sleep(0)
    async with olga.client() as browser:
        for path in ("/backups/make", f"/backups/{row.id}/verify"):
            refused = await browser.post(path)
            assert refused.status_code == 409 and "A backup is being made or verified just now." in refused.text
    # It goes on when whoever began it is gone.
    begun.cancel()
    await own.backup_work.ended()
    assert own.backup_work.last is not None and own.backup_work.last.made is not None


async def test_an_instance_that_is_sealed_gives_up_what_is_being_made(own: App) -> None:
    # Whoever has this table has it wait.
    async with await connect_past(own, "postgres") as past, past.transaction():
        await sql(past, "LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        begun = asyncio.create_task(own.backup_work.make("local:tester"))
        while not any(row.state == "running" for row in await own.backups.rows()):
            await asyncio.sleep(0.05)
        await own.panic.seal("local:tester")
    try:
        await own.backup_work.ended()
        await asyncio.wait([begun])
        # Given up: it did not go on to verify, without a key, what it made.
        assert own.backup_work.last is None and own.backup_work.underway is None
    finally:
        await own.panic.unseal("local:tester")
    rows = await own.backups.rows()
    assert [row for row in rows if row.state == "running" or row.verify_problem] == []
    known = {row.file for row in rows if row.state == "whole"}
    assert not _folder(own).exists() or {file.name for file in _folder(own).iterdir()} <= known


# — downloading —


async def test_a_download_is_the_file_as_it_lies_and_on_record_first(own: App, olga: Person) -> None:
    row = await _made(own)
    content = (_folder(own) / row.name).read_bytes()
    async with olga.client() as browser:
        asked = await browser.get(f"/backups/{row.id}/download")
        assert asked.status_code == 200 and await _events(own, "backup.downloaded", row.id) == []
        found = await browser.post(f"/backups/{row.id}/download")
    assert found.content == content and row.size == len(content)
    assert found.headers["content-type"] == "application/zstd"
    assert found.headers["content-disposition"] == f"attachment; filename*=utf-8''{row.name}"
    assert (found.headers["cache-control"], found.headers["x-content-type-options"]) == ("no-store", "nosniff")
    [event] = await _events(own, "backup.downloaded", row.id)
    assert (event["actor"], event["backup"]) == (f"operator:{olga.operator.id}", str(row.id))
    assert (event["file"], event["size"]) == (row.name, len(content))
    for key in own.held.ring.keys:
        secret = key.secret.reveal()
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
            assert form not in content


async def test_a_download_that_cannot_be_recorded_is_not_given(own: App, olga: Person) -> None:
    row = await _made(own)
    async with await connect_past(own, "postgres") as past, no_right_to_insert(past), olga.client() as browser:
        refused = await browser.post(f"/backups/{row.id}/download")
    assert refused.status_code == 503 and refused.headers["content-type"].startswith("text/html")
    assert await _events(own, "backup.downloaded", row.id) == []


async def test_a_backup_with_the_key_ring_or_out_of_its_place_is_not_handed_out(own: App, olga: Person) -> None:
    row = await _made(own)
    elsewhere = await _row(own)
    failed = await _row(own, "failed.tar.zst", state="failed", place=own.backups.place.address)
    ring = own.settings.home / "ring.tar.zst"
    try:
        made = await own.backups.export(
            ring, passphrase=Sensitive("seven quiet words that nobody guesses"), who="local:tester"
        )
        # What is known of it stays as it is, whatever lies elsewhere under its id.
        await own.backups.forget(made.id, "local:tester")
        # Put there by somebody, under a name of ours; the page is to find that out by itself.
        named = re.sub(r"[0-9a-f]{12}\.tar", "0123456789ab.tar", row.name)
        shutil.copy(ring, _folder(own) / named)
        async with olga.client() as browser:
            said = text_of((await browser.get("/backups")).text)
            assert "Not to be downloaded here: it has the key ring" in said
            [with_ring] = [found for found in await own.backups.rows() if found.with_ring]
            assert with_ring.place == own.backups.place.address
            for backup in (with_ring.id, elsewhere, failed):
                assert "It is not handed out here" in (await browser.get(f"/backups/{backup}/download")).text
                refused = await browser.post(f"/backups/{backup}/download")
                assert await _events(own, "backup.downloaded", backup) == []
                assert refused.status_code == 403 and "This backup is not handed out" in refused.text
            assert (await browser.post(f"/backups/{uuid.uuid4()}/download")).status_code == 404
    finally:
        ring.unlink(missing_ok=True)


async def test_what_was_put_in_the_place_of_a_backup_is_not_handed_out(own: App, olga: Person) -> None:
    row, other = await _made(own), await _made(own)
    file, key = _folder(own) / row.name, own.settings.home / "secrets" / "master.key"
    kept = file.with_name("kept")
    file.rename(kept)
    path = f"/backups/{row.id}/download"
    async with olga.client() as browser:
        for put, status in (
            (lambda: file.symlink_to(key), 500),
            (lambda: shutil.copy(key, file), 422),
            (lambda: shutil.copy(_folder(own) / other.name, file), 403),
            (lambda: file.mkdir(), 404),
            (lambda: None, 404),
        ):
            put()
            refused = await browser.post(path)
            assert refused.status_code == status, refused.text
            assert refused.headers["content-type"].startswith("text/html")
            assert key.read_bytes() not in refused.content
            remove(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    assert await _events(own, "backup.downloaded", row.id) == []


# — giving up, and keys —


async def test_a_forgotten_backup_is_gone_from_its_place_and_keeps_no_key(own: App, olga: Person) -> None:
    row = await _made(own)
    export = own.settings.home / "friday.tar.zst"
    elsewhere = await own.backups.export(export, passphrase=None, who="local:tester")
    try:
        async with olga.client() as browser:
            assert "There is no other good backup" not in (await browser.get(f"/backups/{row.id}/forget")).text
            gone = await browser.post(f"/backups/{row.id}/forget")
            assert gone.headers["location"] == "/backups?done=backup-forgotten"
            assert not (_folder(own) / row.name).exists()
            asked = (await browser.get(f"/backups/{elsewhere.id}/forget")).text
            assert "There is no other good backup." in asked and "stays, and may then be without its key" in asked
            await browser.post(f"/backups/{elsewhere.id}/forget")
            assert (await browser.post(f"/backups/{elsewhere.id}/forget")).status_code == 404
        # A file that lies elsewhere is its owner's.
        assert export.exists() and await own.backups.rows() == []
    finally:
        export.unlink()
    assert all(not key.backups for key in (await own.keys.status()).keys)
    assert len(await _events(own, "backup.forgotten", row.id, elsewhere.id)) == 2


async def test_the_page_of_the_master_key_says_which_backups_keep_an_archived_key(own: App, olga: Person) -> None:
    row = await _made(own)
    old = (await own.keys.status()).active_key_id
    async with olga.client() as browser:
        await browser.post("/master-key/rotate")
        await own.background.ended()
        async with await own.identity.db.logins.instance.connect() as connection:
            await connection.execute("UPDATE master_keys SET ends_at = now() WHERE state = 'archived'")
        found = (await browser.get("/master-key")).text
        assert f'id="key-{old}"' in found and f'href="/backups#backup-{row.id}"' in found
        assert f"needed by 1 backup, so it is not pruned {row.name}" in text_of(found)
        assert f"needed by 1 backup : {row.name}" in text_of((await browser.get("/master-key/prune")).text)
        kept = (await browser.post("/master-key/prune")).text
        assert f"the backup {row.name} needs it" in text_of(kept).replace("The backup", "the backup")
        assert 'href="/backups"' in kept
        needs = text_of((await browser.get("/backups")).text)
        assert f"{old} Archived" in needs
        # Forgotten, it keeps the key no longer.
        await browser.post(f"/backups/{row.id}/forget")
        assert f"<code>{old}</code> is destroyed" in (await browser.post("/master-key/prune")).text
