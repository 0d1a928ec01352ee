"""A network between client and server that breaks where a test wants it to: after a commit, before its answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """Passes bytes between its own port and a server. Use it as an async context manager.

    Attributes:
        dsn: leads through the proxy.
        cuts: how often it has cut a connection as told by `cut_after` or `drop_at`.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._marker: bytes | None = None
        self._left = 0
        self._fatal: bytes | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0
        self._flows = asyncio.Event()
        self._flows.set()

    async def __aenter__(self) -> Proxy:
        with psycopg.connect(self._dsn) as conn:
            self._host, self._port = conn.info.host, conn.info.port
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        rest = {k: v for k, v in conninfo_to_dict(self._dsn).items() if k not in ("host", "hostaddr", "port")}
        self.dsn = make_conninfo(**rest, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._flows.set()
        while not all(task.done() for task in self._tasks):
            self.drop()
            await asyncio.sleep(0.005)

    def drop(self) -> None:
        """Cuts every connection now."""
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self, stalled: bool = True) -> None:
        """Reads nothing more from either side, as a server does that hangs; or goes on."""
        if stalled:
            self._flows.clear()
        else:
            self._flows.set()

    def cut_after(self, marker: bytes, times: int = 1) -> None:
        """The next `times` requests that hold these bytes reach the server, which answers; the answer is lost."""
        self._marker = marker
        self._left = times

    def drop_at(self, marker: bytes) -> None:
        """The next request that holds these bytes does not reach the server; its connection is cut."""
        self._fatal = marker

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        up_writer: Any = None
        try:
            if self._host.startswith("/"):
                up_reader, up_writer = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
            else:
                up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
            self._writers.add(up_writer)
            doomed = asyncio.Event()
            back = asyncio.create_task(self._back(up_reader, writer, up_writer, doomed))
            self._tasks.add(back)
            while data := await reader.read(65536):
                if self._fatal is not None and self._fatal in data:
                    self._fatal = None
                    self.cuts += 1
                    break
                if self._left and self._marker is not None and self._marker in data:
                    self._left -= 1
                    doomed.set()
                await self._flows.wait()
                up_writer.write(data)
                await up_writer.drain()
        except OSError:
            pass
        finally:
            for one in (writer, up_writer):
                if one is not None:
                    one.transport.abort()
                    self._writers.discard(one)

    async def _back(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
        doomed: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                # Only a whole answer, ready for the next request and in no transaction, says it has committed.
                if doomed.is_set():
                    if data.endswith(b"Z\x00\x00\x00\x05I"):
                        self.cuts += 1
                        break
                    continue
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        up_writer.transport.abort()
