"""
The durable effects of a process, counted from outside of the product, and death just before or just after one of them.

An effect is a commit of a transaction that wrote something, or a write of the key source: to its folder, or by a call to
its service. What a transaction wrote, Postgres itself is asked: whether it gave it a number.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import re
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

BEFORE, AFTER = "before", "after"
MOMENTS = (BEFORE, AFTER)

# What changes nothing at a service although it is no GET: a question, or a login.
ASKING = ("/sys/capabilities-self", "/login", "/oauth2/")
AWS_WRITES = ("CreateSecret", "PutSecretValue", "Update", "Delete", "TagResource", "UntagResource", "RestoreSecret")
GCP_WRITES = ("Create", "Add", "Update", "Destroy", "Disable", "Enable", "Delete", "Set")


class Counter:
    """Counts the effects of this process into `file`, one name a line, and ends it with the effect `number`."""

    def __init__(self, file: Path, folder: Path, number: int = 0, moment: str = BEFORE) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._folder = str(folder.absolute())
        self._number, self._moment = number, moment
        self._count = 0
        self._lock = threading.Lock()
        self._said: weakref.WeakKeyDictionary[Any, list[str]] = weakref.WeakKeyDictionary()

    def start(self) -> None:
        """From now on."""
        self._watch_files()
        self._watch_http()
        self._watch_database()

    @contextlib.contextmanager
    def effect(self, name: str) -> Iterator[None]:
        """Around an effect. One that fails was none, but it had its number."""
        with self._lock:
            self._count += 1
            mine = self._count == self._number
            if mine and self._moment == BEFORE:
                self._die(name)
        yield
        os.write(self._file, f"{name}\n".encode())
        if mine:
            self._die("")

    def _die(self, name: str) -> None:
        if name:
            os.write(self._file, f"{name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    # — files —

    def _watch_files(self) -> None:
        def changes(call: str, there: Callable[..., bool], path_of: Callable[..., Any]) -> None:
            original = getattr(os, call)

            @functools.wraps(original)
            def changed(*args: Any, **named: Any) -> Any:
                path = os.fspath(path_of(*args))
                if not str(path).startswith(self._folder) or not there(*args):
                    return original(*args, **named)
                with self.effect(f"file {call} {_plain(os.path.relpath(path, self._folder))}"):
                    return original(*args, **named)

            setattr(os, call, changed)

        changes("link", lambda source, target: not os.path.lexists(target), lambda source, target: target)
        changes("replace", lambda source, target: True, lambda source, target: target)
        changes("unlink", lambda path: os.path.lexists(path), lambda path: path)
        changes("mkdir", lambda path, *mode: not os.path.lexists(path), lambda path, *mode: path)
        changes("open", lambda path, flags, *mode: bool(flags & os.O_CREAT), lambda path, *rest: path)
        changes("fsync", lambda descriptor: True, lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))

    # — calls —

    def _watch_http(self) -> None:
        connection = http.client.HTTPConnection
        waiting: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        put_request, put_header = connection.putrequest, connection.putheader
        end_headers, get_response = connection.endheaders, connection.getresponse

        def putrequest(conn: Any, method: str, url: str, *args: Any, **named: Any) -> Any:
            conn._request_line = (method, url)
            conn._operation = ""
            return put_request(conn, method, url, *args, **named)

        def putheader(conn: Any, header: Any, *values: Any) -> Any:
            if (header if isinstance(header, str) else header.decode()).lower() == "x-amz-target":
                value = values[0] if isinstance(values[0], str) else values[0].decode()
                conn._operation = value.partition(".")[2]
            return put_header(conn, header, *values)

        def endheaders(conn: Any, *args: Any, **named: Any) -> Any:
            method, url = conn._request_line
            name = _http_name(method, url, conn._operation)
            if name is not None:
                waiting[conn] = effect = self.effect(name)
                effect.__enter__()
            return end_headers(conn, *args, **named)

        def getresponse(conn: Any, *args: Any, **named: Any) -> Any:
            response = get_response(conn, *args, **named)
            effect = waiting.pop(conn, None)
            if effect is not None:
                effect.__exit__(None, None, None)
            return response

        for function in (putrequest, putheader, endheaders, getresponse):
            setattr(connection, function.__name__, function)
        self._watch_grpc()

    def _watch_grpc(self) -> None:
        try:
            from grpc import _channel
        except ImportError:
            return
        callable_ = _channel._UnaryUnaryMultiCallable
        blocking = callable_._blocking

        def counted(call: Any, *args: Any, **named: Any) -> Any:
            method = call._method.decode().rpartition("/")[2]
            if not method.startswith(GCP_WRITES):
                return blocking(call, *args, **named)
            with self.effect(f"gcp {method}"):
                return blocking(call, *args, **named)

        callable_._blocking = counted

    # — the database —

    def _watch_database(self) -> None:
        execute, exec_command = psycopg.AsyncCursor.execute, psycopg.AsyncConnection._exec_command
        names = _names()

        async def raw(connection: Any, command: bytes) -> Any:
            async with connection.lock:
                return await connection.wait(exec_command(connection, command))

        async def wrote(connection: Any) -> bool:
            return (await raw(connection, WROTE)).get_value(0, 0) is not None

        async def counted(cursor: Any, query: Any, params: Any = None, **named: Any) -> Any:
            connection, text = cursor.connection, query if isinstance(query, str) else str(query)
            status = connection.info.transaction_status
            said = self._said.setdefault(connection, [])
            if text.startswith("BEGIN"):
                said.clear()
                return await execute(cursor, query, params, **named)
            if text == "COMMIT":
                if status is not TransactionStatus.INTRANS or not await wrote(connection):
                    return await execute(cursor, query, params, **named)
                with self.effect(f"commit {' '.join(said)}"):
                    return await execute(cursor, query, params, **named)
            name = names.get(text, " ".join(text.split())[:40])
            step = params.get("step") if isinstance(params, dict) else None
            said.append(f"{name}:{step}" if step else name)
            if status is not TransactionStatus.IDLE:
                return await execute(cursor, query, params, **named)
            # A transaction of its own, which is opened here so that there is a moment before its commit.
            await raw(connection, b"BEGIN")
            try:
                result = await execute(cursor, query, params, **named)
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    await raw(connection, b"ROLLBACK")
                raise
            with self.effect(f"commit {said[-1]}") if await wrote(connection) else contextlib.nullcontext():
                await raw(connection, b"COMMIT")
            said.clear()
            return result

        def commanded(connection: Any, command: Any, *args: Any, **named: Any) -> Any:
            # Of the driver's own transactions.
            if command != b"COMMIT" or connection.pgconn.transaction_status != TransactionStatus.INTRANS:
                return (yield from exec_command(connection, command, *args, **named))
            found = yield from exec_command(connection, WROTE)
            assert found is not None
            number = found.get_value(0, 0)
            said = " ".join(self._said.pop(connection, []))
            with self.effect(f"commit {said}") if number is not None else contextlib.nullcontext():
                return (yield from exec_command(connection, command, *args, **named))

        setattr(psycopg.AsyncCursor, "execute", counted)  # noqa: B010
        setattr(psycopg.AsyncConnection, "_exec_command", commanded)  # noqa: B010


WROTE = b"SELECT pg_current_xact_id_if_assigned()"


def _names() -> dict[str, str]:
    from company_agents.db.sql import statements

    return {text: name for name, text in statements().items()}


def _plain(path: str) -> str:
    """A path without ids and random marks, so that two runs name their effects alike."""
    return re.sub(r"[0-9a-f]{16}", "*", path)


def _http_name(method: str, url: str, operation: str) -> str | None:
    if operation:
        return f"aws {operation}" if operation.startswith(AWS_WRITES) else None
    path = url.partition("?")[0]
    if method in ("GET", "HEAD", "OPTIONS", "LIST") or any(part in path for part in ASKING):
        return None
    verb = re.match(r"/v1/[^/]+/(\w+)/", path)
    return f"vault {method} {verb[1]}" if verb else f"azure {method}"
