"""
A document in Vault that is no key source: read once, for who takes over the tokens in it. The way there is that of the
key source, with the same settings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from company_agents.errors import CompanyAgentsError, Failed, NotFound, Refused, WrongUsage
from company_agents.keysources.failures import SourceUnavailable, needs_extra
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

# What keeps an instance from starting is less than that here.
_KINDS: dict[str, type[CompanyAgentsError]] = {
    "key_address": WrongUsage,
    "key_source_version": WrongUsage,
    "key_source_not_found": NotFound,
    "key_source_forbidden": Refused,
    "key_source_credentials": Refused,
}


async def read_document(path: str, settings: Settings) -> dict[str, Sensitive | None]:
    """
    The fields of the document `[vault://]<mount>/data/<path>`; None for one that is no text.

    Raises:
        WrongUsage: the path or VAULT_ADDR is malformed, or it is no engine of version 2.
        NotFound: there is no document.
        Refused: Vault refuses us, or it is the document that holds the master key.
        SourceUnavailable: Vault cannot be reached.
        Failed: the client library is missing.
    """
    address = f"vault://{path.removeprefix('vault://')}"
    own = settings.master_key_source
    if own is not None and own.get_secret_value() == address:
        raise Refused("this document holds the master key", hint="name the one that holds the tokens")
    with _as_document():
        with needs_extra("vault"):
            from company_agents.keysources.vault import VaultSource
        fields = await VaultSource.at(address.removeprefix("vault://"), settings).fields()
    if not fields:
        raise NotFound(f"there is nothing at {address}", hint="the path is <mount>/data/<path>")
    return {name: Sensitive(value) if isinstance(value, str) else None for name, value in fields.items()}


@contextlib.contextmanager
def _as_document() -> Iterator[None]:
    """Say what is wrong with it in the words of a document."""
    try:
        yield
    except SourceUnavailable as error:
        raise SourceUnavailable(_said(error), hint=error.hint, code=_code(error)) from error
    except CompanyAgentsError as error:
        hint = "the path is <mount>/data/<path>" if error.reason == "key_source_not_found" else error.hint
        raise _KINDS.get(error.reason, Failed)(_said(error), hint=hint, code=_code(error)) from error


def _said(error: CompanyAgentsError) -> str:
    return error.sentence.replace("the key source ", "", 1)


def _code(error: CompanyAgentsError) -> str:
    return error.reason.replace("key_source", "vault").replace("key_address", "vault_address")
