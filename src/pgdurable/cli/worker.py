"""`worker`: runs the workflows of a module until a signal says stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Annotated, Any

import typer
from rich.text import Text

from pgdurable._engine.connections import server_of
from pgdurable._engine.http_step import have_http
from pgdurable._step_names import step_names
from pgdurable.cli.loading import load_module, load_options
from pgdurable.cli.options import Dsn, Schema, Target, target
from pgdurable.cli.text import clean, count, screen, span
from pgdurable.engine import Engine
from pgdurable.errors import ConnectionFailed, PgDurableError
from pgdurable.http import Http
from pgdurable.workflow import Registry, registry

__all__ = ["worker"]

_REPORT_EVERY_S = 5.0
NOT_DRAINED = 3


class LogLevel(str, Enum):
    """How much the worker tells on stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def worker(
    ctx: typer.Context,
    module: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE[:VARIABLE]]",
            help="The module whose import registers the workflows and steps; VARIABLE names a dict of Engine options "
            "in it. Not needed with --pumps.",
            show_default=False,
        ),
    ] = None,
    pumps: Annotated[
        int | None,
        typer.Option(
            "--pumps",
            min=0,
            metavar="N",
            help="Connections in which the database runs workflows in SQL. Default: none.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        bool | None,
        typer.Option(
            "--http/--no-http",
            help="Whether to make the requests of http steps of workflows in SQL. Default: where aiohttp is installed.",
            show_default=False,
        ),
    ] = None,
    http_allow: Annotated[
        list[str] | None,
        typer.Option(
            "--http-allow",
            metavar="NETWORK,...",
            help="Networks that such requests may reach though they are not public, such as 10.20.0.0/16.",
            show_default=False,
        ),
    ] = None,
    drain: Annotated[
        float, typer.Option("--drain", min=0, help="Seconds that running steps get to finish when it stops.")
    ] = 30.0,
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "--queues",
            metavar="QUEUE,...",
            help="Run only instances of these queues. Default: of all.",
            show_default=False,
        ),
    ] = None,
    pooler: Annotated[
        bool | None,
        typer.Option(
            "--pooler/--no-pooler",
            help="Whether a pooler is in between, as PgBouncer in transaction mode. Default: PGDURABLE_POOLER, else it "
            "is found out.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for a server that is away when it starts.")
    ] = 60.0,
    log_level: Annotated[LogLevel, typer.Option("--log-level", case_sensitive=False)] = LogLevel.INFO,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Run workflows until SIGTERM or Ctrl-C: the first stops after the running steps, the second at once."""
    _log_to_stderr(log_level.value)
    name, colon, variable = (module or "").partition(":")
    loaded = None if module is None else load_module(name)
    options = load_options(loaded, variable) if loaded is not None and colon else {}
    where = _where(ctx, dsn, schema, options)
    if pooler is not None:
        options["pooler"] = pooler
    if queues:
        options["queues"] = _parts(queues)
    if pumps is not None:
        options["pumps"] = pumps
    _choose_http(options, http, http_allow)
    found = registry if options.get("workflows") is None else Registry(options["workflows"])
    if not (len(found) or options.get("pumps") or (loaded is not None and step_names.usable())):
        raise PgDurableError(
            f"module {name} registers no workflow" if module is not None else "there is nothing to run",
            hint="Decorate a function with @pgdurable.workflow in it, or name the module that imports those that do. "
            "For workflows in SQL alone: pgdurable worker --pumps 4",
        )
    code = asyncio.run(_Worker(name or "workflows in SQL", where, options, found, drain, wait).run())
    _leave(code)


def _parts(texts: list[str]) -> list[str]:
    return [part for text in texts for part in text.split(",") if part]


def _choose_http(options: dict[str, Any], http: bool | None, allow: list[str] | None) -> None:
    """Puts what the command line says of requests into the options."""
    if http is not None:
        options["http"] = http
    elif "http" not in options:
        options["http"] = have_http()
    if allow:
        given = options["http"] if isinstance(options["http"], Http) else Http()
        options["http"] = replace(given, allow=tuple(_parts(allow)))


def _where(ctx: typer.Context, dsn: str | None, schema: str | None, options: dict[str, Any]) -> Target:
    """The command line first, then the module's options, then the environment. Takes both out of `options`."""
    in_module = options.pop("dsn", None), options.pop("schema", None)
    given = target(ctx, dsn, schema)
    return target(ctx, given.given_dsn or in_module[0], given.given_schema or in_module[1])


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if level != "debug":
        logging.getLogger("psycopg").setLevel(logging.WARNING)


class _Worker:
    """One engine between its start and its stop."""

    def __init__(
        self, module: str, where: Target, options: dict[str, Any], found: Registry, drain: float, wait: float
    ) -> None:
        self.module = module
        self.where = where
        self.options = options
        self.found = found
        self.drain = drain
        self.wait = wait
        self.signals: asyncio.Queue[int] = asyncio.Queue()

    async def run(self) -> int:
        """Returns the exit code.

        0: drained, 3: stopped in good order, but running steps had to be given up; 128 + the signal's number: told to
        stop at once.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.signals.put_nowait, number)
        try:
            engine = Engine(self.where.dsn, schema=self.where.schema, **self.options)
        except (TypeError, ValueError) as error:
            raise PgDurableError(f"the Engine options of {self.module} do not fit: {error}") from error
        opening = loop.create_task(self._open(engine))
        if await self._signal_before(opening) is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            await engine.close()
            return 0
        await opening
        # What has been imported stays: full collections, which stop everything, need not walk over it again and again.
        gc.collect()
        gc.freeze()
        self._announce()
        await self.signals.get()
        return await self._stop(engine)

    async def _open(self, engine: Engine) -> None:
        """Opens the engine, as soon as the server is there: machines start in any order."""
        loop = asyncio.get_running_loop()
        end, pause, told = loop.time() + self.wait, 0.1, False
        while True:
            try:
                await engine.open()
                return
            except ConnectionFailed as error:
                if not error.passing or loop.time() + pause > end:
                    raise
                if not told:
                    told = True
                    _printer()(f"{error.message}: {(error.detail or '').strip()}; waits for {span(self.wait)} at most")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    async def _signal_before(self, task: asyncio.Task[Any]) -> int | None:
        """The number of the signal that comes before the task is done, or None."""
        signalled = asyncio.get_running_loop().create_task(self.signals.get())
        await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            return signalled.result()
        signalled.cancel()
        return None

    def _announce(self) -> None:
        out = screen()
        for definition in self.found:
            out.print(f"workflow {clean(definition.name)} version {clean(definition.version)}")
        if self.options.get("pumps"):
            out.print(f"{count(self.options['pumps'], 'pump')} for workflows in SQL")
        queues = self.options.get("queues")
        if queues is not None:
            out.print(f"listens to {', '.join(map(clean, [queues] if isinstance(queues, str) else queues))}")
        out.print(
            f"worker of {self.module} runs at {server_of(self.where.dsn)}, schema {self.where.schema} "
            f"(process {os.getpid()}; Ctrl-C stops it)"
        )

    async def _stop(self, engine: Engine) -> int:
        say = _printer()
        say("stops after the running steps; again to stop at once")
        loop = asyncio.get_running_loop()
        report = loop.create_task(self._report(engine, say))
        stopping = loop.create_task(engine.stop(drain=self.drain))
        number = await self._signal_before(stopping)
        report.cancel()
        if number is None:
            drained = await stopping
            await engine.close()
            say("drained; stopped" if drained else "stopped; what was running is done again by another worker")
            return 0 if drained else NOT_DRAINED
        say("stops at once; what was running is done again by another worker")
        for other in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(other)
            signal.signal(other, signal.SIG_DFL)  # a third signal does not even wait for the goodbye
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await engine.close()
        return 128 + number

    async def _report(self, engine: Engine, say: Callable[[str], None]) -> None:
        """Says what the stop waits for, at once and every few seconds."""
        began = time.monotonic()
        while True:
            steps = running_steps(engine)
            if steps:
                left = max(self.drain - (time.monotonic() - began), 0.0)
                say(f"waits for {count(len(steps), 'running step')}, {span(left)} at most:")
                for line in steps[:10]:
                    say(f"  {line}")
                if len(steps) > 10:
                    say(f"  and {len(steps) - 10} more")
            await asyncio.sleep(_REPORT_EVERY_S)


def running_steps(engine: Engine) -> list[str]:
    """What the engine executes right now, one line per step."""
    return [
        f"instance {run['id']}: step {run['step']}, attempt {run['attempt']}, for {span(run['seconds'])}"
        for run in engine.running_steps()
    ]


def _printer() -> Callable[[str], None]:
    out = screen(stderr=True)
    return lambda text: out.print(Text(clean(text)))


def _leave(code: int) -> None:
    """Ends the process; does not wait for steps in threads that outlived the stop, which Python would do."""
    deadline = time.monotonic() + (2.0 if code == 0 else 0.0)
    for thread in threading.enumerate():
        if thread.name.startswith("pgdurable"):
            thread.join(max(deadline - time.monotonic(), 0.0))
            if thread.is_alive():
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    raise typer.Exit(code)
