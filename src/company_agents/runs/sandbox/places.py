"""
Which places of this machine a sandbox may show, and which it must not.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from company_agents.db.host import SYSTEM_FOLDER
from company_agents.errors import Failed, WrongUsage
from company_agents.runs.sandbox.workspace import workspaces_folder
from company_agents.settings import Settings

# Every sandbox shows these, for reading.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

# And of /etc these: how names are looked up, which authorities are trusted, where libraries and alternatives are.
CONFIGURATION = (
    *("resolv.conf", "hosts", "nsswitch.conf", "host.conf", "gai.conf", "services", "protocols", "mime.types"),
    *("ssl/certs", "ssl/openssl.cnf", "ca-certificates.conf", "pki/tls/certs", "pki/tls/cert.pem", "pki/ca-trust"),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "alternatives", "os-release"),
)

# Nobody may show these as a whole: they hold what many others keep there.
_SHARED = (
    "/",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/mnt",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/srv",
    "/sys",
    "/tmp",  # noqa: S108
)
_SHARED_TOO = ("/usr", "/var", "/var/lib", "/var/run", "/var/tmp", "/var/spool", "/var/backups")  # noqa: S108

# Nor anything of these.
_NEVER = ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/etc/ssl/private", "/etc/ssh", "/etc/shadow")

# Where people and their programs keep what is secret, wherever it lies.
_PRIVATE = {
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".config", ".netrc", ".pgpass", ".git-credentials"),
    *(".password-store", ".mozilla", ".vault-token", ".npmrc", ".pypirc", ".company-agents", "keyrings"),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A place that a sandbox shows under the name that it was given, and what was found there when it was looked at."""

    place: Path
    found: Path

    def still(self) -> Shown:
        """
        The same, where the same is found there.

        Raises:
            Failed: what was looked at is somewhere else by now.
        """
        if _resolved(self.place) != self.found:
            raise Failed(f"{self.place} was replaced while the run was being started", hint="start it again")
        return self


@dataclass(frozen=True)
class Places:
    """What this instance has to hide on this machine."""

    hidden: tuple[Path, ...]

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """The home, the key's file, the database's files and socket, and what other runs work in."""
        found = [settings.home, SYSTEM_FOLDER, workspaces_folder(settings.home), *_database(settings)]
        found += [settings.vault_kubernetes_token.parent, *_key(settings)]
        return cls(tuple(dict.fromkeys(place for path in found for place in (path, _resolved(path)))))

    def exposed(self) -> Path | None:
        """A hidden place that lies where every sandbox can look, if there is one."""
        seen = [_resolved(Path(place)) for place in SYSTEM] + [Path("/etc") / name for name in CONFIGURATION]
        return next((path for path in self.hidden if any(path.is_relative_to(place) for place in seen)), None)

    def check(self, text: str) -> Shown:
        """
        A path that somebody wants to be readable in a sandbox, and what is there now.

        Raises:
            WrongUsage: it may not be; the sentence says which and why.
        """
        path = Path(text)
        if not path.is_absolute() or ".." in path.parts or not text.isprintable():
            raise WrongUsage("a readable path is absolute, and has no .. in it")
        found = path
        try:
            found = _resolved(path)
            why = self._why_not(path) or self._why_not(found)
        except OSError:
            why = "it cannot be looked at"
        if why:
            raise WrongUsage(f"{path} may not be readable: {why}", hint="give a folder with nothing else in it")
        return Shown(path, found)

    def _why_not(self, path: Path) -> str:
        if str(path) in _SHARED + _SHARED_TOO or path == _resolved(Path.home()) or path.parent == Path("/home"):
            return "others keep things there too"
        if any(path.is_relative_to(place) for place in _NEVER):
            return "that is the machine's own"
        if _PRIVATE & set(path.parts):
            return "credentials are kept in such a place"
        for place in self.hidden:
            if path.is_relative_to(place) or place.is_relative_to(path):
                return "it is, or holds, what belongs to this instance"
        return ""


def _key(settings: Settings) -> list[Path]:
    """The folder of the key's file: the ring lies beside it."""
    if settings.master_key_path:
        return [Path(settings.master_key_path).expanduser().absolute().parent]
    scheme, _, rest = (settings.master_key_source.get_secret_value() if settings.master_key_source else "").partition(
        "://"
    )
    return [(settings.home / Path(rest).expanduser()).absolute().parent] if scheme == "file" else []


def _database(settings: Settings) -> list[Path]:
    found = [settings.home / "db"]
    with contextlib.suppress(OSError):
        found.append(Path((settings.home / "locks" / "database-socket-folder").read_text("utf-8").strip()))
    for url in (settings.database_url, settings.database_direct_url):
        with contextlib.suppress(ProgrammingError):
            host = str(conninfo_to_dict(url.get_secret_value()).get("host", "")) if url else ""
            found += [Path(place) for place in host.split(",") if place.startswith("/")]
    return found


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))
