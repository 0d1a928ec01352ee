"""What some attempts wait for before they begin: a place among those of their name, a process, their turn in a rate,
and that history says they are about to begin.

In that order: what is held while the rest is waited for costs nobody anything, and a turn in a rate does not keep.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from pgdurable._engine import probes
from pgdurable._engine.attempts import need_extra
from pgdurable._engine.processes import Processes
from pgdurable._engine.rates import Turns

if TYPE_CHECKING:
    from pgdurable._engine.host import Host
    from pgdurable._engine.steps import StepRun
    from pgdurable.errors import PgDurableError

__all__ = ["Admission", "Places"]

logger = logging.getLogger("pgdurable.steps")


class Places:
    """At most so many at once, first come, first served."""

    def __init__(self) -> None:
        self.most = 0
        self.held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self, most: int) -> None:
        """Waits for a place. `most` is what the latest caller says."""
        self.most = most
        if self.held < most and not self._waiting:
            self.held += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self.held -= 1
        while self._waiting and self.held < self.most:
            turn = self._waiting.popleft()
            if not turn.done():
                self.held += 1
                turn.set_result(None)


class Admission:
    """See the head of this file. An admitted attempt is begun by its `launch`."""

    def __init__(self, host: Host, rates: Turns, processes: Processes) -> None:
        self._host = host
        self._rates = rates
        self.processes = processes
        self._places: dict[str, Places] = {}

    def enter(self, run: StepRun) -> None:
        run.entering = asyncio.Task(self._admit(run), loop=self._host.loop)

    async def _admit(self, run: StepRun) -> None:
        step = run.command.step
        extra = need_extra(run)
        late: list[bool] = []
        timer = None
        if step.total_timeout is not None:
            timer = self._host.call_later(max(run.total_left(), 0.0), self._late, run, late)
        try:
            if step.max_concurrency is not None:
                places = self._places.setdefault(step.name, Places())
                await places.enter(step.max_concurrency)
                extra.release = places.leave
            if step.kind == "process":
                extra.process = await self.processes.take()
            if step.rate_limit is not None:
                extra.until = await self._rates.take(step.name, *step.rate_limit)
        except BaseException as error:
            self._give_back(run)
            if late:
                run.entering = None
                run.out_of_time()
            elif isinstance(error, asyncio.CancelledError):
                raise
            else:
                run.entering = None
                run.failed(error)
            return
        finally:
            if timer is not None:
                timer.cancel()
        if run.entering is None or run.hosted.closed or run.hosted.pausing or self._host.draining:
            self._give_back(run)
        elif step.record_pending:
            record = _PendingRecord(run, self)
            run.hosted.record("pending", record, run, seq=run.command.seq)
        else:
            self.begin(run)

    def _late(self, run: StepRun, late: list[bool]) -> None:
        if run.entering is not None:
            late.append(True)
            run.entering.cancel()

    def begin(self, run: StepRun) -> None:
        if run.entering is None or run.hosted.closed or run.hosted.releasing:
            self._give_back(run)
            return
        run.entering = None
        run.launch()

    def _give_back(self, run: StepRun) -> None:
        extra = run.extra
        if extra is not None:
            process, extra.process = extra.process, None
            if process is not None:
                self.processes.give_back(process)
            extra.leave()

    def close(self) -> None:
        self._rates.close()
        self.processes.close()


class _PendingRecord:
    """The journal's tag for the row that says an attempt is about to begin."""

    __slots__ = ("_admission", "_run")

    def __init__(self, run: StepRun, admission: Admission) -> None:
        self._run = run
        self._admission = admission

    def committed(self, at_us: int) -> None:
        if probes.armed:
            probes.reach("pending.committed")
        hosted = self._run.hosted
        hosted.unacked -= 1
        hosted.advance_order()
        self._admission.begin(self._run)

    def refused(self, error: PgDurableError) -> None:
        hosted = self._run.hosted
        logger.error("%s: a pending attempt could not be recorded: %s", hosted.label, error)
        hosted.unacked -= 1
        hosted.advance_order()
