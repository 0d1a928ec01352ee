"""One run of the demo: orders come in, a person approves, and meanwhile things are killed.

The orders come in waves: a bulk import first, then four waves of single orders, one around each thing that goes wrong
and one after. So whatever the speed of the machine, each kill finds orders in every state.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

import pgdurable as pgd

from .customers import Customers
from .display import Display
from .doubles import dice
from .processes import Worker, Workers
from .shop import Order
from .workflows import order as order_workflow

WAVE_S = 4.0  # how long one wave lasts; with few orders shorter
ENDED = ("completed", "failed", "cancelled", "timed_out")


class DemoFailed(Exception):
    """The run could not come to its end."""


class Sql:
    """One connection as anybody has one, with plain SQL; it comes back after a crash of the server."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def rows(self, query: str, params: Any = ()) -> list[Any]:
        """The answer's rows. Asked again until the server is there: the caller must bear that it ran twice."""
        async with self._lock:
            while True:
                try:
                    if self._conn is None or self._conn.closed:
                        self._conn = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
                    cursor = await self._conn.execute(query, params)
                    return await cursor.fetchall()
                except psycopg.OperationalError:
                    await asyncio.sleep(0.05)

    async def one(self, query: str, params: Any = ()) -> Any:
        return (await self.rows(query, params))[0][0]

    async def close(self) -> None:
        if self._conn is not None:
            await self._conn.close()


class Run:
    """See the head of this file.

    Args:
        server: the embedded server, to be crashed; None: somebody's real one, which is left alone.
        orders: what is going to be ordered.
        seed: decides what the approver says.
        deadline_s: after this long the run has failed.
    """

    def __init__(
        self,
        dsn: str,
        server: pgd.EmbeddedServer | None,
        workers: Workers,
        orders: list[Order],
        show: Display,
        *,
        seed: int,
        deadline_s: float,
    ) -> None:
        self._dsn = dsn
        self._server = server
        self._workers = workers
        self._orders = orders
        self._show = show
        self._seed = seed
        self._deadline_s = deadline_s
        self._sql = Sql(dsn)
        self._person = Sql(dsn)
        self._approvers: list[asyncio.Task[None]] = []
        self._doing = ""
        self._wave_news = asyncio.Event()
        self._customers = Customers(seed)
        self.told = self._customers.told
        self.recoveries: list[tuple[str, str]] = []
        self.seconds = 0.0
        self.began_at: Any = None

    async def go(self) -> None:
        """The whole run. Raises DemoFailed."""
        watcher = asyncio.create_task(self._watch())
        story = asyncio.create_task(self._story())
        tasks: list[asyncio.Task[None]] = [watcher, story]
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                states = await self._sql.rows("select status, count(*) from durable.instances group by 1 order by 1")
                raise DemoFailed(f"not within {self._deadline_s:g} s; instances: {dict(states)}")
            for task in done:
                task.result()
        finally:
            for task in tasks + self._approvers:
                task.cancel()
            await asyncio.gather(*tasks, *self._approvers, return_exceptions=True)
            await self._customers.close()
            await self._sql.close()
            await self._person.close()

    # -- the story -----------------------------------------------------------------------------------------------

    async def _story(self) -> None:
        began = time.monotonic()
        self.began_at, left_over = (
            await self._sql.rows(
                "select clock_timestamp(), (select count(*) from durable.instances"
                " where workflow = 'order' and not status = any(%s))",
                (list(ENDED),),
            )
        )[0]
        if left_over:
            self._show.says(f"{left_over:,} orders of an earlier run are unfinished; they go on too")
        self._show.says(f"worker 1 started (process {self._workers.start().pid})")
        half = len(self._orders) // 2
        wave = -(-(len(self._orders) - half) // 4)
        waves = [self._orders[first : first + wave] for first in range(half, len(self._orders), wave)]
        waves += [[]] * (4 - len(waves))
        async with pgd.Client(self._dsn) as client:
            with contextlib.suppress(pgd.ScheduleNotFound):  # the first run: the worker makes it
                await client.schedules.resume("closing")
            await self._import(client, self._orders[:half])
            await self._during(self._wave(client, waves[0]), self._kill_worker)
            await self._during(self._wave(client, waves[1]), self._crash_database)
            await self._during(self._wave(client, waves[2]), self._kill_worker)
            self._doing = f"worker {len(self._workers.all)} runs"
            await self._wave(client, waves[3])
            self._doing = "last deliveries"
            await self._ended("order")
            await asyncio.gather(*self._approvers)
            await self._customers.served()
            self.seconds = time.monotonic() - began
            self._show.says("all orders have come to their end")
            self._doing = "the books are closed"
            await client.schedules.pause("closing", "the shop is closed")
            await (await client.schedules.trigger("closing")).result()
            await self._ended("packing", "closing")

    async def _ended(self, *workflows: str) -> None:
        """Waits until none of their instances is under way."""
        await self._until(
            "select not exists (select from durable.instances where workflow = any(%s) and not status = any(%s))",
            (list(workflows), list(ENDED)),
        )

    async def _during(self, wave: Coroutine[Any, Any, None], harm: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Does harm in the middle of a wave of orders, and waits for both."""
        self._wave_news.clear()
        coming = asyncio.create_task(wave)
        try:
            await self._wave_news.wait()
            await harm()
            await coming
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    # -- orders and approvals ------------------------------------------------------------------------------------

    async def _import(self, client: pgd.Client, orders: list[Order]) -> None:
        """Yesterday's orders, thousands per commit. The server gives each instance its id."""
        began = time.monotonic()
        handles = await client.start_many(order_workflow, [order.arguments for order in orders])
        for order, handle in zip(orders, handles, strict=True):
            self._acknowledge(order, handle)
        took = (time.monotonic() - began) * 1e3
        self._show.says(f"{len(orders):,} orders imported with start_many, in {took:,.0f} ms")

    async def _wave(self, client: pgd.Client, orders: list[Order]) -> None:
        """Orders as they come in, one by one, over some seconds."""
        began = time.monotonic()
        wave_s = min(WAVE_S, 0.5 + len(self._orders) / 1000)
        starting: set[asyncio.Task[None]] = set()
        try:
            for place, order in enumerate(orders):
                await asyncio.sleep(max(began + wave_s * place / len(orders) - time.monotonic(), 0))
                starting.add(asyncio.create_task(self._start(client, order)))
                if place >= len(orders) // 2:
                    self._wave_news.set()
            self._wave_news.set()
            await asyncio.gather(*starting)
        finally:
            for task in starting:
                task.cancel()

    async def _start(self, client: pgd.Client, order: Order) -> None:
        while True:
            try:
                # The id makes it safe to try again when nobody knows whether the first try was committed.
                handle = await client.start(order_workflow, *order.arguments, id=f"order/{order.order_id}")
                return self._acknowledge(order, handle)
            except pgd.ConnectionFailed:
                await asyncio.sleep(0.1)

    def _acknowledge(self, order: Order, handle: pgd.Handle[Any]) -> None:
        self._customers.ordered(order, handle)
        thrown = dice(self._seed, "approver", order.order_id)
        if order.big and thrown >= 10:  # one in ten is never looked at
            self._approvers.append(asyncio.create_task(self._approve(handle.id, thrown >= 20, thrown / 50)))

    async def _approve(self, id: str, ok: bool, after_s: float) -> None:
        """A person decides after a while and writes it down in psql. Nothing here knows pgdurable's library."""
        await asyncio.sleep(after_s)
        answer = Jsonb({"ok": ok, "by": "ann"})
        try:
            await self._person.rows("select durable.signal(%s, 'approval', %s)", (id, answer))
        except psycopg.Error as error:
            if error.sqlstate != "PGD03":  # the order has ended by now: declined, cancelled, or ann was too late
                raise

    # -- harm ----------------------------------------------------------------------------------------------------

    async def _kill_worker(self) -> None:
        old = self._workers.current
        id = await self._wait_for_work(old)
        mine = "select id from durable.instances where owner = %s and workflow = 'order'"
        held = [row[0] for row in await self._sql.rows(mine, (id,))]
        number = len(self._workers.all)
        began = time.monotonic()
        old.kill()
        killed_at = await self._sql.one("select clock_timestamp()")
        self._show.says(f"worker {number} killed (SIGKILL) with {len(held):,} orders in its hands", "bold red")
        new = self._workers.start()
        self._doing = f"worker {number + 1} takes over"
        self._show.says(f"worker {number + 1} started (process {new.pid})")
        # Until nothing that is not finished belongs to the dead worker.
        await self._until(
            "select not exists (select from durable.instances where owner = %s and not status = any(%s))",
            (id, list(ENDED)),
        )
        all_s = time.monotonic() - began
        # The first thing one of its orders did under a new worker: after the takeover only that one writes.
        first_s = await self._until(
            """
            select extract(epoch from least(
                    (select min(h.recorded_at) from durable.history h
                      where h.instance_id = any(%(held)s) and h.recorded_at > w.ended_at),
                    (select min(i.finished_at) from durable.instances i
                      where i.id = any(%(held)s) and i.finished_at > w.ended_at)) - %(killed)s)::float8
              from durable.workers w where w.id = %(id)s
            """,
            {"held": held, "killed": killed_at, "id": id},
        )
        self._recovered(
            f"worker {number} killed, {len(held):,} orders in hand",
            f"first went on after {first_s:.1f} s",
            f"all had a new worker after {all_s:.1f} s",
        )

    async def _crash_database(self) -> None:
        if self._server is None:
            self._show.says("a real server is given, so the database is not crashed")
            return
        await self._wait_for_work(self._workers.current)
        began = time.monotonic()
        killed_at = await self._sql.one("select clock_timestamp()")
        await asyncio.to_thread(self._server.crash)
        self._doing = "database is down"
        self._show.says("database crashed (immediate shutdown, no checkpoint)", "bold red")
        await asyncio.to_thread(self._server.start)
        up_s = time.monotonic() - began
        self._show.says("database started again, recovers from its write-ahead log")
        first_s = await self._until(
            "select extract(epoch from min(recorded_at) - %s)::float8 from durable.history"
            " where recorded_at > pg_postmaster_start_time()",
            (killed_at,),
        )
        self._recovered("database crashed", f"up after {up_s:.1f} s", f"first order went on after {first_s:.1f} s")

    def _recovered(self, what: str, *how: str) -> None:
        self.recoveries += [(what, how[0]), *(("", more) for more in how[1:])]
        self._doing = f"worker {len(self._workers.all)} runs"
        self._show.says(f"recovered: {', '.join(how)}", "bold green")

    async def _wait_for_work(self, worker: Worker) -> int:
        """Waits until the worker has unfinished orders in its hands. Returns its id in the database."""
        return int(
            await self._until(
                "select max(w.id) from durable.workers w where w.name = %s and w.state = 'alive'"
                " and exists (select from durable.instances i where i.owner = w.id)"
                " and exists (select from durable.history where recorded_at > w.started_at)",
                (worker.name,),
            )
        )

    # -- looking -------------------------------------------------------------------------------------------------

    async def _until(self, query: str, params: Any) -> Any:
        """Asks until the answer is neither false nor null. The whole run has a deadline, so this needs none."""
        while True:
            answer = await self._sql.one(query, params)
            if answer:
                return answer
            await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        """Shows how far the orders are, and looks after the workers, until cancelled."""
        sql = Sql(self._dsn)
        seen: deque[tuple[float, int]] = deque(maxlen=8)
        try:
            while True:
                died = self._workers.died()
                if died is not None:
                    raise DemoFailed(died)
                asked = time.monotonic()
                done, steps = (
                    await sql.rows(
                        "select (select count(*) from durable.instances"
                        "         where workflow = 'order' and created_at >= %s and status = any(%s)),"
                        "       (select count(*) from durable.history where kind = 'step')",
                        (self.began_at, list(ENDED)),
                    )
                )[0]
                now = time.monotonic()
                seen.append((now, steps))
                rate = (steps - seen[0][1]) / max(now - seen[0][0], 0.1)
                self._show.shows(done, len(self._orders), rate, self._doing)
                await asyncio.sleep(min(max(0.25, 10 * (now - asked)), 2.0))  # looking must not become the load
        finally:
            await sql.close()
