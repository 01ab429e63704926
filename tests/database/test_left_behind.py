"""
Databases that a deleted home left behind, looked for by somebody who may not read everything.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from company_agents.db import host


def test_a_note_that_cannot_be_read_is_about_somebody_elses_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SYSTEM_FOLDER", tmp_path)
    home = tmp_path / "a home"
    (tmp_path / "0.home").write_bytes(b"whose, only root may know")
    (tmp_path / "0.home").chmod(0)
    # Gone between the look and the reading; this one root cannot read either.
    (tmp_path / "1.home").symlink_to("nowhere")
    (tmp_path / "2.home").write_bytes(bytes(home))
    (tmp_path / "2").mkdir()
    assert host.left_behind(home) == [tmp_path / "2"]
