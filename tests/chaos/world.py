"""The world of a run: servers, network, worker processes and customers; and what can be asked of it.

The nemesis (`nemesis.py`) breaks it, `run.py` says when.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from pgdurable._store.migrations import migrate

from . import bank, kinds, mutations
from .cluster import Cluster
from .history import History
from .wires import Wire

__all__ = ["Settings", "Slot", "World", "faketime"]

TESTS = Path(__file__).resolve().parents[1]
SCHEMA, SHOP = "durable", "bank"


def faketime() -> str | None:
    """Debian's libfaketime, which sets the clock of one process wrong; None where it is not installed."""
    return next(iter(sorted(glob.glob("/usr/lib/*/faketime/libfaketime.so.1"))), None)


@dataclass(frozen=True)
class Settings:
    """How large a world is.

    Attributes:
        workers: worker processes at a time.
        customers: conversations at a time, of the process of customers.
        own_customers: of each worker process.
        pumps: connections of each worker process in which workflows in SQL run.
        lease: of the workers, in seconds.
        standby: a second server that follows the first, synchronously.
        disk_mb: each server's disk, in memory; None: as large as the machine's.
        slots: how many instances of the counter's queue may be held at once.
        mutation: what is wrong with the library on purpose.
    """

    seed: int
    workers: int = 3
    customers: int = 10
    own_customers: int = 2
    pumps: int = 2
    lease: float = 2.0
    standby: bool = False
    disk_mb: int | None = None
    slots: int = 20
    mutation: str | None = None


class Slot:
    """A place for a worker process. Processes come and go; its network and its clock stay."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.wires: list[Wire] = []
        self.lock = asyncio.Lock()
        self.clock: Path
        self.count = 0
        self.name = ""
        self.stopped = False
        self.process: asyncio.subprocess.Process | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def signal(self, number: int) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class World:
    """See the head of this file. Use it as ``async with``."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.generation = 1
        self.primary = 0
        self.clusters: list[Cluster] = []
        self.server_lock = asyncio.Lock()
        self.rolling = asyncio.Lock()
        self.slots = [Slot(number) for number in range(settings.workers)]
        self.front = Slot(settings.workers)
        self.history_path = folder / "history.jsonl"
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._asking = asyncio.Lock()
        self._tail = 0
        self._joined: dict[str, list[int]] = {}
        self._marks: set[tuple[str, str]] = set()
        self._clocks: dict[str, int] = {}

    async def __aenter__(self) -> World:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.history = History(self.history_path, "nemesis")
        # Beside the temporary folder: the servers' account must be able to reach it.
        self.disks = Path(tempfile.mkdtemp(prefix="pgdurable-chaos-"))
        self.disks.chmod(0o755)
        try:
            await in_thread(self._make_servers)
            for slot in (*self.slots, self.front):
                slot.clock = self.folder / f"clock-{slot.number}"
                slot.clock.write_text("+0")
                for cluster in self.clusters:
                    wire = Wire(cluster.port)
                    await wire.open()
                    slot.wires.append(wire)
            await self._open_front()
            await asyncio.gather(*(self.begin(slot) for slot in self.slots))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _make_servers(self) -> None:
        first = Cluster("one", self._folder("one"), disk_mb=self.settings.disk_mb)
        self.clusters.append(first)
        first.create()
        first.start()
        migrate(first.dsn, SCHEMA)
        with psycopg.connect(first.dsn, autocommit=True) as conn:
            texts = [(Path(__file__).parent / name).read_text() for name in ("tables.sql", "bank.sql")]
            for statement in (one for text in texts for one in text.split("\n--\n")):
                conn.execute(statement.replace("@.", f"{SCHEMA}.").replace("#.", f"{SHOP}.").replace("#", SHOP))  # type: ignore[arg-type]
            conn.execute(
                f"insert into {SHOP}.accounts select i, %s from generate_series(0, %s) i",
                (bank.OPENING_BALANCE, bank.ACCOUNTS),
            )
            conn.execute(
                f"select {SCHEMA}.set_queue('counter', concurrency => {self.settings.slots}, worker_concurrency => 8,"
                " partition_concurrency => 6, rate_count => 60, rate_seconds => 1)"
            )
            # So much is made good that no fault of a run can make a tick missed.
            conn.execute(
                f"select {SCHEMA}.schedule('patrol', 'patrol', every => '1 s', overlap => 'allow',"
                " catch_up => '1 hour')"
            )
            for kind in kinds.KINDS.values():
                if kind.program is not None:
                    conn.execute(f"select {SCHEMA}.define(%s, %s)", (kind.name, Jsonb(kind.program)))
            mutations.install(self.settings.mutation, conn, SCHEMA)
            row = conn.execute("select version()").fetchone()
            assert row is not None
            self.server_version = str(row[0]).split(" on ")[0]
        if self.settings.standby:
            second = Cluster("two", self._folder("two"), disk_mb=self.settings.disk_mb)
            self.clusters.append(second)
            second.follow(first)

    def _folder(self, name: str) -> Path:
        folder = self.disks / name
        folder.mkdir()
        return folder

    async def close(self) -> None:
        """Ends every process that is left, and the servers."""
        for slot in (*self.slots, self.front):
            if slot.alive:
                slot.signal(signal.SIGKILL)
                assert slot.process is not None
                await slot.process.wait()
            for wire in slot.wires:
                await wire.close()
        if self._conn is not None:
            await self._conn.close()
        for cluster in self.clusters:
            await in_thread(cluster.close)
        if self.clusters:
            await in_thread(_remove, self.disks)

    # -- processes ----------------------------------------------------------------------------------------------

    def dsn(self, slot: Slot, name: str) -> str:
        """How a process reaches the servers: through wires of its own, all of them, the one that takes writes."""
        hosts = ",".join("127.0.0.1" for _ in slot.wires)
        ports = ",".join(str(wire.port) for wire in slot.wires)
        target = " target_session_attrs=read-write" if len(slot.wires) > 1 else ""
        return (
            f"host={hosts} port={ports} user=postgres dbname=postgres application_name={name} sslmode=disable"
            f" gssencmode=disable connect_timeout=5 tcp_user_timeout=8000{target}"
        )

    async def begin(self, slot: Slot) -> None:
        """Starts a worker process in a slot whose last one has ended, of the newest code."""
        settings = self.settings
        slot.count += 1
        slot.name = f"worker-{slot.number}.{slot.count}"
        slot.stopped = False
        told = {
            "dsn": self.dsn(slot, slot.name), "schema": SCHEMA, "shop": SHOP, "name": slot.name,
            "lease": settings.lease, "history": str(self.history_path), "generation": self.generation,
            "mutation": settings.mutation, "seed": settings.seed, "customers": settings.own_customers,
            "pumps": settings.pumps,
        }  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        library = faketime()
        if library is not None:
            environment |= {
                "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(slot.clock), "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
            }  # fmt: skip
        with open(self.folder / f"{slot.name}.log", "wb") as log:  # noqa: ASYNC230
            slot.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "chaos.worker", json.dumps(told), stdin=asyncio.subprocess.DEVNULL, stdout=log,
                stderr=log, env=environment, cwd=TESTS,
            )  # fmt: skip

    async def _open_front(self) -> None:
        name = self.front.name = "customers"
        told = {
            "dsn": self.dsn(self.front, name), "schema": SCHEMA, "name": name, "history": str(self.history_path),
            "seed": self.settings.seed, "customers": self.settings.customers,
        }  # fmt: skip
        with open(self.folder / f"{name}.log", "wb") as log:  # noqa: ASYNC230
            self.front.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "chaos.client", json.dumps(told), stdin=asyncio.subprocess.PIPE, stdout=log,
                stderr=log, env={**os.environ, "PYTHONPATH": str(TESTS)}, cwd=TESTS,
            )  # fmt: skip

    async def end(self, slot: Slot, timeout: float = 40.0) -> int:
        """Stops a worker process in good order. Returns its exit status."""
        assert slot.process is not None
        slot.signal(signal.SIGTERM)
        return await asyncio.wait_for(slot.process.wait(), timeout)

    # -- asking -------------------------------------------------------------------------------------------------

    @property
    def server(self) -> Cluster:
        """The primary."""
        return self.clusters[self.primary]

    async def rows(self, text: str, *args: Any, patience: float = 30.0) -> list[Any]:
        """Asks the primary directly, until it answers. `@.` is the library's schema, `#.` the bank's."""
        deadline = time.monotonic() + patience
        while True:
            try:
                async with self._asking:
                    return await self._ask(text.replace("@.", f"{SCHEMA}.").replace("#.", f"{SHOP}."), args or None)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def _ask(self, text: str, args: tuple[Any, ...] | None) -> list[Any]:
        if self._conn is None or self._conn.closed or self._conn.info.port != self.server.port:
            if self._conn is not None:
                await self._conn.close()
            self._conn = await psycopg.AsyncConnection.connect(
                self.server.dsn, autocommit=True, application_name="nemesis", options="-c synchronous_commit=local"
            )
        cursor = await self._conn.execute(text, args)  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description is not None else []

    async def until(self, condition: Callable[[], Coroutine[Any, Any, Any]], what: str, timeout: float = 30.0) -> Any:
        """Waits for a condition. Raises TimeoutError, naming it."""
        deadline = time.monotonic() + timeout
        while not (found := await condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout:g} s: {what}")
            await asyncio.sleep(0.03)
        return found

    def look(self) -> None:
        """Takes in what the processes have noted since the last look."""
        with open(self.history_path, "rb") as file:
            file.seek(self._tail)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._tail += whole
        for line in text[:whole].splitlines():
            if b'"joined"' in line or b'"quiet"' in line or b'"stopped"' in line or b'"tick"' in line:
                event = json.loads(line)
                if event["event"] == "joined":
                    self._joined.setdefault(event["by"], []).append(event["worker"])
                elif event["event"] == "tick":
                    self._clocks[event["by"]] = event["at_us"]
                self._marks.add((event["event"], event["by"]))

    def joined(self, name: str) -> list[int]:
        """Under which incarnations a process has worked so far."""
        self.look()
        return list(self._joined.get(name, ()))

    async def works(self, slot: Slot) -> bool:
        """Whether a slot's process has joined the workers. Raises AssertionError when it has ended by itself."""
        if not slot.alive:
            assert slot.process is not None
            said = (self.folder / f"{slot.name}.log").read_text(errors="replace")[-2000:]
            raise AssertionError(f"{slot.name} ended by itself, with {slot.process.returncode}:\n{said}")
        return bool(self.joined(slot.name))

    def noted(self, event: str, name: str) -> bool:
        self.look()
        return (event, name) in self._marks

    def clock_of(self, name: str) -> int | None:
        """What a process last took for the time, in microseconds."""
        self.look()
        return self._clocks.get(name)

    async def unended(self) -> int:
        rows = await self.rows(
            "select count(*) from @.instances where status not in ('completed', 'failed', 'cancelled', 'timed_out')"
        )
        return int(rows[0][0])

    async def said(self) -> str:
        """What is of use when something did not come about."""
        rows = await self.rows(
            "select i.workflow, i.version, i.status, i.owner, i.wake_at, i.error ->> 'message', i.input::text,"
            " (select count(*) from @.events e where e.instance_id = i.id),"
            " (select string_agg(h.kind || ' ' || coalesce(h.name, ''), ', ' order by h.event_id) from @.history h"
            " where h.instance_id = i.id) from @.instances i"
            " where i.status not in ('completed', 'failed', 'cancelled', 'timed_out') limit 12"
        )
        workers = await self.rows(
            "select id, name, state, beat, lease_until, now() from @.workers order by id desc limit 8"
        )
        logs = [
            f"-- {path.name}\n{path.read_text(errors='replace')[-2500:]}"
            for slot in (*self.slots, self.front)
            for path in [self.folder / f"{slot.name}.log"]
        ]
        return "\n".join([*map(str, workers), *map(str, rows), *logs])


async def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
