"""
What a call to a model has used, from what the provider says of it.

Providers have their own names for the same numbers. A name says which numbers it includes, so that none is counted twice:
`input_tokens` with `cache_read_input_tokens` beside it is without those, `prompt_tokens` with details has them in it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote

from company_agents.outgoing.client import OutgoingRequest

# More than that is a mistake, or a reply that means ill: it would fill a counter for ever.
MOST_TOKENS = 10**12
MOST_MODEL = 200
# What is reckoned where nothing is said. English has about four bytes for a token, code and most other languages about three:
# what is estimated is rather too much than too little. An image costs what a page of text does, however long it is.
BYTES_PER_TOKEN = 3
IMAGE = 4000
# Parts of a request that are looked at for images; what is beyond counts by its length.
MOST_PARTS = 20_000
# The price of these is the list price.
STANDARD_TIERS = frozenset({"", "auto", "default", "on_demand", "standard", "standard_only"})

# The last part of the paths that a model answers at.
_MODEL_PATHS = re.compile(
    r"/(chat/completions|fim/completions|completions|responses|embeddings|converse|converse-stream|invoke"
    r"|invoke-with-response-stream)$|/v\d\w*/(messages|complete|chat|embed|rerank)$"
    r"|:(generateContent|streamGenerateContent|embedContent|batchEmbedContents)$"
)
# What is sent to such a provider, and costs nothing.
_FREE_PATHS = re.compile(
    r"/(count_tokens|input_tokens|tokenize|detokenize|moderations|cancel)$|/(files|uploads)(/[^/:]+){0,2}$|:countTokens$"
)
_ONLY_READS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
# What is answered later, in a reply that nobody can tie to this call.
_LATER_PATHS = re.compile(
    r"/(batches|batch/jobs|async|async-invoke|embed-jobs|model-invocation-job)(/|$)"
    r"|:(asyncBatchEmbedContent|batchGenerateContent)$"
)
_LATER_WORDS = ("background", "deferred")
_MODEL_IN_PATH = re.compile(r"/(?:models|tunedModels|model)/([^/:]+)(?::|/(?:invoke|converse))")


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What one call used. `input_tokens` are those that no cache had part in. `estimated`: the provider did not say it.

    `dollars`: what the provider itself says that it cost. `tier`: at which of the provider's speeds, where that is not the
    standard one. `searches` of the web are charged apart.
    """

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    # Those among them that are kept for an hour, which costs more.
    cache_write_hour_tokens: int = 0
    estimated: bool = False
    dollars: Decimal | None = None
    tier: str = ""
    searches: int = 0

    @property
    def prompt_tokens(self) -> int:
        """All that went in, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def tokens(self) -> int:
        """All that went in and came out: what token budgets are compared with."""
        return self.prompt_tokens + self.output_tokens

    def merged(self, other: Usage) -> Usage:
        """Both of one call, said at two moments: providers count up, so the higher number is the later one."""
        higher = {name: max(getattr(self, name), getattr(other, name)) for name in _NUMBERS}
        dollars = max((one for one in (self.dollars, other.dollars) if one is not None), default=None)
        return replace(
            self,
            **higher,
            model=self.model or other.model,
            tier=other.tier or self.tier,
            dollars=dollars,
            estimated=False,
        )


_NUMBERS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_hour_tokens",
    "searches",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What a request says of itself: the model, and the speed that it asks for. `later`: what it uses is not said in the reply,
    which comes before the work is done.
    """

    model: str = ""
    tier: str = ""
    later: bool = False


def is_paid(request: OutgoingRequest) -> bool:
    """Whether a call to a provider of models may cost something."""
    # Some take another method from a header than that of the request.
    overridden = any("method" in name.lower() for name in headers_of(request))
    if request.method in _ONLY_READS and not overridden and request.socket is None:
        return False
    # An escape, or a parameter, could make another path of it on the other side.
    return any(sign in request.path for sign in "%;") or _FREE_PATHS.search(request.path) is None


def is_model_call(path: str) -> bool:
    """Whether a model answers there."""
    return _MODEL_PATHS.search(_plain(path)) is not None


def _plain(path: str) -> str:
    """A path as a lenient server reads it: without escapes, parameters and doubled slashes."""
    return re.sub(r"/+", "/", re.sub(r";[^/]*", "", unquote(path))).rstrip("/")


def headers_of(request: OutgoingRequest) -> dict[str, str]:
    """A request's headers; of several of one name, the last."""
    return dict(request.headers.items() if isinstance(request.headers, Mapping) else request.headers)


def asked(request: OutgoingRequest) -> Asked:
    """What a request asks for, from its path or its body; nothing where that cannot be read."""
    found = _MODEL_IN_PATH.search(request.path)
    body: Any = dict(parse_qsl(request.query)) if request.socket is not None else None
    if isinstance(request.body, bytes) and request.socket is None:
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):
            body = None
    given = body if isinstance(body, dict) else {}
    model = found[1] if found else given.get("model")
    later = any(given.get(name) not in (None, False) for name in _LATER_WORDS)
    return Asked(word(model), _tier_of(given), later or _LATER_PATHS.search(_plain(request.path)) is not None)


def estimated_tokens(body: bytes) -> int:
    """How many tokens a request's body may be, where nobody says it: by its length, but for the images in it."""
    size = len(body)
    if b"image" in body and size > IMAGE:
        with contextlib.suppress(ValueError, RecursionError):
            size -= sum(max(image - IMAGE, 0) for image in _images(json.loads(body)))
    return -(-size // BYTES_PER_TOKEN)


# Where a message may have an image. Elsewhere, as in the schema of a tool, what looks like one is read as text.
_BLOCKS = frozenset(
    {"messages", "content", "contents", "parts", "input", "source", "image_url", "image", "inlineData", "inline_data"}
)
_IMAGE_URL = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=_-]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/=_-]+")


def _images(request: object) -> Iterator[int]:
    """The length of each image in a request."""
    left = [request]
    for _ in range(MOST_PARTS):
        if not left:
            return
        part = left.pop()
        if isinstance(part, list):
            left.extend(one for one in part[:MOST_PARTS] if isinstance(one, dict))
        elif isinstance(part, dict):
            # The input of a tool is text, whatever it looks like.
            inner = {
                name: part[name] for name in _BLOCKS & part.keys() if name != "input" or isinstance(part[name], list)
            }
            left.extend(one for one in inner.values() if isinstance(one, (dict, list)))
            kind = next((part[name] for name in ("media_type", "mimeType", "mime_type") if name in part), None)
            data = part.get("data")
            if (
                isinstance(kind, str)
                and kind.startswith("image/")
                and isinstance(data, str)
                and _BASE64.fullmatch(data)
            ):
                yield len(data)
            for url in (part.get("url"), part.get("image_url")):
                if isinstance(url, str) and _IMAGE_URL.fullmatch(url):
                    yield len(url)


def word(value: object) -> str:
    """A provider's or caller's name for something, as it can be stored and shown; empty where it is none."""
    if not isinstance(value, str) or len(value) > MOST_MODEL or not value.isprintable():
        return ""
    return value


def said(reply: object) -> Usage | None:
    """What a reply, or one event of a stream, says of what was used; None where it says nothing."""
    if not isinstance(reply, dict):
        return None
    for part in _parts(reply):
        found = _numbers(part)
        if found is not None:
            return replace(found, model=model_of(reply), tier=found.tier or _tier_of(reply))
    return None


def model_of(reply: Mapping[str, Any]) -> str:
    """The model that a reply, or one event of a stream, says to be from."""
    for part in (reply, reply.get("message"), reply.get("response")):
        if isinstance(part, dict):
            name = word(part.get("model")) or word(part.get("modelVersion"))
            if name:
                return name
    return ""


def _parts(reply: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Where a provider may say it: at the top, or in what an event carries."""
    for part in (reply, *(reply.get(name) for name in ("message", "response", "delta", "x_groq"))):
        if isinstance(part, dict):
            for name in ("usage", "usageMetadata", "meta", "amazon-bedrock-invocationMetrics"):
                if isinstance(part.get(name), dict):
                    yield part[name]


def _numbers(usage: dict[str, Any]) -> Usage | None:
    # Cohere says both what it charges, and what there was.
    billed = usage.get("billed_units")
    if isinstance(billed, dict):
        usage = billed
    for read in (_apart, _included, _gemini, _bedrock):
        found = read(usage)
        if found is not None:
            return replace(found, dollars=_dollars(usage))
    return None


def _apart(usage: dict[str, Any]) -> Usage | None:
    """Input beside what the cache had: Anthropic; and, with details, OpenAI's Responses, where it is within."""
    if "input_tokens" not in usage and "output_tokens" not in usage:
        return None
    details = usage.get("input_tokens_details") or usage.get("input_token_details")
    if isinstance(details, dict):
        return _within(usage, "input_tokens", "output_tokens", details)
    hour, searches = usage.get("cache_creation"), usage.get("server_tool_use")
    return Usage(
        input_tokens=_count(usage.get("input_tokens")),
        output_tokens=max(_count(usage.get("output_tokens")), 0),
        cache_read_tokens=_count(usage.get("cache_read_input_tokens")),
        cache_write_tokens=_count(usage.get("cache_creation_input_tokens")),
        cache_write_hour_tokens=_count(hour.get("ephemeral_1h_input_tokens")) if isinstance(hour, dict) else 0,
        searches=_count(searches.get("web_search_requests")) if isinstance(searches, dict) else 0,
        tier=_tier_of(usage),
    )


def _included(usage: dict[str, Any]) -> Usage | None:
    """A prompt with what the cache had in it: OpenAI's Chat Completions and embeddings, and those that are like them."""
    if "prompt_tokens" not in usage:
        return None
    details = usage.get("prompt_tokens_details")
    given = details if isinstance(details, dict) else {"cached_tokens": usage.get("prompt_cache_hit_tokens")}
    return _within(usage, "prompt_tokens", "completion_tokens", given)


def _within(usage: dict[str, Any], prompt: str, completion: str, details: dict[str, Any]) -> Usage:
    whole = _count(usage.get(prompt))
    cached = min(_count(details.get("cached_tokens")), whole)
    written = min(_count(details.get("cache_write_tokens")), whole - cached)
    # Some leave out of the completion what the model thought; the total has it.
    output = max(_count(usage.get(completion)), _count(usage.get("total_tokens")) - whole)
    return Usage(
        input_tokens=whole - cached - written,
        output_tokens=output,
        cache_read_tokens=cached,
        cache_write_tokens=written,
    )


def _gemini(usage: dict[str, Any]) -> Usage | None:
    if "promptTokenCount" not in usage and "totalTokenCount" not in usage:
        return None
    prompt = _count(usage.get("promptTokenCount")) + _count(usage.get("toolUsePromptTokenCount"))
    cached = min(_count(usage.get("cachedContentTokenCount")), prompt)
    output = _count(usage.get("candidatesTokenCount")) + _count(usage.get("thoughtsTokenCount"))
    return Usage(
        input_tokens=prompt - cached,
        output_tokens=max(output, _count(usage.get("totalTokenCount")) - prompt),
        cache_read_tokens=cached,
    )


def _bedrock(usage: dict[str, Any]) -> Usage | None:
    if "inputTokens" not in usage and "inputTokenCount" not in usage:
        return None
    ending = "Tokens" if "inputTokens" in usage else "TokenCount"
    return Usage(
        input_tokens=_count(usage.get(f"input{ending}")),
        output_tokens=_count(usage.get(f"output{ending}")),
        cache_read_tokens=_count(usage.get(f"cacheReadInput{ending}")),
        cache_write_tokens=_count(usage.get(f"cacheWriteInput{ending}")),
    )


def _dollars(usage: dict[str, Any]) -> Decimal | None:
    """What it cost, where a provider says so in US dollars: OpenRouter a number, Perplexity a table with a total."""
    cost, details = usage.get("cost"), usage.get("cost_details")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    found = _decimal(cost)
    if found is not None and usage.get("is_byok") is True and isinstance(details, dict):
        # With the company's own key behind it, this is only what the one in between takes.
        found += _decimal(details.get("upstream_inference_cost")) or 0
    return found


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < MOST_TOKENS:
        return None
    return Decimal(str(value))


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_TOKENS:
        return 0
    return int(value)


def _tier_of(given: dict[str, Any]) -> str:
    """What makes a call dearer or cheaper than the list price: its speed, or where it must be served."""
    named = [word(given.get(name)) for name in ("speed", "service_tier")]
    if given.get("inference_geo") == "us":
        named.append("us")
    return "+".join(name for name in named if name not in STANDARD_TIERS)
