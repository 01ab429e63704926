"""
One request to an endpoint of an authorization server: the client shows who it is, and what comes back is sorted into what
was given, what was refused, and what is not known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote_plus

from company_agents.errors import Refused, WrongUsage
from company_agents.integrations.oauth import replies
from company_agents.integrations.oauth.assertion import ASSERTION_TYPE, client_assertion, clock_offset, server_time
from company_agents.integrations.oauth.model import Client, Gone, NotNow, Rejected, Uncertain
from company_agents.integrations.oauth.replies import Fields
from company_agents.integrations.oauth.said import said
from company_agents.integrations.provider import OAuth
from company_agents.outgoing.exchange import Answer, Exchange, Lost, NotSent, Value
from company_agents.sensitive import Sensitive

_LONGEST_WAIT = 86_400.0
# What says "later": RFC 6749, 4.1.2.1, and the ways of providers.
_LATER = frozenset(
    {
        *("temporarily_unavailable", "rate_limited", "ratelimited", "rate_limit_exceeded", "too_many_requests"),
        *("RATE_LIMIT", "service_unavailable", "slow_down"),
    }
)
_LATER_STATUS = frozenset({408, 425, 429})
# By the word alone, whether the person or the client is at fault.
_CLIENT_HINT = "check the client id and its secret: `company-agents provider configure` sets them anew"


@dataclass(frozen=True, slots=True)
class Asked:
    """
    One request. `changes`: the server may have changed something by it, so that a reply that was lost matters.
    `gone`: words that say that the consent is no more; `gone_status`: likewise.
    """

    url: str
    fields: Mapping[str, Value]
    changes: bool = False
    gone: frozenset[str] = frozenset()
    gone_status: frozenset[int] = frozenset()
    headers: Mapping[str, Value] | None = None
    as_json: bool = False
    method: str = "POST"
    # Whether RFC 6749, 2.3 is for this endpoint; and whether a secret goes into Basic here, whatever the client's way is.
    authenticated: bool = True
    by_basic: bool = False
    # In its place: a proof for a moment (seconds since 1970), sent as a bearer token.
    bearer: Callable[[float], Sensitive] | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """
    A whole reply. `fields`: None where it is neither JSON nor a form. `words`: what it says is wrong. `now`: its moment by
    the server's clock, where it told it.
    """

    answer: Answer
    fields: Fields | None = field(repr=False)
    words: tuple[str, ...]
    now: float

    @property
    def good(self) -> bool:
        return 200 <= self.answer.status < 300 and not self.words


@dataclass(frozen=True)
class Endpoint:
    """Asks, as one client. `now`: another clock."""

    exchange: Exchange
    client: Client
    now: Callable[[], float] = time.time

    async def ask(self, asked: Asked) -> Heard:
        """
        A reply that says that nothing is wrong.

        Raises:
            Gone: one of the words in `asked.gone`.
            Rejected: anything else was wrong with the request, the client, or the address.
            NotNow: not reached, or busy; nothing was changed there.
            Uncertain: it was asked, and what came back is no whole answer.
        """
        heard = await self.hear(asked)
        if not heard.good:
            raise failure(asked, self.client, heard)
        return heard

    async def hear(self, asked: Asked) -> Heard:
        """
        The reply to the first proof that is not refused. An assertion is tried for the issuer and for the address itself,
        since servers differ in what they take for themselves (RFC 7523, 3), and once more if the clocks differ. A
        refused client has changed nothing.

        Raises: like `ask`, but for what a whole reply says.
        """
        if asked.bearer is not None:
            return await self._borne(asked, asked.bearer)
        if not asked.authenticated or self.client.auth != "private_key_jwt":
            return await self._sent(asked)
        issuer = self.client.endpoints.issuer
        audiences = [*([issuer] if issuer else []), *([asked.url] if asked.url != issuer else [])]
        heard = await self._sent(asked, assertion=client_assertion(self.client, audiences[0], now=self.now()))
        if not _refused_client(heard):
            return heard
        offset = clock_offset(heard.answer.headers.get("Date"), self.now())
        for audience in [*(audiences[:1] if offset else []), *audiences[1:]]:
            proof = client_assertion(self.client, audience, now=self.now() + (offset or 0))
            heard = await self._sent(asked, assertion=proof)
            if not _refused_client(heard):
                break
        return heard

    async def _borne(self, asked: Asked, bearer: Callable[[float], Sensitive]) -> Heard:
        heard = await self._sent(asked, bearer=bearer(self.now()))
        offset = clock_offset(heard.answer.headers.get("Date"), self.now())
        if heard.answer.status != 401 or not offset:
            return heard
        return await self._sent(asked, bearer=bearer(self.now() + offset))

    async def _sent(
        self, asked: Asked, *, assertion: Sensitive | None = None, bearer: Sensitive | None = None
    ) -> Heard:
        fields, basic = dict(asked.fields), None
        if asked.authenticated:
            proof, basic = _proof(self.client, assertion, by_basic=asked.by_basic)
            fields.update(proof)
        headers: dict[str, Value] = {"Accept": "application/json", **(asked.headers or {})}
        if bearer is not None:
            headers["Authorization"] = Sensitive(b"Bearer " + bearer.reveal())
        try:
            answer = await self.exchange.send(
                asked.method,
                asked.url,
                headers=headers,
                form=None if asked.as_json or asked.method == "GET" else fields,
                json=fields if asked.as_json else None,
                allow_private=self.client.endpoints.allow_private,
                basic=basic,
            )
        except NotSent as error:
            raise NotNow(error.sentence, hint=error.hint) from error
        except Lost as error:
            raise _lost(asked, error.sentence) from error
        except Refused as error:
            raise Rejected(error.sentence, hint=error.hint) from error
        return _heard(answer, self.now())


def _heard(answer: Answer, now: float) -> Heard:
    try:
        fields = replies.read(answer)
    except replies.Unreadable:
        fields = None
    words = replies.errors(fields, status=answer.status) if fields is not None else ()
    return Heard(answer, fields, words, server_time(answer.headers.get("Date")) or now)


def request_headers(oauth: OAuth) -> dict[str, Value]:
    """The provider's own headers for its token endpoint; none of them says who we are."""
    return {name: value for name, value in oauth.token_headers.items() if name.lower() != "authorization"}


def _proof(
    client: Client, assertion: Sensitive | None, *, by_basic: bool
) -> tuple[dict[str, Value], tuple[str, Sensitive] | None]:
    """Who the client is: fields of the request, and Basic."""
    if client.auth == "none":
        return {"client_id": client.id}, None
    if assertion is not None:
        return {"client_id": client.id, "client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}, None
    if client.secret is None:
        raise WrongUsage("this client has no secret", hint="configure it again, with its secret")
    if client.auth == "basic" or by_basic:
        # Encoded like a form first (RFC 6749, 2.3.1).
        return {}, (quote_plus(client.id), Sensitive(quote_plus(client.secret.reveal_text())))
    if client.auth != "post":
        raise WrongUsage("a client shows who it is by basic, post, none or private_key_jwt")
    return {"client_id": client.id, "client_secret": client.secret}, None


def _refused_client(heard: Heard) -> bool:
    return heard.answer.status in (400, 401, 403) and "invalid_client" in heard.words


def failure(asked: Asked, client: Client, heard: Heard) -> Gone | Rejected | NotNow | Uncertain:
    """What a whole reply means that is not good."""
    answer, words = heard.answer, heard.words
    status, host = answer.status, _host(asked.url)
    sent = [value for value in (*asked.fields.values(), client.secret) if isinstance(value, Sensitive)]
    word = said(words[0], sent) if words else ""
    shown = f"{word} (HTTP {status})" if word else f"HTTP {status}"
    if status in _LATER_STATUS or (status == 503 and "Retry-After" in answer.headers) or _LATER & set(words):
        return NotNow(f"{host} is busy: {shown}", retry_after=_retry_after(heard), hint="it is tried again later")
    if status >= 500:
        return _lost(asked, f"{host} failed: {shown}")
    if asked.gone & set(words) or status in asked.gone_status:
        return Gone(f"{host} says that this consent is no longer good: {shown}", hint="connect it again")
    if 300 <= status < 400:
        return Rejected(f"{host} answered with a redirect, which is not followed", hint="check the address of it")
    if not words:
        return Rejected(f"{host} did not accept the request and gave no reason: {shown}", hint="check its address")
    hint = _CLIENT_HINT if {"invalid_client", "unauthorized_client"} & set(words) else ""
    return Rejected(f"{host} did not accept the request: {shown}", hint=hint)


def _lost(asked: Asked, sentence: str) -> NotNow | Uncertain:
    if asked.changes:
        return Uncertain(sentence, hint="whether it changed anything there is not known")
    return NotNow(sentence, hint="try again later")


def unusable(asked: Asked, why: str) -> NotNow | Uncertain:
    """The failure for a reply with a good status that is of no use."""
    return _lost(asked, f"what {_host(asked.url)} answered cannot be used: {why}")


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].partition("?")[0]


def _retry_after(heard: Heard) -> float | None:
    """Seconds (RFC 9110, 10.2.3: a number, or a moment), at most a day."""
    given = heard.answer.headers.get("Retry-After", "").strip()
    if given.isascii() and given.isdigit():
        return min(float(given[:9]), _LONGEST_WAIT)
    moment = server_time(given)
    return None if moment is None else min(max(moment - heard.now, 0.0), _LONGEST_WAIT)
