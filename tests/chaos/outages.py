"""Faults of servers and of the network between. See `nemesis.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator

import psycopg

from .cluster import CommandFailed
from .nemesis import WORKER_FAULTS, Fault, NoEffect, WorkerFault
from .world import World, in_thread

__all__ = ["KINDS"]


class ServerFault(Fault):
    """Breaks the servers. One at a time: what is left must be able to go on."""

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self.world.server_lock:
            yield

    async def takes_writes(self) -> None:
        await self.world.until(self._writes, "the server takes writes", 60.0)

    async def _writes(self) -> bool:
        try:
            await self.world.rows("update #.linger set seconds = seconds", patience=5.0)
        except psycopg.Error:
            return False
        return True


class ServerCrashed(ServerFault):
    """The server dies as by a power cut: kill -9 of all of it, and starts again."""

    kind = "kill -9 and restart of the server"
    hold_s = (0.0, 1.5)
    weight = 4

    async def inject(self) -> None:
        server = self.world.server
        self.pid = server.pid
        await in_thread(server.kill if self.chance.random() < 0.5 else server.stop)

    async def heal(self) -> None:
        if self.world.server.pid is None:
            await in_thread(self.world.server.start)

    async def effect(self) -> str:
        await self.takes_writes()
        now = self.world.server.pid
        if now == self.pid:
            raise NoEffect("the server did not go down")
        return f"server process {self.pid} is gone, {now} has recovered"


class BackendKilled(ServerFault):
    """kill -9 of one backend: the server throws everybody out and recovers."""

    kind = "kill -9 of a backend"
    weight = 3

    async def inject(self) -> None:
        self.from_log = self.world.server.log_size()
        self.pid = 0
        for _ in range(50):
            rows = await self.world.rows("select pid from pg_stat_activity where application_name ~ '^(worker-|pgd:)'")
            if rows:
                self.pid = self.chance.choice(rows)[0]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                return
            await asyncio.sleep(0.1)

    async def effect(self) -> str:
        if not self.pid:
            raise NoEffect("there was no connection")

        async def thrown_out() -> bool:
            return "terminating any other active server processes" in self.world.server.said(self.from_log)

        await self.world.until(thrown_out, "the server throws everybody out", 20.0)
        await self.takes_writes()
        return f"backend {self.pid} died, and everybody was thrown out"


class BackendsTerminated(Fault):
    """pg_terminate_backend of some connections of workers and customers, again and again."""

    kind = "pg_terminate_backend"
    weight = 7

    async def inject(self) -> None:
        self.terminated = 0
        odds = self.chance.choice([0.2, 0.5, 1.0])
        for _ in range(self.chance.randint(1, 8)):
            rows = await self.world.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity where"
                " application_name ~ '^(worker-|pgd:|customers$)' and random() < %s", odds,
            )  # fmt: skip
            self.terminated += len(rows)
            await asyncio.sleep(self.chance.uniform(0.0, 0.4))

    async def effect(self) -> str:
        if not self.terminated:
            raise NoEffect("there was no connection")
        return f"{self.terminated} connections were terminated"


# -- the network ----------------------------------------------------------------------------------------------------


class ConnectionsCut(Fault):
    """All connections of one process are cut, or of all."""

    kind = "cut connections"
    weight = 7

    async def inject(self) -> None:
        world = self.world
        self.cuts = 0
        slots = [self.chance.choice([*world.slots, world.front])]
        if self.chance.random() < 0.3:
            slots = [*world.slots, world.front]
        for _ in range(self.chance.randint(1, 5)):
            self.cuts += sum(wire.cut() for slot in slots for wire in slot.wires)
            await asyncio.sleep(self.chance.uniform(0.0, 0.3))

    async def effect(self) -> str:
        if not self.cuts:
            raise NoEffect("there was no connection")
        return f"{self.cuts} connections were cut"


class AnswersLost(Fault):
    """Commits reach the server, their answers reach nobody."""

    kind = "commit whose answer is lost"
    weight = 8

    def __init__(self, world: World, chance: random.Random) -> None:
        super().__init__(world, chance)
        self.place = chance.choice([*world.slots, world.front])
        self.times = chance.randint(1, 6)

    async def inject(self) -> None:
        wires = self.place.wires
        before = sum(wire.lost for wire in wires)
        for wire in wires:
            wire.lose_answers(self.times)

        async def lost() -> bool:
            self.lost = sum(wire.lost for wire in wires) - before
            return self.lost >= min(self.times, 2)

        self.lost = 0
        with contextlib.suppress(TimeoutError):
            await self.world.until(lost, "answers are lost", 15.0)

    async def heal(self) -> None:
        for wire in self.place.wires:
            wire.lose_answers(0)

    async def effect(self) -> str:
        if not self.lost:
            raise NoEffect("nothing was committed meanwhile")
        return f"{self.lost} answers of the server were lost"


class NetworkDelayed(Fault):
    """Every message takes its time, each way."""

    kind = "slow network"
    hold_s = (2.0, 8.0)
    weight = 3

    async def inject(self) -> None:
        self.delay = self.chance.choice([0.005, 0.03, 0.15])
        self.took = 0.0
        wires = [wire for slot in (*self.world.slots, self.world.front) for wire in slot.wires]
        for wire in wires:
            wire.delay = self.delay
        loop = asyncio.get_running_loop()
        began = loop.time()
        with contextlib.suppress(psycopg.OperationalError):
            async with await psycopg.AsyncConnection.connect(
                f"{self.world.server.dsn} port={self.world.front.wires[self.world.primary].port}"
            ) as conn:
                began = loop.time()
                await conn.execute("select 1")
                self.took = loop.time() - began

    async def heal(self) -> None:
        for slot in (*self.world.slots, self.world.front):
            for wire in slot.wires:
                wire.delay = 0.0

    async def effect(self) -> str:
        if self.took < self.delay:
            raise NoEffect("it could not be measured")
        return f"a round trip took {self.took * 1e3:.0f} ms"


class NetworkDead(WorkerFault):
    """A worker's connections stay open and nothing passes, for longer than its lease; then it all arrives."""

    kind = "network that swallows everything past the lease"
    hold_s = (0.0, 2.0)
    weight = 4

    async def inject(self) -> None:
        for wire in self.slot.wires:
            wire.stall(True)
        with contextlib.suppress(TimeoutError):
            await self.world.until(lambda: self.ended("dead"), "it is taken over", self.world.settings.lease + 15.0)

    async def heal(self) -> None:
        for wire in self.slot.wires:
            wire.stall(False)

    async def effect(self) -> str:
        if not await self.ended("dead"):
            raise NoEffect(f"worker {self.worker} was not taken over")
        await self.world.until(self.rejoined, f"{self.name} joins anew", 60.0)
        return f"worker {self.worker} was taken over, and came back as {self.world.joined(self.name)[-1]}"


# -- disk and standby -----------------------------------------------------------------------------------------------


class DiskFull(ServerFault):
    """The disk with data and WAL has no byte left, then has room again."""

    kind = "disk full"
    needs = "disk"
    hold_s = (1.0, 4.0)
    weight = 2

    async def inject(self) -> None:
        server = self.world.server
        self.from_log = server.log_size()
        await in_thread(server.fill)

        async def refused() -> bool:
            return "No space left on device" in server.said(self.from_log)

        with contextlib.suppress(TimeoutError):
            await self.world.until(refused, "the disk is full", 30.0)

    async def heal(self) -> None:
        server = self.world.server
        server.free()
        await asyncio.sleep(0.3)
        for _ in range(30):
            if server.pid is not None:
                break
            with contextlib.suppress(CommandFailed):
                await in_thread(server.start)
            await asyncio.sleep(0.3)

    async def effect(self) -> str:
        said = self.world.server.said(self.from_log)
        refusals = said.count("No space left on device")
        if not refusals:
            raise NoEffect("no write failed")
        await self.takes_writes()
        return f"{refusals} writes failed for want of space{', and the server went down' if 'PANIC' in said else ''}"


class StandbyPromoted(ServerFault):
    """The primary dies, the standby takes its place; the old primary comes back, from nothing, as its standby."""

    kind = "failover to the standby"
    needs = "standby"
    hold_s = (0.0, 1.0)
    weight = 3

    async def inject(self) -> None:
        world = self.world
        old, self.old = world.server, world.primary
        new = world.clusters[1 - self.old]
        await in_thread(old.kill if self.chance.random() < 0.5 else old.stop)
        await in_thread(new.promote)
        world.primary = 1 - self.old

    async def heal(self) -> None:
        if self.world.primary == self.old:
            if self.world.server.pid is None:
                await in_thread(self.world.server.start)
            return
        standby = self.world.clusters[self.old]
        for attempt in range(5):
            try:
                await in_thread(standby.follow, self.world.server)
                return
            except CommandFailed:
                # A crash or a full disk in the middle of copying: once more.
                if attempt == 4:
                    raise
                await in_thread(standby.stop)
                await asyncio.sleep(1.0)

    async def effect(self) -> str:
        if self.world.primary == self.old:
            raise NoEffect("the standby was not promoted")
        await self.takes_writes()
        rows = await self.world.rows("select pg_is_in_recovery(), timeline_id from pg_control_checkpoint()")
        if rows[0][0]:
            raise NoEffect("the new primary is still in recovery")
        return f"server {self.world.server.name} took over and has a standby again"


class StandbyLost(ServerFault):
    """The standby dies and comes back: until then no commit is acknowledged."""

    kind = "kill -9 and restart of the standby"
    needs = "standby"
    hold_s = (0.5, 3.0)
    weight = 2

    async def inject(self) -> None:
        self.waited = 0
        standby = self.world.clusters[1 - self.world.primary]
        await in_thread(standby.kill)

        async def waiting() -> bool:
            rows = await self.world.rows("select count(*) from pg_stat_activity where wait_event = 'SyncRep'")
            self.waited = max(self.waited, rows[0][0])
            return self.waited > 0

        with contextlib.suppress(TimeoutError):
            await self.world.until(waiting, "commits wait for the standby", 10.0)

    async def heal(self) -> None:
        await in_thread(self.world.clusters[1 - self.world.primary].start)

    async def effect(self) -> str:
        if not self.waited:
            raise NoEffect("no commit waited for the standby")
        return f"{self.waited} sessions waited for the standby"


KINDS: dict[str, type[Fault]] = {
    fault.kind: fault
    for fault in (
        *WORKER_FAULTS, ServerCrashed, BackendKilled, BackendsTerminated, ConnectionsCut, AnswersLost, NetworkDelayed,
        NetworkDead, DiskFull, StandbyPromoted, StandbyLost,
    )
}  # fmt: skip
