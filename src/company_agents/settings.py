"""
The table of settings: name, default, meaning. Read once at start, frozen, and handed to the parts.

Each comes from the environment, else from `config.toml` in the instance home (nothing secret belongs
there), else from its default. `docs/settings.md` is checked against this table.
"""

from __future__ import annotations

import os
import stat
import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from company_agents.errors import MayNotStart

Network = IPv4Network | IPv6Network

# Variables whose value may hold a secret: their text is wiped from /proc/self/environ once read.
SECRET_VARIABLES = ("DATABASE_URL", "DATABASE_DIRECT_URL", "MASTER_KEY_SOURCE")


def default_home() -> Path:
    """The instance home of the guide."""
    return Path.home() / ".company-agents" / "instances" / "default"


def _setting(default: Any, variable: str, meaning: str) -> Any:
    return Field(default=default, validation_alias=AliasChoices(variable), description=meaning)


class Settings(BaseSettings):
    """
    What an operator can set. A value that does not parse stops the start and is not repeated.
    """

    # An empty variable is one that is not set: `COMPANY_AGENTS_HOME=` must not come to mean this folder.
    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True)

    home: Path = _setting(None, "COMPANY_AGENTS_HOME", "the instance home; holds the database, the key and the logs")
    master_key_path: str | None = _setting(None, "MASTER_KEY_PATH", "where the master key's file lies")
    master_key_source: SecretStr | None = _setting(None, "MASTER_KEY_SOURCE", "the address of the key source")
    database_url: SecretStr | None = _setting(None, "DATABASE_URL", "your own Postgres, 15 to 18; unset: embedded")
    database_direct_url: SecretStr | None = _setting(
        None, "DATABASE_DIRECT_URL", "the same database without a pooler: for migrations and for work on the instance"
    )
    database_pool: int = Field(
        default=16,
        ge=2,
        le=200,
        validation_alias=AliasChoices("COMPANY_AGENTS_DATABASE_POOL"),
        description="connections that one orchestrator keeps to serve requests, at most",
    )
    postgres_bin: Path | None = _setting(
        None, "COMPANY_AGENTS_POSTGRES_BIN", "folder of another Postgres to embed; unset: the one installed with us"
    )
    host: str = _setting("127.0.0.1", "COMPANY_AGENTS_HOST", "the address that `up` listens on")
    port: int = Field(
        default=3101,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("COMPANY_AGENTS_PORT"),
        description="the port that `up` listens on; 0 takes a free one",
    )
    public_url: str | None = _setting(
        None, "COMPANY_AGENTS_PUBLIC_URL", "how people and agents reach this orchestrator; unset: http://host:port"
    )
    ca_file: Path | None = _setting(
        None, "COMPANY_AGENTS_CA_FILE", "certificate authorities for outgoing calls; unset: the system's"
    )
    private_networks: str = Field(
        default="any",
        validation_alias=AliasChoices("COMPANY_AGENTS_PRIVATE_NETWORKS"),
        description="what an integration that may go to private networks may reach of them: `any`, `none`, or a list "
        "such as `10.1.0.0/16, fd00:1::/32`",
    )
    call_timeout: float = Field(
        default=60.0,
        gt=0,
        le=600,
        validation_alias=AliasChoices("COMPANY_AGENTS_CALL_TIMEOUT"),
        description="seconds that one outgoing call may take",
    )
    company_calls: int = Field(
        default=50,
        ge=1,
        le=1000,
        validation_alias=AliasChoices("COMPANY_AGENTS_COMPANY_CALLS"),
        description="outgoing calls of one company that are under way at once; the next wait for half of a call's time",
    )
    call_limit: int = Field(
        default=10 * 1024 * 1024,
        ge=1024,
        validation_alias=AliasChoices("COMPANY_AGENTS_CALL_LIMIT"),
        description="bytes that the body of one outgoing call or its reply may have",
    )
    log_level: str = Field(
        default="info",
        pattern="^(debug|info|warning|error)$",
        validation_alias=AliasChoices("COMPANY_AGENTS_LOG_LEVEL"),
        description="debug, info, warning or error",
    )

    @field_validator("private_networks")
    @classmethod
    def _networks(cls, text: str) -> str:
        _read_networks(text)
        return text

    @property
    def networks(self) -> tuple[Network, ...] | None:
        """The private networks that may be reached; None: all of them."""
        return _read_networks(self.private_networks)

    @property
    def url(self) -> str:
        """How people and agents reach this orchestrator, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.public_url or f"http://{host}:{self.port}").rstrip("/")


def _read_networks(text: str) -> tuple[Network, ...] | None:
    if text == "any":
        return None
    return () if text == "none" else tuple(ip_network(part.strip()) for part in text.split(","))


def read_settings(**given: Any) -> Settings:
    """
    The settings of this process; `given` (options of a command) win over everything.

    Raises:
        MayNotStart: a value does not parse, or `config.toml` is no TOML, or another user could have written it.
    """
    home = Path(given.get("home") or os.environ.get("COMPANY_AGENTS_HOME") or default_home()).expanduser().absolute()
    file = _config_file(home)

    class Read(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: Any, *sources: Any, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """What is given over the environment over `config.toml` over defaults."""
            return (init_settings, named["env_settings"], InitSettingsSource(settings_cls, file))

    try:
        return Read(**{**_present(given), "home": home})
    except ValidationError as error:
        # The error quotes the value, which may be a secret: only the name of the setting is repeated.
        name = str(error.errors()[0]["loc"][0])
        raise MayNotStart(
            f"the setting {name} has a value that cannot be used", hint="see docs/settings.md for what it may be"
        ) from None


def _present(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None and name != "home"}


def _config_file(home: Path) -> dict[str, Any]:
    try:
        content = _read_private(home, "config.toml")
        found = tomllib.loads(content.decode())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        if not (os.access(home, os.X_OK) and home.is_dir()):
            raise MayNotStart(f"{home} cannot be entered", hint="check the path of the instance home") from error
        raise MayNotStart("config.toml cannot be read", hint=f"look at {home / 'config.toml'}") from error
    known = set(Settings.model_fields) - {"home", "database_url", "database_direct_url"}
    unknown = sorted(set(found) - known)
    if unknown:
        raise MayNotStart(
            f"config.toml has a setting that is not known there: {unknown[0]}",
            hint="docs/settings.md lists them; secrets go into the environment",
        )
    return found


def _read_private(home: Path, name: str) -> bytes:
    """
    A file of the home that nobody else can have written: it names programs, which we run.

    Raises:
        FileNotFoundError: there is none.
        MayNotStart: somebody else's, or in somebody else's folder, or others may write to it.
    """
    # Both are checked as they were opened, and the one is opened from the other, so that nothing can be exchanged between
    # the check and the reading. O_PATH asks for no right to list the folder; without O_NONBLOCK a pipe would wait.
    folder = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise MayNotStart(
                    f"{home / name} is not a file", hint="settings stand in a file, or in the environment"
                )
            _check_owner(home, os.fstat(folder))
            _check_owner(home / name, status)
            if stat.S_IMODE(status.st_mode) & 0o022:
                raise MayNotStart(
                    f"{home / name} can be written by others than its owner", hint=f"chmod go-w {home / name}"
                )
            return file.read()
    finally:
        os.close(folder)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise MayNotStart(
            f"{path} belongs to another user", hint=f"look at what it says, then chown {os.geteuid()} {path}"
        )
