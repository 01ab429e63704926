"""
Where what came with a company sends to. What is obeyed is sealed; the rows beside it are for people, and whoever makes a file
may write anything there. So both are compared, and what is sealed is what is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from company_agents.backup.company_tables import kind_of_secret
from company_agents.backup.manifest import broken

Record = Mapping[str, str | None]

INTEGRATION, ADAPTER, WEBHOOK, CLIENT = "integration", "agent_adapter", "webhook", "oauth_client"
# The kinds of secrets that say where they go.
KINDS = frozenset((INTEGRATION, ADAPTER, WEBHOOK, CLIENT))
_PORTS = {"https": 443, "http": 80}
# docs/spec/sealing.md has the formats.
_FORMATS = {INTEGRATION: (1, 2), ADAPTER: (1,), WEBHOOK: (1,), CLIENT: (1,)}
_ENDPOINTS = ("token", "authorization", "device", "revocation", "introspection", "registration")


@dataclass(frozen=True, slots=True)
class Goes:
    """
    Where something sends a credential, or what it signs, to: `what` it is (integration, adapter, webhook, client), its name,
    scheme, host and port of each place, and whether it may go into a private network.
    """

    what: str
    name: str
    origins: tuple[str, ...]
    private: bool
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a secret says: where it goes to, as people are shown it; every place; and whether a private network is one."""

    name: str
    shown: str
    origins: tuple[str, ...]
    private: bool
    fields: Mapping[str, Any]


def sealed_place(name: str, value: bytes) -> Sealed:
    """
    What the value of a secret of one of these kinds says.

    Raises:
        Broken: it says nothing of the kind.
    """
    kind = kind_of_secret(name)
    try:
        found = json.loads(value)
        if found["format"] not in _FORMATS[kind]:
            raise ValueError
        shown, origins, private = _PLACES[kind](found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Without the cause, which quotes what was sealed.
        raise broken(f"a secret of the kind {kind} says nothing that such a one says") from None
    kept = {field: found.get(field) for field in ("provider", "issuer", "id", "auth")} if kind == CLIENT else {}
    return Sealed(name, shown, tuple(dict.fromkeys(origins)), private, kept)


def _of_credential(found: dict[str, Any]) -> tuple[str, list[str], bool]:
    place = found["destination"]
    scheme, port = str(place["scheme"]), int(place["port"])
    origins = [_origin(scheme, str(host), port) for host in (place["host"], *place["extra_hosts"])]
    private = place["allow_private"] is not False or scheme != "https"
    if found["format"] == 2:
        also, wide = _of_endpoints(found["consent"]["endpoints"])
        return origins[0], [*origins, *also], private or wide
    return origins[0], origins, private


def _of_receiver(found: dict[str, Any]) -> tuple[str, list[str], bool]:
    url = str(found["url"])
    return url.partition("?")[0], [_origin_of(url)], found["allow_private"] is not False or not url.startswith("https:")


def _of_client(found: dict[str, Any]) -> tuple[str, list[str], bool]:
    if found["kind"] != CLIENT:
        raise ValueError
    origins, private = _of_endpoints(found["endpoints"])
    return origins[0], origins, private


def _of_endpoints(endpoints: dict[str, Any]) -> tuple[list[str], bool]:
    urls = [str(endpoints[name]) for name in _ENDPOINTS if endpoints.get(name)]
    private = endpoints["allow_private"] is not False or not all(url.startswith("https:") for url in urls)
    if not endpoints["token"]:
        raise ValueError
    return [_origin_of(url) for url in urls], private


_PLACES = {INTEGRATION: _of_credential, ADAPTER: _of_receiver, WEBHOOK: _of_receiver, CLIENT: _of_client}


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError
    return _origin(parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])


def _origin(scheme: str, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if _PORTS[scheme] == port else f"{scheme}://{shown}:{port}"


@dataclass(frozen=True)
class Places:
    """
    What was found: where everything goes; the ids of the integrations and agents that may go into a private network; and the
    secrets of versions that nothing uses any more.
    """

    goes: tuple[Goes, ...] = ()
    integrations: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()


@dataclass
class Gathered:
    """Gathers, row by row, what says where it goes, and what is sealed of that; at the end both are compared."""

    sealed: dict[str, Sealed] = field(default_factory=dict)
    _agents: dict[str, tuple[str, str]] = field(default_factory=dict)
    _integrations: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    _versions: dict[str, tuple[str, str]] = field(default_factory=dict)
    _webhooks: dict[str, tuple[str, str]] = field(default_factory=dict)
    _clients: list[tuple[dict[str, str], str]] = field(default_factory=list)
    _left: set[str] = field(default_factory=set)

    def row(self, table: str, row: Record) -> None:
        """
        A row of a table.

        Raises:
            Broken: it is none of that table.
        """
        try:
            match table:
                case "agents" if row.get("adapter") == "http":
                    self._agents[_text(row["id"])] = (_text(row["name"]), _text(row["adapter_config"]))
                case "integrations":
                    shown = (_text(row["name"]), _text(row["provider"]), _text(row["destination"]))
                    self._integrations[_text(row["id"])] = shown
                case "credential_versions":
                    self._version(row)
                case "webhooks":
                    self._webhooks[_text(row["id"])] = (_text(row["url"]), _text(row["secret_id"]))
                case "oauth_clients":
                    shown_client = {name: _text(row[name]) for name in ("provider", "issuer", "client_id", "auth")}
                    self._clients.append((shown_client, _text(row["secret_id"])))
        except (KeyError, ValueError):
            raise broken(f"tables/{table} has not the columns that it has to have") from None

    def _version(self, row: Record) -> None:
        secret = row["secret_id"]
        if secret is None:
            return
        if row["state"] != "current":
            # Whoever revokes it at the provider is the instance that it came from.
            self._left.add(secret)
            return
        integration = _text(row["integration_id"])
        self._versions[integration] = (f"{INTEGRATION}/{integration}/{_text(row['version'])}", secret)

    def places(self) -> Places:
        """
        What was found.

        Raises:
            Broken: something is shown to go elsewhere than it goes.
        """
        goes: list[Goes] = []
        private: set[str] = set()
        for id_, (name, provider, shown) in self._integrations.items():
            if id_ not in self._versions:
                continue
            sealed = self._named(*self._versions[id_])
            if sealed.shown != shown:
                raise _elsewhere("an integration")
            goes.append(Goes("integration", name, sealed.origins, sealed.private, provider))
            private |= {id_} if sealed.private else set()
        for id_, (url, secret) in self._webhooks.items():
            sealed = self._named(f"{WEBHOOK}/{id_}", secret)
            if sealed.shown != url:
                raise _elsewhere("a webhook")
            goes.append(Goes("webhook", id_, sealed.origins, sealed.private))
        for row, secret in self._clients:
            goes.append(self._client(row, secret))
        agents = self._handed(goes)
        # Credentials that nothing names: nobody compares them with what is shown.
        named = {secret for _, secret in self._versions.values()}
        left = {
            id_ for id_, each in self.sealed.items() if kind_of_secret(each.name) == INTEGRATION and id_ not in named
        }
        return Places(tuple(goes), frozenset(private), agents, frozenset(self._left | left))

    def _handed(self, goes: list[Goes]) -> frozenset[str]:
        by_name = {each.name: each for each in self.sealed.values()}
        private = set()
        for id_, (name, config) in self._agents.items():
            # One that was restored without its secrets has none, and nothing is handed over.
            if (sealed := by_name.get(f"{ADAPTER}/{id_}")) is None:
                continue
            shown = _json(config)
            if shown.get("url") != sealed.shown or shown.get("allow_private_network", False) is not sealed.private:
                raise _elsewhere("an agent's adapter")
            goes.append(Goes("adapter", name, sealed.origins, sealed.private))
            private |= {id_} if sealed.private else set()
        return frozenset(private)

    def _client(self, row: dict[str, str], secret: str) -> Goes:
        found = self.sealed.get(secret)
        said = {"provider": row["provider"], "issuer": row["issuer"], "id": row["client_id"], "auth": row["auth"]}
        if found is None or kind_of_secret(found.name) != CLIENT or found.fields != said:
            raise _elsewhere("a client at a provider")
        return Goes("client", row["client_id"], found.origins, found.private, row["provider"])

    def _named(self, name: str, secret: str) -> Sealed:
        found = self.sealed.get(secret)
        if found is None or found.name != name:
            raise broken("something names a secret that is not its own")
        return found


def _text(value: str | None) -> str:
    if value is None:
        raise ValueError
    return value


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _elsewhere(what: str) -> Exception:
    return broken(f"{what} is shown to be for another place than the one that is sealed with it")
