"""
The master key in a file: `master.key` is 32 raw bytes, the ring lies beside it as `keys/<key id>.key`, and
`keys/instance` says whose it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from company_agents.crypto.keyring import KEY_BYTES, MasterKey
from company_agents.errors import MayNotStart
from company_agents.keysources.failures import changed, read_only
from company_agents.keysources.found import Found
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

# What is said where there is no room: by the disk, a quota, or a limit on files.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileSource:
    """
    Keys as files of their owner alone.

    Raises of every verb:
        MayNotStart: a file that any other user could read or has put there, that is no key, or that cannot be written.
    """

    claims_alone = True
    after_destroy = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ring = path.parent / "keys"
        self.mark = self.ring / "instance"
        self.address = f"file://{path}"

    @classmethod
    def at(cls, rest: str, settings: Settings) -> FileSource:
        """The source of `file://<rest>`: absolute, or relative to the home."""
        return cls((settings.home / Path(rest).expanduser()).absolute())

    async def read(self) -> Found:
        """Every key in `keys/`, and `master.key` as the hint; a `master.key` put there by hand counts as a key."""
        with _explained(self.path):
            current = _read_key(self.path) if _is_there(self.path) else None
            # Not `glob`, which finds nothing in a folder that may not be read.
            paths = sorted(self.ring.iterdir()) if _is_there(self.ring) else []
        keys = {}
        for path in (path for path in paths if path.suffix == ".key"):
            key = _read_key(path)
            if path.stem != key.key_id:
                raise _refusal(
                    "key_wrong", f"{path} does not hold the key that its name says", "put the right key back"
                )
            keys[key.key_id] = key
        kept = frozenset(keys)
        if current is not None:
            keys.setdefault(current.key_id, current)
        return Found(tuple(keys.values()), current, kept, self._owner())

    async def check_writable(self, seen: Found) -> None:
        """Write a file beside the keys, and remove it."""
        with _explained(self.ring, writing=True):
            _private_folder(self.path.parent)
            _private_folder(self.ring)
            for folder in (self.ring, self.path.parent):
                with _written(folder, "check", b"-" * KEY_BYTES):
                    pass

    async def claim(self, instance: UUID, seen: Found) -> None:
        """Create `keys/instance`: exclusively, unless it is taken over."""
        with _explained(self.mark, writing=True):
            _private_folder(self.path.parent)
            _private_folder(self.ring)
            with _written(self.ring, "instance", f"{instance}\n".encode()) as temporary:
                if seen.owner is not None and self._owner() == seen.owner:
                    temporary.replace(self.mark)
                else:
                    with contextlib.suppress(FileExistsError):
                        os.link(temporary, self.mark)
            _sync_folder(self.ring)
        if self._owner() != instance:
            raise changed(self.address)

    async def add(self, key: MasterKey, seen: Found) -> None:
        """Create `keys/<key id>.key`: exclusively, whole or not at all, on the disk when this returns."""
        target = self.ring / f"{key.key_id}.key"
        with _explained(target, writing=True):
            _private_folder(self.path.parent)
            _private_folder(self.ring)
            with (
                _written(self.ring, key.key_id, key.secret.reveal()) as temporary,
                contextlib.suppress(FileExistsError),
            ):
                # A link fails where a rename would overwrite.
                os.link(temporary, target)
            _sync_folder(self.ring)
        if _read_key(target) != key:
            raise _refusal("key_wrong", f"{target} was there with another key", "move it away, and try again")

    async def make_current(self, key_id: str, seen: Found) -> None:
        """Replace `master.key` by a copy of a key of the ring."""
        key = _read_key(self.ring / f"{key_id}.key")
        with _explained(self.path):
            there = _read_key(self.path) if _is_there(self.path) else None
            if there is not None and not _is_there(self.ring / f"{there.key_id}.key"):
                raise _refusal(
                    "key_not_kept",
                    f"{self.path} is the only copy of the key {there.key_id}",
                    f"copy it to {self.ring / there.key_id}.key first",
                )
        with _explained(self.path, writing=True):
            with _written(self.path.parent, key.key_id, key.secret.reveal()) as temporary:
                temporary.replace(self.path)
            _sync_folder(self.path.parent)

    async def destroy(self, key_id: str, seen: Found) -> None:
        """Remove a key's file."""
        target = self.ring / f"{key_id}.key"
        with _explained(self.path):
            if _is_there(self.path) and _read_key(self.path).key_id == key_id:
                raise _refusal(
                    "key_current",
                    f"{self.path} is a copy of the key {key_id}",
                    "`company-agents key status` puts the active key there; then try again",
                )
        if self._owner() != seen.owner:
            raise changed(self.address)
        with _explained(target, writing=True):
            target.unlink(missing_ok=True)
            # What a kill left behind in the middle of writing this key is a copy of it.
            for left in (*self.ring.glob(_temporary(key_id, "*")), *self.path.parent.glob(_temporary(key_id, "*"))):
                left.unlink(missing_ok=True)
            _sync_folder(self.ring)

    def _owner(self) -> UUID | None:
        with _explained(self.mark):
            try:
                with open(self.mark, "rb") as file:
                    _check_owner_and_mode(self.mark, os.fstat(file.fileno()))
                    return UUID(file.read(64).decode().strip())
            except FileNotFoundError:
                return None
            except ValueError:
                raise _refusal(
                    "key_source_mark", f"{self.mark} does not say whose keys these are", "put the instance's id there"
                ) from None


def _read_key(path: Path) -> MasterKey:
    with _explained(path):
        # A link within the folder is how mounted secrets look; a link out of it may be somebody else's file.
        if path.is_symlink() and not _resolved(path).is_relative_to(path.parent.resolve()):
            raise _refusal("key_symlink", f"{path} is a link to a place outside its folder", "put the key itself there")
        if not path.is_symlink() and path.is_dir():
            raise _refusal("key_directory", f"{path} is a directory", "a key is a file of 32 bytes")
        # Checked on the open file, so that nothing can be exchanged between the check and the reading.
        # Without blocking: a pipe put there by somebody would keep the start waiting.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
            _check_owner_and_mode(path, os.fstat(file.fileno()))
            content = file.read(KEY_BYTES + 1)
    if len(content) != KEY_BYTES:
        raise _refusal("key_length", f"{path} does not hold exactly {KEY_BYTES} bytes", "put the key's raw bytes there")
    return MasterKey(Sensitive(content))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:  # links in a circle; from Python 3.13 on that is no error here, but one when it is opened
        return path


def _check_owner_and_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refusal("key_directory", f"{path} is not a file", "a key is a file of 32 bytes")
    if status.st_uid != os.geteuid():
        raise _refusal("key_owner", f"{path} belongs to another user", f"chown {os.geteuid()} {path}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise _refusal("key_mode", f"{path} can be read by others than its owner", f"chmod 600 {path}")


def _is_there(path: Path) -> bool:
    """Whether there is anything. Not `exists`, which says no where it may not look, and follows links."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _private_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        _sync_folder(folder.parent)


def _temporary(key_id: str, mark: str) -> str:
    return f".new-{key_id}-{mark}"


@contextlib.contextmanager
def _written(folder: Path, name: str, content: bytes) -> Iterator[Path]:
    """A temporary file in the folder, on the disk; gone at the end unless it was renamed."""
    temporary = folder / _temporary(name, secrets.token_hex(8))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if writing and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise read_only(f"file://{path}") from error
        raise _refusal(
            "key_unreadable",
            f"{path} cannot be used: {(error.strerror or 'input/output error').lower()}",
            "make room there, then try again" if error.errno in FULL else "see that its owner can",
        ) from error


def _refusal(code: str, sentence: str, hint: str) -> MayNotStart:
    return MayNotStart(sentence, hint=hint, code=code)
