"""
Signing in, and the sessions that come of it.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import InstanceScope
from company_agents.db.database import Database, Row
from company_agents.errors import NotFound, TooMany, Unauthenticated
from company_agents.identity.operators import Operators, hashed
from company_agents.identity.passwords import check_crowd, password_matches, totp_step
from company_agents.identity.permissions import Kind, Role
from company_agents.identity.principal import Principal, Via
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

SESSION_HOURS = 12
IDLE_MINUTES = 60
# Of all that can be wrong with signing in, which it was is not said.
NOT_RIGHT = "name, password or code is not right"
# How long a password that was asked for again counts.
CONFIRMED_MINUTES = 10
# Failures that are free; from then on each doubles the wait, up to the longest (seconds).
FREE_FAILURES = 5
LONGEST_WAIT = 900
# An account that is attacked from everywhere is not closed to its owner for longer than this.
LONGEST_WAIT_FOR_ALL = 30
# Failures that no longer count are deleted as often as this (seconds).
SWEEP_EVERY = 600.0


@dataclass(frozen=True, slots=True)
class Session:
    """One signed-in browser."""

    id: UUID
    operator_id: UUID
    created_at: datetime
    seen_at: datetime
    ends_at: datetime
    confirmed_at: datetime
    address: str
    browser: str

    @property
    def confirmed(self) -> bool:
        """Whether the password was given within the last ten minutes."""
        return datetime.now(UTC) - self.confirmed_at < timedelta(minutes=CONFIRMED_MINUTES)


@dataclass
class Sessions:
    """
    Sign-in by password and code, and what is signed in. `refusals` is where refused attempts are written down, if that is
    another log: one that waits for the keys, where nobody has them yet.
    """

    db: Database
    store: SecretStore
    audit: AuditLog
    operators: Operators
    refusals: AuditLog | None = None
    _sweep_at: float = field(default=0.0, repr=False)

    async def sign_in(self, name: str, password: str, code: str, *, address: str, browser: str) -> Sensitive:
        """
        Open a session; its token goes into a cookie.

        Raises:
            Unauthenticated: name, password or code is wrong; which one is not said.
            TooMany: after several failures, for a while.
        """
        row = await self._check(name, password, code, address=address)
        return await self.open(row["id"], address=address, browser=browser, password_hash=row["password_hash"])

    async def sign_in_owner(
        self, name: str, password: str, code: str, *, address: str, browser: str
    ) -> tuple[Sensitive, Principal]:
        """
        The same for an owner of the instance alone, who unseals it. Anybody else is refused like a wrong password.

        Raises:
            Unauthenticated, TooMany: as for signing in.
        """
        row = await self._check(name, password, code, address=address, unseals=True)
        token = await self.open(row["id"], address=address, browser=browser, password_hash=row["password_hash"])
        found = await self.current(token.reveal_text())
        if found is None:
            raise Unauthenticated(NOT_RIGHT)
        return token, found[0]

    async def open(
        self, operator_id: UUID, *, address: str, browser: str, password_hash: str | None = None
    ) -> Sensitive:
        """
        A session for somebody who has just proved who they are; where by a password, it is still theirs.

        Raises:
            Unauthenticated: the password was set anew since, or they were disabled.
        """
        token = Sensitive(secrets.token_urlsafe(32))
        async with self.db.transaction(None) as tx:
            await tx.run("sessions_sweep")
            opened = await tx.run(
                "session_insert",
                id=uuid4(),
                password_hash=password_hash,
                operator_id=operator_id,
                token_hash=hashed(token.reveal_text()),
                hours=SESSION_HOURS,
                address=address,
                browser=browser[:200],
            )
            if not opened:
                raise Unauthenticated(NOT_RIGHT)
            await self.audit.append(None, "operator.signed_in", actor=f"operator:{operator_id}", address=address)
        return token

    async def current(self, token: str, *, used: bool = True) -> tuple[Principal, Session] | None:
        """
        Who a cookie stands for, or None: signed out, expired, idle for an hour, or the operator is disabled. Without `used`
        it is asked by a page that is only open, which keeps no session from being idle.
        """
        async with self.db.transaction(None) as tx:
            row = await tx.one("session_current", token_hash=hashed(token), idle_minutes=IDLE_MINUTES, used=used)
        if row is None:
            return None
        name, instance_owner = row.pop("operator_name"), row.pop("instance_owner")
        role = Role.OWNER if instance_owner else Role.VIEWER
        principal = Principal(Kind.OPERATOR, name, Via.SESSION, row["operator_id"], None, role, Role.OWNER)
        return principal, Session(**row)

    async def watched(self, token: str, company_id: UUID) -> Role | None:
        """
        What whoever a cookie stands for is in a company, now; None where it stands for nobody any more, or for no member.
        Asked again and again by a page that is open: it is no use of the session.
        """
        async with self.db.transaction(None) as tx:
            row = await tx.one(
                "session_watched", token_hash=hashed(token), idle_minutes=IDLE_MINUTES, company_id=company_id
            )
        return Role(row["role"]) if row is not None and row["role"] is not None else None

    async def confirm(self, session: Session, name: str, password: str) -> None:
        """
        The password again, before a dangerous act.

        Raises:
            Unauthenticated, TooMany: as for signing in.
        """
        await self._check(name, password, None, address=session.address)
        async with self.db.transaction(None) as tx:
            await tx.run("session_confirm", id=session.id)

    async def list(self, principal: Principal) -> list[Session]:
        """A person's open sessions."""
        async with InstanceScope(self.db).transaction() as tx:
            return [Session(**row) for row in await tx.all("session_list", operator_id=principal.id)]

    async def end(self, principal: Principal, session_id: UUID) -> None:
        """
        Raises:
            NotFound: it is not there, or not this person's.
        """
        async with self.db.transaction(None) as tx:
            if not await tx.run("session_end", id=session_id, operator_id=principal.id):
                raise NotFound("this session does not exist")
            await self.audit.append(None, "operator.session_ended", actor=principal.label, session=session_id)

    async def _check(self, name: str, password: str, code: str | None, *, address: str, unseals: bool = False) -> Row:
        """
        Password, and code unless None; failures are counted for the account, and for it from this address. Returns the
        person's row.
        """
        # Before anything is counted: who is turned away for others' sake has not failed.
        check_crowd()
        watched = _watched(f"account:{name.lower()[:100]}", address)
        await self._sweep_failures()
        async with self.db.transaction(None) as tx:
            # Charged before it is tried, and refused by the same statement: of many at once each sees the ones before.
            for who, longest in watched.items():
                if not await tx.run("failure_charge", who=who, free=FREE_FAILURES, longest=longest):
                    blocked = await tx.one("failures_blocked", who=list(watched))
                    seconds = blocked["seconds"] if blocked else None
                    raise TooMany("too many failed attempts", retry_after=int(seconds or 0) + 1)
            row = await tx.one("operator_by_name", name=name)
        good = await password_matches(row["password_hash"] if row else None, password)
        if good and row is not None and unseals:
            good = (await self.operators.get(row["id"])).instance_owner
        if good and row is not None and code is not None:
            good = await self._take_code(row["id"], code, row["totp_step"])
        if good:
            async with self.db.transaction(None) as tx:
                await tx.run("failures_forget", who=list(watched))
        if not good:
            # A name that nobody has is put on record nowhere: it may be a password that was typed into the wrong field.
            # And who tries a thousand of them makes one event with a count.
            action = "instance.unseal_refused" if unseals else "operator.sign_in_refused"
            (self.refusals or self.audit).refusal(None, action, name=name if row else None, address=address)
            raise Unauthenticated(NOT_RIGHT)
        assert row is not None
        return row

    async def _sweep_failures(self) -> None:
        """Anybody may try any name; what they leave behind goes."""
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            async with self.db.transaction(None) as tx:
                await tx.run("failures_sweep")

    async def _take_code(self, operator_id: UUID, code: str, last: int) -> bool:
        secret = await self.store.open_own(InstanceScope(self.db), f"operator_totp/{operator_id}")
        step = totp_step(secret, code, last) if secret else None
        if step is None:
            return False
        async with self.db.transaction(None) as tx:
            # Compare and set: of two that bring the same code at once, one gets in.
            return await tx.run("operator_totp_take", id=operator_id, step=step) == 1


def _watched(account: str, address: str) -> dict[str, int]:
    """
    What a failure is counted for, and how long each waits at most: the account, and the account from this address. Not
    from one of a private network: it may be a proxy's, and everybody's, and then one who guesses would close the
    account to its owner.
    """
    watched = {account: LONGEST_WAIT_FOR_ALL}
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return watched
    if not parsed.is_global:
        return watched
    # The last half of an address in IPv6 is its owner's to choose.
    place = parsed if parsed.version == 4 else ipaddress.ip_network((parsed, 64), strict=False)
    return {f"{account}|{place}": LONGEST_WAIT, **watched}
