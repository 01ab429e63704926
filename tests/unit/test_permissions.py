"""
The table of permissions, and its page.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from uuid import uuid4

import pytest

from company_agents.errors import Refused
from company_agents.identity.permissions import DANGEROUS, TABLE, Kind, Permission, Role, allowed, lower_role
from company_agents.identity.principal import Principal, Via

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security" / "permissions.md").read_text("utf-8")
COLUMNS: dict[str, tuple[Kind, Role | None]] = {
    "agent": (Kind.AGENT, None),
    "run": (Kind.RUN, None),
    "viewer": (Kind.OPERATOR, Role.VIEWER),
    "operator": (Kind.OPERATOR, Role.OPERATOR),
    "owner": (Kind.OPERATOR, Role.OWNER),
    "local": (Kind.LOCAL, None),
}


def rows() -> dict[str, list[str]]:
    """The page's table: a permission (with its star), and the columns that have a tick."""
    lines = re.findall(r"^\| (.+) \|$", PAGE, re.MULTILINE)
    head, *body = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert head == ["permission", *COLUMNS]
    return {row[0]: [name for name, cell in zip(COLUMNS, row[1:], strict=True) if cell == "✓"] for row in body}


def test_the_page_is_the_table() -> None:
    wanted = {
        f"`{permission}`{' *' if permission in DANGEROUS else ''}": [
            name for name, (kind, role) in COLUMNS.items() if allowed(permission, kind, role)
        ]
        for permission in Permission
    }
    assert rows() == wanted


def test_every_permission_has_a_row() -> None:
    assert set(TABLE) == set(Permission)


def test_what_is_not_in_the_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TABLE, Permission.AGENT_READ)
    assert not any(allowed(Permission.AGENT_READ, kind, role) for kind, role in product(Kind, [None, *Role]))


def test_an_operator_without_a_role_may_nothing() -> None:
    assert [permission for permission in Permission if allowed(permission, Kind.OPERATOR, None)] == []


def test_a_role_counts_for_an_operator_only() -> None:
    for permission, kind in product(Permission, (Kind.AGENT, Kind.RUN)):
        assert allowed(permission, kind, Role.OWNER) == allowed(permission, kind, None)


def test_a_higher_role_may_whatever_a_lower_one_may() -> None:
    for permission in Permission:
        viewer, operator, owner = (allowed(permission, Kind.OPERATOR, role) for role in Role)
        assert viewer <= operator <= owner


def test_nobody_but_who_works_for_a_company_uses_its_credentials() -> None:
    assert TABLE[Permission.INTEGRATION_USE] == {Kind.AGENT, Kind.RUN}


def test_agents_manage_nothing() -> None:
    manages = [
        permission
        for permission in Permission
        if re.search("manage|create|connect|allow|rotate|delete|check|audit", permission)
    ]
    assert len(manages) >= 10
    assert [permission for permission in manages if TABLE[permission] & {Kind.AGENT, Kind.RUN}] == []


@pytest.mark.parametrize("one", Role)
def test_the_lower_of_two_roles_counts(one: Role) -> None:
    assert lower_role(one, Role.VIEWER) is lower_role(Role.VIEWER, one) is Role.VIEWER
    assert lower_role(one, Role.OWNER) is lower_role(Role.OWNER, one) is one


def test_a_refusal_names_the_permission() -> None:
    principal = Principal(Kind.AGENT, "ann", Via.TOKEN, uuid4(), uuid4())
    with pytest.raises(Refused, match="instance:company:create") as caught:
        principal.require(Permission.COMPANY_CREATE)
    assert (caught.value.exit_status, caught.value.http_status) == (4, 403)
    assert caught.value.hint


@pytest.mark.parametrize(("via", "said"), [(Via.TOKEN, "--role"), (Via.SESSION, "ask an owner of the company")])
def test_who_is_refused_with_a_token_reads_that_its_role_counts(via: Via, said: str) -> None:
    somebody = Principal(Kind.OPERATOR, "ola", via, uuid4(), None, Role.VIEWER, Role.OPERATOR)
    with pytest.raises(Refused) as refused:
        somebody.require(Permission.COMPANY_CREATE)
    assert said in refused.value.hint
