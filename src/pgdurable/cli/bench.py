"""`bench`: how many durable steps a second, and at what latency, on the user's own server?"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import psycopg
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pgdurable._engine.connections import connect_failed, server_of
from pgdurable._store import migrations
from pgdurable.cli.bench_floor import Bare, bare_inserts, copy_again, make_bare_tables, recorded_rows
from pgdurable.cli.bench_load import STEPS, WORKFLOWS, Round, closed_loop, many_steps, many_transactions, quantile
from pgdurable.cli.options import Dsn, target
from pgdurable.cli.text import print_block, screen
from pgdurable.engine import Engine
from pgdurable.workflow import Workflow

__all__ = ["bench"]

_CALLERS = (1, 10, 100, 500)
_TRANSACTION_CALLERS = 10
_SAFE = ("fsync", "synchronous_commit", "full_page_writes")
_SETTINGS = ("server_version", *_SAFE, "shared_buffers", "max_wal_size")


@dataclass
class Line:
    """One line of the result: a rate and how long one took, in milliseconds."""

    what: str
    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    rows_per_commit: float
    callers: int | None = None


@dataclass
class Report:
    """Everything `bench` found."""

    server: str
    settings: dict[str, str]
    round_trip_ms: float
    steps: list[Line] = field(default_factory=list)
    transaction_steps: Line | None = None
    insert: Line | None = None
    copy: Line | None = None

    @property
    def best(self) -> Line:
        return max(self.steps, key=lambda line: line.per_s)

    def expectation(self) -> list[str]:
        """What one can count on here, in words."""
        idle, best = self.steps[0], self.best
        text = [
            f"Expect of one worker process here: {_round(best.per_s)} durable steps/s at {best.callers} instances at"
            f" once (p99 {best.p99_ms:.1f} ms); {idle.p50_ms:.2f} ms for a step when nothing else goes on.",
        ]
        if self.transaction_steps is not None:
            text.append(
                f"Transaction steps, each with an UPDATE of its own: {_round(self.transaction_steps.per_s)} a second"
                f" at {self.transaction_steps.callers} at once."
            )
        off = [name for name in _SAFE if self.settings.get(name) == "off"]
        if off:
            text.append(f"With {' and '.join(off)} off, what these figures count is not safe from every crash.")
        return text


def bench(
    ctx: typer.Context,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long each measurement lasts.")] = 2.0,
    callers: Annotated[
        list[int] | None,
        typer.Option("--callers", min=1, help="Instances at once; give it several times. Default: 1, 10, 100, 500."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    dsn: Dsn = None,
) -> None:
    """Measure durable steps/s and latencies on your server, in a schema of its own that is removed afterwards."""
    where = target(ctx, dsn, None, application="pgdurable bench")
    schema = f"pgdurable_bench_{secrets.token_hex(4)}"
    out, err = screen(), screen(stderr=True)
    report = _look(where.dsn)
    err.print(f"{report.server}; works in schema {schema}, which it drops at the end")
    with _own_schema(where.dsn, schema), _progress() as progress:
        _run(lambda: _measure(report, where.dsn, schema, seconds, callers or list(_CALLERS), progress))
    if as_json:
        out.print(json.dumps({**asdict(report), "expectation": report.expectation()}), soft_wrap=True)
        return
    _print(report)


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """`asyncio.run`, where a signal that comes while it makes its loop waits until the work begins."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        await work()

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _own_schema(dsn: str, schema: str) -> Iterator[None]:
    """The schema exists within the block, and goes however the block ends; SIGTERM ends it like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        migrations.migrate(dsn, schema)
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        migrations.uninstall(dsn, schema)


@contextmanager
def _progress() -> Iterator[Any]:
    """A function to call with what is measured next and how many measurements there are."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=screen(stderr=True), disable=not sys.stderr.isatty(), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None)

        def tell(what: str, number: int, of: int) -> None:
            bar.update(task, description=what, completed=number, total=of)

        yield tell


def _look(dsn: str) -> Report:
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            settings = {}
            for name in _SETTINGS:
                row = conn.execute("select current_setting(%s, true)", (name,)).fetchone()
                settings[name] = str(row[0]) if row else ""
            took = []
            for _ in range(21):
                began = time.perf_counter()
                conn.execute("select 1")
                took.append(time.perf_counter() - began)
    except psycopg.OperationalError as error:
        raise connect_failed(dsn, error) from None
    return Report(f"PostgreSQL {settings['server_version']} at {server_of(dsn)}", settings, quantile(took, 0.5) * 1e3)


async def _measure(
    report: Report, dsn: str, schema: str, seconds: float, callers: list[int], progress: Any
) -> None:  # fmt: skip
    total = len(callers) + 4
    progress("warming up", 0, total)
    await _load(dsn, schema, many_steps, (STEPS,), 20, min(seconds, 0.5))
    loop = asyncio.get_running_loop()
    progress("bare inserts", 1, total)
    report.insert = await loop.run_in_executor(None, _inserts, dsn, schema, seconds)
    for number, concurrent in enumerate(sorted(callers)):
        progress(f"{concurrent} at once", number + 2, total)
        done = await _load(dsn, schema, many_steps, (STEPS,), concurrent, seconds)
        report.steps.append(_line(done, "steps", concurrent))
    progress("COPY of the same rows", total - 2, total)
    report.copy = await loop.run_in_executor(None, _copies, dsn, schema, report.best.rows_per_commit)
    progress("transaction steps", total - 1, total)
    await loop.run_in_executor(None, _make_counters, dsn, schema)
    done = await _load(
        dsn, schema, many_transactions, (STEPS, f"{schema}.counters"), _TRANSACTION_CALLERS, seconds, rows=1000
    )
    report.transaction_steps = _line(done, "transaction steps", _TRANSACTION_CALLERS)


async def _load(
    dsn: str, schema: str, workflow: Workflow[Any, Any], arguments: tuple[Any, ...], concurrent: int, seconds: float,
    **more: Any,
) -> Round:  # fmt: skip
    async with Engine(dsn, schema=schema, workflows=WORKFLOWS) as engine:
        return await closed_loop(engine, workflow, arguments, concurrent=concurrent, seconds=seconds, **more)


def _line(done: Round, what: str, concurrent: int) -> Line:
    return _timed(what, done.steps_per_s, done.felt, done.rows_per_commit, concurrent)


def _timed(what: str, per_s: float, took: list[float], rows: float, callers: int | None = None) -> Line:
    p50, p99, p999 = (quantile(took, share) * 1e3 for share in (0.5, 0.99, 0.999))
    return Line(what, per_s, p50, p99, p999, rows, callers)


def _inserts(dsn: str, schema: str, seconds: float) -> Line:
    took: list[float] = []
    with Bare(dsn) as bare:
        make_bare_tables(bare, schema)
        bare_inserts(bare, schema, 20)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            took += bare_inserts(bare, schema, 20)
    return _timed("bare one-row inserts", len(took) / sum(took), took, 1.0)


def _copies(dsn: str, schema: str, rows_per_commit: float) -> Line:
    commit = max(round(rows_per_commit), 1)
    with Bare(dsn) as bare:
        rows = recorded_rows(bare, schema, most=min(20_000, 200 * commit))
        took = copy_again(bare, schema, rows, commit)
    return _timed("COPY of the same rows", len(rows.history) / sum(took), took, commit)


def _make_counters(dsn: str, schema: str) -> None:
    with Bare(dsn) as bare:
        bare.run(f"create table {schema}.counters (id int primary key, n int not null)")
        bare.run(f"insert into {schema}.counters select i, 0 from generate_series(0, 999) i")


def _print(report: Report) -> None:
    out = screen()
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items() if name != "server_version")
    out.print(f"{report.server}\n{settings}; a round trip takes {report.round_trip_ms:.2f} ms\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("at once", "per second", "p50 ms", "p99 ms", "p99.9 ms", "rows per commit"):
        table.add_column(name, justify="right")
    for line in (*report.steps, report.transaction_steps, report.insert, report.copy):
        if line is not None:
            table.add_row(
                f"durable {line.what}" if line in report.steps else line.what,
                "" if line.callers is None else str(line.callers),
                f"{line.per_s:,.0f}", f"{line.p50_ms:.2f}", f"{line.p99_ms:.2f}", f"{line.p999_ms:.2f}",
                f"{line.rows_per_commit:.0f}" if line is not report.transaction_steps else "",
            )  # fmt: skip
    print_block(out, table)
    out.print(
        "The last two are the server without pgdurable, over one connection; COPY's times are of whole commits.\n"
    )
    for text in report.expectation():
        out.print(text)


def _round(number: float) -> str:
    """Two figures that matter: more would promise what the next run does not keep."""
    digits = len(str(int(number))) - 2
    return f"{round(number, -digits) if digits > 0 else number:,.0f}"
