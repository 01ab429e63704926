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

from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from company_agents.errors import MayNotStart

Network = IPv4Network | IPv6Network

# Variables whose value may hold a secret: their text is wiped from /proc/self/environ once read.
SECRET_VARIABLES = (
    "DATABASE_URL",
    "DATABASE_DIRECT_URL",
    "MASTER_KEY_SOURCE",
    "VAULT_TOKEN",
    "VAULT_SECRET_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
)


def default_home() -> Path:
    """The instance home of the guide."""
    return Path.home() / ".company-agents" / "instances" / "default"


def _setting(default: Any, variable: str, meaning: str) -> Any:
    return Field(default=default, validation_alias=AliasChoices(variable), description=meaning)


def _number(default: int, variable: str, meaning: str, least: int, most: int | None = None) -> Any:
    return Field(default=default, ge=least, le=most, validation_alias=AliasChoices(variable), description=meaning)


def _seconds(default: float, variable: str, meaning: str, most: int) -> Any:
    return Field(default=default, gt=0, le=most, validation_alias=AliasChoices(variable), description=meaning)


def _choice(default: str, variable: str, meaning: str, *words: str) -> Any:
    pattern = f"^({'|'.join(words)})$"
    return Field(default=default, pattern=pattern, validation_alias=AliasChoices(variable), description=meaning)


class Settings(BaseSettings):
    """
    What an operator can set. A value that does not parse stops the start and is not repeated.
    """

    # An empty variable is one that is not set: `COMPANY_AGENTS_HOME=` must not come to mean this folder.
    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True)

    _key_value: SecretStr | None = PrivateAttr(None)

    home: Path = _setting(None, "COMPANY_AGENTS_HOME", "the instance home; holds the database, the key and the logs")
    master_key_path: str | None = _setting(None, "MASTER_KEY_PATH", "where the master key's file lies")
    master_key_source: SecretStr | None = _setting(None, "MASTER_KEY_SOURCE", "the address of the key source")
    key_period: int = _number(
        *(365, "COMPANY_AGENTS_KEY_PERIOD"),
        "days after which a master key is called old, and its rotation is asked for",
        *(1, 36500),
    )
    key_grace: int = _number(
        *(30, "COMPANY_AGENTS_KEY_GRACE"),
        "days that a rotated master key is kept for older backups, before it can be pruned",
        *(0, 36500),
    )
    key_timeout: float = _seconds(
        10.0, "COMPANY_AGENTS_KEY_SOURCE_TIMEOUT", "seconds that one call to the key source may take", 120
    )
    key_endpoint: str | None = _setting(
        None,
        "COMPANY_AGENTS_KEY_SOURCE_ENDPOINT",
        "another address of the AWS, GCP or Azure service that keeps the key",
    )
    key_ca_file: Path | None = _setting(
        None, "COMPANY_AGENTS_KEY_SOURCE_CA_FILE", "certificate authorities for the key source; unset: the system's"
    )
    vault_addr: str | None = _setting(None, "VAULT_ADDR", "the address of Vault, https://host:8200")
    vault_namespace: str | None = _setting(None, "VAULT_NAMESPACE", "the namespace in Vault")
    vault_cacert: Path | None = _setting(None, "VAULT_CACERT", "certificate authorities for Vault")
    vault_token: SecretStr | None = _setting(None, "VAULT_TOKEN", "a token for Vault")
    vault_role_id: str | None = _setting(None, "VAULT_ROLE_ID", "the role id of an AppRole in Vault")
    vault_secret_id: SecretStr | None = _setting(None, "VAULT_SECRET_ID", "the secret id of an AppRole in Vault")
    vault_kubernetes_role: str | None = _setting(
        None, "COMPANY_AGENTS_VAULT_KUBERNETES_ROLE", "the role of this pod's service account in Vault"
    )
    vault_kubernetes_token: Path = _setting(
        Path("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        "COMPANY_AGENTS_VAULT_KUBERNETES_TOKEN",
        "the file that holds the token of the service account",
    )
    vault_auth_mount: str | None = _setting(
        None, "COMPANY_AGENTS_VAULT_AUTH_MOUNT", "where the auth method is mounted; unset: `approle` or `kubernetes`"
    )
    aws_access_key_id: str | None = _setting(
        None, "AWS_ACCESS_KEY_ID", "an access key for AWS; unset: AWS's own chain of credentials"
    )
    aws_secret_access_key: SecretStr | None = _setting(None, "AWS_SECRET_ACCESS_KEY", "its secret")
    aws_session_token: SecretStr | None = _setting(None, "AWS_SESSION_TOKEN", "its session token, if it has one")
    azure_tenant_id: str | None = _setting(
        None, "AZURE_TENANT_ID", "the tenant of a service principal; unset: Azure's own chain of credentials"
    )
    azure_client_id: str | None = _setting(None, "AZURE_CLIENT_ID", "its id")
    azure_client_secret: SecretStr | None = _setting(None, "AZURE_CLIENT_SECRET", "its secret")
    database_url: SecretStr | None = _setting(None, "DATABASE_URL", "your own Postgres, 15 to 18; unset: embedded")
    database_direct_url: SecretStr | None = _setting(
        None, "DATABASE_DIRECT_URL", "the same database without a pooler: for migrations and for work on the instance"
    )
    database_pool: int = _number(
        16, "COMPANY_AGENTS_DATABASE_POOL", "connections that one orchestrator keeps to serve requests, at most", 2, 200
    )
    postgres_bin: Path | None = _setting(
        None, "COMPANY_AGENTS_POSTGRES_BIN", "folder of another Postgres to embed; unset: the one installed with us"
    )
    host: str = _setting("127.0.0.1", "COMPANY_AGENTS_HOST", "the address that `up` listens on")
    port: int = _number(3101, "COMPANY_AGENTS_PORT", "the port that `up` listens on; 0 takes a free one", 0, 65535)
    public_url: str | None = _setting(
        None, "COMPANY_AGENTS_PUBLIC_URL", "how people and agents reach this orchestrator; unset: http://host:port"
    )
    local_url: str | None = _setting(
        None,
        "COMPANY_AGENTS_LOCAL_URL",
        "how runs on this machine reach this orchestrator; unset: http://127.0.0.1:port",
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
    call_timeout: float = _seconds(60.0, "COMPANY_AGENTS_CALL_TIMEOUT", "seconds that one outgoing call may take", 600)
    company_calls: int = _number(
        *(50, "COMPANY_AGENTS_COMPANY_CALLS"),
        "outgoing calls of one company that are under way at once; the next wait for half of a call's time",
        *(1, 1000),
    )
    call_limit: int = _number(
        10 * 1024**2,
        "COMPANY_AGENTS_CALL_LIMIT",
        "bytes that the body of one outgoing call or its reply may have",
        1024,
    )
    company_streams: int = _number(
        *(500, "COMPANY_AGENTS_COMPANY_STREAMS"),
        "streamed calls of one company that are open at once in one orchestrator",
        *(1, 10_000),
    )
    stream_idle: float = _seconds(
        300.0, "COMPANY_AGENTS_STREAM_IDLE", "seconds in which nothing of a streamed call need move", 3600
    )
    stream_limit: int = _number(
        4 * 1024**3,
        "COMPANY_AGENTS_STREAM_LIMIT",
        "bytes that the body of one streamed call or its reply may have",
        1024,
    )
    message_limit: int = _number(
        *(1024**2, "COMPANY_AGENTS_MESSAGE_LIMIT"),
        "bytes that one message of a WebSocket may have, which is searched as a whole",
        *(1024, 64 * 1024**2),
    )
    approval_hours: int = _number(
        *(24, "COMPANY_AGENTS_APPROVAL_HOURS"),
        "hours that a request which a person has to approve waits for one",
        *(1, 720),
    )
    audit_sinks: str = _setting(
        "",
        "COMPANY_AGENTS_AUDIT_SINKS",
        "where the audit chains go out to as they grow: addresses, separated by commas, each with `required` before it where "
        "no credential is to be used while it cannot be written; see [audit-sinks.md](audit-sinks.md)",
    )
    refreshes: int = _number(
        16, "COMPANY_AGENTS_REFRESHES", "consents that one orchestrator refreshes at once", 1, 1000
    )
    probe_every: int = _number(
        *(24, "COMPANY_AGENTS_PROBE_EVERY"),
        "hours after which each integration is tried at its provider by itself; 0: never",
        *(0, 8760),
    )
    bubblewrap: Path | None = _setting(
        None,
        "COMPANY_AGENTS_BUBBLEWRAP",
        "the program that makes sandboxes for agents' processes; unset: `bwrap` in `PATH`",
    )
    run_users: str = _setting(
        "",
        "COMPANY_AGENTS_RUN_USERS",
        "as root: numbers of users that agents' processes run as, such as `20000-20099`; see [sandbox.md](security/sandbox.md)",
    )
    run_processes: int = _number(
        512, "COMPANY_AGENTS_RUN_PROCESSES", "processes and threads that one run may have at once", 16, 100_000
    )
    run_memory: int = _number(
        4096, "COMPANY_AGENTS_RUN_MEMORY", "MiB of memory that each process of a run may have", 64, 1_000_000
    )
    run_file_size: int = _number(
        1024, "COMPANY_AGENTS_RUN_FILE_SIZE", "MiB that one file written by a run may have", 1, 1_000_000
    )
    runs: int = _number(
        20, "COMPANY_AGENTS_RUNS", "runs that one orchestrator executes at once; 0: none, others do", 0, 1000
    )
    run_lease: int = _number(
        *(300, "COMPANY_AGENTS_RUN_LEASE"),
        "seconds after which the work of a run goes to another, where its holder gives no sign; see [runs.md](runs.md)",
        *(5, 3600),
    )
    backups: str = _setting(
        "data/backups",
        "COMPANY_AGENTS_BACKUPS",
        "where scheduled backups lie: a folder, or `s3://bucket/prefix`; see [backups.md](backups.md)",
    )
    backup_endpoint: str | None = _setting(
        None, "COMPANY_AGENTS_BACKUP_ENDPOINT", "the address of a store that speaks S3's protocol; unset: AWS's"
    )
    backup_schedule: str = _choice(
        "auto",
        "COMPANY_AGENTS_BACKUP_SCHEDULE",
        "`daily`: a backup every day; `off`: none; `auto`: daily for the embedded database, none for your own",
        *("auto", "daily", "off"),
    )
    backup_daily: int = _number(
        7, "COMPANY_AGENTS_BACKUP_DAILY", "days of which the newest scheduled backup is kept", 1, 1000
    )
    backup_weekly: int = _number(
        4, "COMPANY_AGENTS_BACKUP_WEEKLY", "weeks of which the newest scheduled backup is kept", 0, 1000
    )
    backup_drill: str = _choice(
        *("off", "COMPANY_AGENTS_BACKUP_DRILL", "`monthly`: the newest backup is restored for a trial; `off`: never"),
        *("monthly", "off"),
    )
    log_level: str = _choice(
        *("info", "COMPANY_AGENTS_LOG_LEVEL", "debug, info, warning or error"),
        *("debug", "info", "warning", "error"),
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
    def key_value(self) -> SecretStr | None:
        """What the variable held that `env://NAME` names; None where it names none, or one that is not set."""
        return self._key_value

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """The variables whose text is to be wiped from this process once they are read."""
        key = key_variable(self.master_key_source)
        return (*SECRET_VARIABLES, key) if key else SECRET_VARIABLES

    @property
    def url(self) -> str:
        """How people and agents reach this orchestrator, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.public_url or f"http://{host}:{self.port}").rstrip("/")

    @property
    def loopback_url(self) -> str:
        """How runs on this machine reach this orchestrator, without a trailing slash and without leaving the machine."""
        everywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        host = everywhere.get(self.host, self.host)
        return (self.local_url or f"http://{f'[{host}]' if ':' in host else host}:{self.port}").rstrip("/")


def key_variable(source: SecretStr | None) -> str | None:
    """The name of the variable that holds the master key, where the key source is `env://NAME`."""
    scheme, _, name = (source.get_secret_value() if source else "").partition("://")
    return name if scheme == "env" and name else None


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
        read = Read(**{**_present(given), "home": home})
        key = key_variable(read.master_key_source)
        value = os.environ.get(key) if key else None
        read._key_value = SecretStr(value) if value else None
        return read
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
    secret = {name for name, setting in Settings.model_fields.items() if "SecretStr" in str(setting.annotation)}
    known = set(Settings.model_fields) - {"home"} - secret | {"master_key_source"}
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
