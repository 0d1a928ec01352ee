"""The stretch of network between one process and one server: cut, slow, dead without a word, or losing an answer.

`tests/e2e/proxy.py` breaks one connection where a test wants it; this breaks whatever is there when its time comes, for
many connections at once, and counts what it broke.
"""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["Wire"]

_READY = b"Z\x00\x00\x00\x05I"
_CHUNK = 65536


class Wire:
    """Listens on a port and passes bytes on to another. Belongs to one event loop.

    Attributes:
        port: where it listens.
        delay: seconds that everything takes each way.
        cuts: connections it has cut.
        lost: answers of the server's it has swallowed, and the connection with them.
        stalled: bytes that were held back while nothing flowed.
    """

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self.port = 0
        self.delay = 0.0
        self.cuts = self.lost = self.stalled = 0
        self._to_lose = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        self._flows.set()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> int:
        """Cuts every connection. Returns how many there were."""
        there = len(self._writers) // 2
        for writer in list(self._writers):
            writer.transport.abort()
        self.cuts += there
        return there

    def lose_answers(self, times: int) -> None:
        """The next `times` commits reach the server, which answers; the answer is lost, and the connection."""
        self._to_lose = times

    def stall(self, stalled: bool) -> None:
        """Passes nothing on, and says nothing of it; or goes on."""
        if stalled:
            self._flows.clear()
        else:
            self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up: asyncio.StreamWriter | None = None
        try:
            up_reader, up = await asyncio.open_connection("127.0.0.1", self._to_port)
            self._writers |= {writer, up}
            doomed = asyncio.Event()
            await asyncio.gather(self._there(reader, up, doomed), self._back(up_reader, writer, up, doomed))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in (writer, up):
                if one is not None:
                    one.transport.abort()
                    self._writers.discard(one)
            self._tasks.discard(task)

    async def _there(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(_CHUNK):
            if self._to_lose and not doomed.is_set() and _commits(data):
                self._to_lose -= 1
                doomed.set()
            await self._pass(up, data)
        up.transport.abort()

    async def _back(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up: asyncio.StreamWriter,
        doomed: asyncio.Event,
    ) -> None:
        while data := await reader.read(_CHUNK):
            if doomed.is_set():
                # Only a whole answer, ready for the next request and in no transaction, says it has committed.
                if data.endswith(_READY):
                    self.lost += 1
                    break
                continue
            await self._pass(writer, data)
        for one in (writer, up):
            one.transport.abort()

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        if not self._flows.is_set():
            self.stalled += len(data)
            await self._flows.wait()
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()


def _commits(data: bytes) -> bool:
    """Whether a client's message may end a transaction: a flush, a transaction step, a start, a signal, a claim."""
    return any(mark in data for mark in (b"\0pgd_fence_lock\0", b"COMMIT", b".start(", b".signal(", b".claim("))
