"""Runs transaction steps: the user's statements, the checkpoint and the fence are one commit.

The transaction commits on a connection of its own, beside the journal's. Its place in the instance's order is
decided once, by the owner: before the checkpoint is written, the instance's order is held. What was recorded
earlier is waited for (it may still cancel this step), nothing else of the instance is recorded meanwhile, and the
checkpoint takes the next event_id. So a timeout or a cancellation either rolls the transaction back or comes after
it, live and in replay alike.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future as ThreadFuture
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgdurable._engine import probes
from pgdurable._engine.answers import LimitedConnection, answer_s, cut
from pgdurable._engine.attempts import Attempt
from pgdurable._engine.checkpoints import FORMATS, Checkpoints
from pgdurable._engine.clock import micros
from pgdurable._engine.conflicts import MOST_CONFLICTS, conflict_wait, is_conflict
from pgdurable._engine.connections import is_passing, read_only, read_only_for_good
from pgdurable._engine.pool_share import PoolShare
from pgdurable._engine.route import Route
from pgdurable._engine.same_server import SameServer
from pgdurable._engine.sessions import Sessions
from pgdurable._engine.step_connection import AsyncStepConnection, StepConnection
from pgdurable._engine.step_shelf import StepShelf
from pgdurable._engine.steps import StepRun
from pgdurable._engine.tasks import within
from pgdurable._engine.trouble import Troubles
from pgdurable._runtime.current import current_attempt
from pgdurable._secret import server_said

if TYPE_CHECKING:
    from pgdurable._engine.host import Host

__all__ = ["Transactions"]

_LONGEST_WAIT_FOR_ORDER_S = 0.5
_PLACE = "transaction steps wait"
_SAY_FROM_S = 0.08  # the first tries may have met connections that had died while they lay idle
_EPOCH_2000_US = 946_684_800_000_000  # what PostgreSQL's binary timestamps count from


class _Unavailable(Exception):
    """The connection was refused or broke, and the transaction has not taken effect."""


class _Broken(Exception):
    """The connection broke at the commit: whether the transaction took effect is to be found out."""


# What ends a session for what the step did in it, and what is the server's trouble though the session lives.
_OWN_DOING = ("25P03", "25P04")
_FULL = ("53100", "53300")


def _is_away(error: psycopg.Error, conn: psycopg.AsyncConnection[Any] | psycopg.Connection[Any] | None) -> bool:
    """Whether the server is to blame, and not the step: then it is tried again without an attempt of its own."""
    if conn is None or conn.closed:
        return error.sqlstate not in _OWN_DOING and (is_passing(error) or error.sqlstate is None)
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return read_only(conn)
    return error.sqlstate in _FULL


class Transactions:
    """The transaction steps of one engine.

    Args:
        pool: autocommit connections for `async def` steps.
        dsn: for the connections of `def` steps, opened when the first one runs.
        route: how the server is reached.
        server: what their connections have to lead to.
        troubles: is told while steps wait for the server.
    """

    def __init__(
        self,
        host: Host,
        pool: AsyncConnectionPool[AsyncStepConnection],
        dsn: str,
        schema: str,
        max_size: int,
        route: Route,
        *,
        server: SameServer,
        troubles: Troubles,
    ) -> None:
        self._host = host
        self._dsn = dsn
        self._route = route
        self._share = PoolShare(max_size, pause_s=_LONGEST_WAIT_FOR_ORDER_S) if route.pooled else None
        self._max_size = max_size
        self._server = server
        self._troubles = troubles
        self._waiting = 0  # steps that could not run for a while
        self._sessions = Sessions()
        self._checkpoints = Checkpoints(host, dsn, schema, route, server)
        self._careful: set[str | None] = set()  # the steps that deallocate what their connection has prepared
        self._shelf = StepShelf(pool, max_size, renewed=not route.pooled)
        self._sync_pool: ConnectionPool[StepConnection] | None = None
        self._lock = threading.Lock()

    async def run(self, run: StepRun) -> None:
        """One attempt, from begin to the answer's delivery."""
        run.begun = True
        current_attempt.set(Attempt(run))
        error: BaseException | None = None
        at_us: int | None = None
        conflicts = 0
        wait = 0.02
        waits = False
        while True:
            try:
                at_us = await self._try(run)
            except _Unavailable as away:
                # The server is away: that is no failure of the step, so it costs no attempt.
                if wait >= _SAY_FROM_S or isinstance(away.__cause__, PoolTimeout):
                    self._waiting += not waits
                    waits = True
                    self._troubles.say(_PLACE, server_said(away.__cause__ or away))
                try:
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, 1.0)
                    continue
                except asyncio.CancelledError as cancelled:
                    error = cancelled
            except BaseException as caught:
                error = caught
                if conflicts < MOST_CONFLICTS and is_conflict(caught):
                    conflicts += 1
                    run.hosted.order_settled(run)
                    run.hosted.advance_order()
                    try:
                        await asyncio.sleep(conflict_wait(conflicts))
                        error = None
                        continue
                    except asyncio.CancelledError as cancelled:
                        error = cancelled
            break
        self._waiting -= waits
        if not self._waiting:
            self._troubles.over(_PLACE)
        hosted = run.hosted
        interrupted = run.interrupted(error)
        wanted = run.end_attempt()
        if at_us is not None:
            if probes.armed:
                probes.reach("transaction.committed")
            if run.extra is not None:
                run.extra.end_step()
            hosted.order_settled(run)
            hosted.host.steps_done += 1
            hosted.steps.pop(run.command.seq, None)
            committed_us = at_us
            hosted.deliver(lambda: hosted.machine.answer(run.command.seq, run.value, None, committed_us))
        else:
            hosted.order_settled(run)
            if not wanted:
                if run.extra is not None and not hosted.closed:
                    run.extra.end_step()
                hosted.step_gone(run)
            elif interrupted:
                run.again_later()
            elif isinstance(error, psycopg.Error) and error.sqlstate == "PGD01":
                self._host.on_fenced()
            elif error is not None:
                run.failed(error)
        hosted.advance_order()

    async def _try(self, run: StepRun) -> int:
        attempt = self._attempt if run.command.step.is_async else self._attempt_in_thread
        if self._share is None:
            return await attempt(run)
        await self._share.enter()
        try:
            at_us = await attempt(run)
            self._share.committed()
            return at_us
        finally:
            self._share.leave()

    async def _attempt(self, run: StepRun) -> int:
        command = run.command
        committing = broken = False
        conn: AsyncStepConnection | None = None
        try:
            conn = await self._shelf.take()
            try:
                careful = command.name in self._careful or not self._route.prepared
                if run.extra is not None:
                    run.extra.check_time()
                step = command.step
                opening = b"BEGIN" if step.isolation is None else b"BEGIN ISOLATION LEVEL " + step.isolation.encode()
                conn.begin_step(self._checkpoints.texts, [b"%d" % run.hosted.worker], careful, opening)
                if step.session is None:
                    value = await step.fn(conn, *command.args, **(command.kwargs or {}))
                else:
                    value = await self._sessions.call(step.fn, step.session, conn, command.args, command.kwargs or {})
                conn.check_open()
                payload = self._checkpoints.payload(run, value)
                if probes.armed:
                    probes.reach("transaction.ran")
                await self._hold_order(run, run.attempt)
                committing = True
                # From here to the outcome nothing interrupts: `committing` keeps cancel() and timeouts off.
                at = await conn.commit_step(self._checkpoints.binary_row(run, payload), FORMATS)
            except BaseException:
                broken = conn.closed
                await conn.abandon_step()
                raise
            finally:
                conn.ended()
                if conn.forgot or (self._careful and command.name in self._careful):
                    await conn.close()
                await self._shelf.put(conn)
            return int.from_bytes(at, "big", signed=True) + _EPOCH_2000_US
        except psycopg.Error as error:
            if committing:
                if broken or (isinstance(error, psycopg.OperationalError) and not is_conflict(error)):
                    return await self._settled(run, error)
                run.hosted.give_back(run)
            if conn is not None and conn.forgot and command.name not in self._careful:
                self._careful.add(command.name)
            elif conn is not None and not broken and isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                if not await self._takes_no_writes(conn):
                    raise  # the user's own doing
            elif not _is_away(error, conn):
                raise
            run.hosted.order_settled(run)
            raise _Unavailable from error

    async def _attempt_in_thread(self, run: StepRun) -> int:
        loop = self._host.loop
        limits: list[asyncio.TimerHandle] = []
        context = contextvars.copy_context()
        future = loop.run_in_executor(self._host.threads, context.run, self._attempt_blocking, run, limits)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The thread goes on; it asks before it commits, and is told no.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        except _Broken as broken:
            return await self._settled(run, broken)
        except psycopg.errors.ReadOnlySqlTransaction as error:
            if run.committing:
                run.hosted.give_back(run)
            if not self._route.pooled or not await self._takes_no_writes(None):
                raise
            run.hosted.order_settled(run)
            raise _Unavailable from error
        except _Unavailable:
            if run.committing:
                run.hosted.give_back(run)
            run.hosted.order_settled(run)
            raise
        except psycopg.Error:
            if run.committing:
                run.hosted.give_back(run)
            raise
        finally:
            for limit in limits:
                limit.cancel()

    async def _permit(
        self, run: StepRun, attempt: int, conn: StepConnection, limits: list[asyncio.TimerHandle]
    ) -> None:
        await self._hold_order(run, attempt)
        limits.append(self._host.loop.call_later(answer_s(), cut, conn))

    def _attempt_blocking(self, run: StepRun, limits: list[asyncio.TimerHandle]) -> int:
        command = run.command
        attempt = run.attempt
        conn: StepConnection | None = None
        try:
            with self._threads_pool().connection() as conn, conn.step(self._checkpoints.begin(run)):
                if run.extra is not None:
                    run.extra.check_time()
                step, kwargs = command.step, command.kwargs or {}
                if step.session is None:
                    value = step.fn(conn, *command.args, **kwargs)
                else:
                    value = self._sessions.call_blocking(step.fn, step.session, conn, command.args, kwargs)
                conn.check_open()
                payload = self._checkpoints.payload(run, value)
                permission: ThreadFuture[None] = asyncio.run_coroutine_threadsafe(
                    self._permit(run, attempt, conn, limits), self._host.loop
                )
                permission.result()
                row = conn.execute(
                    self._checkpoints.statement, self._checkpoints.row(run, payload), prepare=True
                ).fetchone()
            assert row is not None
            return micros(row[0])
        except psycopg.Error as error:
            lost = isinstance(error, psycopg.OperationalError) and not is_conflict(error)
            if run.committing and (conn is None or conn.closed or lost):
                raise _Broken from error
            if self._route.pooled and isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                raise  # what the connection reports is of another session, maybe
            if _is_away(error, conn):
                raise _Unavailable from error
            raise

    async def _takes_no_writes(self, conn: AsyncStepConnection | None) -> bool:
        if not self._route.pooled:
            return conn is None or read_only(conn)
        # What was reported unasked is of the session that the pooler made first, maybe long ago.
        try:
            async with await LimitedConnection.connect(self._dsn, **self._route.options) as asking:
                cursor = await asking.execute("select current_setting('transaction_read_only')")
                return await cursor.fetchone() == ("on",)
        except psycopg.OperationalError:
            return True

    async def _hold_order(self, run: StepRun, attempt: int) -> None:
        """As `Hosted.hold_order`; behind a pooler the wait has an end, in _Unavailable.

        What is waited for there is the journal, and it may be waiting for the session that this step holds: a pooler
        has only so many.
        """
        if self._share is None:
            await run.hosted.hold_order(run, attempt)
            return
        try:
            await within(_LONGEST_WAIT_FOR_ORDER_S, run.hosted.hold_order(run, attempt))
        except asyncio.TimeoutError:
            self._share.narrow()
            raise _Unavailable from None

    def _threads_pool(self) -> ConnectionPool[StepConnection]:
        with self._lock:
            if self._sync_pool is None:
                self._sync_pool = ConnectionPool(
                    self._dsn, connection_class=StepConnection, kwargs=self._route.options, min_size=0,
                    max_size=self._max_size, open=True, timeout=5.0, reconnect_timeout=3.0,
                    reset=None if self._route.pooled else _renew, configure=self._server.configure_blocking,
                )  # fmt: skip
            return self._sync_pool

    async def _settled(self, run: StepRun, error: Exception) -> int:
        at_us = await self._checkpoints.outcome(run)
        if at_us is None:
            run.hosted.order_settled(run)
            raise _Unavailable from error
        return at_us

    async def close(self) -> None:
        await self._shelf.close()
        if self._sync_pool is not None:
            pool, self._sync_pool = self._sync_pool, None
            await self._host.loop.run_in_executor(None, pool.close)


def _renew(conn: psycopg.Connection[Any]) -> None:
    if read_only_for_good(conn):
        conn.close()
