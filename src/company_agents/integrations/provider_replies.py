"""
Where a provider's replies name the provider's own addresses, as data: a client that is to stay with us finds ours there.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from company_agents.errors import WrongUsage
from company_agents.outgoing.destination import parse_origin
from company_agents.outgoing.header_rules import TOKEN


def _field(name: str) -> str:
    if not re.fullmatch(r"\*?[A-Za-z0-9_@.$-]{1,60}", name):
        raise ValueError("this is no name of a field, nor * and the end of one")
    return name


def _header(name: str) -> str:
    if not TOKEN.fullmatch(name):
        raise ValueError("this is not the name of a header")
    return name


def _origin(url: str) -> str:
    try:
        parse_origin(url)
    except WrongUsage as error:
        raise ValueError(error.sentence) from None
    return url.rstrip("/")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Upload(_Table):
    """
    An address that a client sends a file to, without a token: it stands in this field of a JSON reply, and is at one of these
    origins. The credential does not go there.
    """

    field: Annotated[str, AfterValidator(_field)]
    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(min_length=1)


class Addresses(_Table):
    """
    `fields` of JSON replies, at any depth, in which an address of the provider's own hosts is replaced with ours; `*_url` is
    every field whose name ends so. `headers` likewise, beside `Location`, `Content-Location` and `Link`.
    """

    fields: tuple[Annotated[str, AfterValidator(_field)], ...] = ()
    headers: tuple[Annotated[str, AfterValidator(_header)], ...] = ()
    uploads: tuple[Upload, ...] = ()
