"""
Templates, and how times and sentences read in them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import segno
from markupsafe import Markup, escape

from company_agents.dashboard import telling, words
from company_agents.errors import CompanyAgentsError

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"

_UNITS = (("year", 31_556_952), ("month", 2_629_746), ("day", 86_400), ("hour", 3_600), ("minute", 60))


@functools.cache
def templates() -> jinja2.Environment:
    """
    The environment of all templates. Everything is escaped, whatever a file is called, and a name that is not
    there is an error and not an empty string.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ago=ago,
        lasting=lasting,
        utc=utc,
        machine=machine,
        sentence=sentence,
        hint=words.hint,
        plural=plural,
        marked=marked,
        plain=telling.plain,
        money=telling.money,
        lasted=telling.lasted,
        lasted5=telling.lasted5,
        short=telling.short,
        size=telling.size,
        day=telling.day,
        local=telling.local,
        thousands=telling.thousands,
        pairs=pairs,
        twice=twice,
    )
    environment.globals.update(
        run_states=telling.RUN_STATES,
        approval_states=telling.APPROVAL_STATES,
        task_statuses=telling.TASK_STATUSES,
        adapters=telling.ADAPTERS,
    )
    environment.globals.update(static=static, notice=words.notice, browser_name=words.browser_name)
    environment.globals["ui"] = environment.get_template("parts.html").module
    return environment


@functools.cache
def static(name: str) -> str:
    """The address of a static file, with a digest of it, so that it can be kept for good."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:16]
    return f"/static/{name}?v={digest}"


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago, or how soon, in one unit."""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    for unit, length in _UNITS:
        if abs(seconds) >= length:
            # What has passed is counted whole; what is to come, to the nearest: thirty days less a moment are no 29.
            count = int(seconds // length) if seconds > 0 else round(-seconds / length)
            spoken = plural(count, unit)
            return f"{spoken} ago" if seconds > 0 else f"in {spoken}"
    return "just now" if seconds >= 0 else "in less than a minute"


def lasting(at: datetime, now: datetime | None = None) -> str:
    """Since when something has been so, in one unit."""
    spoken = ago(at, now)
    return f"for {spoken.removesuffix(' ago')}" if spoken.endswith(" ago") else "for less than a minute"


def utc(at: datetime) -> str:
    """A time for people."""
    return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def machine(at: datetime) -> str:
    """A time for the attribute `datetime`."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def sentence(text: str | CompanyAgentsError) -> str:
    """What an error says, as a sentence: errors are lower case and without a full stop."""
    said = str(text).strip()
    if not said:
        return ""
    return said[0].upper() + said[1:] + ("" if said[-1] in ".?!…" else ".")


def marked(text: str) -> Markup:
    """A text of ours for a page: what stands between backticks, as in a terminal, is code."""
    plain, *rest = text.split("`")
    parts = [escape(plain)]
    for code, after in zip(rest[::2], [*rest[1::2], ""], strict=False):
        parts.append(Markup("<code>{}</code>{}").format(code, after))
    return Markup("").join(parts)


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def pairs(things: Iterable[Any], called: str) -> list[tuple[Any, Any]]:
    """Things for a select: their id, and what they are called."""
    return [(thing.id, getattr(thing, called)) for thing in things]


def twice(values: Iterable[str]) -> list[tuple[str, str]]:
    """Values for a select that are called what they are."""
    return [(value, value) for value in values]


def qr_code(content: str) -> Markup:
    """
    A QR code as SVG, drawn here: nothing leaves, and no style or script is in it. Its colours are attributes, for
    it is read by a camera, which wants dark on light whatever the page looks like.
    """
    code = segno.make(content, error="m")
    drawn = code.svg_inline(svgclass="qr", lineclass=None, border=4, omitsize=True, title="QR code", dark="#10201b")
    # Markup: made by segno from modules, with no text of ours in it but the title above.
    return Markup(drawn)  # noqa: S704
