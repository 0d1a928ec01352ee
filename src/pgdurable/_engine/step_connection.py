"""The connections transaction steps get: ordinary psycopg connections in a transaction that is not theirs to end.

An `async def` step on the local network is bound by round trips, each with its turn of the event loop. It takes two:
BEGIN and the fence travel with the step's first statement, the checkpoint with COMMIT. psycopg itself begins as late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple, TypeVar, cast

import psycopg
from psycopg import pq
from psycopg.generators import fetch_many, send
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready, Wait, wait_async

from pgdurable._engine import probes
from pgdurable._engine.answers import answer_s, answers_within, cut

__all__ = ["AsyncStepConnection", "StepConnection", "StepTexts", "not_yours"]

_T = TypeVar("_T")
_Gen = Generator[Any, Any, _T]

# In capitals, for whoever reads a trace: that is all the protocol shows of a prepared statement.
_PREFIX = b"pgd "
_FENCE, _CHECKPOINT, _COMMIT = b"pgd FENCE", b"pgd CHECKPOINT", b"pgd COMMIT"
_FORGOTTEN = (b"26000", b"42P05")  # a prepared statement is not there (any more), or is there already
_TURN_S = 0.005
_CANCEL_S = 5.0
_INTERRUPTED = (asyncio.CancelledError, KeyboardInterrupt)


class StepTexts(NamedTuple):
    """The statements around a step. Parameters as $1 ..., and the types of those of the checkpoint as oids."""

    fence: bytes
    checkpoint: bytes
    checkpoint_types: list[int]


def not_yours(what: str) -> psycopg.ProgrammingError:
    """The error of a step that has ended its transaction, or tried to."""
    return psycopg.ProgrammingError(
        f"{what} in a transaction step, which commits together with its checkpoint when it returns; "
        "raise an exception to roll back, or use `tx.transaction()` for a savepoint"
    )


class _StepGuard:
    """What a step begins is not the step's function to end."""

    _in_step = False

    def begun(self) -> None:
        self._in_step = True

    def ended(self) -> None:
        self._in_step = False

    def check_open(self) -> None:
        """Raises when the function has ended the transaction by a command of its own."""
        if cast(Any, self).info.transaction_status == TransactionStatus.IDLE:
            raise not_yours("COMMIT or ROLLBACK was executed")

    def refuse(self, what: str) -> None:
        if self._in_step:
            raise not_yours(f"{what} was called")


def _wake(waits: asyncio.Future[None]) -> None:
    if not waits.done():
        waits.set_result(None)


def _resumed(gen: _Gen[_T], state: Any) -> _Gen[_T]:
    """The rest of a generator that has yielded this state already."""
    try:
        while True:
            state = gen.send((yield state))
    except StopIteration as stop:
        return cast(_T, stop.value)


class _FirstMessage(psycopg.AsyncPipeline):
    """Stands in for psycopg's pipeline while a cursor sends one statement behind ours: commands go out at once."""

    def __init__(self, conn: AsyncStepConnection) -> None:
        super().__init__(conn)
        self.command_queue = cast(Any, self)

    def append(self, command: Any) -> None:
        command()

    def _communicate_gen(self) -> _Gen[None]:
        yield from ()


class _StepCursor(psycopg.AsyncCursor[Any]):
    """Sends the first statement of a step, if it has parameters, in one message with what begins the transaction.

    Without parameters it may be several statements, which no pipeline takes.
    """

    def _execute_gen(self, query: Any, params: Any = None, **options: Any) -> _Gen[None]:
        gen: _Gen[None] = super()._execute_gen(query, params, **options)
        conn = cast(Any, self._conn)
        if not params or conn._step_begin is None or conn._pipeline is not None or self.closed:
            return gen
        conn._step_merged = gen = conn._step_first_gen(gen)
        return gen


# These are not of psycopg's documented interface. Without them, what begins a step is a message of its own.
_MERGES = all(
    hasattr(owner, name)
    for owner, names in (
        (psycopg.AsyncPipeline, ("_process_results", "_fetch_gen", "_sync_gen", "_communicate_gen")),
        (psycopg.AsyncCursor, ("_execute_gen",)),
        (psycopg.AsyncConnection, ("_deallocate",)),
    )
    for name in names
)


class AsyncStepConnection(_StepGuard, psycopg.AsyncConnection[Any]):
    """The connection an `async def` transaction step gets. `tx.pgconn`, below psycopg, is not watched.

    Begin with `begin_step`, which sends nothing; end with `commit_step` or `abandon_step`.

    Attributes:
        forgot: what we had prepared was deallocated (by a DISCARD ALL of the step's, say), so the transaction failed.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if _MERGES:
            self.cursor_factory = _StepCursor
        self._step_begin: list[bytes] | None = None  # the fence's parameters, until BEGIN is sent
        self._step_opening = b"BEGIN"
        self._step_merged: Any = None
        self._step_known: set[bytes] = set()  # what is prepared
        self._step_texts: StepTexts | None = None
        self._step_careful = False
        self.forgot = False
        self._step_refused: BaseException | None = None
        self._step_waits: asyncio.Future[None] | None = None
        self._step_turn = 0.0

    # -- the step's beginning and end --------------------------------------------------------------------------

    def begin_step(self, texts: StepTexts, fence: list[bytes], careful: bool, opening: bytes = b"BEGIN") -> None:
        """From now on the first use of the connection begins a transaction (by `opening`) and takes the fence.

        `careful` relies on nothing prepared: for a step that did what `forgot` tells of.
        """
        self._step_careful = careful
        self._step_texts = texts
        self._step_opening = opening
        self._step_begin = fence
        self._step_refused = None
        self._in_step = True

    def check_open(self) -> None:
        if self._step_refused is not None:
            raise self._step_refused
        if self._step_begin is None:
            super().check_open()

    async def commit_step(self, row: list[bytes | None], formats: list[Any]) -> bytes:
        """Writes the checkpoint and commits, in one message; returns the checkpoint's only value, in binary.

        An error with the connection still alive says that nothing was committed, also when it is interrupted. When
        the connection broke, the outcome is not known.
        """
        committed: list[bytes] = []
        limit = asyncio.get_running_loop().call_later(answer_s(), cut, self)
        try:
            async with self.lock:
                await self.wait(self._step_commit_gen(row, formats, committed))
        except _INTERRUPTED:
            if not committed:
                raise
        finally:
            limit.cancel()
        return committed[0]

    async def abandon_step(self) -> None:
        """Rolls back what was begun."""
        if self._step_begin is not None or self.closed or self._pipeline is not None:
            return  # with a pipeline left open, the pool closes the connection
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            with answers_within(self, answer_s()):
                await self.execute("ROLLBACK")

    def ended(self) -> None:
        self._in_step = False
        self._step_begin = self._step_merged = self._step_refused = None

    # -- messages --------------------------------------------------------------------------------------------------

    def _step_send(self, name: bytes, text: bytes, types: list[int] | None, *call: Any) -> None:
        if self._step_careful:
            self.pgconn.send_query_params(text, call[0], types, *call[1:])
            return
        if name not in self._step_known:
            self.pgconn.send_prepare(name, text, types)
        self.pgconn.send_query_prepared(name, *call)

    def _step_send_begin(self) -> list[bytes]:
        """Adds what begins the transaction to the pipeline; returns a name for each answer to come."""
        fence, self._step_begin = self._step_begin, None
        texts = self._step_texts
        assert fence is not None
        assert texts is not None
        opening = _PREFIX + self._step_opening
        names = self._step_answers(opening, _FENCE)
        self._step_send(opening, self._step_opening, None, None)
        self._step_send(_FENCE, texts.fence, [20], fence)
        return names

    def _step_answers(self, *names: bytes) -> list[bytes]:
        return [name for name in names for _ in range(1 if self._step_careful or name in self._step_known else 2)]

    def _step_receive_gen(self, names: list[bytes]) -> _Gen[tuple[dict[bytes, Any], BaseException | None]]:
        """The last result of each name, and the first error."""
        found: dict[bytes, Any] = {}
        error: BaseException | None = None
        for name in names:
            (result,) = yield from fetch_many(self.pgconn)
            status = result.status
            if status == pq.ExecStatus.COMMAND_OK or status == pq.ExecStatus.TUPLES_OK:
                found[name] = result
                if not self._step_careful:
                    self._step_known.add(name)
            elif error is None:
                error = psycopg.errors.error_from_result(result, encoding=self.info.encoding)
                self.forgot = result.error_field(pq.DiagnosticField.SQLSTATE) in _FORGOTTEN
                if name == _FENCE:
                    self._step_refused = error
        return found, error

    def _step_begin_gen(self, gen: _Gen[_T]) -> _Gen[_T]:
        """Begins in a message of its own, then goes on with something of psycopg's."""
        self.pgconn.enter_pipeline_mode()
        names = self._step_send_begin()
        self.pgconn.pipeline_sync()
        yield from send(self.pgconn)
        _, error = yield from self._step_receive_gen(names)
        yield from fetch_many(self.pgconn)  # the sync's
        self.pgconn.exit_pipeline_mode()
        if error is not None:
            raise error
        return (yield from gen)

    def _step_first_gen(self, gen: _Gen[None]) -> _Gen[None]:
        """Begins in one message with the statement of a cursor."""
        pgconn = self.pgconn
        pgconn.enter_pipeline_mode()
        first = self._pipeline = _FirstMessage(self)
        refused: BaseException | None = None
        try:
            names = self._step_send_begin()
            try:
                yield from gen
            except Exception as error:  # parameters that cannot be adapted
                refused = error
            pgconn.pipeline_sync()
            first.result_queue.append(None)
            yield from send(pgconn)
            _, begun = yield from self._step_receive_gen(names)
            try:
                yield from first._fetch_gen(flush=False)
            except Exception as error:
                refused = refused or error
            if begun is not None:
                raise begun
            if refused is not None:
                raise refused
        finally:
            self._pipeline = None
            if pgconn.status == pq.ConnStatus.OK:
                pgconn.exit_pipeline_mode()

    def _step_commit_gen(self, row: list[bytes | None], formats: list[Any], committed: list[bytes]) -> _Gen[None]:
        texts = self._step_texts
        assert texts is not None
        if self._pipeline is not None:
            raise psycopg.ProgrammingError("a transaction step returned with its pipeline still open")
        pgconn = self.pgconn
        pgconn.enter_pipeline_mode()
        names = self._step_send_begin() if self._step_begin is not None else []
        names += self._step_answers(_CHECKPOINT, _COMMIT)
        self._step_send(_CHECKPOINT, texts.checkpoint, texts.checkpoint_types, row, formats, pq.Format.BINARY)
        self._step_send(_COMMIT, b"COMMIT", None, None)
        pgconn.pipeline_sync()
        yield from send(pgconn)
        if probes.armed:
            probes.reach("transaction.checkpointed")
        found, error = yield from self._step_receive_gen(names)
        yield from fetch_many(pgconn)
        pgconn.exit_pipeline_mode()
        if error is not None:
            raise error
        if found[_COMMIT].command_status != b"COMMIT":
            raise not_yours("the transaction was ended")
        committed.append(found[_CHECKPOINT].get_value(0, 0))

    def _deallocate(self, name: bytes | None) -> _Gen[None]:
        if name is None:
            self._step_known.clear()
        yield from super()._deallocate(name)

    # -- what psycopg does with the connection ------------------------------------------------------------------

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, with BEGIN before the first use in a step, and no timer for each wait."""
        if self._step_merged is not None and gen is self._step_merged:
            self._step_merged = None
        elif self._step_begin is not None and gen.__name__ != "_step_commit_gen":
            gen = self._step_begin_gen(gen)
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        waited = False
        try:
            state = next(gen)
            while not state & Wait.W:
                await self._step_readable()
                waited = True
                state = gen.send(Ready.R)
        except StopIteration as stop:
            if not waited and monotonic() - self._step_turn > _TURN_S:
                await asyncio.sleep(0)  # much that never waits, such as a long copy(), must not starve the others
                waited = True
            if waited:
                self._step_turn = monotonic()
            return stop.value
        except _INTERRUPTED:
            await self._step_interrupted(gen)
            raise
        return await super().wait(_resumed(gen, state), interval)

    async def _step_readable(self) -> None:
        loop = asyncio.get_running_loop()
        fd = self.pgconn.socket
        waits = self._step_waits = loop.create_future()
        try:
            loop.add_reader(fd, _wake, waits)
        except OSError as error:
            raise psycopg.OperationalError("the connection is closed") from error
        try:
            await waits
        finally:
            self._step_waits = None
            loop.remove_reader(fd)

    async def _step_interrupted(self, gen: Any) -> None:
        """Ends what runs on the server and takes its answers, as psycopg does."""
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        limit = asyncio.get_running_loop().call_later(2 * _CANCEL_S, cut, self)
        try:
            await self.cancel_safe(timeout=_CANCEL_S)
            await wait_async(_resumed(gen, Wait.R), self.pgconn.socket, 0.1)
        except psycopg.errors.QueryCanceled:
            pass
        except BaseException:
            # In what state it is nobody knows. Not pgconn.finish(): psycopg's generator may still use what that frees.
            cut(self)
            with contextlib.suppress(psycopg.Error):
                while self.pgconn.status == pq.ConnStatus.OK:
                    self.pgconn.consume_input()  # the end
        finally:
            limit.cancel()

    async def close(self) -> None:
        await super().close()
        if self._step_waits is not None and not self._step_waits.done():
            self._step_waits.set_exception(psycopg.OperationalError("the connection is closed"))

    async def commit(self) -> None:
        self.refuse("commit()")
        await super().commit()

    async def rollback(self) -> None:
        self.refuse("rollback()")
        await super().rollback()


class StepConnection(_StepGuard, psycopg.Connection[Any]):
    """The connection a `def` transaction step gets."""

    @contextmanager
    def step(self, begin: str) -> Iterator[None]:
        """Runs the body in a transaction begun with this text, which may hold several commands."""
        self.execute(begin, prepare=False)
        self.begun()
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if not self.closed:
                self.execute("ROLLBACK")
            raise
        finally:
            self.ended()

    def commit(self) -> None:
        self.refuse("commit()")
        super().commit()

    def rollback(self) -> None:
        self.refuse("rollback()")
        super().rollback()
