"""
People: how they join, what they are, and the tokens of their programs.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import InstanceScope
from company_agents.db.database import Database, Tx
from company_agents.errors import Conflict, NotFound, Refused, WrongUsage
from company_agents.identity.directory import good_name
from company_agents.identity.passwords import check_new_password, hash_password, totp_step
from company_agents.identity.permissions import Kind, Permission, Role, lower_role
from company_agents.identity.principal import Caller, Principal
from company_agents.identity.tokens import new_operator_token
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

LINK_MINUTES = 15
LONGEST_TOKEN_DAYS = 365


@dataclass(frozen=True, slots=True)
class Operator:
    """A person."""

    id: UUID
    name: str
    instance_owner: bool
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class OperatorToken:
    """A token of a person's programs, without its value."""

    id: UUID
    operator_id: UUID
    name: str
    role: Role
    created_at: datetime
    ends_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a good sign-in link offers."""

    id: UUID
    operator_id: UUID | None
    instance_owner: bool
    company_id: UUID | None
    role: Role | None


def hashed(token: str) -> bytes:
    """SHA-256 of one of our 256-bit randoms: nothing can be guessed from it, so no slow hash is needed."""
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True)
class Operators:
    """The people of the instance."""

    db: Database
    store: SecretStore
    audit: AuditLog

    async def link(self, principal: Principal, operator_id: UUID | None = None) -> Sensitive:
        """
        A link's token for an owner of the instance, or for a person who lost password or device. Good once, for
        15 minutes.

        Raises:
            NotFound: there is no such person.
            Conflict: they are disabled.
        """
        principal.require(Permission.OPERATOR_MANAGE)
        if operator_id is not None:
            _enabled(await self.get(operator_id))
        return await self._new_link(principal.label, operator_id=operator_id, instance_owner=operator_id is None)

    async def invite(self, caller: Caller, role: Role) -> Sensitive:
        """A link's token for a new person in the caller's company."""
        caller.require(Permission.MEMBER_MANAGE)
        return await self._new_link(caller.label, instance_owner=False, company_id=caller.scope.company_id, role=role)

    async def first_link(self) -> Sensitive | None:
        """A link's token for the first owner; None once there is an operator."""
        async with self.db.transaction(None) as tx:
            if await tx.one("operator_any"):
                return None
            # One at a time is good: the link of an earlier start is void.
            await tx.run("links_void_first")
        return await self._new_link("local:start", instance_owner=True)

    async def _new_link(self, actor: str, **what: Any) -> Sensitive:
        token = Sensitive(secrets.token_urlsafe(32))
        params = {"operator_id": None, "company_id": None, "role": None, **what}
        async with self.db.transaction(None) as tx:
            await tx.run(
                "link_insert", id=uuid4(), token_hash=hashed(token.reveal_text()), minutes=LINK_MINUTES, **params
            )
            await self.audit.append(None, "operator.link_made", actor=actor, company=what.get("company_id"))
        return token

    async def invitation(self, token: str) -> Invitation:
        """
        What a link offers, without using it.

        Raises:
            NotFound: it was used, has expired, or never was.
        """
        async with self.db.transaction(None) as tx:
            row = await tx.one("link_get", token_hash=hashed(token))
        if row is None:
            raise NotFound("this link was used or has expired", hint="`company-agents operator link` makes a new one")
        return Invitation(**row)

    async def join(self, token: str, name: str, password: str, totp: Sensitive, code: str) -> Operator:
        """
        Use a link: set name, password and second factor. A link for an existing person keeps their name, and ends what
        there was of access in it: it may be in the wrong hands.

        Raises:
            NotFound: the link is no longer good.
            WrongUsage: name, password or code will not do.
        """
        invitation = await self.invitation(token)
        check_new_password(password)
        step = totp_step(totp, code, 0)
        if step is None:
            raise WrongUsage("this code is not right", hint="take the newest one, and check the device's clock")
        operator_id = invitation.operator_id or uuid4()
        password_hash = await hash_password(password)
        async with self.db.transaction(None) as tx:
            # Of two links for one person that are used at once, the second finds itself void.
            known = await tx.one("operator_lock", id=operator_id)
            disabled = known is not None and known["disabled_at"] is not None
            # First, and only one of two that try: the rest happens to whoever used the link.
            if disabled or not await tx.run("link_use", id=invitation.id):
                raise NotFound("this link was used or has expired")
            params = {"id": operator_id, "password_hash": password_hash, "totp_step": step}
            action, ended = "operator.joined", {}
            if invitation.operator_id is None:
                await self._insert(tx, invitation, name, totp, params)
            else:
                await tx.run("operator_reset", **params)
                await self.store.set(tx, f"operator_totp/{operator_id}", totp)
                action, ended = "operator.reset", await self._end_access(tx, operator_id)
            row = await tx.one("operator_get", id=operator_id)
            await self.audit.append(None, action, actor=f"operator:{operator_id}", link=invitation.id, **ended)
        assert row is not None
        return Operator(**row)

    async def _insert(self, tx: Tx, invitation: Invitation, name: str, totp: Sensitive, params: dict[str, Any]) -> None:
        owner = invitation.instance_owner
        await tx.run("operator_insert", name=good_name(name, "a person"), instance_owner=owner, **params)
        await self.store.put(tx, f"operator_totp/{params['id']}", totp)
        if invitation.company_id is not None:
            company = {"company_id": invitation.company_id, "role": invitation.role}
            await tx.run("member_set", operator_id=params["id"], **company)

    async def _end_access(self, tx: Tx, operator_id: UUID) -> dict[str, Any]:
        """End a person's sessions, tokens and other links. Returns what of it there was, for the record."""
        sessions = await tx.run("sessions_end_all", operator_id=operator_id)
        links = await tx.run("links_void_of", operator_id=operator_id)
        tokens = [row["id"] for row in await tx.all("operator_tokens_revoke_all", operator_id=operator_id)]
        for token_id in tokens:
            await self._forget_token(tx, token_id)
        return {"sessions_ended": sessions, "links_void": links, "tokens_revoked": tokens or None}

    async def get(self, operator_id: UUID) -> Operator:
        """
        Raises:
            NotFound: there is no such person.
        """
        async with self.db.transaction(None) as tx:
            row = await tx.one("operator_get", id=operator_id)
        if row is None:
            raise NotFound("this operator does not exist", hint="`company-agents operator list` shows them")
        return Operator(**row)

    async def list(self, principal: Principal) -> list[Operator]:
        """The people of the instance."""
        principal.require(Permission.OPERATOR_MANAGE)
        async with self.db.transaction(None) as tx:
            return [Operator(**row) for row in await tx.all("operator_list")]

    async def principal_role(self, operator_id: UUID) -> Role:
        """The highest role that a person has: owner of the instance, or the highest in any company."""
        async with self.db.transaction(None) as tx:
            row = await tx.one("operator_highest_role", id=operator_id)
        return Role(row["role"]) if row and row["role"] else Role.VIEWER

    async def disable(self, principal: Principal, operator_id: UUID) -> Operator:
        """
        Let a person in no more, until `enable`. Their sessions end; their tokens are refused, and count again once they
        are enabled. Every open link is void, whoever it is for: who made one is not kept with it, and it may be theirs.

        Raises:
            NotFound: there is no such person.
            Conflict: they are the last owner of the instance.
        """
        principal.require(Permission.OPERATOR_MANAGE)
        await self.get(operator_id)
        async with self.db.transaction(None) as tx:
            owners = [row["id"] for row in await tx.all("instance_owners_lock")]
            if owners == [operator_id]:
                raise Conflict(
                    "the last owner of the instance cannot be disabled",
                    hint="`company-agents operator link` makes a link for another",
                )
            known = await tx.one("operator_lock", id=operator_id)
            if known is not None and known["disabled_at"] is None:
                await tx.run("operator_disable", id=operator_id)
                ended = {
                    "sessions_ended": await tx.run("sessions_end_all", operator_id=operator_id),
                    "links_void": await tx.run("links_void_all"),
                }
                await self.audit.append(None, "operator.disabled", actor=principal.label, operator=operator_id, **ended)
        return await self.get(operator_id)

    async def enable(self, principal: Principal, operator_id: UUID) -> Operator:
        """
        Let a disabled person in again, with the password and the tokens that they had.

        Raises:
            NotFound: there is no such person.
        """
        principal.require(Permission.OPERATOR_MANAGE)
        await self.get(operator_id)
        async with self.db.transaction(None) as tx:
            if await tx.run("operator_enable", id=operator_id):
                await self.audit.append(None, "operator.enabled", actor=principal.label, operator=operator_id)
        return await self.get(operator_id)

    # — tokens —

    async def create_token(
        self, principal: Principal, name: str, days: int, role: Role, operator_id: UUID | None = None
    ) -> tuple[OperatorToken, Sensitive]:
        """
        A token for a person's programs: expiring, revocable, with a role no higher than theirs.

        Raises:
            Refused: for somebody else, or by a token itself: a token that makes tokens would never end.
            Conflict: they are disabled.
        """
        _person(principal)
        if principal.kind is Kind.OPERATOR and (principal.via == "token" or operator_id not in (None, principal.id)):
            raise Refused("a token is made by the person it is for, signed in", hint="use the page Account")
        owner = operator_id or principal.id
        if owner is None:
            raise WrongUsage("whose token is it to be?", hint="name an operator")
        if not 1 <= days <= LONGEST_TOKEN_DAYS:
            raise WrongUsage(f"a token lives 1 to {LONGEST_TOKEN_DAYS} days")
        role = lower_role(role, await self.principal_role(_enabled(await self.get(owner)).id))
        token_id = uuid4()
        token = new_operator_token(token_id)
        async with self.db.transaction(None) as tx:
            await tx.run(
                "operator_token_insert",
                id=token_id,
                operator_id=owner,
                name=good_name(name, "a token"),
                role=role,
                ends_at=datetime.now(UTC) + timedelta(days=days),
            )
            await self.store.put(tx, f"operator_token/{token_id}", token)
            row = await tx.one("operator_token_get", id=token_id)
            await self.audit.append(
                None, "operator.token_created", actor=principal.label, operator=owner, token=token_id, role=role
            )
        assert row is not None
        return OperatorToken(**row), token

    async def tokens(self, principal: Principal) -> Sequence[OperatorToken]:
        """A person's own tokens; all of them for the command line."""
        _person(principal)
        async with self.db.transaction(None) as tx:
            return [OperatorToken(**row) for row in await tx.all("operator_token_list", operator_id=principal.id)]

    async def revoke_token(self, principal: Principal, token_id: UUID) -> None:
        """
        Raises:
            NotFound: it is not there, or not this person's.
        """
        _person(principal)
        async with InstanceScope(self.db).transaction() as tx:
            row = await tx.one("operator_token_revoke", id=token_id, operator_id=principal.id)
            if row is None:
                raise NotFound("this token does not exist", hint="`company-agents operator token list` shows them")
            await self._forget_token(tx, token_id)
            await self.audit.append(None, "operator.token_revoked", actor=principal.label, token=token_id)

    async def _forget_token(self, tx: Tx, token_id: UUID) -> None:
        secret = await tx.one("secret_by_name", company_id=None, name=f"operator_token/{token_id}")
        if secret is not None:
            await self.store.delete(tx, secret["id"])


def _enabled(operator: Operator) -> Operator:
    if operator.disabled_at is not None:
        raise Conflict("this person is disabled", hint="`company-agents operator enable` lets them in again")
    return operator


def _person(principal: Principal) -> None:
    if principal.kind not in (Kind.OPERATOR, Kind.LOCAL):
        raise Refused("only a person has tokens of this kind", hint="use the page Account, or the command line")
