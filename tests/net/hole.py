"""A stretch of network that loses packets, or delivers them through a keyhole. On loopback, and without privileges:
the kernel drops what a filter on the receiving socket refuses, before TCP sees it, and so acknowledges nothing."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import threading
import time
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_RETURN, _LOAD, _AT_LEAST = 0x06, 0x20, 0x35  # ret, ld, jge
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM


def lose(sock: socket.socket, share: float) -> None:
    """From now on the socket loses this share of the packets that come to it; 0: none."""
    if share == 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return
    code = [(_RETURN, 0, 0, 0)]
    if share < 1:
        code = [(_LOAD, 0, 0, _RANDOM), (_AT_LEAST, 0, 1, int(share * 0xFFFFFFFF)), (_RETURN, 0, 0, 0xFFFFFFFF), *code]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))


class Hole:
    """Listens on a port of localhost and passes on to a server, well or badly. A context manager.

    Args:
        keyhole: bytes the socket's buffers hold, so the windows are tiny; passed on one by one of such pieces.
    Attributes:
        port: where it listens.
        cut_off: how often a client has closed its end.
    """

    def __init__(self, dsn: str, *, keyhole: int = 0) -> None:
        with psycopg.connect(dsn) as conn:
            self._host, self._port = conn.info.host, conn.info.port
        self._dsn = dsn
        self._keyhole = keyhole
        self._share = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        if keyhole:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, keyhole)
        self.port = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def dsn(self, **options: Any) -> str:
        """The server's DSN, through here."""
        rest = {k: v for k, v in conninfo_to_dict(self._dsn).items() if k not in ("host", "hostaddr", "port")}
        return make_conninfo("", **{**rest, "host": "127.0.0.1", "port": self.port, "gssencmode": "disable",
                                    "sslmode": "disable", **options})  # fmt: skip

    def lose(self, share: float) -> None:
        """Every connection there is or will be loses this share of its packets to the server; 1: a cut cable."""
        self._share = share
        for sock in list(self._sockets):
            lose(sock, share)

    def __enter__(self) -> Hole:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            lose(client, self._share)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        self._sockets.add(client)
        if self._host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            server = socket.create_connection((self._host, self._port))
        piece = self._keyhole or 65536
        client.settimeout(0.2)
        try:
            with client, server:
                while not self._closing:
                    ready, _, _ = select.select([client, server], [], [], 0.05)
                    for one in ready:
                        data = one.recv(piece)
                        if not data:
                            return
                        self._pass(data, server if one is client else client)
        except OSError:
            pass
        finally:
            self._sockets.discard(client)

    def _pass(self, data: bytes, to: socket.socket) -> None:
        while data and not self._closing:
            try:
                data = data[to.send(data) :]
            except (TimeoutError, BlockingIOError):
                time.sleep(0.001)
