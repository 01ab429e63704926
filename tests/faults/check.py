"""
What must be true of an instance after a command was killed in it, asked in a process of its own: it starts, every secret
opens to its value, what was begun is finished, nothing is left over, and the next rotation works.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from company_agents.app import App, init_key, open_app
from company_agents.companies.scope import CompanyScope, InstanceScope
from company_agents.errors import CompanyAgentsError, Conflict
from company_agents.rotation.status import KeyState
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings, read_settings

# States that nothing may be left in.
PASSING = {"staged", "retiring", "destroying"}


@dataclass(frozen=True)
class Expected:
    """
    What an instance must hold: secrets by company and name, and agents' tokens; keys that it must still have, and those
    that must be gone in the end. `finish` is the command that was killed, and finishes.
    """

    finish: str
    values: list[tuple[str | None, str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def main(words: list[str]) -> None:
    """
    `words` are what `Expected` is made of, as JSON, and how often the instance is started: once, or once more when all is
    finished. What is wrong is printed.
    """
    expected, starts = words
    wrong = asyncio.run(_check(read_settings(), Expected(**json.loads(expected)), int(starts)))
    print(json.dumps(wrong))
    sys.exit(1 if wrong else 0)


async def _check(settings: Settings, expected: Expected, starts: int) -> list[str]:
    if expected.finish.startswith("key init"):
        await _initialized(settings, take_over="--take-over-source" in expected.finish)
    async with open_app(settings) as app:
        wrong = await _opens(app, expected, "after the kill")
        await _put(app)
        await _finish(app, expected.finish)
        if starts == 1:
            return [*wrong, *await _finished(app, expected)]
    async with open_app(settings) as app:
        return [*wrong, *await _finished(app, expected)]


async def _put(app: App) -> None:
    """Whoever is let in can write."""
    name = f"put by the check {uuid4().hex}"
    async with app.store.db.transaction(None) as tx:
        await app.store.put(tx, name, Sensitive(b"after the kill"))


async def _finished(app: App, expected: Expected) -> list[str]:
    wrong = [*await _opens(app, expected, "when finished"), *await _tidy(app, expected)]
    again = await app.rotator.rotate(finish=False, compromised=False, who="check", say=_silent)
    if again.action != "rotated" or not again.rows:
        wrong.append(f"the next rotation {again.action} {again.rows} rows")
    return [*wrong, *await _opens(app, expected, "after the next rotation")]


async def _initialized(settings: Settings, *, take_over: bool) -> None:
    try:
        await init_key(settings, adopt=False, take_over=take_over)
    except Conflict as error:
        # The killed one had done all of it.
        if error.reason != "key_there":
            raise


async def _finish(app: App, command: str) -> None:
    if command == "key prune":
        await app.rotator.rotate(finish=True, compromised=False, who="check", say=_silent)
        await app.pruner.prune(None, "check")
    elif command.startswith("key rotate"):
        compromised = "--compromised" in command
        await app.rotator.rotate(finish=False, compromised=compromised, who="check", say=_silent)


async def _opens(app: App, expected: Expected, when: str) -> list[str]:
    verified = await app.keys.verify()
    wrong = [f"{when}: {bad.name} does not open: {bad.problem}" for bad in verified.bad]
    if verified.opened < len(expected.values) + len(expected.tokens):
        wrong.append(f"{when}: only {verified.opened} secrets are there")
    for company, name, value in expected.values:
        scope = CompanyScope(UUID(company), app.store.db) if company else InstanceScope(app.store.db)
        found = await app.store.open_own(scope, name)
        if found is None or found.reveal_text() != value:
            wrong.append(f"{when}: {name} is not what was put there")
    for token in expected.tokens:
        try:
            await app.identity.agent(token)
        except CompanyAgentsError as error:
            wrong.append(f"{when}: an agent's token is refused: {error}")
    ring = (await app.rotator.source.read()).ring
    wrong += [f"{when}: the key {key} is not in the source" for key in expected.kept if key not in ring]
    return wrong


async def _tidy(app: App, expected: Expected) -> list[str]:
    status, found = await app.keys.status(), await app.rotator.source.read()
    states = {key.key_id: key.state for key in status.keys}
    active = [key for key, state in states.items() if state == "active"]
    wrong = [f"{key} is left {state}" for key, state in states.items() if state in PASSING]
    if len(active) != 1:
        return [*wrong, f"{len(active)} keys are active"]
    wrong += [
        f"{key.rows} rows are under {key.key_id}, {key.state}"
        for key in status.keys
        if key.rows and key.state != "active"
    ]
    needed = [key for key, state in states.items() if state in ("active", "archived")]
    wrong += [f"{key}, {states[key]}, is not kept in the source" for key in needed if key not in found.kept]
    wrong += [f"{key} is in the source, and {states.get(key)}" for key in found.kept if key not in needed]
    if found.current is None or found.current.key_id != active[0]:
        wrong.append("the hint is not the active key")
    if found.owner != app.instance.id:
        wrong.append("the source is not this instance's")
    for key in expected.gone:
        if states.get(key) != "destroyed" or key in found.ring:
            wrong.append(f"{key} is {states.get(key)}, and was to be destroyed")
    wrong += [f"the audit log: {fault}" for chain in await app.events.verify_all() for fault in chain.faults]
    events = {(event["action"], event.get("key")) for event in await app.events.newest(None, limit=1000)}
    return wrong + [f"not on record: {action} of {key}" for action, key in _to_record(status.keys) - events]


def _to_record(keys: list[KeyState]) -> set[tuple[str, str]]:
    """What must be on record of keys that came to such states: how each one ended, and that the first was made."""
    ended = {
        ("key.rotated" if key.activated_at else "key.adopted", key.key_id) for key in keys if key.state == "archived"
    }
    destroyed = {("key.destroyed", key.key_id) for key in keys if key.state == "destroyed"}
    return ended | destroyed | {("key.created", keys[0].key_id)}


def _silent(step: str, done: int, total: int) -> None:
    """Nobody wants to know how far it is."""
