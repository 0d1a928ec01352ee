"""Drives worker processes through their deaths: orders starts, sends signals by plain SQL, kills, waits, checks.

What it was told (acknowledgements) it keeps in its own memory, which no crash of a worker or a server touches.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgdurable._store.migrations import migrate

from . import ledger, workflows

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 45.0
_TICK_S = 0.02


@dataclass
class Order:
    """A start somebody wants. Without a key, its fate is not known until it is acknowledged."""

    token: str
    workflow: str
    args: list[Any]
    key: str | None = None


class Worker:
    """One worker process. `ids` are the incarnations it said it has worked under."""

    def __init__(self, scenario: Scenario, number: int) -> None:
        self.scenario = scenario
        self.number = number
        self.ids: list[int] = []
        self.errors = scenario.folder / f"worker-{number}.log"
        self.process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]

    async def begin(self, probe: str | None, lease: float) -> None:
        scenario = self.scenario
        package = __package__ if __package__.startswith("tests.") else f"tests.{__package__}"
        env = {**os.environ, "CRASH_SHOP": scenario.shop, "CRASH_LOG": str(scenario.log)}
        env.pop("PGDURABLE_PROBE", None)
        if probe is not None:
            env["PGDURABLE_PROBE"] = probe
        with open(self.errors, "wb") as errors:  # noqa: ASYNC230
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"{package}.worker", scenario.dsn, scenario.schema, str(lease),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors, env=env, cwd=ROOT,
            )  # fmt: skip
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def order(self, order: Order) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order.__dict__).encode() + b"\n")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        if self.alive:
            self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Its exit status, once everything it has said has been read."""
        await self._reader
        return await self.process.wait()

    async def stop(self) -> None:
        """Ends it in good order."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = await asyncio.wait_for(self.ended(), PATIENCE_S)
        assert status == 0, f"the worker ended with {status}:\n{self.said()}"

    def said(self) -> str:
        return self.errors.read_text()[-6000:]

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if not line.endswith(b"\n"):
                break  # killed in the middle of it
            told = json.loads(line)
            if "ack" in told:
                self.scenario.acknowledge(told["ack"], uuid.UUID(told["id"]))
            elif "worker" in told:
                self.ids.append(told["worker"])


class Scenario:
    """A schema of its own, its tables, and the processes that work on it. Use it as ``async with``."""

    def __init__(self, dsn: str, folder: Path, seed: int) -> None:
        self.dsn = dsn
        self.schema = f"crash_{uuid.uuid4().hex[:12]}"
        self.shop = f"{self.schema}_shop"
        self.folder = folder
        self.log = folder / "executed"
        self.random = random.Random(seed)
        self.acknowledged: dict[str, uuid.UUID] = {}
        self.unanswered: dict[str, Order] = {}
        self.workers: list[Worker] = []
        self.zombies: set[int] = set()
        self._count = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._to_start: deque[Order] = deque()
        self._connections: dict[str, psycopg.AsyncConnection[Any]] = {}

    async def __aenter__(self) -> Scenario:
        self.folder.mkdir(parents=True, exist_ok=True)
        await asyncio.get_running_loop().run_in_executor(None, migrate, self.dsn, self.schema)
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            await conn.execute(f"create schema {self.shop}")
            await conn.execute(f"create table {self.shop}.accounts (id int primary key, balance bigint not null)")
            await conn.execute(
                f"insert into {self.shop}.accounts select i, %s from generate_series(1, %s) i",
                (workflows.OPENING_BALANCE, workflows.ACCOUNTS),
            )
            # No unique constraint: an effect that happens twice must show, not fail.
            await conn.execute(
                f"create table {self.shop}.ledger (token text not null, step text not null, source int not null,"
                " target int not null, cents int not null, at timestamptz not null default clock_timestamp(),"
                " pid int not null default pg_backend_pid())"
            )
            await conn.execute(
                f"create table {self.shop}.sent (id int primary key generated always as identity,"
                " token text not null, letter int not null)"
            )
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._send_signals()), loop.create_task(self._start_by_sql())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self.workers:
            await worker.kill()
        for conn in self._connections.values():
            await conn.close()
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            await conn.execute("set client_min_messages = warning")
            await conn.execute("set lock_timeout = '10s'")
            await conn.execute(f"drop schema {self.shop} cascade")
            await conn.execute(f"drop schema {self.schema} cascade")

    # -- work ---------------------------------------------------------------------------------------------------

    def acknowledge(self, token: str, id: uuid.UUID) -> None:
        self.unanswered.pop(token, None)
        if token in self.acknowledged:
            assert self.acknowledged[token] == id, f"{token} was acknowledged as {self.acknowledged[token]} and {id}"
        self.acknowledged[token] = id

    def make(self, workflow: str, keyed: bool) -> Order:
        self._count += 1
        token = f"{workflow}-{self._count}"
        args: list[Any] = [token]
        if workflow in ("shop", "typist"):
            source, target = self.random.sample(range(1, workflows.ACCOUNTS + 1), 2)
            args += [source, target, self.random.randint(1, 100)]
        elif workflow == "postman":
            args.append(workflows.SIGNALS[workflow])
        elif workflow in ("slow_payer", "locker"):
            args.append(1.5)
        return Order(token, workflow, args, f"key {token}" if keyed else None)

    def wave(self, worker: Worker) -> None:
        """One of everything, in every way of starting it."""
        for workflow in ("shop", "shop", "shop", "postman", "sleeper", "unlucky", "typist"):
            self.give(worker, self.make(workflow, keyed=False))
        for workflow in ("shop", "postman", "typist", "sleeper"):
            self.give(worker, self.make(workflow, keyed=True))
        for workflow in ("shop", "postman"):
            self.start_by_sql(self.make(workflow, keyed=True))

    def give(self, worker: Worker, order: Order) -> None:
        self.unanswered[order.token] = order
        worker.order(order)

    def start_by_sql(self, order: Order) -> None:
        """By any client's plain SQL; a postman has its first signals before its first step."""
        self.unanswered[order.token] = order
        self._to_start.append(order)

    async def begin(self, probe: str | None = None, lease: float = 3.0) -> Worker:
        """Starts a worker and gives it the starts that nobody has acknowledged."""
        worker = Worker(self, len(self.workers) + 1)
        await worker.begin(probe, lease)
        self.workers.append(worker)
        by_sql = {order.token for order in self._to_start}
        for order in list(self.unanswered.values()):
            if order.token in by_sql:
                continue
            del self.unanswered[order.token]
            if order.key is None:
                # It may have been committed, so this is another one.
                token = f"{order.token}+"
                order = Order(token, order.workflow, [token, *order.args[1:]])
            self.give(worker, order)
        return worker

    # -- waiting ------------------------------------------------------------------------------------------------

    async def until(
        self, condition: Callable[[], Coroutine[Any, Any, Any]], what: str, timeout: float = PATIENCE_S
    ) -> Any:
        deadline = time.monotonic() + timeout
        while not (found := await condition()):
            if time.monotonic() > deadline:
                said = "\n".join(f"-- worker {w.number} ({w.pid}):\n{w.said()}" for w in self.workers)
                raise AssertionError(f"not within {timeout:g} s: {what}\n{await self._state()}\n{said}")
            await asyncio.sleep(_TICK_S)
        return found

    async def rows(self, text: str, *args: Any, on: str = "main") -> list[Any]:
        """A query that only looks; tried until the server answers. `@` is the schema, `#` the tables'."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                conn = await self._connection(on)
                cursor = await conn.execute(self.names(text), args or None)
                return await cursor.fetchall() if cursor.description is not None else []
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_TICK_S)

    def names(self, text: str) -> str:
        return text.replace("@", self.schema).replace("#", self.shop)

    async def all_ended(self, timeout: float = PATIENCE_S) -> None:
        """Waits until every start is acknowledged and every instance has ended."""

        async def quiet() -> bool:
            if self.unanswered:
                return False
            rows = await self.rows("select count(*) from @.instances where status <> all (%s)", list(ledger.ENDED))
            return bool(rows[0][0] == 0)

        await self.until(quiet, "every instance has ended", timeout)

    async def taken_over(self, worker: int) -> None:
        async def dead() -> bool:
            return bool(await self.rows("select from @.workers where id = %s and state in ('dead', 'stopped')", worker))

        await self.until(dead, f"worker {worker} is taken over")

    async def finish(self) -> ledger.Evidence:
        """Waits for the end of everything, stops the workers in good order and checks every promise."""
        await self.all_ended()
        for worker in self.workers:
            if worker.alive:
                await worker.stop()
        evidence = self.evidence()
        violations = ledger.check(evidence)
        assert not violations, "\n".join(map(str, violations))
        return evidence

    def evidence(self) -> ledger.Evidence:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return ledger.gather(
                conn, self.schema, self.shop, self.log, self.acknowledged, zombies=frozenset(self.zombies)
            )

    # -- inside -------------------------------------------------------------------------------------------------

    async def _connection(self, name: str) -> psycopg.AsyncConnection[Any]:
        conn = self._connections.get(name)
        if conn is None or conn.closed:
            conn = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
            self._connections[name] = conn
            # The driver never waits for a standby, so that tests may make the engine's commits do so.
            await conn.execute("set synchronous_commit = local")
        return conn

    async def _state(self) -> str:
        rows = await self.rows(
            "select i.workflow, i.status, i.owner, i.wake_at, i.error ->> 'message', i.input::text,"
            " (select count(*) from @.events e where e.instance_id = i.id),"
            " (select string_agg(h.kind || ' ' || coalesce(h.name, ''), ', ' order by h.event_id) from @.history h"
            " where h.instance_id = i.id) from @.instances i where i.status <> all (%s) limit 10",
            list(ledger.ENDED),
        )
        workers = await self.rows("select id, state, beat, lease_until, now(), stats from @.workers order by id")
        unanswered = f"not acknowledged: {list(self.unanswered)}"
        return "\n".join([unanswered, *map(str, workers), *map(str, rows)])

    async def _send_signals(self) -> None:
        """The one sender. Which signals it has sent it reads in the table, which it writes in the same commit."""
        patience: dict[str, int] = {}
        while True:
            rows = await self.rows(
                "select i.id, i.input, i.workflow, (select count(*)::int from #.sent s"
                "  where s.token = coalesce(i.input ->> 'token', i.input ->> 0))"
                "  from @.instances i where i.workflow = any (%s) and i.status <> all (%s)",
                list(workflows.SIGNALS), list(ledger.ENDED), on="signals",
            )  # fmt: skip
            for id, input, workflow, sent in rows:
                token = input["token"] if isinstance(input, dict) else input[0]
                if sent >= workflows.SIGNALS[workflow]:
                    continue
                # Some come at once, and so before the wait; some after a while.
                wait = patience.setdefault(f"{token} {sent}", self.random.choice([0, 0, 1, 3, 15]))
                patience[f"{token} {sent}"] = wait - 1
                if wait <= 0:
                    await self._signal(id, token, sent)
            await asyncio.sleep(_TICK_S)

    async def _signal(self, id: uuid.UUID, token: str, letter: int) -> None:
        try:
            conn = await self._connection("signals")
            async with conn.transaction():
                await conn.execute(self.names("insert into #.sent (token, letter) values (%s, %s)"), (token, letter))
                await conn.execute(
                    self.names("select @.signal(%s, 'go', to_jsonb(%s::int))"), (str(id), letter)
                )  # fmt: skip
        except psycopg.OperationalError:
            pass  # whether it was sent, the table tells

    async def _start_by_sql(self) -> None:
        while True:
            while self._to_start:
                order = self._to_start[0]
                names = json.dumps(dict(zip(ledger._parameters(order.workflow), order.args, strict=True)))
                # The key makes it harmless to try again.
                await self.rows("select @.start(%s, %s::jsonb, id => %s)", order.workflow, names, order.key, on="start")
                found = await self.rows("select @.find_instance(%s)", order.key, on="start")
                self._to_start.popleft()
                self.acknowledge(order.token, found[0][0])
            await asyncio.sleep(_TICK_S)
