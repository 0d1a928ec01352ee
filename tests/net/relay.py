"""What every stretch of network before a server does: listens, takes connections, and knows where the server is."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typing_extensions import Self


class Relay:
    """Listens on a port of localhost; a thread serves each connection. A context manager.

    Attributes:
        port: where it listens.
    """

    def __init__(self, dsn: str) -> None:
        with psycopg.connect(dsn) as conn:
            self._host, self._port = conn.info.host, conn.info.port
        self._dsn = dsn
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def dsn(self, **options: Any) -> str:
        """The server's DSN, through here."""
        rest = {k: v for k, v in conninfo_to_dict(self._dsn).items() if k not in ("host", "hostaddr", "port")}
        return make_conninfo("", **{**rest, "host": "localhost", "hostaddr": "127.0.0.1", "port": self.port,
                                    "gssencmode": "disable", "sslmode": "disable", **options})  # fmt: skip

    def __enter__(self) -> Self:
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
            self._taken(client)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _taken(self, client: socket.socket) -> None:
        """A client has connected; nothing of it has been read."""

    def _serve(self, client: socket.socket) -> None:
        raise NotImplementedError

    def _connect(self) -> socket.socket:
        """A connection to the server."""
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server
