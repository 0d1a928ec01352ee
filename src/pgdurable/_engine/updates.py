"""Updates: a request from outside, looked at, recorded, carried out in the instance's order, and answered.

The request is an event of the queue. Rejected, it leaves the queue and is answered, and history knows nothing of it.
Accepted, it becomes a row `update`; its handler's end is a row `reply`. What the sender reads is in `updates`, written
in the same commits.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from pgdurable._engine import probes
from pgdurable._engine.clock import micros
from pgdurable._engine.events import Note, consume
from pgdurable._engine.published import NoteKind, settled
from pgdurable._failure import encode_error
from pgdurable._runtime.desk import desk_of
from pgdurable.codec import canonical, encode
from pgdurable.errors import CodecError, PayloadSealed
from pgdurable.handlers import find_handler

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.kinds import Event
    from pgdurable._engine.replay import Replayed, Row
    from pgdurable._runtime.machine import Command
    from pgdurable.handlers import Handler

__all__ = ["Kind", "Request", "deliver", "replay_row", "take_event"]

logger = logging.getLogger("pgdurable.engine")


class Request(msgspec.Struct):
    """What the event, and the row of history, hold."""

    input: msgspec.Raw
    key: uuid.UUID


def take_event(hosted: Hosted, event: Event) -> None:
    """A request: judged as soon as the instance's code waits, then recorded or rejected."""
    assert hosted.consumed is not None
    try:
        request = msgspec.json.decode(event.payload or "", type=Request)
    except msgspec.MsgspecError as error:
        logger.error("%s: event %s, a request for an update, cannot be read: %s", hosted.label, event.seq, error)
        return
    name = event.name or ""
    if (encryption := hosted.host.encryption) is not None:
        opened = encryption.open(hosted.id, f"the update {name}", bytes(request.input)) or b"[]"
        request.input = msgspec.Raw(opened if isinstance(opened, bytes) else opened.encode())
    try:
        canonical(bytes(request.input))
    except PayloadSealed as error:
        # It stays in the queue, and comes again when the instance does.
        error.message = f"{hosted.label}: the arguments of update {name!r} are {error.message}"
        logger.error("%s", error)
        hosted.host.release(hosted, "paused", error=encode_error(error))
        return
    hosted.consumed.add(event.seq)
    hosted.host.parking.busy(hosted)
    hosted.deliver(_Judgement(hosted, event, request).begin)


class _Judgement:
    """A request that is being looked at. Where it has a validator, it holds the instance's order meanwhile.

    So nothing comes between: the handler finds what the validator saw.
    """

    committing = False

    def __init__(self, hosted: Hosted, event: Event, request: Request) -> None:
        self.hosted = hosted
        self.event = event
        self.request = request

    @property
    def ended(self) -> bool:
        hosted = self.hosted
        return hosted.closed or hosted.releasing or hosted.machine.outcome is not None

    def begin(self) -> None:
        """The handler there is now decides; it is called by `deliver`, between two bursts."""
        if self.ended:
            return
        try:
            handler = self._handler()
            handler.bound(handler.fn, self.hosted.machine, bytes(self.request.input))
        except Exception as error:
            self._reject(error)
            return
        if handler.check is None:
            self._accept()
        else:
            self._take_turn()

    def _handler(self) -> Handler[Any, Any]:
        found: Handler[Any, Any] = find_handler(
            self.hosted.machine, self.hosted.definition.updates, self.event.name or "", query=False
        )
        return found

    def _take_turn(self, _: Any = None) -> None:
        hosted = self.hosted
        if hosted.holder is None:
            hosted.holder = self  # type: ignore[assignment]
            self._judge()
            return
        if hosted.orderers is None:
            hosted.orderers = deque()
        turn: asyncio.Future[None] = hosted.host.loop.create_future()
        turn.add_done_callback(self._take_turn)
        hosted.orderers.append(turn)

    def _judge(self, _: Any = None) -> None:
        hosted = self.hosted
        if hosted.closed:
            return
        if hosted.unacked and not self.ended:
            hosted.order_waiter = hosted.host.loop.create_future()
            hosted.order_waiter.add_done_callback(self._judge)
            return
        if hosted.machine.busy:
            hosted.host.loop.call_later(0.001, self._judge)
            return
        hosted.holder = None
        try:
            if not self.ended:
                self._validate()
        finally:
            hosted.holder = self  # type: ignore[assignment]
            hosted.order_settled(self)  # type: ignore[arg-type]

    def _validate(self) -> None:
        machine = self.hosted.machine
        try:
            handler = self._handler()
            assert handler.check is not None
            machine.ask(handler.bound(handler.check, machine, bytes(self.request.input)))
        except Exception as error:
            self._reject(error)
        else:
            self._accept()

    def _accept(self) -> None:
        hosted, event, request = self.hosted, self.event, self.request
        body = encode({"key": str(request.key), "status": "accepted"})
        consume(
            hosted, event, "update", lambda at_us: deliver(hosted, event.name or "", request, at_us), name=event.name,
            payload=msgspec.json.encode(request), writes=((hosted.id, "update", 0, body),),
        )  # fmt: skip

    def _reject(self, error: BaseException) -> None:
        hosted, key = self.hosted, self.request.key
        body, answer = _body(hosted, key, "rejected", None, encode_error(error, keep_traceback=False), self.event.seq)
        hosted.unacked += 1
        tag = Note(hosted, "update_rejected", lambda at_us: hosted.host.on_reply(hosted.id, key, answer))
        hosted.host.flusher.add_write(hosted.id, "update", 0, body, tag)
        hosted.host.kick()
        hosted.host.parking.idle(hosted)
        if probes.armed:
            probes.reach("update.rejected")


def deliver(hosted: Hosted, name: str, request: Request | dict[str, Any], at_us: int) -> None:
    """Lets the handler run. What comes too late for this run of an instance is kept for the next."""
    if isinstance(request, dict):
        request = msgspec.convert(request, Request)
    machine = hosted.machine
    desk = desk_of(machine)
    if machine.outcome is not None:
        desk.kept.append((name, {"input": request.input, "key": str(request.key)}))
        return
    handler = find_handler(machine, hosted.definition.updates, name, query=False)
    desk.update(name, request.key, handler.bound(handler.fn, machine, bytes(request.input)), at_us)


def replay_row(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    _, _, _, _, name, _, _, payload, _, recorded_at = row
    deliver(hosted, name, msgspec.json.decode(canonical(payload), type=Request), micros(recorded_at))


class Kind(NoteKind):
    """Commands that answer an update: its handler has ended."""

    def begin(self, hosted: Hosted, command: Command) -> None:
        host = hosted.host
        key, value, failure = command.step
        data = error = None
        if failure is None:
            try:
                data = encode(value, what=f"the reply of update {command.name!r}", limit=host.payload_limit)
            except CodecError as refused:
                failure = refused
        if failure is not None:
            error = encode_error(failure)
        body, answer = _body(hosted, key, "completed" if failure is None else "failed", data, error, None)

        def told(at_us: int) -> None:
            settled(hosted, command)
            host.on_reply(hosted.id, key, answer)

        hosted.record(
            "reply", Note(hosted, "reply", told), seq=command.seq, name=command.name, payload=data, error=error,
            writes=((hosted.id, "update", command.seq, body),),
        )  # fmt: skip


def _body(
    hosted: Hosted, key: uuid.UUID, status: str, result: bytes | None, error: bytes | None, event: int | None
) -> tuple[bytes, tuple[str, bytes | None, bytes | None]]:
    """What `write_update` is given; and the same for those who wait in this process."""
    answer = (status, result, error)
    if (encryption := hosted.host.encryption) is not None:
        result = encryption.seal_if(hosted.id, f"reply {key}", result)
        error = encryption.seal_if(hosted.id, f"reply {key} error", error)
    fields: dict[str, Any] = {"key": str(key), "status": status}
    if result is not None:
        fields["result"] = msgspec.Raw(result)
    if error is not None:
        fields["error"] = msgspec.Raw(error)
    if event is not None:
        fields["event"] = event
    return msgspec.json.encode(fields), answer
