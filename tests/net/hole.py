"""A stretch of network that loses packets, or delivers them through a keyhole. On loopback, and without privileges:
the kernel drops what a filter on the receiving socket refuses, before TCP sees it, and so acknowledges nothing."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import time

from .relay import Relay

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


class Hole(Relay):
    """Passes on to a server, well or badly.

    Args:
        keyhole: bytes the socket's buffers hold, so the windows are tiny; passed on one by one of such pieces.
    """

    def __init__(self, dsn: str, *, keyhole: int = 0) -> None:
        super().__init__(dsn)
        self._keyhole = keyhole
        self._share = 0.0
        if keyhole:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, keyhole)
        self._sockets: set[socket.socket] = set()

    def lose(self, share: float) -> None:
        """Every connection there is or will be loses this share of its packets to the server; 1: a cut cable."""
        self._share = share
        for sock in list(self._sockets):
            lose(sock, share)

    def _taken(self, client: socket.socket) -> None:
        lose(client, self._share)

    def _serve(self, client: socket.socket) -> None:
        self._sockets.add(client)
        server = self._connect()
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
