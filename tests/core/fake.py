"""A server that speaks enough of PostgreSQL's protocol (version 3) to be connected to, then says what it is told.

Also what a real one would say to a batch, as a list of messages for a test to spoil.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pgdurable._core import Flusher

PATIENCE_S = 60.0  # valgrind takes its time
STATEMENTS = {
    name: f"{name} $1"
    for name in (
        "fence", "fence_lock", "fence_look", "insert_history", "insert_history_again", "read_history",
        "insert_history_fenced", "copy_history", "insert_instances", "insert_instances_again",
        "read_instances", "copy_instances", "release_instances", "delete_events", "apply_writes",
    )
}  # fmt: skip
Message = tuple[bytes, bytes]  # its letter, its body


def packed(messages: Iterable[Message]) -> bytes:
    return b"".join(kind + struct.pack("!I", len(body) + 4) + body for kind, body in messages)


def parsed(data: bytes) -> tuple[list[Message], bytes]:
    """The whole messages at the head of the bytes, and the rest."""
    found = []
    while len(data) >= 5:
        size = struct.unpack("!I", data[1:5])[0] + 1
        if size < 5 or len(data) < size:
            break
        found.append((data[:1], data[5:size]))
        data = data[size:]
    return found, data


# --- what a server says -------------------------------------------------------------------------------------------

READY: Message = (b"Z", b"I")
IN_TRANSACTION: Message = (b"Z", b"T")
BIND: Message = (b"2", b"")
NO_DATA: Message = (b"n", b"")


def done(tag: bytes) -> Message:
    return b"C", tag + b"\0"


def columns(oid: int, size: int, binary: int) -> Message:
    return b"T", struct.pack("!H", 1) + b"at\0" + struct.pack("!IhIhih", 0, 0, oid, size, -1, binary)


def row(value: bytes | None) -> Message:
    return b"D", struct.pack("!H", 1) + (
        b"\xff\xff\xff\xff" if value is None else struct.pack("!I", len(value)) + value
    )


def error(sqlstate: bytes = b"23505", message: bytes = b"there already", severity: bytes = b"ERROR") -> Message:
    fields = {b"S": severity, b"V": severity, b"C": sqlstate, b"M": message}
    return b"E", b"".join(key + text + b"\0" for key, text in fields.items()) + b"\0"


def notice(payload: bytes) -> Message:
    return b"A", struct.pack("!I", 7) + b"channel\0" + payload + b"\0"


def times(*at_us: int | None) -> list[Message]:
    values = [None if at is None else struct.pack("!q", at) for at in at_us]
    return [columns(1184, 8, 1), *map(row, values), done(b"SELECT %d" % len(values))]


def pipeline(at_us: int = 1000, *, again: list[int | None] | None = None, rest: int = 0) -> list[Message]:
    """The answer to a pipeline of history rows, with so many statements after them.

    Its time comes with the fence's lock. A look at the fence follows, unless the rows are all there is.
    """
    said = [BIND, *times(at_us)]
    if again is not None or rest:
        said += [BIND, *times(at_us)]
    said += [BIND, NO_DATA, done(b"INSERT 0 1")]
    if again is not None:
        said += [BIND, *times(*again)]
    return [*said, *[BIND, NO_DATA, done(b"UPDATE 1")] * rest, READY]


def copy(at_us: int = 1000, *, rest: bool = False) -> list[list[Message]]:
    """The answers to a COPY of history rows: to the query, to the rows, and to what follows."""
    begin = [done(b"BEGIN")] if rest else []
    fence = [columns(20, 8, 0), row(b"%d" % at_us), done(b"SELECT 1")]
    said = [[*begin, *fence, (b"G", b"\1\0\1\0\1")], [done(b"COPY 1"), IN_TRANSACTION if rest else READY]]
    return [*said, [BIND, NO_DATA, done(b"UPDATE 1"), BIND, NO_DATA, done(b"COMMIT"), READY]] if rest else said


# --- the server ---------------------------------------------------------------------------------------------------


class FakeServer:
    """Serves one connection after another, in a thread. `says` holds the answers to what follows the set-up."""

    def __init__(self, folder: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self.dsn = f"host={folder} port=5432 dbname=x user=x sslmode=disable gssencmode=disable"
        self.says: list[bytes] = []
        self.heard: list[Message] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(PATIENCE_S)
                self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        size = struct.unpack("!I", client.recv(4))[0]
        client.recv(size - 4)
        client.sendall(packed([(b"R", b"\0\0\0\0"), (b"S", b"client_encoding\0UTF8\0"), READY]))
        data, answers, set_up = b"", list(self.says), True
        self.heard = []
        while chunk := client.recv(65536):
            messages, data = parsed(data + chunk)
            for kind, body in messages:
                set_up = set_up and kind not in (b"B", b"Q")
                if kind == b"P":
                    client.sendall(packed([(b"1", b"")]))
                elif set_up and kind == b"S":
                    client.sendall(packed([READY]))
                elif kind in (b"S", b"Q", b"c"):
                    client.sendall(answers.pop(0))
                    if not answers:
                        return  # and so the connection ends: whoever waits for more learns it
                self.heard.append((kind, body))


def outcome(server: FakeServer, flusher: Flusher, *answers: bytes) -> Any:
    """What becomes of the flusher's filling batch when the server says that: ready()'s tuple, or ConnectionError."""
    server.says = list(answers)
    flusher.connect(server.dsn, 7, [])
    batch = flusher.take()
    return sent(flusher, batch)


def sent(flusher: Flusher, batch: Any) -> Any:
    try:
        flusher.send(batch)
        while True:
            writing = [flusher.fileno] if flusher.wants_write else []
            assert any(select.select([flusher.fileno], writing, [], PATIENCE_S)), "it hangs"
            found = flusher.ready()
            if found is not None:
                flusher.notified()
                assert found[1] is batch
                return found
    except ConnectionError as lost:
        assert flusher.close() is batch
        assert batch.again
        return lost
    finally:
        flusher.close()
