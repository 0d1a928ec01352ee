"""A stretch of network before a server: TLS, distance, and a count of how often the conversation turns."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import Any

from .relay import Relay

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104


class Certificates:
    """A certificate authority of one's own, a server certificate of it for localhost, and an authority that is none."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.other_ca = folder / "ca.crt", folder / "other.crt"
        self.key, self.certificate = folder / "server.key", folder / "server.crt"
        names = folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        for authority in (self.ca, self.other_ca):
            self._openssl(
                f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority.stem}"
                f" -keyout {authority.with_suffix('.key')} -out {authority}"
            )
        self._openssl(f"req -newkey rsa:2048 -nodes -subj /CN=server -keyout {self.key} -out {folder}/request")
        self._openssl(
            f"x509 -req -in {folder}/request -days 2 -CA {self.ca} -CAkey {folder}/ca.key -CAcreateserial"
            f" -extfile {names} -out {self.certificate}"
        )

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True)

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Gate(Relay):
    """Passes on to a server.

    Args:
        dsn: the server.
        tls: the gate's certificate; then it takes no connection without TLS.
        delay: seconds of a round trip, half of it each way.
        read_only: sessions through here are read-only.
    Attributes:
        turns: how often a client spoke after the server had, over all connections: round trips.
    """

    def __init__(
        self, dsn: str, *, tls: Certificates | None = None, delay: float = 0.0, read_only: bool = False
    ) -> None:
        super().__init__(dsn)
        self._tls = tls.context() if tls is not None else None
        self._delay = delay
        self._read_only = read_only
        self.turns = 0
        self.tls_sessions = 0

    def dsn(self, **options: Any) -> str:
        """The server's DSN, through here; whoever asks for it says how to check the certificate, if there is one."""
        if self._tls is not None:
            options = {"sslmode": None, **options}
        return super().dsn(**options)

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.settimeout(10)
            size, code = struct.unpack("!II", exactly(client, 8))
            if code == SSL_REQUEST and self._tls is not None:
                client.sendall(b"S")
                client = self._tls.wrap_socket(client, server_side=True)
                self.tls_sessions += 1
                size, code = struct.unpack("!II", exactly(client, 8))
            elif self._tls is not None:
                return
            rest = exactly(client, size - 8)
            if self._read_only and code >> 16 == 3:
                rest = rest[:-1] + b"default_transaction_read_only\0on\0\0"
            server = self._connect()
            server.sendall(struct.pack("!II", len(rest) + 8, code) + rest)
            self._pass_on(client, server)
        except (OSError, EOFError):
            pass
        finally:
            client.close()
            if server is not None:
                server.close()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        client.setblocking(False)
        server.setblocking(False)
        way: deque[tuple[float, socket.socket, bytes]] = deque()
        servers_turn = True
        while not self._closing:
            now = time.monotonic()
            while way and way[0][0] <= now:
                _, to, data = way.popleft()
                send(to, data)
            left = way[0][0] - now if way else 0.1
            ready, _, _ = select.select([client, server], [], [], max(min(left, 0.1), 0.0))
            for one in ready:
                while True:
                    try:
                        data = one.recv(262144)
                    except (BlockingIOError, ssl.SSLWantReadError):
                        break
                    if not data:
                        for _, to, late in way:
                            send(to, late)
                        return
                    if one is client:
                        self.turns += not servers_turn
                    servers_turn = one is client
                    way.append((time.monotonic() + self._delay / 2, server if one is client else client, data))
                    if not self._delay:
                        send(*way.pop()[1:])


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def send(to: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[to.send(data) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            select.select([], [to], [], 10)
